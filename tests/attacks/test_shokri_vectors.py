"""Which prediction vectors train the attack networks of each class, and how many."""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from scipy.stats import chi2
from shokri_toys import Recording, attack, engine, halves, noise_alone, planted, simulate
from torch import Tensor

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.shokri import FittedShokri
from mia_lightning.attacks.vectors import balanced
from mia_lightning.metrics.roc import auc
from mia_lightning.seeds import generator
from mia_lightning.training.trainer import TrainerSettings


def unbalanced(seed: int = 0) -> tuple[Evidence, Evidence]:
    """Noise; class 0 has nine members for each non-member, class 1 the reverse, class 2 as many of both."""
    shadows, target = simulate(noise_alone, num_classes=3, num_records=600, seed=seed)
    random = torch.Generator().manual_seed(seed)
    share_N = torch.tensor([0.9, 0.1, 0.5])[shadows.label_N]
    return replace(shadows, member_KN=torch.rand(4, 600, generator=random) < share_N), target


def test_more_members_than_nonmembers_do_not_move_scores() -> None:
    shadows, target = unbalanced()
    (score_N,) = attack().fit(shadows, engine()).score(target.signals, target.label_N)
    for c in range(3):
        assert abs(float(score_N[target.label_N == c].mean()) - 0.5) < 0.06


def test_each_network_sees_as_many_members_as_nonmembers_of_its_class_alone() -> None:
    shadows, _ = unbalanced()
    shadows = replace(shadows, scored_KN=torch.rand(4, 600, generator=torch.Generator().manual_seed(1)) < 0.8)
    shadows = replace(shadows, member_KN=shadows.member_KN & shadows.scored_KN)
    recording = Recording(seed=0, settings=TrainerSettings(accelerator="cpu"))
    attack(epochs=1).fit(shadows, recording)
    population, records_K = recording.job.population, recording.job.records_K
    observed = shadows.scored_KN.nonzero().tolist()
    assert population.x_N.data_ptr() == shadows.signals.log_probability_KANC.data_ptr()  # no copy
    assert recording.job.models == [0, 1, 2]
    for c, rows in enumerate(records_K):
        assert len(set(rows.tolist())) == len(rows)
        drawn = [divmod(row, 600) for row in rows.tolist()]
        assert all(shadows.label_N[n] == c and shadows.scored_KN[k, n] for k, n in drawn)
        is_in = [bool(shadows.member_KN[k, n]) for k, n in drawn]
        assert population.label_N[rows].tolist() == [int(inside) for inside in is_in]
        of_class = [bool(shadows.member_KN[k, n]) for k, n in observed if shadows.label_N[n] == c]
        smaller_side = min(sum(of_class), len(of_class) - sum(of_class))
        assert (sum(is_in), len(is_in) - sum(is_in)) == (smaller_side, smaller_side)
        for (k, n), row in zip(drawn[:20], rows[:20].tolist(), strict=True):
            assert torch.equal(population.x_N[row], shadows.signals.log_probability_KANC[k, 0, n])


def trained_on(shadows: Evidence, max_vectors: int | None, seed: int = 0) -> tuple[list[Tensor], FittedShokri]:
    """The numbers k N + n of the vectors that the network of each class saw."""
    recording = Recording(seed=seed, settings=TrainerSettings(accelerator="cpu"))
    fitted = attack(epochs=1, max_vectors=max_vectors).fit(shadows, recording)
    return list(recording.job.records_K), fitted


@pytest.mark.costly
@pytest.mark.parametrize("max_vectors", [40, 41, 2])
def test_at_most_so_many_vectors_of_a_class_train_a_network_half_of_them_of_members(max_vectors: int) -> None:
    shadows, _ = unbalanced()
    scored_KN = torch.rand(4, 600, generator=torch.Generator().manual_seed(1)) < 0.8
    shadows = replace(shadows, scored_KN=scored_KN, member_KN=shadows.member_KN & scored_KN)
    rows_C, fitted = trained_on(shadows, max_vectors)
    of_class_C, _ = trained_on(shadows, None)
    for c, rows in enumerate(rows_C):
        assert torch.equal(rows, rows.unique())
        assert bool(scored_KN.flatten()[rows].all())
        assert shadows.label_N[rows % 600].unique().tolist() == [c]
        is_in = shadows.member_KN.flatten()[rows]
        assert (int(is_in.sum()), int((~is_in).sum())) == (max_vectors // 2, max_vectors // 2)
    (remark,) = fitted.remarks
    used, available = 3 * (max_vectors // 2 * 2), sum(map(len, of_class_C))
    assert f"{used} of {available} prediction vectors" in remark
    assert "`max_vectors`" in remark


def test_where_there_are_no_more_vectors_nothing_changes_to_the_bit() -> None:
    """A class may have fewer than the most, or just as many; the draw is then the plain one, written out here."""
    shadows, target = unbalanced()
    rows_C, all_of_them = trained_on(shadows, None)
    largest = max(map(len, rows_C))
    assert min(map(len, rows_C)) < largest
    for max_vectors in (largest, largest + 1, 10**9):
        again_C, fitted = trained_on(shadows, max_vectors)
        assert all(torch.equal(*rows) for rows in zip(rows_C, again_C, strict=True))
        scores = [each.score(target.signals, target.label_N) for each in (all_of_them, fitted)]
        assert torch.equal(*scores)
        assert fitted.remarks == ()
    for c, rows in enumerate(rows_C):
        expected: list[int] = []
        sides = [(shadows.label_N == c) & (shadows.member_KN == is_in) for is_in in (True, False)]
        size = min(int(side_KN.sum()) for side_KN in sides)
        for j, side_KN in enumerate(sides):
            side = [k * 600 + n for k, n in side_KN.nonzero().tolist()]
            order = torch.randperm(len(side), generator=generator(0, "attack", "shokri", c, "balance", j)).tolist()
            expected += [side[m] for m in order[:size]]
        assert rows.tolist() == sorted(expected)


def test_a_class_below_the_most_keeps_its_draw_beside_one_above() -> None:
    shadows, _ = unbalanced()
    all_C, _ = trained_on(shadows, None)
    most = (min(map(len, all_C)) + max(map(len, all_C))) // 2
    rows_C, _ = trained_on(shadows, most)
    for rows, every in zip(rows_C, all_C, strict=True):
        if len(every) <= most:
            assert torch.equal(rows, every)
        else:
            assert len(rows) == most // 2 * 2
            assert bool(torch.isin(rows, every).all())


def test_every_vector_of_every_model_is_as_likely_to_be_drawn() -> None:
    """400 draws of 40 in 120 of either side: counts of each vector, and of each model, are those of chance."""
    label_N = torch.zeros(120, dtype=torch.long)
    member_KN = halves(4, 120, torch.Generator().manual_seed(2))
    usable_KN = torch.ones_like(member_KN)
    count_M, per_model_SK = torch.zeros(480), []
    for seed in range(400):
        rows, available = balanced(member_KN, usable_KN, label_N == 0, 160, seed, "shokri", 0)
        assert (len(rows), available) == (160, 480)
        count_M[rows] += 1
        per_model_SK.append((rows // 120).bincount(minlength=4))
    expected = 400 * 160 / 480
    # Without replacement: a count varies by 400 p (1 - p), and those of a side add up to a fixed number.
    statistic = float((count_M - expected).square().sum() / (400 * (1 / 3) * (2 / 3)) * (239 / 240))
    assert 1e-4 < chi2.cdf(statistic, 478) < 1 - 1e-4
    mean_K = torch.stack(per_model_SK).double().mean(0)
    # Of a model, 60 of 240 on either side, 80 of which are drawn: hypergeometric, twice.
    deviation = sqrt(2 * 80 * 0.25 * 0.75 * (160 / 239) / 400)
    assert float((mean_K - 40).abs().max()) < 4 * deviation


def test_sides_stay_balanced_and_scores_unmoved_where_vectors_are_left_out() -> None:
    shadows, target = unbalanced()
    (score_N,) = attack(max_vectors=120).fit(shadows, engine()).score(target.signals, target.label_N)
    for c in range(3):
        assert abs(float(score_N[target.label_N == c].mean()) - 0.5) < 0.08


def test_a_part_of_the_vectors_still_finds_what_was_planted() -> None:
    shadows, target = simulate(planted, num_records=800)
    fitted = attack(epochs=30, max_vectors=400).fit(shadows, engine())
    (score_N,) = fitted.score(target.signals, target.label_N)
    assert (fitted.num_used, fitted.num_available > 3000) == (800, True)
    assert auc(score_N, target.member_KN[0]) > 0.95
