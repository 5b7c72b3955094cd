"""The per-class attack networks: what they find, what they must not find, and a slow loop."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_toys import make_evidence
from scipy.stats import chi2, norm
from torch import Tensor

from mia_lightning.attacks import shokri
from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.leave_one_out import fold_masks, score_each
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.shokri import UNKNOWN, FittedShokri, Shokri
from mia_lightning.attacks.vectors import balanced, scales
from mia_lightning.datasets.augmentation import Flip
from mia_lightning.errors import InputError
from mia_lightning.metrics.roc import auc
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


def engine(seed: int = 0, precision: str = "32") -> Engine:
    return Engine(seed=seed, settings=TrainerSettings(accelerator="cpu", precision=precision))


def attack(epochs: int = 6, lr: float = 0.02, **settings: object) -> Shokri:
    training = Recipe(epochs=epochs, batches_per_epoch=5, optimizer=partial(torch.optim.Adam, lr=lr))
    return Shokri(hidden=(8,), training=training, **settings)


def halves(num_models: int, num_records: int, random: torch.Generator) -> Tensor:
    pairs = []
    for _ in range(num_models // 2):
        row_N = torch.zeros(num_records, dtype=torch.bool)
        row_N[torch.randperm(num_records, generator=random)[: num_records // 2]] = True
        pairs += [row_N, ~row_N]
    return torch.stack(pairs)


def simulate(
    confidence: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    num_records: int = 300,
    num_classes: int = 2,
    num_models: int = 4,
    views: int = 1,
    seed: int = 0,
) -> tuple[Evidence, Evidence]:
    """Shadow models and one target whose true-class logit is `confidence(member, label, noise)`, each [K, 1, N]."""
    random = torch.Generator().manual_seed(seed)
    label_N = torch.randint(num_classes, (num_records,), generator=random)

    def observe(member_KN: Tensor) -> Evidence:
        logits = torch.randn(len(member_KN), views, num_records, num_classes, generator=random) * 0.1
        noise = torch.randn(len(member_KN), views, num_records, generator=random)
        logits[..., torch.arange(num_records), label_N] = confidence(member_KN[:, None], label_N, noise)
        return make_evidence(
            signals=Signals(log_probability_KANC=logits.log_softmax(-1)),
            member_KN=member_KN,
            scored_KN=torch.ones_like(member_KN),
            label_N=label_N,
            num_classes=num_classes,
        )

    return observe(halves(num_models, num_records, random)), observe(halves(2, num_records, random)[:1])


def noise_alone(member: Tensor, label_N: Tensor, noise: Tensor) -> Tensor:
    return noise


def planted(member: Tensor, label_N: Tensor, noise: Tensor) -> Tensor:
    """Members of class 0 are more confident than non-members by 2, members of class 1 less, by as much."""
    return 2.0 * (member == (label_N == 0)) + 0.7 * noise


# --- what it finds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_kind", ["log_probabilities", "probabilities"])
def test_networks_of_each_class_find_what_one_threshold_cannot_see(input_kind: str) -> None:
    shadows, target = simulate(planted, num_records=800)
    is_member_N = target.member_KN[0]
    (loss_N,) = Loss().fit(shadows, engine()).score(target.signals, target.label_N)
    n = len(is_member_N) // 2
    assert abs(auc(loss_N, is_member_N) - 0.5) < 3.5 * sqrt((2 * n + 1) / (12 * n * n))
    (score_N,) = attack(input=input_kind).fit(shadows, engine()).score(target.signals, target.label_N)
    # The other logit adds noise of 0.1 to the difference, which is all that two classes show.
    optimum = norm.cdf(2 / sqrt(2 * (0.7**2 + 0.1**2)))
    for c in range(2):
        of_class_N = target.label_N == c
        found = auc(score_N[of_class_N], is_member_N[of_class_N])
        assert 0.95 < found < optimum + 4 * sqrt(optimum * (1 - optimum) / 200)
        flagged_N = score_N[of_class_N] >= 0.5
        assert float((flagged_N == is_member_N[of_class_N]).double().mean()) > 0.85
    assert auc(score_N, is_member_N) > 0.95


def test_scores_are_probabilities_of_membership() -> None:
    """Where networks are trained to the end, the score is the posterior at one member to one non-member."""
    shadows, target = simulate(planted, num_records=800)
    fitted = attack(epochs=20).fit(shadows, engine())
    (score_N,) = fitted.score(target.signals, target.label_N)
    assert score_N.dtype == torch.float64
    assert float(score_N.min()) >= 0
    assert float(score_N.max()) <= 1
    assert fitted.threshold == 0.5
    log_p = target.signals.log_probability_KANC[0, 0].double()
    difference_N = log_p[torch.arange(800), target.label_N] - log_p[torch.arange(800), 1 - target.label_N]
    sign_N = 1.0 - 2 * target.label_N
    posterior_N = torch.sigmoid(sign_N * 2 * (difference_N - 1) / (0.7**2 + 0.1**2))
    assert float((score_N - posterior_N).abs().mean()) < 0.05


@pytest.mark.parametrize("num_models", [4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_signals_without_membership_stay_at_chance(num_models: int, seed: int) -> None:
    shadows, target = simulate(noise_alone, num_classes=3, num_models=num_models, num_records=400, seed=seed)
    (score_N,) = attack().fit(shadows, engine(seed)).score(target.signals, target.label_N)
    assert score_N.unique().numel() > 300
    assert abs(auc(score_N, target.member_KN[0]) - 0.5) < 3.5 * sqrt(401 / (12 * 200 * 200))


# --- balance and missing classes -------------------------------------------------------------------------


class Recording(Engine):
    """An engine that keeps the job that it was given."""

    def run(self, job: TrainingJob) -> TrainedStack:
        object.__setattr__(self, "job", job)
        return super().run(job)


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


def without(shadows: Evidence, c: int, *, how: str) -> Evidence:
    """The same, with a class that shadow models have only members of, or only non-members, or none."""
    of_class_N = shadows.label_N == c
    if how == "members":
        return replace(shadows, member_KN=shadows.member_KN | of_class_N)
    member_KN = shadows.member_KN & ~of_class_N
    if how == "non-members":
        return replace(shadows, member_KN=member_KN)
    return replace(shadows, member_KN=member_KN, scored_KN=shadows.scored_KN & ~of_class_N)


@pytest.mark.parametrize("how", ["members", "non-members", "none"])
def test_a_class_without_both_sides_is_scored_one_half_and_named(how: str) -> None:
    shadows, target = simulate(planted, num_classes=3)
    fitted = attack(epochs=2).fit(without(shadows, 1, how=how), engine())
    assert fitted.classes == (0, 2)
    (score_N,) = fitted.score(target.signals, target.label_N)
    assert score_N[target.label_N == 1].unique().tolist() == [UNKNOWN]
    assert not bool((score_N[target.label_N != 1] == UNKNOWN).any())
    assert fitted.threshold > UNKNOWN  # nothing is known, so nobody is flagged
    (remark,) = fitted.remarks
    assert "members and non-members of the classes [1]" in remark
    assert "0.5" in remark


def test_a_network_that_failed_is_left_out_and_named() -> None:
    shadows, target = simulate(planted, num_classes=3)
    fitted = attack(epochs=2).fit(without(shadows, 0, how="none"), engine())
    failed = replace(fitted, networks=replace(fitted.networks, failed_epoch_K=torch.tensor([-1, 0])))
    (score_N,) = failed.score(target.signals, target.label_N)
    assert score_N[target.label_N != 1].unique().tolist() == [UNKNOWN]
    of_class_N = target.label_N == 1
    assert torch.equal(score_N[of_class_N], fitted.score(target.signals, target.label_N)[0][of_class_N])
    assert len(failed.remarks) == 2
    assert "attack networks of the classes [2] was not finite" in failed.remarks[1]
    with pytest.raises(InputError, match="all 2 attack networks of attack=shokri was no longer finite; lower"):
        attack(epochs=2, lr=1e30).fit(simulate(planted)[0], engine())


def test_no_class_with_both_sides_is_refused() -> None:
    shadows, _ = simulate(planted)
    for c in range(2):
        shadows = without(shadows, c, how="members")
    with pytest.raises(InputError, match=r"No class has both members and non-members .* raise `shadow.count`"):
        attack().fit(shadows, engine())


def test_targets_of_no_attacked_class_are_scored() -> None:
    shadows, target = simulate(planted, num_classes=3)
    fitted = attack(epochs=1).fit(without(shadows, 2, how="none"), engine())
    of_class_N = target.label_N == 2
    signals = Signals(log_probability_KANC=target.signals.log_probability_KANC[:, :, of_class_N])
    assert fitted.score(signals, target.label_N[of_class_N]).unique().tolist() == [UNKNOWN]


# --- no more vectors than `max_vectors` ------------------------------------------------------------------


def trained_on(shadows: Evidence, max_vectors: int | None, seed: int = 0) -> tuple[list[Tensor], FittedShokri]:
    """The numbers k N + n of the vectors that the network of each class saw."""
    recording = Recording(seed=seed, settings=TrainerSettings(accelerator="cpu"))
    fitted = attack(epochs=1, max_vectors=max_vectors).fit(shadows, recording)
    return list(recording.job.records_K), fitted


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


# --- what a network depends on ---------------------------------------------------------------------------


def parameters_of_class(fitted: FittedShokri, c: int) -> list[Tensor]:
    return list(fitted.networks.stack.state_of(fitted.classes.index(c)).values())


def test_a_network_does_not_depend_on_which_other_classes_have_one() -> None:
    shadows, _ = simulate(planted, num_classes=3)
    fewer = without(shadows, 0, how="members")  # its observations stay, so the scale of the inputs does
    fitted, other = (attack(epochs=3).fit(evidence, engine(precision="64")) for evidence in (shadows, fewer))
    assert (fitted.classes, other.classes) == ((0, 1, 2), (1, 2))
    for c in (1, 2):
        for a, b in zip(parameters_of_class(fitted, c), parameters_of_class(other, c), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_networks_are_functions_of_the_runs_seed() -> None:
    shadows, target = simulate(planted)
    first, again, other = (
        attack(epochs=1).fit(shadows, engine(seed)).score(target.signals, target.label_N) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_records_that_are_not_evidence_change_nothing() -> None:
    shadows, target = simulate(planted)
    scored_KN = torch.rand(4, 300, generator=torch.Generator().manual_seed(3)) < 0.6
    shadows = replace(shadows, scored_KN=scored_KN, member_KN=shadows.member_KN & scored_KN)
    log_probability_KANC = shadows.signals.log_probability_KANC.clone()
    log_probability_KANC[:, 0][~scored_KN] = torch.tensor([-50.0, -1e-3])
    altered = replace(shadows, signals=Signals(log_probability_KANC=log_probability_KANC))
    fitted, other = (attack(epochs=1).fit(evidence, engine()) for evidence in (shadows, altered))
    scores = [f.score(target.signals, target.label_N) for f in (fitted, other)]
    assert torch.equal(*scores)


def test_answers_that_are_not_finite_are_no_matter_where_they_are_no_evidence() -> None:
    shadows, target = simulate(planted)
    scored_KN = torch.rand(4, 300, generator=torch.Generator().manual_seed(3)) < 0.6
    shadows = replace(shadows, scored_KN=scored_KN, member_KN=shadows.member_KN & scored_KN)
    log_probability_KANC = shadows.signals.log_probability_KANC.clone()
    log_probability_KANC[1, 0, ~scored_KN[1]] = torch.nan
    log_probability_KANC[2, 0, ~scored_KN[2]] = torch.inf
    broken = replace(shadows, signals=Signals(log_probability_KANC=log_probability_KANC))
    scores = [
        attack(epochs=1).fit(evidence, engine()).score(target.signals, target.label_N) for evidence in (shadows, broken)
    ]
    assert torch.equal(*scores)
    assert log_probability_KANC[1].isnan().any()


@pytest.mark.parametrize("is_log", [True, False])
def test_the_scale_of_each_fold_is_that_of_all_vectors_it_keeps(is_log: bool) -> None:
    random = torch.Generator().manual_seed(0)
    x_KNC = torch.randn(5, 40, 3, generator=random) * torch.tensor([1.0, 0.01, 5.0]) - torch.tensor([1.0, 30.0, 2.0])
    scored_KN = torch.rand(5, 40, generator=random) < 0.5
    scored_KN[3] = False
    kept_FK = torch.tensor([[True, True, False, True, True], [False, False, True, False, False]])
    mean_FC, std_FC = scales(x_KNC, scored_KN, kept_FK, is_log=is_log)
    for kept_K, mean_C, std_C in zip(kept_FK, mean_FC, std_FC, strict=True):
        rows = np.stack([x_KNC[k, n].double().numpy() for k, n in (scored_KN & kept_K[:, None]).nonzero().tolist()])
        rows = np.exp(rows) if is_log else rows
        np.testing.assert_allclose(mean_C.numpy(), rows.mean(0), rtol=2e-7)
        np.testing.assert_allclose(std_C.numpy(), np.maximum(rows.std(0), 1e-6), rtol=2e-6)


@pytest.mark.parametrize("input_kind", ["log_probabilities", "probabilities"])
def test_signals_on_disk_give_the_same_scores_to_the_bit(
    input_kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two views, a mean of which is made on disk, and targets that are scored a few at a time."""
    shadows, target = simulate(planted, views=2)
    room = Room(max_bytes=0, folder=tmp_path)
    on_disk = [replace(each, signals=_on_disk(each.signals, room)) for each in (shadows, target)]
    monkeypatch.setattr(shokri, "_SCORED_NUMBERS", 1)
    scores = [
        attack(epochs=1, input=input_kind).fit(learnt, engine()).score(attacked.signals, target.label_N)
        for learnt, attacked in ((shadows, target), on_disk)
    ]
    assert torch.equal(*scores)


def _on_disk(signals: Signals, room: Room) -> Signals:
    value_KANC = signals.log_probability_KANC
    return Signals(log_probability_KANC=room.empty(value_KANC.shape).copy_(value_KANC), room=room)


# --- scoring ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32", "64"])
@pytest.mark.parametrize("input_kind", ["log_probabilities", "probabilities"])
def test_scores_equal_a_slow_loop_over_single_networks(input_kind: str, precision: str) -> None:
    shadows, target = simulate(planted, num_classes=3, views=2, num_records=90)
    shadows = without(shadows, 1, how="none")
    fitted = attack(epochs=2, input=input_kind).fit(shadows, engine(precision=precision))
    assert fitted.networks.stack.dtype == (torch.float64 if precision == "64" else torch.float32)

    def vector(evidence: Evidence, k: int, n: int) -> np.ndarray:
        views = evidence.signals.log_probability_KANC[k, :, n].double().numpy()
        return views.mean(0) if input_kind == "log_probabilities" else np.exp(views).mean(0)

    seen = np.stack([vector(shadows, k, n) for k, n in shadows.scored_KN.nonzero().tolist()])
    expected = []
    for n, c in enumerate(target.label_N.tolist()):
        if c == 1:
            expected.append(0.5)
            continue
        network = fitted.networks.stack.model((0, 2).index(c))
        scaled = (vector(target, 0, n) - seen.mean(0)) / seen.std(0)
        x = torch.tensor(scaled, dtype=fitted.networks.stack.dtype)[None]
        for layer in network.children():  # the layers alone: the scale is this test's own
            x = layer(x)
        logits = x[0].detach()
        expected.append(float(logits.double().softmax(0)[1]))
    (score_N,) = fitted.score(target.signals, target.label_N)
    np.testing.assert_allclose(score_N.numpy(), expected, rtol=0, atol=2e-5)


def test_the_order_of_the_targets_records_does_not_matter() -> None:
    shadows, target = simulate(planted, num_classes=3)
    fitted = attack(epochs=2).fit(shadows, engine(precision="64"))
    (score_N,) = fitted.score(target.signals, target.label_N)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(4))
    shuffled = Signals(log_probability_KANC=target.signals.log_probability_KANC[:, :, order])
    torch.testing.assert_close(fitted.score(shuffled, target.label_N[order])[0], score_N[order], rtol=0, atol=1e-12)
    # Nor do the other records: a record by itself gets the score that it has among them.
    alone = Signals(log_probability_KANC=target.signals.log_probability_KANC[:, :, 17:18])
    torch.testing.assert_close(fitted.score(alone, target.label_N[17:18])[0, 0], score_N[17], rtol=0, atol=1e-12)


def test_several_targets_at_once_are_scored_as_each_alone() -> None:
    shadows, _ = simulate(planted, num_classes=3)
    fitted = attack(epochs=2).fit(shadows, engine(precision="64"))
    together = fitted.score(shadows.signals, shadows.label_N)
    assert together.shape == (4, 300)
    for k in range(4):
        alone = Signals(log_probability_KANC=shadows.signals.log_probability_KANC[k : k + 1])
        torch.testing.assert_close(fitted.score(alone, shadows.label_N)[0], together[k], rtol=0, atol=1e-12)


def test_a_constant_input_is_no_division_by_zero() -> None:
    shadows, target = simulate(lambda member, label_N, noise: 0 * noise)
    flat = Signals(log_probability_KANC=torch.full_like(shadows.signals.log_probability_KANC, -0.6931))
    fitted = attack(epochs=1).fit(replace(shadows, signals=flat), engine())
    score_TN = fitted.score(replace(flat, log_probability_KANC=flat.log_probability_KANC[:1]), target.label_N)
    assert bool(score_TN.isfinite().all())


# --- the networks of all folds as one stack --------------------------------------------------------------


def pairs(num_models: int = 8) -> Evidence:
    """Shadow models in complementary pairs, the first two of which are fold 0 of three."""
    shadows, _ = simulate(planted, num_classes=3, num_models=num_models, num_records=120)
    return replace(shadows, block_K=torch.arange(num_models) // 2)


def ragged() -> Evidence:
    """The same; outside fold 0 there is no non-member of class 1, and records of class 2 are few outside fold 1."""
    shadows = pairs()
    fold_FK = fold_masks(shadows.block_K, 3)
    one_KN, two_KN = (~fold_FK[f][:, None] & (shadows.label_N == c) for f, c in ((0, 1), (1, 2)))
    few_KN = two_KN & (torch.rand(two_KN.shape, generator=torch.Generator().manual_seed(5)) < 0.7)
    return replace(shadows, member_KN=(shadows.member_KN | one_KN) & ~few_KN, scored_KN=~few_KN)


class Failing(Recording):
    """An engine that says of the networks at some places that they failed."""

    failed: tuple[int, ...] = ()

    def run(self, job: TrainingJob) -> TrainedStack:
        trained = super().run(job)
        is_failed_K = torch.isin(torch.arange(trained.stack.num_models), torch.tensor(self.failed))
        return replace(trained, failed_epoch_K=torch.where(is_failed_K, 0, -1))


def failing(*places: int) -> Failing:
    engine = Failing(seed=0, settings=TrainerSettings(accelerator="cpu"))
    object.__setattr__(engine, "failed", places)
    return engine


def fold_after_fold(attack: Shokri, shadows: Evidence, signals: Signals) -> tuple[Tensor, list[str]]:
    """Scores of all models, each from an attack that is fitted without its fold, and the remarks of all of them."""
    score_KN = torch.full(shadows.member_KN.shape, torch.nan, dtype=torch.float64)
    remarks: list[str] = []
    for fold_K in fold_masks(shadows.block_K, 3):
        fitted = attack.fit(shadows.select(~fold_K), engine(precision="64"))
        score_KN[fold_K] = fitted.score(signals.select(fold_K), shadows.label_N)
        remarks += fitted.remarks
    return score_KN, remarks


@pytest.mark.parametrize("make", [pairs, ragged])
@pytest.mark.parametrize("execution", [{}, {"chunk": 2}, {"execution": "loop"}], ids=["stack", "chunks", "loop"])
def test_all_folds_at_once_score_as_one_after_the_other(
    make: Callable[[], Evidence], execution: dict[str, object]
) -> None:
    shadows = make()
    signals = Signals(log_probability_KANC=shadows.signals.log_probability_KANC - 0.1)  # as behind a defence
    plain = attack(epochs=3)
    expected_KN, remarks = fold_after_fold(plain, shadows, signals)
    together = replace(plain, training=replace(plain.training, **execution))
    scored = score_each(together, shadows, signals, engine(precision="64"), folds=3)
    torch.testing.assert_close(scored.score_TN, expected_KN, rtol=0, atol=1e-9)
    assert torch.equal(scored.is_flagged_TN, scored.score_TN >= 0.5)
    assert scored.remarks == tuple(f"{remark} (1 of 3 folds)" for remark in remarks)
    assert len(remarks) == (1 if make is ragged else 0)


def test_folds_draw_the_vectors_that_each_would_draw_by_itself() -> None:
    shadows = pairs()
    signals = Signals(log_probability_KANC=shadows.signals.log_probability_KANC - 0.1)
    few = attack(epochs=3, max_vectors=60)
    expected_KN, remarks = fold_after_fold(few, shadows, signals)
    scored = score_each(few, shadows, signals, engine(precision="64"), folds=3)
    torch.testing.assert_close(scored.score_TN, expected_KN, rtol=0, atol=1e-9)
    everything = score_each(attack(epochs=3), shadows, signals, engine(precision="64"), folds=3)
    assert float((everything.score_TN - scored.score_TN).abs().max()) > 1e-3
    # The first fold holds four of the eight models out, the others two each, so that these say the same.
    assert [f"180 of {available} " in remark for available, remark in zip((480, 720, 720), remarks, strict=True)] == [
        True
    ] * 3
    assert scored.remarks == (f"{remarks[0]} (1 of 3 folds)", f"{remarks[1]} (2 of 3 folds)")


def test_one_stack_holds_a_network_for_each_fold_and_class_which_has_both_sides() -> None:
    recording = Recording(seed=0, settings=TrainerSettings(accelerator="cpu"))
    shadows = ragged()
    scored = score_each(attack(epochs=1), shadows, shadows.signals, recording, folds=3)
    population, records_K = recording.job.population, recording.job.records_K
    assert recording.job.models == [0, 2, 0, 1, 2, 0, 1, 2]  # seeded alike in every fold
    num_records = shadows.scored_KN.shape[1]
    assert len(population) == shadows.scored_KN.numel()  # every vector once, not once for each fold
    assert len({len(records) for records in records_K}) > 3
    for f, records_of_fold in zip((0, 0, 1, 1, 1, 2, 2, 2), records_K, strict=True):
        assert bool(shadows.scored_KN.flatten()[records_of_fold].all())
        assert not bool((records_of_fold // num_records // 2 % 3 == f).any())
    is_blind_KN = fold_masks(shadows.block_K, 3)[0][:, None] & (shadows.label_N == 1)
    assert torch.equal(scored.score_TN == UNKNOWN, is_blind_KN)


def test_what_is_held_out_of_a_fold_reaches_none_of_its_networks() -> None:
    shadows = pairs()
    fold_FK = fold_masks(shadows.block_K, 3)
    changed = torch.where(
        fold_FK[1][:, None, None, None],
        (40 * shadows.signals.log_probability_KANC).log_softmax(-1),
        shadows.signals.log_probability_KANC,
    )
    altered = replace(
        shadows,
        signals=Signals(log_probability_KANC=changed),
        member_KN=shadows.member_KN ^ fold_FK[1][:, None],
    )
    before, after = (
        [
            fitted.score(shadows.signals, shadows.label_N)
            for fitted in attack(epochs=2).fit_folds(each, fold_FK, engine(precision="64"))
        ]
        for each in (shadows, altered)
    )
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-12)
    for f in (0, 2):  # these have learnt from what was changed
        assert float((after[f] - before[f]).abs().mean()) > 0.01


def test_a_network_that_failed_is_missed_by_the_targets_of_its_fold_alone() -> None:
    shadows = pairs()
    scored = score_each(attack(epochs=1), shadows, shadows.signals, failing(3 + 2), folds=3)
    is_blind_KN = fold_masks(shadows.block_K, 3)[1][:, None] & (shadows.label_N == 2)
    assert torch.equal(scored.score_TN == UNKNOWN, is_blind_KN)
    (remark,) = scored.remarks
    assert "networks of the classes [2] was not finite" in remark
    assert remark.endswith("(1 of 3 folds)")


def test_a_fold_without_any_network_is_refused() -> None:
    shadows = pairs()
    with pytest.raises(InputError, match="The loss of all 3 attack networks of attack=shokri was no longer finite"):
        score_each(attack(epochs=1), shadows, shadows.signals, failing(6, 7, 8), folds=3)
    others_K = ~fold_masks(shadows.block_K, 3)[2]
    shadows = replace(shadows, member_KN=shadows.member_KN | others_K[:, None])
    with pytest.raises(InputError, match="No class has both members and non-members of shadow models"):
        score_each(attack(epochs=1), shadows, shadows.signals, engine(), folds=3)


# --- settings --------------------------------------------------------------------------------------------


def test_the_description_says_which_input() -> None:
    assert "the vector of log probabilities" in Shokri().description
    assert "the vector of probabilities" in Shokri(input="probabilities").description
    assert "64 hidden" in Shokri().description
    assert Shokri().input == "log_probabilities"
    assert tuple(Shokri().hidden) == (64,)


def test_settings_that_cannot_be_used_are_refused() -> None:
    by_size = Recipe(epochs=1, batch_size=10, optimizer=torch.optim.Adam)
    with pytest.raises(InputError, match=r"`attack.mine.training.batches_per_epoch` is null; set it"):
        Shokri(name="mine", training=by_size)
    stopping = replace(Shokri().training, early_stopping=EarlyStopping())
    with pytest.raises(InputError, match=r"`attack.mine.training.early_stopping` is set, but attack networks have no"):
        Shokri(name="mine", training=stopping)
    with pytest.raises(InputError, match=r"`attack.mine.training.augment` is set, but attack networks see no images"):
        Shokri(name="mine", training=replace(Shokri().training, augment=(Flip(),)))
