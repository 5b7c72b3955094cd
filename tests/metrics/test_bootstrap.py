"""Bootstraps: the laws of their replicates against loops that redraw and sort records, their seeds, their limits."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from mia_lightning.metrics.intervals.areas import SEPARATED
from mia_lightning.metrics.intervals.bootstrap import (
    MAX_GROUPS,
    Bootstrap,
    average_precision_draws,
    members_for,
    precision_at_recall_draws,
    tpr_at_fpr_draws,
)
from mia_lightning.metrics.intervals.order_statistics import CONSERVATIVE
from mia_lightning.metrics.roc import roc, tpr_at_fpr
from mia_lightning.seeds import generator

REPLICATES = 4000


def sample(n1: int, n0: int, digits: int = 9, shift: float = 1.0, seed: int = 0):  # type: ignore[no-untyped-def]
    random = np.random.default_rng(seed)
    is_member = np.arange(n1 + n0) < n1
    return torch.from_numpy((random.normal(size=n1 + n0) + shift * is_member).round(digits)), torch.from_numpy(
        is_member
    )


def redrawn(score_N, is_member_N, figure, replicates: int = REPLICATES) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The figure of data sets whose members and non-members are redrawn apart, one after the other."""
    random = np.random.default_rng(1)
    members, others = score_N[is_member_N].numpy(), score_N[~is_member_N].numpy()
    values = []
    for _ in range(replicates):
        score = np.concatenate([random.choice(members, len(members)), random.choice(others, len(others))])
        values.append(figure(torch.from_numpy(score), torch.arange(len(score)) < len(members)))
    return np.array(values)


def precision_at(score_N, is_member_N, recall: float) -> float:  # type: ignore[no-untyped-def]
    members, others = score_N[is_member_N].numpy(), score_N[~is_member_N].numpy()
    falling = np.sort(members)[::-1]
    threshold = falling[int(np.ceil(recall * len(members) - 1e-9)) - 1]
    tpr, fpr = (members >= threshold).mean(), (others >= threshold).mean()
    return float(tpr / (tpr + fpr))


def assert_same_law(ours: torch.Tensor, slow: np.ndarray) -> None:
    assert len(ours) == REPLICATES
    assert ks_2samp(ours.numpy(), slow).pvalue > 1e-3
    assert ours.mean() == pytest.approx(slow.mean(), abs=4 * slow.std() * np.sqrt(2 / REPLICATES))


@pytest.mark.parametrize(
    ("max_fpr", "digits"),
    [(0.05, 1), *(pytest.param(*each, marks=pytest.mark.slow) for each in [(0.05, 9), (0.2, 9), (0.2, 1)])],
)
def test_tpr_at_fpr_of_redrawn_records(max_fpr: float, digits: int) -> None:
    score_N, is_member_N = sample(60, 90, digits)
    ours = tpr_at_fpr_draws(roc(score_N, is_member_N), max_fpr, REPLICATES, generator(0, "test"))
    slow = redrawn(score_N, is_member_N, lambda *each: tpr_at_fpr(*each, max_fpr=max_fpr).tpr)
    assert_same_law(ours, slow)


def test_tpr_is_one_where_all_may_be_flagged() -> None:
    assert set(tpr_at_fpr_draws(roc(*sample(20, 20)), 1.0, 5, generator(0, "test")).tolist()) == {1.0}


@pytest.mark.parametrize("digits", [9, 1])
@pytest.mark.parametrize("recall", [0.1, 0.5, 0.9])
@pytest.mark.slow
def test_precision_at_recall_of_redrawn_records(recall: float, digits: int) -> None:
    score_N, is_member_N = sample(60, 90, digits)
    ours = precision_at_recall_draws(roc(score_N, is_member_N), recall, REPLICATES, generator(0, "test"))
    assert_same_law(ours, redrawn(score_N, is_member_N, lambda *each: precision_at(*each, recall)))


@pytest.mark.parametrize("digits", [1, pytest.param(9, marks=pytest.mark.slow)])
def test_average_precision_of_redrawn_records(digits: int) -> None:
    score_N, is_member_N = sample(60, 90, digits)
    ours = average_precision_draws(roc(score_N, is_member_N), REPLICATES, generator(0, "test"))
    assert_same_law(ours, redrawn(score_N, is_member_N, lambda *each: roc(*each).average_precision))


@pytest.mark.slow
def test_many_scores_are_redrawn_in_groups() -> None:
    score_N, is_member_N = sample(900, 1100)
    curve = roc(score_N, is_member_N)
    assert len(curve.threshold_F) > MAX_GROUPS
    ours = average_precision_draws(curve, REPLICATES, generator(0, "test"))
    slow = redrawn(score_N, is_member_N, lambda *each: roc(*each).average_precision, 1000)
    assert float(ours.std()) == pytest.approx(slow.std(), rel=0.12)
    assert float(ours.mean()) == pytest.approx(curve.average_precision, abs=slow.std())


def test_slices_of_replicates_are_the_same_draws_cut_up(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = roc(*sample(60, 90))
    monkeypatch.setattr("mia_lightning.metrics.intervals.bootstrap._SLICE_NUMBERS", 151 * 7)
    assert len(average_precision_draws(curve, 20, generator(0, "test"))) == 20


def test_draws_depend_on_seed_attack_and_figure_alone() -> None:
    curve = roc(*sample(1500, 1500))
    found = {
        (seed, attack): (
            (one := Bootstrap(seed=seed, attack=attack)).tpr_at_fpr(curve, 0.01),
            one.average_precision(curve),
            one.precision_at_recall(curve, 0.5),
        )
        for seed in (0, 1)
        for attack in ("a", "b")
    }
    assert len(set(found.values())) == 4
    again = Bootstrap(seed=0, attack="a")
    assert again.precision_at_recall(curve, 0.5) == found[0, "a"][2]  # whichever figures came before
    assert again.tpr_at_fpr(curve, 0.01) == found[0, "a"][0]
    assert found[0, "a"][0].method == "stratified bootstrap, 2,000 replicates"
    assert found[0, "a"][1].method == "stratified bootstrap, 500 replicates, on the logit scale"


@pytest.mark.parametrize(
    ("n1", "n0", "max_fpr", "shift"),
    [(1500, 999, 0.01, 1.0), (1500, 1500, 0.01, 9.0), (100, 1500, 0.01, 0.0), (1500, 1500, 0.001, 1.0)],
)
def test_percentiles_of_few_records_are_not_trusted(n1: int, n0: int, max_fpr: float, shift: float) -> None:
    low, high, method = Bootstrap(seed=0, attack="a").tpr_at_fpr(roc(*sample(n1, n0, shift=shift)), max_fpr)
    assert method == CONSERVATIVE
    assert low < high


def test_precision_without_false_positives_is_not_trusted_to_percentiles() -> None:
    curve = roc(*sample(1500, 1500, shift=9.0))
    low, high, method = Bootstrap(seed=0, attack="a").precision_at_recall(curve, 0.5)
    assert (method, high) == (CONSERVATIVE, 1.0)
    assert low < 1.0


def test_average_precision_never_has_zero_width() -> None:
    bootstrap = Bootstrap(seed=0, attack="a")
    is_member_N = torch.arange(60) < 20
    low, high, method = bootstrap.average_precision(roc(is_member_N.double(), is_member_N))
    assert (low < 1.0, high, method) == (True, 1.0, SEPARATED)
    assert bootstrap.average_precision(roc(torch.zeros(60), is_member_N)) == (
        None,
        None,
        "none: all replicates are equal",
    )


def test_the_fewest_members_of_a_recall() -> None:
    for n1 in range(1, 200):
        for recall in (0.1, 0.29, 0.5, 0.9, 1 / 3, 1.0):
            assert members_for(recall, n1) == next(count for count in range(1, n1 + 1) if count / n1 >= recall)
