"""The per-class attack networks: what they find, what they must not find, and a slow loop."""

from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from shokri_toys import attack, engine, noise_alone, planted, simulate, without
from torch import Tensor

from mia_lightning.attacks import shokri
from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.shokri import UNKNOWN, FittedShokri, Shokri
from mia_lightning.datasets.augmentation import Flip
from mia_lightning.errors import InputError
from mia_lightning.metrics.roc import auc
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals
from mia_lightning.training.step.recipe import EarlyStopping, Recipe

# --- what it finds ---------------------------------------------------------------------------------------


@pytest.mark.costly
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


@pytest.mark.costly
@pytest.mark.parametrize("num_models", [4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_signals_without_membership_stay_at_chance(num_models: int, seed: int) -> None:
    shadows, target = simulate(noise_alone, num_classes=3, num_models=num_models, num_records=400, seed=seed)
    (score_N,) = attack().fit(shadows, engine(seed)).score(target.signals, target.label_N)
    assert score_N.unique().numel() > 300
    assert abs(auc(score_N, target.member_KN[0]) - 0.5) < 3.5 * sqrt(401 / (12 * 200 * 200))


# --- missing classes -------------------------------------------------------------------------------------


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


@pytest.mark.costly
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


@pytest.mark.costly
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
