"""The benchmark of few shadow models runs, and its intervals are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_scripts import cells, imported, run

from mia_lightning.metrics.intervals.crossed import auc_contributions, crossed_interval
from mia_lightning.metrics.roc import tpr_at_fpr

COUNTS = ["4", "8"]


@pytest.mark.slow
def test_the_quick_run_has_a_row_for_each_number_of_shadow_models(tmp_path: Path, forks: Path) -> None:
    printed = run("few_shadows", "--data", "digits", "--quick", "--json", str(tmp_path / "rows.json"), forks=forks)
    assert printed.startswith("digits: 135 members and 135 non-members")
    lines = [cells(line) for line in printed.splitlines() if line.startswith("| ")]
    assert [line[0] for line in lines if line[0].isdigit()] == COUNTS * 3 * 4  # values and two differences
    for row in json.loads((tmp_path / "rows.json").read_text()):
        assert row["pairs"] == 6 if row["models"] == 4 else 5
        assert ("less LiRA" in row, "less RMIA" in row) == (row["attack"] != "LiRA", row["attack"] != "RMIA")


def test_values_and_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """TPR by the package's exact ROC; contributions add up to 0; the variance is that of the crossed bootstrap."""
    few_shadows = imported("few_shadows", monkeypatch)
    random = torch.Generator().manual_seed(0)
    member_TN = torch.rand(40, 500, generator=random) < 0.5
    scored_TN = torch.rand(40, 500, generator=random) < 0.9
    score_TN = torch.randn(40, 500, generator=random).double() + member_TN
    score_TN[:20] = score_TN[:20].round(decimals=1)  # with ties
    value_T, contribution_TN = few_shadows.tpr_contributions(score_TN, member_TN, scored_TN)
    for t in range(40):
        of_t = scored_TN[t]
        expected = tpr_at_fpr(score_TN[t, of_t], member_TN[t, of_t], max_fpr=0.01).tpr
        assert float(value_T[t]) == pytest.approx(expected, abs=1e-12)
    assert float(contribution_TN.sum(1).abs().max()) < 1e-9
    areas = auc_contributions(score_TN, member_TN, scored_TN)
    mine, package = few_shadows.Estimate.of(*areas), crossed_interval(*areas)
    assert package.low is not None
    assert mine.low == pytest.approx(package.low, abs=2e-3)  # there on the logit scale
    assert mine.high == pytest.approx(package.high, abs=2e-3)


def dealt(random: np.random.Generator, groups: int, width: int, records: int) -> tuple[np.ndarray, ...]:
    """Signals of two kinds and memberships, `[groups, width, 2, N]`: complementary pairs, a new population each time.

    As `simulated_targets.leave_one_out_targets`, with two signals of each model that are equally good.
    """
    first = random.random((groups, width, 1, records)).argsort(-1) < records // 2
    member = np.concatenate([first, ~first], 2)
    effect, shift = 2 * random.normal(size=records), random.choice([0.5, 2.0, 4.0], records)
    strength = np.exp(0.2 * random.normal(size=(groups, width, 2, 1)))
    moved = effect + strength * shift * member
    return moved + random.normal(size=moved.shape), moved + random.normal(size=moved.shape), member


def left_out(signal: np.ndarray, member: np.ndarray) -> torch.Tensor:
    """Scores `[T, N]`: the ratio of two normal densities, whose means the other pairs of the group say."""
    width, means = signal.shape[1], []
    for kind in (member, ~member):
        of_pair = (signal * kind).sum(2, keepdims=True)
        means.append((of_pair.sum(1, keepdims=True) - of_pair) / (width - 1))
    score = (signal - means[1]) ** 2 - (signal - means[0]) ** 2
    return torch.from_numpy(score.reshape(-1, signal.shape[-1]))


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "width"), [(12, 3), (2, 17)])  # 4 and 32 shadow models, of 72 and 68
@pytest.mark.parametrize("is_null", [True, False])
def test_paired_differences_of_tprs_hold_the_truth(
    groups: int, width: int, is_null: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 populations at the design of the benchmark; the truth is 0, or the mean. 95 % less four errors."""
    few_shadows = imported("few_shadows", monkeypatch)
    random, found = np.random.default_rng([17, groups, is_null]), []
    for _ in range(100):
        one, other, member = dealt(random, groups, width, 2000)
        member_TN = torch.from_numpy(member.reshape(-1, 2000))
        other = other if is_null else other + random.normal(size=other.shape)
        scores = [left_out(each, member) for each in (one, other)]
        (value_P, part_PN), (other_P, other_PN) = (
            few_shadows.of_pairs(*few_shadows.tpr_contributions(score_TN, member_TN, torch.ones_like(member_TN)))
            for score_TN in scores
        )
        found.append(few_shadows.Estimate.of(value_P - other_P, part_PN - other_PN))
    truth = 0.0 if is_null else float(np.mean([each.value for each in found]))
    assert (abs(truth) > 0.01) != is_null
    held = np.mean([each.low <= truth <= each.high for each in found])
    assert held >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / 100), held
