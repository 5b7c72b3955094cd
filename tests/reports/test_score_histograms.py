"""Histograms of scores against counts by hand."""

import numpy as np
import pytest

from mia_lightning.reports.histograms import NUM_BINS, score_histogram
from mia_lightning.reports.plots import score_plot
from mia_lightning.reports.scores import Scores


def scores_of(score: list[float], is_member: list[bool], is_flagged: list[bool] | None = None) -> Scores:
    """One attack, "a", and beside it another whose scores must not matter."""
    rows = len(score)
    flagged = [False] * rows if is_flagged is None else is_flagged
    return Scores(
        attack=np.array(["a"] * rows + ["b"] * rows),
        target=np.zeros(2 * rows, dtype=np.int64),
        record=np.tile(np.arange(rows), 2),
        label=np.zeros(2 * rows, dtype=np.int64),
        is_member=np.array(is_member * 2),
        score=np.array([*score, *[1e9] * rows]),
        is_flagged=np.array(flagged * 2),
    )


def test_bins_count_members_and_non_members() -> None:
    draw = np.random.default_rng(0)
    score = draw.normal(size=900)
    is_member = np.arange(900) % 3 == 0
    score[is_member] += 1
    found = score_histogram(scores_of(score.tolist(), is_member.tolist()), "a")

    assert found is not None
    assert len(found.edge) == 1 + np.ceil(2 * 300 ** (1 / 3))  # the members are the smaller group
    assert (found.edge[0], found.edge[-1]) == pytest.approx(tuple(np.quantile(score, [0.01, 0.99])))
    for shares, side, median in (
        (found.members, is_member, found.median_member),
        (found.nonmembers, ~is_member, found.median_nonmember),
    ):
        counts = [0] * len(shares)
        for value in score[side]:
            place = int(sum(value >= edge for edge in found.edge[1:-1]))
            counts[place] += 1
        assert (shares * side.sum()).round().astype(int).tolist() == counts
        assert shares.sum() == pytest.approx(1)
        assert median == sorted(score[side])[(side.sum() - 1) // 2]


@pytest.mark.parametrize(("spread", "tail"), [(1.0, 0.01), (1.5, 0.05), (2.0, 0.1), (8.0, 0.25)])
def test_a_long_tail_lies_beyond_the_axis(spread: float, tail: float) -> None:
    score = -np.exp(spread * np.random.default_rng(1).normal(size=400))
    found = score_histogram(scores_of(score.tolist(), (np.arange(400) % 2 == 0).tolist()), "a")
    assert found is not None
    assert (found.edge[0], found.edge[-1]) == pytest.approx(tuple(np.quantile(score, [tail, 1 - tail])))
    assert found.members.sum() == pytest.approx(1)


def test_scores_of_two_values_keep_both_on_the_axis() -> None:
    found = score_histogram(scores_of([0.0] * 80 + [1.0] * 20, [place % 2 == 0 for place in range(100)]), "a")
    assert found is not None
    assert (found.edge[0], found.edge[-1]) == (0, 1)
    assert (found.members[0], found.members[-1]) == (0.8, 0.2)


@pytest.mark.parametrize(("rows", "bins"), [(20, NUM_BINS[0]), (100_000, NUM_BINS[1])])
def test_there_are_neither_too_few_bins_nor_too_many(rows: int, bins: int) -> None:
    score = np.linspace(0, 1, rows).tolist()
    found = score_histogram(scores_of(score, [place % 2 == 0 for place in range(rows)]), "a")
    assert found is not None
    assert len(found.members) == bins


def test_infinite_scores_are_counted_at_the_ends() -> None:
    score = [-np.inf, -np.inf, 0.0, 1.0, 0.5, np.inf]
    found = score_histogram(scores_of(score, [False, True, False, True, True, True]), "a")
    assert found is not None
    assert np.isfinite(found.edge).all()
    assert found.members[0] == 1 / 4
    assert found.members[-1] == 2 / 4
    assert found.nonmembers[0] == 1
    assert (found.median_member, found.median_nonmember) == (0.5, -np.inf)


def test_equal_scores_have_a_bin_around_them() -> None:
    found = score_histogram(scores_of([3.0] * 4, [True, False, True, False]), "a")
    assert found is not None
    assert found.edge[0] < 3 < found.edge[-1]
    assert found.members.max() == found.nonmembers.max() == 1


@pytest.mark.parametrize(
    ("score", "is_member"),
    [([1.0, 2.0], [True, True]), ([1.0, 2.0], [False, False]), ([-np.inf, np.inf], [True, False])],
)
def test_nothing_is_drawn_without_both_groups_and_a_finite_score(score: list[float], is_member: list[bool]) -> None:
    assert score_histogram(scores_of(score, is_member), "a") is None


@pytest.mark.parametrize(
    ("is_flagged", "threshold"),
    [
        ([False, False, True, True], 3.0),
        ([True] * 4, 1.0),
        ([False] * 4, None),
        ([False, True, False, True], None),  # by more than the score
    ],
)
def test_the_threshold_is_that_of_the_decision(is_flagged: list[bool], threshold: float | None) -> None:
    found = score_histogram(scores_of([1.0, 2.0, 3.0, 4.0], [True, False, True, False], is_flagged), "a")
    assert found is not None
    assert found.threshold == threshold
    plot = score_plot(found)
    drawn = [shape["x0"] for shape in plot["layout"].get("shapes", [])]
    assert drawn == ([threshold] if threshold is not None and found.edge[0] <= threshold else [])


def test_a_threshold_of_equal_scores_on_both_sides_is_none() -> None:
    found = score_histogram(scores_of([1.0, 2.0, 2.0, 4.0], [True, False] * 2, [False, False, True, True]), "a")
    assert found is not None
    assert found.threshold is None


def test_the_plot_has_the_corners_of_the_bins() -> None:
    found = score_histogram(scores_of([0.0, 0.1, 0.9, 1.0] * 5, [False, True, True, True] * 5), "a")
    assert found is not None
    members, nonmembers = score_plot(found)["data"]
    assert (members["name"], nonmembers["name"]) == ("members", "non-members")
    for trace, shares in ((members, found.members), (nonmembers, found.nonmembers)):
        assert trace["x"][::2] == trace["x"][1::2] == pytest.approx(found.edge, abs=1e-3)
        assert trace["y"][1:-1:2] == trace["y"][2:-1:2] == pytest.approx(shares, abs=1e-3)
        assert (trace["y"][0], trace["y"][-1]) == (0, 0)
