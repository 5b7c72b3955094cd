"""What a report says of a target that somebody else serves, against what the endpoint counted."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from quick import quick_audit
from rich.console import Console
from torch import Tensor

import mia_lightning as mia
from mia_lightning.attacks.attack_p import AttackP
from mia_lightning.attacks.label_only import BoundaryLabelOnly
from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sections.endpoint import endpoint_sentences, unsteady
from mia_lightning.reports.sections.threat_model import threat_sentences
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.services.google_prediction import GooglePrediction
from mia_lightning.training.setup import Setup


class Server:
    """Answers with a network; after `changes_after` records with another one."""

    protocol, place = "scripted", "a test"

    def __init__(self, changes_after: float = float("inf"), jitter: float = 0.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.networks = [MLP((6,), 3, hidden=[8]).double().eval() for _ in range(2)]
        self.changes_after, self.jitter = changes_after, jitter
        self.num_asked = self.num_closed = 0
        self.identity = {"name": "test"}

    @torch.inference_mode()
    def ask(self, x_B: Tensor) -> list[object]:
        self.num_asked += len(x_B)
        network = self.networks[self.num_asked > self.changes_after]
        logits_BC = network(x_B.double()) + self.jitter * self.num_asked * torch.arange(3)
        return list(logits_BC.softmax(1).tolist())

    def close(self) -> None:
        self.num_closed += 1


@dataclass(frozen=True, kw_only=True)
class Served(EndpointTarget):
    server: Server = field(default_factory=Server)

    def connect(self, setup: Setup) -> Server:
        return self.server


def audited(blobs: Population, server: Server, output: Path | None = None, **asking: object) -> AuditReport:
    settings = quick_audit(
        membership=mia.Given(member_N=torch.arange(60)), shadow=mia.Real(count=4), attacks=[mia.Loss()], output=output
    )
    options = {"sentinels": 5, "concurrency": 1, **asking}
    return mia.audit(blobs, **settings, target=Served(asking=Asking(**options), server=server))


def test_what_was_asked_is_what_the_endpoint_counted(blobs: Population, tmp_path: Path) -> None:
    server = Server()
    report = audited(blobs, server, tmp_path / "run", price_per_thousand=2.0, budget=1000)
    section = report.endpoint
    assert section is not None
    N = len(blobs.x_N.unique(dim=0))
    assert (section.num_records, section.num_found, section.num_sent) == (N, 0, server.num_asked) == (N, 0, N + 10)
    assert (section.num_repeated, section.num_spent, section.budget) == (10, N + 10, 1000)
    assert section.cost == pytest.approx((N + 10) / 1000 * 2)
    assert (section.num_at_once, section.num_varied, section.num_kept, section.num_at_end) == (5, 0, 0, 5)
    assert (section.num_changed, section.largest_difference) == (0, 0.0)
    assert server.num_closed == 1
    said = dict(threat_sentences(report))
    assert f"scripted at a test. {N + 10} queries in this run, 10 of them repeats" in said["the served model"]
    assert f"{N + 10} of a budget of 1,000 queries are spent." in said["the served model"]
    assert f"cost of this run at the given price: {(N + 10) / 500:.2f}" in said["the served model"]
    assert said["stability of the served model"] == (
        "Of 5 records asked again at once, all were answered alike. Of 5 records asked again at the end, all were "
        "answered alike."
    )
    assert report.target.architecture == "unknown (scripted)"
    assert said["architecture and training"].endswith(f"{report.shadow.architecture}.")
    assert not any("served model" in warning for warning in report.warnings)
    assert report.broken == ()
    read = AuditReport.model_validate_json((tmp_path / "run" / "report.json").read_text())
    assert read.endpoint == section
    assert "stability of the served model" in (tmp_path / "run" / "report.html").read_text()


def test_a_person_sees_how_many_records_were_answered(blobs: Population) -> None:
    console = Console(file=io.StringIO(), width=200)
    settings = quick_audit(membership=mia.Given(member_N=torch.arange(60)), shadow=mia.Real(count=4), console=console)
    mia.audit(blobs, **settings, target=Served(asking=Asking(batch_size=7, concurrency=3)))
    N = len(blobs.x_N.unique(dim=0))
    assert isinstance(console.file, io.StringIO)
    assert f"target: {N}/{N} records, done in" in console.file.getvalue()


def test_records_that_no_attack_reads_are_not_asked_about(blobs: Population, tmp_path: Path) -> None:
    """Only the listed ones, their views, and those that stand in for the population."""
    rows = tmp_path / "rows.csv"
    rows.write_text("row,member\n" + "\n".join(f"{row},{int(row < 20)}" for row in range(40)))
    settings = quick_audit(
        membership=mia.Given(path=rows, population=6),
        shadow=mia.Real(count=4),
        attacks=[mia.Loss(), AttackP(), BoundaryLabelOnly(draws=2)],
    )
    server = Server()
    served = mia.audit(blobs, **settings, target=Served(asking=Asking(sentinels=0), server=server))
    views = 1 + len(BoundaryLabelOnly(draws=2).needs.views)
    assert server.num_asked == 46 + 40 * (views - 1) + 6 * (views - 1)
    in_memory = mia.audit(blobs, **settings, target=server.networks[0].float())
    assert served.scores is not None
    assert in_memory.scores is not None
    assert served.scores.score == pytest.approx(in_memory.scores.score, abs=1e-5)
    assert served.target.test_accuracy == in_memory.target.test_accuracy


def test_a_refused_answer_is_that_of_the_record_of_this_number(blobs: Population, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("row,member\n" + "\n".join(f"{row},{row % 2}" for row in range(70, 110)))
    server = Server()
    answer = server.ask
    server.ask = lambda x_B: [  # type: ignore[method-assign]
        [0.5, 0.9, 0.0] if bool((record == blobs.x_N[93]).all()) else row
        for record, row in zip(x_B, answer(x_B), strict=True)
    ]
    settings = quick_audit(membership=mia.Given(path=rows), shadow=mia.Real(count=4), attacks=[mia.Loss()])
    with pytest.raises(mia.InputError, match=r"record 93\b"):
        mia.audit(blobs, **settings, target=Served(asking=Asking(sentinels=0), server=server))


def change_in(report: mia.AuditReport) -> str:
    """The first warning behind those about what the target is."""
    assert any("did not stay the same" in each for each in report.broken)
    about_target = ("This audit", "Leakage may be understated")
    return next(warning for warning in report.warnings if not warning.startswith(about_target))


def test_a_model_that_changes_during_the_audit_opens_the_warnings(blobs: Population) -> None:
    report = audited(blobs, Server(changes_after=len(blobs) + 5))
    section = report.endpoint
    assert section is not None
    assert (section.num_varied, section.num_changed) == (0, 5)
    assert section.largest_difference is not None
    assert section.largest_difference > 0.01
    warning = change_in(report)
    assert warning.startswith("The served model did not stay the same: Of 5 records asked again at once, all")
    assert "5 were answered otherwise: the model changed during the audit" in warning


def test_answers_that_vary_are_told_from_a_changed_model(blobs: Population) -> None:
    report = audited(blobs, Server(jitter=1e-3))
    assert report.endpoint is not None
    assert report.endpoint.num_varied == 5
    assert "its answers vary from call to call" in change_in(report)


def test_a_later_run_asks_sentinels_alone_and_sees_that_the_model_is_another(blobs: Population, tmp_path: Path) -> None:
    first = audited(blobs, Server(), responses=tmp_path)
    same, other = Server(), Server(changes_after=0)
    again = audited(blobs, same, responses=tmp_path).endpoint
    later = audited(blobs, other, responses=tmp_path)
    assert first.endpoint is not None
    assert again is not None
    assert (again.num_found, again.num_sent, same.num_asked) == (first.endpoint.num_records, 10, 10)
    assert (again.num_kept, again.num_outdated, again.num_changed) == (5, 0, 0)
    assert again.num_spent == first.endpoint.num_sent + 10
    assert later.endpoint is not None
    assert (later.endpoint.num_kept, later.endpoint.num_outdated) == (5, 5)
    assert "whose answer an earlier run had kept, asked again, 5 were answered otherwise" in change_in(later)


def test_without_sentinels_it_is_not_known(blobs: Population) -> None:
    report = audited(blobs, Server(), sentinels=0)
    assert dict(threat_sentences(report))["stability of the served model"] == (
        "Not known: no record was queried again (target.asking.sentinels)."
    )


def test_an_endpoint_that_is_gone_at_the_end_costs_no_audit(blobs: Population) -> None:
    server = Server()
    answer = server.ask

    def ask(x_B: Tensor) -> list[object]:
        if server.num_asked >= len(blobs) + 5:
            raise mia.InputError("It is gone.")
        return answer(x_B)

    server.ask = ask  # type: ignore[method-assign]
    report = audited(blobs, server)
    assert report.endpoint is not None
    assert report.endpoint.failure is not None
    assert (
        "None could be asked at the end: It is gone." in dict(threat_sentences(report))["stability of the served model"]
    )


def test_other_targets_have_no_such_section(blobs: Population) -> None:
    report = mia.audit(blobs, **quick_audit(membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=2)))
    assert report.endpoint is None
    assert endpoint_sentences(None) == []
    assert unsteady(None) is None


@pytest.mark.parametrize("target", [Served(), GooglePrediction()])
def test_weights_that_nobody_has_are_refused_before_anything_is_asked(
    blobs: Population, tmp_path: Path, target: Served | GooglePrediction
) -> None:
    settings = quick_audit(membership=mia.Given(member_N=torch.arange(60)), shadow=mia.Real(count=4), output=tmp_path)
    with pytest.raises(mia.InputError, match="`save_models` is true, but the target's weights never leave its server"):
        mia.audit(blobs, **settings, target=target, save_models=True)
    assert not (tmp_path / "execution.json").exists()
