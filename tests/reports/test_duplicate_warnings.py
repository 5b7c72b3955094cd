"""Records on both sides of a boundary: counted, and the figures with and without them."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from quick import quick_audit
from rich.console import Console
from sklearn.metrics import roc_auc_score

import mia_lightning as mia
from mia_lightning.datasets import near_duplicates
from mia_lightning.datasets.population import Population
from mia_lightning.membership import Wanted
from mia_lightning.reports.sections.duplicates import find_duplicates
from mia_lightning.seeds import generator


def test_figures_stand_with_and_without_duplicates(blobs: Population) -> None:
    console = Console(file=io.StringIO())
    twice = replace(blobs, x_N=blobs.x_N[torch.arange(120) // 2], label_N=blobs.label_N[torch.arange(120) // 2])
    report = mia.audit(
        twice, **quick_audit(membership=mia.Disjoint(train_size=30), shadow=mia.Real(count=2), console=console)
    )
    scores = report.scores
    assert scores is not None
    values = [tuple(row) for row in twice.x_N[torch.from_numpy(scores.record)].tolist()]
    sides: dict[tuple[float, ...], set[bool]] = {}
    for value, is_member in zip(values, scores.is_member.tolist(), strict=True):
        sides.setdefault(value, set()).add(is_member)
    clean = torch.tensor([len(sides[value]) == 1 for value in values]).numpy()
    count = sum(
        1 for value, is_member in zip(values, scores.is_member, strict=True) if is_member and len(sides[value]) == 2
    )
    assert 0 < count < 30
    assert report.membership.duplicates_across_boundary == count
    (warning,) = [each for each in report.warnings if "among the non-members" in each]
    assert warning.startswith(f"{count} of 30 members are also, value for value")
    assert warning in console.file.getvalue()
    without, with_ = map(float, re.search(r"AUC of loss (\S+) without them, (\S+) with", warning).groups())  # type: ignore[union-attr]
    assert abs(without - roc_auc_score(scores.is_member[clean], scores.score[clean])) < 6e-4
    assert abs(with_ - roc_auc_score(scores.is_member, scores.score)) < 6e-4


def test_of_many_attacks_those_are_named_on_which_duplicates_tell_most(blobs: Population) -> None:
    twice = replace(blobs, x_N=blobs.x_N[torch.arange(120) // 2], label_N=blobs.label_N[torch.arange(120) // 2])
    membership = mia.Disjoint(train_size=30).fill(twice, Wanted(num_targets=1, num_shadows=2, seed=0))
    score_AN = torch.rand(6, 120, generator=generator(0, "scores"))
    outcomes: list[Any] = [SimpleNamespace(name=f"attack_{a}", score_TN=score_AN[a : a + 1]) for a in range(6)]
    found = find_duplicates(membership, twice, outcomes, num_real=120, seed=0)
    (warning,) = (each for each in found.warnings if "value for value, among" in each)
    member_N, nonmember_N = membership.member_KN[0], membership.nonmember_KN[0]
    pair_N = torch.arange(120) // 2
    both_N = torch.isin(pair_N, pair_N[member_N]) & torch.isin(pair_N, pair_N[nonmember_N])
    difference_A = []
    for score_N in score_AN:
        parts = [(member_N | nonmember_N) & kept_N for kept_N in (~both_N, torch.ones(120, dtype=torch.bool))]
        without, everywhere = (roc_auc_score(member_N[part_N], score_N[part_N]) for part_N in parts)
        difference_A.append(abs(without - everywhere))
    order = sorted(range(6), key=lambda a: -difference_A[a])
    assert re.findall(r"attack_(\d) \S+ without them", warning) == [str(a) for a in order[:4]]
    assert f"; 2 others differ by at most {difference_A[order[4]]:.3f})" in warning


def test_where_every_record_has_a_twin_nothing_is_left(blobs: Population) -> None:
    same = replace(blobs, x_N=torch.zeros_like(blobs.x_N), label_N=torch.arange(120) % 3)
    report = mia.audit(same, **quick_audit(membership=mia.Disjoint(train_size=30), shadow=mia.Real(count=2)))
    assert any("nothing is left without them" in warning for warning in report.warnings)


def test_clean_records_are_not_warned_of(blobs: Population) -> None:
    report = mia.audit(blobs, **quick_audit(membership=mia.Disjoint(train_size=30), shadow=mia.Real(count=2)))
    assert report.membership.duplicates_across_boundary == 0
    assert report.membership.near_duplicates_across_boundary == 0
    assert report.membership.num_compared_for_near_duplicates == 30
    assert not any("value for value" in warning or "near dup" in warning for warning in report.warnings)


def test_counts_in_warnings_have_separators() -> None:
    same = mia.make_population(torch.zeros(6000, 2), torch.arange(6000) % 3)
    membership = mia.Disjoint(train_size=1500).fill(same, Wanted(num_targets=1, num_shadows=2, seed=0))
    found = find_duplicates(membership, same, [], num_real=6000, seed=0)
    assert found.warnings[0].startswith("1,500 of 1,500 members are also")
    assert found.warnings[-1].startswith("3,000 of the 3,000 records of the shadow models")


def wide(count: int = 120, num_features: int = 30) -> Population:
    """Records among which no two are near by chance."""
    x_N = torch.randn(count, num_features, generator=generator(0, "wide"))
    return Population(name="wide", x_N=x_N, label_N=torch.arange(count) % 3, class_names=("a", "b", "c"))


def with_near_copies(population: Population, plan: mia.Disjoint, *, near: int, equal: int = 0) -> Population:
    """The first non-members become equal to the first members, and those after them nearly equal to the next."""
    filled = plan.fill(population, Wanted(num_targets=1, num_shadows=2, seed=0))
    member_M, nonmember_M = (mask_KN[0].nonzero().squeeze(1) for mask_KN in (filled.member_KN, filled.nonmember_KN))
    x_N = population.x_N.clone()
    x_N[nonmember_M[: near + equal]] = x_N[member_M[: near + equal]]
    x_N[nonmember_M[equal : near + equal]] += 0.01
    return replace(population, x_N=x_N)


def figures_of(warning: str) -> tuple[float, float]:
    found = re.search(r"AUC of loss (\S+) without [a-z ]+, (\S+) with", warning)
    assert found is not None
    return float(found[1]), float(found[2])


def near_warning(report: mia.AuditReport) -> str:
    (warning,) = [each for each in report.warnings if "near duplicate" in each]
    return warning


@pytest.mark.costly
@pytest.mark.parametrize("equal", [0, 4])
def test_figures_stand_with_and_without_near_duplicates(equal: int) -> None:
    plan = mia.Disjoint(train_size=30)
    population = with_near_copies(wide(), plan, near=6, equal=equal)
    report = mia.audit(population, **quick_audit(membership=plan, shadow=mia.Real(count=2)))
    assert report.membership.duplicates_across_boundary == equal
    assert report.membership.near_duplicates_across_boundary == 6
    assert report.membership.num_compared_for_near_duplicates == 30
    warning = near_warning(report)
    assert warning.startswith(
        "6 of 30 members have a near duplicate among the non-members, not equal but at less than 0.25 of the distance "
        "to the tenth nearest (AUC"
    )
    scores = report.scores
    assert scores is not None
    rows = population.x_N[torch.from_numpy(scores.record)]
    distance_RR = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    other_side_RR = torch.from_numpy(scores.is_member)[:, None] != torch.from_numpy(scores.is_member)
    clean = ~((distance_RR < 0.1) & other_side_RR).any(1).numpy()
    assert clean.sum() == 60 - 2 * (6 + equal)
    without, with_ = figures_of(warning)
    assert abs(without - roc_auc_score(scores.is_member[clean], scores.score[clean])) < 6e-4
    assert abs(with_ - roc_auc_score(scores.is_member, scores.score)) < 6e-4
    assert ("value for value" in " ".join(report.warnings)) == bool(equal)


def test_a_sample_of_the_members_and_a_projection_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = mia.Disjoint(train_size=30)
    population = with_near_copies(wide(num_features=200), plan, near=30)
    monkeypatch.setattr(near_duplicates, "MAX_PRODUCTS", 12 * 30 * 128)
    report = mia.audit(population, **quick_audit(membership=plan, shadow=mia.Real(count=2)))
    assert report.membership.near_duplicates_across_boundary == 12
    assert report.membership.num_compared_for_near_duplicates == 12
    warning = near_warning(report)
    assert warning.startswith("12 of 12 members that were looked at, drawn at random from 30, have a near duplicate")
    assert (
        "to the tenth nearest, seen in 128 random directions; nothing is left without these and equal ones." in warning
    )


def test_figures_beside_a_sample_are_those_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = mia.Disjoint(train_size=30)
    population = with_near_copies(wide(), plan, near=15)
    monkeypatch.setattr(near_duplicates, "MAX_PRODUCTS", 20 * 30 * 30)
    report = mia.audit(population, **quick_audit(membership=plan, shadow=mia.Real(count=2)))
    filled = plan.fill(population, Wanted(num_targets=1, num_shadows=2, seed=0))
    found = near_duplicates.near_duplicates(
        population, torch.arange(120), filled.member_KN[0], filled.nonmember_KN[0], seed=0
    )
    assert found is not None
    assert report.membership.near_duplicates_across_boundary == found.count
    assert 0 < found.count < 15
    scores = report.scores
    assert scores is not None
    record = torch.from_numpy(scores.record)
    looked_at = (found.compared_N | filled.nonmember_KN[0])[record].numpy()
    clean = looked_at & ~found.near_N[record].numpy()
    without, with_ = figures_of(near_warning(report))
    assert abs(without - roc_auc_score(scores.is_member[clean], scores.score[clean])) < 6e-4
    assert abs(with_ - roc_auc_score(scores.is_member[looked_at], scores.score[looked_at])) < 6e-4


def test_of_several_targets_the_first_is_looked_at() -> None:
    plan = mia.Disjoint(train_size=30)
    population = with_near_copies(wide(), plan, near=5, equal=2)
    report = mia.audit(
        population, **quick_audit(membership=plan, target=mia.Trained(count=2), shadow=mia.Real(count=2))
    )
    filled = plan.fill(population, Wanted(num_targets=2, num_shadows=2, seed=0))
    member_N, nonmember_N = filled.member_KN[0], filled.nonmember_KN[0]
    distance_MQ = torch.cdist(population.x_N[member_N], population.x_N[nonmember_N])
    count = int((distance_MQ < 0.1).any(1).sum()) - report.membership.duplicates_across_boundary
    assert report.membership.near_duplicates_across_boundary == count > 0
    assert near_warning(report).startswith(f"{count} of 30 members of the first target have a near duplicate")
    assert any("of 30 members of the first target are also, value for value" in each for each in report.warnings)


def test_synthetic_records_are_on_no_side() -> None:
    population = with_near_copies(wide(), mia.Disjoint(train_size=30), near=3)
    options = quick_audit(membership=mia.Disjoint(train_size=30), shadow=mia.Noisy(count=2, fraction=0.01))
    report = mia.audit(population, **options)
    assert report.membership.near_duplicates_across_boundary == 3


def test_too_few_nonmembers_for_a_distance_leave_it_open() -> None:
    report = mia.audit(wide(), **quick_audit(membership=mia.Disjoint(train_size=9), shadow=mia.Real(count=2)))
    assert report.membership.near_duplicates_across_boundary is None
    assert report.membership.num_compared_for_near_duplicates is None
    assert not any("near duplicate" in warning for warning in report.warnings)


def test_reports_of_before_can_be_read(tmp_path: Path) -> None:
    plan = mia.Disjoint(train_size=30)
    population = with_near_copies(wide(), plan, near=2)
    report = mia.audit(population, **quick_audit(membership=plan, shadow=mia.Real(count=2)), output=tmp_path)
    assert mia.read_report(tmp_path).membership == report.membership
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"members nearly equal to a non‑member</th><td>2 of 30 compared", page)
    content = json.loads((tmp_path / "report.json").read_text())
    for name in ("near_duplicates_across_boundary", "num_compared_for_near_duplicates"):
        del content["membership"][name]
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert mia.read_report(tmp_path).membership.near_duplicates_across_boundary is None


@pytest.mark.parametrize(("is_given", "num_near", "is_broken"), [(True, 3, True), (True, 2, False), (False, 9, False)])
def test_near_duplicates_of_more_than_one_member_in_a_hundred_of_a_given_split_let_nothing_be_cleared(
    is_given: bool, num_near: int, is_broken: bool
) -> None:
    x_N = torch.randn(400, 6, generator=generator(4, "near"))
    x_N[200 : 200 + num_near] = x_N[:num_near] + 1e-4
    member_N = torch.arange(400) < 200
    population = mia.make_population(x_N, torch.arange(400) % 3)
    given = mia.Given(member_N=member_N).fill(population, Wanted(num_targets=1, num_shadows=2, seed=0))
    membership = given if is_given else replace(given, origin=None)
    found = find_duplicates(membership, population, [], num_real=400, seed=0)
    assert found.near_count == num_near
    assert len(found.broken) == is_broken
    assert set(found.broken) <= set(found.warnings)
