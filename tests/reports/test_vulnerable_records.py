"""The most exposed records in the files of a whole run whose models are targets in turn, and of one target."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from quick import quick_audit
from scipy.stats import binomtest, fisher_exact
from torch import Tensor

import mia_lightning as mia
from mia_lightning.attacks.gap import Gap
from mia_lightning.datasets.population import Population
from mia_lightning.reports.files import read_report, save_report
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sections.records import vulnerability_section
from mia_lightning.run.scoring import AttackOutcome
from mia_lightning.seeds import generator
from mia_lightning.targets.leave_one_out import LeaveOneOut

NAME = "vulnerable_records.parquet"


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[AuditReport, Path]]:
    numbers = generator(0, "blobs", "vulnerable")
    label_N = torch.arange(60) % 3
    x_N = torch.randn(60, 6, generator=numbers)  # labels that only memory explains
    population = Population(name="noise", x_N=x_N, label_N=label_N, class_names=("a", "<b>", "c"))
    folder = tmp_path_factory.mktemp("run")

    def run(**options: object) -> tuple[AuditReport, Path]:
        report = mia.audit(population, **quick_audit(membership=mia.Halves(), **options))
        save_report(report, folder)
        return report, folder

    return run


def columns_of(scores: object, attack: str, record: int) -> list[np.ndarray]:
    rows = (scores.attack == attack) & (scores.record == record)  # type: ignore[attr-defined]
    return [getattr(scores, name)[rows] for name in ("target", "is_member", "is_flagged")]


def p_value(target: np.ndarray, is_member: np.ndarray, is_flagged: np.ndarray) -> float:
    """The larger one of the exact test of Fisher and the sign test of complementary pairs."""
    cells = [[int((is_flagged & group).sum()), int((~is_flagged & group).sum())] for group in (is_member, ~is_member)]
    fisher = float(fisher_exact(cells, alternative="greater").pvalue)
    wins = losses = 0
    for pair in np.unique(target // 2):
        inside = is_flagged[(target // 2 == pair) & is_member].sum()
        outside = is_flagged[(target // 2 == pair) & ~is_member].sum()
        wins, losses = wins + int(inside > outside), losses + int(inside < outside)
    sign = float(binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0
    return max(fisher, sign)


@pytest.mark.slow
def test_a_run_whose_models_are_targets_in_turn(make_run: Callable[..., tuple[AuditReport, Path]]) -> None:
    attacks = [mia.Loss(), Gap()]
    report, folder = make_run(target=LeaveOneOut(folds=2), shadow=mia.Real(count=16), attacks=attacks)
    table = pq.read_table(folder / NAME).to_pylist()
    assert [(row["attack"], row["record"]) for row in table] == [(a.name, i) for a in attacks for i in range(60)]
    for row in table:
        target, is_member, is_flagged = columns_of(report.scores, row["attack"], row["record"])
        assert row["label"] == row["record"] % 3
        assert (row["num_in"], row["num_out"]) == (is_member.sum(), (~is_member).sum()) == (8, 8)
        for side, group in (("in", is_member), ("out", ~is_member)):
            flagged = int(is_flagged[group].sum())
            interval = binomtest(flagged, 8).proportion_ci(0.95, "exact")
            assert row[f"flagged_{side}"] == flagged
            assert row[f"share_{side}"] == flagged / 8
            found = (row[f"share_{side}_low"], row[f"share_{side}_high"])
            assert found == pytest.approx((interval.low, interval.high))
        assert row["advantage"] == pytest.approx(row["share_in"] - row["share_out"])
        assert row["p_value"] == pytest.approx(p_value(target, is_member, is_flagged))
        second = target // 2 % 2 == 1
        confirmation = p_value(target[second], is_member[second], is_flagged[second])
        assert row["p_confirmation"] == pytest.approx(confirmation)
    for attack in report.attacks:
        section, rows = attack.vulnerability, [row for row in table if row["attack"] == attack.name]
        assert section.num_records == 60
        assert section.num_candidates == sum(row["is_candidate"] for row in rows)
        assert section.num_confirmed == sum(row["is_confirmed"] for row in rows)
        rows.sort(key=lambda row: (not row["is_confirmed"], row["p_value"], -row["advantage"], row["record"]))
        for shown, row in zip(section.most_exposed, rows[:10], strict=True):
            for name in set(type(shown).model_fields) - {"class_name", "record_name"}:
                assert getattr(shown, name) == row[name]
            assert shown.class_name == ("a", "<b>", "c")[row["label"]]
            assert shown.record_name is None  # these records have no names
    page = (folder / "report.html").read_text()
    first = report.attacks[0].vulnerability.most_exposed[0]
    assert "Most exposed records" in page
    assert f"{first.share_in:.3f}<small>[{first.share_in_low:.3f}," in page
    assert read_report(folder).model_dump() == report.model_dump()
    assert "p_confirmation" not in (folder / "report.json").read_text()


@pytest.mark.slow
def test_one_target_has_no_such_table(make_run: Callable[..., tuple[AuditReport, Path]]) -> None:
    several, folder = make_run(target=mia.Trained(count=4), shadow=mia.Real(count=2))
    assert several.attacks[0].vulnerability is not None
    assert (folder / NAME).exists()
    one, folder = make_run(target=mia.Trained(count=1), shadow=mia.Real(count=2))
    assert one.attacks[0].vulnerability is None
    assert not (folder / NAME).exists()  # that of the earlier run neither
    assert "Most exposed records" not in (folder / "report.html").read_text()


def plan_of(member_TN: Tensor) -> mia.Membership:
    return mia.Membership(
        plan_name="halves",
        member_KN=member_TN,
        scored_KN=torch.ones_like(member_TN),
        num_targets=len(member_TN),
        block_K=torch.arange(len(member_TN)) // 2,
        validation_N=torch.empty(0, dtype=torch.int64),
    )


def test_confirmed_records_are_named_first() -> None:
    draw = torch.rand(32, 40, generator=generator(0, "named")) < 0.5
    member_TN = torch.stack([draw, ~draw], dim=1).flatten(0, 1)
    exposed = [3, 17, 31]
    noise_TN = torch.rand(64, 40, generator=generator(1, "named")) < 0.5
    is_flagged_TN = noise_TN.clone()
    is_flagged_TN[:, exposed] = member_TN[:, exposed]
    # Exposed by the first half of the targets alone: a candidate that is not confirmed.
    is_flagged_TN[:, 5] = torch.where(torch.arange(64) // 2 % 2 == 0, member_TN[:, 5], noise_TN[:, 5])
    population = Population(name="plain", x_N=torch.zeros(40, 1), label_N=torch.arange(40) % 2, class_names=("a", "b"))
    outcome = AttackOutcome(name="made", description=".", score_TN=is_flagged_TN.double(), is_flagged_TN=is_flagged_TN)
    section = vulnerability_section(outcome, population, plan_of(member_TN))
    assert [each.record for each in section.most_exposed[:4]] == [*exposed, 5]
    assert [each.is_confirmed for each in section.most_exposed] == [True] * 3 + [False] * 7
    assert (section.num_candidates, section.num_confirmed) == (4, 3)
