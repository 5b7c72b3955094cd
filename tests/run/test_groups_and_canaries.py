"""Leakage by group of records, and of canaries beside natural records, through whole runs."""

import csv
import json
import math
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from quick import quick_audit
from rich.console import Console
from sklearn.metrics import roc_auc_score

import mia_lightning as mia
from mia_lightning.audit import attack_observed
from mia_lightning.command import experiment
from mia_lightning.command.job import Job
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership.bernoulli import Bernoulli
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.metrics.roc import roc
from mia_lightning.models.mlp import MLP
from mia_lightning.reports.files import read_report, save_report
from mia_lightning.reports.rows import per_group_rows
from mia_lightning.reports.schema import AuditReport
from mia_lightning.targets.existing import Existing

EVIL = "<b>evil</b>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grouped")


def in_groups(blobs: Population) -> Population:
    """Of unequal groups, the last of a single record, one name to be escaped, and some records of none."""
    group_N = torch.tensor([0, 0, 0, 1, 1, -1]).repeat(20)
    group_N[7] = 2
    return replace(blobs, group_N=group_N, group_names=("north", EVIL, "alone"))


@pytest.fixture
def grouped(blobs: Population, folder: Path) -> tuple[Population, AuditReport]:
    population = in_groups(blobs)
    options = quick_audit(membership=mia.Disjoint(train_size=30), shadow=mia.Real(count=2), output=folder)
    return population, mia.audit(population, **options)


def test_figures_of_a_group_are_those_of_its_records(grouped: tuple[Population, AuditReport]) -> None:
    population, report = grouped
    (attack,) = report.attacks
    assert [group.group_name for group in attack.per_group] == ["north", EVIL, "alone"]
    scores = report.scores
    group_M = population.group_N.numpy()[scores.record]
    assert (group_M == -1).any()
    for number, group in enumerate(attack.per_group):
        rows = group_M == number
        own = [torch.from_numpy(each[rows]) for each in (scores.score, scores.is_flagged, scores.is_member)]
        expected = attack_figures(*own)
        assert expected.model_dump() == {
            k: v for k, v in group.model_dump().items() if k in type(expected).model_fields
        }
        if number < 2:
            assert group.auc.value == pytest.approx(roc_auc_score(own[2], own[0]), abs=1e-12)
            interval = auc_interval(roc(own[0], own[2]), tail=0.025 / 3)
            assert (group.auc_simultaneous.low, group.auc_simultaneous.high) == (interval.low, interval.high)
            assert group.auc_simultaneous.low < group.auc.low
        else:
            assert group.auc.value is None
            assert group.auc.reason


def test_groups_stand_in_every_file(grouped: tuple[Population, AuditReport], folder: Path) -> None:
    _, report = grouped
    read = read_report(folder)
    assert read.attacks[0].per_group == report.attacks[0].per_group
    assert read.target.per_group == report.target.per_group
    with (folder / "per_group.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["group_name"] for row in rows] == ["north", EVIL, "alone"]
    group = report.attacks[0].per_group[0]
    assert float(rows[0]["auc"]) == group.auc.value
    assert float(rows[0]["auc_low"]) == group.auc.low
    assert float(rows[0]["auc_simultaneous_high"]) == group.auc_simultaneous.high
    assert float(rows[0]["train_accuracy"]) == report.target.per_group[0].train_accuracy
    assert rows[2]["auc"] == ""
    assert "group has no" in rows[2]["auc_reason"]
    assert "class_name" not in rows[0]
    page = (folder / "report.html").read_text()
    assert 'id="groups"' in page
    assert EVIL not in page
    assert [cells[0] for cells in _table(page)] == ["north", EVIL, "alone"]
    assert f"{group.auc.value:.3f}" in "".join(_table(page)[0])
    assert f"[{group.auc.low:.3f},\xa0{group.auc.high:.3f}]" in "".join(_table(page)[0])


class _Rows(HTMLParser):
    """The rows of the body of the first table whose label starts with "Groups under"."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._is_inside = self._is_body = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._is_inside = str(dict(attrs).get("aria-label", "")).startswith("Groups under")
        self._is_body |= self._is_inside and tag == "tbody"
        if self._is_body and tag == "tr":
            self.rows.append([])
        if self._is_body and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._is_inside = self._is_body = False

    def handle_data(self, data: str) -> None:
        if self._is_body and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def _table(page: str) -> list[list[str]]:
    parser = _Rows()
    parser.feed(page)
    return parser.rows


def test_accuracies_of_a_group_are_those_of_its_records(blobs: Population) -> None:
    population = in_groups(blobs)
    observation = mia.observe(
        population,
        **{
            name: value
            for name, value in quick_audit(
                membership=mia.Halves(), shadow=mia.Real(count=2), target=mia.Trained(count=2)
            ).items()
            if name != "attacks"
        },
    )
    report = mia.attack(observation, attacks=[mia.Loss()])
    answers = observation.target_signals.log_probability_KANC[:, 0].cpu()
    for number, of_target in enumerate(report.target.per_group):
        for part, mask_KN in (
            ("train", observation.membership.member_KN),
            ("test", observation.membership.nonmember_KN),
        ):
            shares = []
            for t in range(2):
                hits = [
                    float(int(answers[t, i].argmax()) == int(population.label_N[i]))
                    for i in range(len(population))
                    if bool(mask_KN[t, i]) and int(population.group_N[i]) == number
                ]
                shares += [sum(hits) / len(hits)] if hits else []
            found = getattr(of_target, f"{part}_accuracy")
            assert found is None if not shares else found == pytest.approx(sum(shares) / len(shares), abs=1e-12)


def test_without_groups_there_is_nothing_of_them(blobs: Population, tmp_path: Path) -> None:
    (tmp_path / "per_group.csv").write_text("of an earlier run")
    report = mia.audit(blobs, **quick_audit(shadow=mia.Real(count=2), output=tmp_path))
    assert report.attacks[0].per_group == report.target.per_group == ()
    assert per_group_rows(report) == []
    assert not (tmp_path / "per_group.csv").exists()
    assert 'id="groups"' not in (tmp_path / "report.html").read_text()


def test_synthetic_records_have_no_group(blobs: Population) -> None:
    options = quick_audit(
        membership=mia.Disjoint(train_size=30), shadow=mia.Noisy(count=2, fraction=0.2), attacks=[mia.Loss()]
    )
    report = mia.audit(in_groups(blobs), **options)
    counted = sum(group.num_members + group.num_nonmembers for group in report.attacks[0].per_group)
    assert 0 < counted < 60


@pytest.mark.parametrize("kind", ["mislabelled", "uniform"])
@pytest.mark.slow
def test_canaries_are_found_more_often_than_natural_records(kind: str) -> None:
    """An overfitted network on digits: 150 canaries, half of them members."""
    report = mia.audit(
        load_digits(),
        model=partial(MLP, hidden=[128]),
        membership=mia.Halves(),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        canaries=Canaries(count=150, kind=kind),
        trainer=mia.TrainerSettings(accelerator="cpu"),
        seed=1,
    )
    natural, canary = report.attacks[0].per_group
    assert (natural.group_name, canary.group_name) == ("natural", "canary")
    assert canary.num_members + canary.num_nonmembers == 150
    assert natural.num_members + natural.num_nonmembers == 1797 - 150
    assert canary.auc.value > natural.auc.value + 0.25
    assert canary.auc.low > natural.auc.high + 0.1
    of_natural, of_canary = report.target.per_group
    assert of_natural.test_accuracy > 0.85
    assert of_canary.test_accuracy < 0.35
    assert [each for each in report.warnings if "canaries" in each] == [
        f"150 of the 1797 records are canaries ({kind}): figures over all records, the target's accuracies too, "
        "include them; those of natural records stand under the groups."
    ]


def test_under_the_bernoulli_plan_only_canaries_are_evidence(blobs: Population) -> None:
    options = quick_audit(membership=Bernoulli(canaries=40), shadow=mia.Real(count=2), canaries=Canaries(count=40))
    report = mia.audit(blobs, **options)
    natural, canary = report.attacks[0].per_group
    assert (natural.num_members, natural.num_nonmembers) == (0, 0)
    assert natural.auc.reason == "the group has no records"
    assert canary.num_members + canary.num_nonmembers == 40
    assert report.target.per_group[0].train_accuracy is not None  # of the records that are in every model
    assert report.target.per_group[0].test_accuracy is None


@pytest.mark.usefixtures("global_generators")
def test_canaries_are_refused_where_they_cannot_be(blobs: Population) -> None:
    given = quick_audit(
        membership=mia.Given(member_N=torch.arange(40)),
        target=Existing(network=MLP((6,), 3, hidden=[8])),
        canaries=Canaries(count=10),
    )
    with pytest.raises(InputError, match=r"`canary.count` is 10, but the target is trained already, and not on"):
        mia.audit(blobs, **given)
    with pytest.raises(InputError, match=r"`canary.count` is 120, .* no natural record of the 120 of blobs"):
        mia.audit(blobs, **quick_audit(canaries=Canaries(count=120)))
    with pytest.raises(InputError, match=r"records of blobs have groups of their own"):
        mia.audit(in_groups(blobs), **quick_audit(canaries=Canaries(count=10)))


def resolved(*overrides: str) -> Job:
    return experiment._composed(["logger=none", "trainer.accelerator=cpu", *overrides])


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path) -> None:
    """Two halves of a run, as experiments have them, equal the whole; canaries are of what models depend on."""
    settings = resolved("canary.count=60", "membership=halves", "shadow.count=2", "training.epochs=5", "attack=loss")
    report = settings.run(tmp_path, Console(quiet=True))
    assert [group.group_name for group in report.attacks[0].per_group] == ["natural", "canary"]
    assert json.loads((tmp_path / "report.json").read_text())["run"]["config"]["canary"] == {
        "count": 60,
        "kind": "mislabelled",
    }
    with (tmp_path / "per_group.csv").open(newline="") as file:
        assert [row["group_name"] for row in csv.DictReader(file)] == ["natural", "canary"]
    halves = settings.audit(folder=tmp_path / "halves")
    other = attack_observed(mia.observe(halves), halves)
    assert np.array_equal(other.scores.score, report.scores.score)
    assert other.attacks[0].per_group == report.attacks[0].per_group
    assert experiment.depends_on(settings) != experiment.depends_on(resolved("membership=halves"))
    assert math.isfinite(report.target.per_group[1].generalization_gap)


def test_groups_from_the_command_line(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    rows = [f"{draws.normal():.4f},{'ew'[i % 3 > 0]},{'pq'[i % 2]}" for i in range(120)]
    path = tmp_path / "ill.csv"
    path.write_text("\n".join(["age,ward,y", *rows]) + "\n")
    columns = [f"dataset.path={path}", "dataset.label_column=y", "dataset.group_column=ward"]
    settings = resolved("dataset=csv", *columns, "shadow.count=2", "training.epochs=2", "attack=loss")
    report = settings.run(tmp_path / "out", Console(quiet=True))
    assert [group.group_name for group in report.attacks[0].per_group] == ["e", "w"]
    assert report.dataset.input_shape == (1,)
    counts = [group.num_members + group.num_nonmembers for group in report.attacks[0].per_group]
    assert sum(counts) == 60


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("canary.count=2.5", r"`canary.count` is 2.5; it must be a whole number"),
        ("canary.count=few", r"`canary.count` is 'few'; it must be a whole number"),
        ("canary.count=true", r"`canary.count` is True; it must be a whole number"),
        ("canary.count=-1", r"`canary.count` is -1; it must be a whole number of at least 0"),
        ("canary.count=null", r"`canary.count` is None; it must be a whole number"),
        ("canary.kind=loud", r"`canary.kind` is 'loud'; it must be one of mislabelled, uniform"),
        ("canary=null", r"`canary` is None"),
        ("+canary.size=3", r"`canary.size` is no setting"),
    ],
)
def test_bad_settings_are_refused_before_data_are_read(override: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        resolved(override)


def test_a_report_with_groups_is_saved_again(grouped: tuple[Population, AuditReport], tmp_path: Path) -> None:
    assert tmp_path / "per_group.csv" in save_report(grouped[1], tmp_path)
