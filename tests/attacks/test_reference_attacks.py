"""What holds of every attack that compares a target with shadow models record by record."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from shadow_cases import (
    AT_DEFAULTS,
    ATTACKS,
    ENGINE,
    EVERY,
    evidence,
    name_of,
    pairs,
    ragged_case,
    random_case,
    reordered,
    two_classes,
)
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mia_lightning.attacks import references
from mia_lightning.attacks.attack_r import AttackR
from mia_lightning.attacks.calibrated_loss import CalibratedLoss
from mia_lightning.attacks.interface import Attack, DoesNotApplyError, Evidence, FittedReference
from mia_lightning.attacks.leave_one_out import fold_masks, score_each
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.operating_point import learnt_threshold
from mia_lightning.attacks.references import Others
from mia_lightning.attacks.rmia import Rmia
from mia_lightning.seeds import generator
from mia_lightning.training.signals import Signals


def fit(attack: Attack, shadows: Evidence) -> FittedReference:
    fitted = attack.fit(shadows, ENGINE)
    assert isinstance(fitted, FittedReference)
    return fitted


def auc_of(score_N: Tensor, is_member_N: Tensor) -> float:
    return float(roc_auc_score(is_member_N.numpy(), score_N.numpy()))


# --- leave one block out ---------------------------------------------------------------------------------


@pytest.mark.costly
@pytest.mark.parametrize("case", [random_case(12, 60), ragged_case(80)], ids=["pairs", "ragged"])
@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_leaving_a_block_out_is_the_attack_repeated_without_it(
    attack: Attack, case: tuple[Evidence, Signals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "_SLICE_NUMBERS", 12 * 37)  # so that there are slices, the last one short
    shadows, _ = case
    fitted = fit(attack, shadows)
    all_KN = fitted.score_left_out(shadows, torch.arange(12))
    assert not bool(all_KN.isnan().any())
    for k in range(12):
        alone = fit(attack, shadows.select(shadows.block_K != shadows.block_K[k]))
        own = Signals(log_probability_KANC=shadows.signals.log_probability_KANC[k : k + 1])
        torch.testing.assert_close(all_KN[k : k + 1], alone.score(own, shadows.label_N), rtol=1e-9, atol=1e-9)
    some = torch.tensor([7, 2, 2])
    torch.testing.assert_close(fitted.score_left_out(shadows, some), all_KN[some], rtol=1e-12, atol=1e-12)
    assert bool(all_KN[:, shadows.target_scored_N].isfinite().all())


@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_the_threshold_is_learnt_from_the_scored_entries_of_left_out_models(attack: Attack) -> None:
    shadows, _ = ragged_case(80)
    fitted = fit(attack, shadows)
    score_KN = fitted.score_left_out(shadows, torch.arange(12))
    takes_two = attack.needs.out_models == 2  # models on a side
    assert bool((shadows.scored_KN & (score_KN == -torch.inf)).any()) == takes_two
    for scored_KN in (shadows.scored_KN, shadows.scored_KN & (torch.arange(12) < 4)[:, None]):
        usable_KN = scored_KN & score_KN.isfinite()
        score_M, is_member_M = score_KN[usable_KN], shadows.member_KN[usable_KN]
        found = fit(attack, replace(shadows, scored_KN=scored_KN)).threshold
        assert found == learnt_threshold(score_M, is_member_M)


@pytest.mark.costly
@pytest.mark.parametrize("attack", EVERY, ids=name_of)
def test_folds_that_are_scored_together_have_the_scores_of_each_alone(attack: Attack) -> None:
    shadows, _ = random_case(12, 60)
    scored = score_each(attack, shadows, shadows.signals, ENGINE, folds=3)
    expected_KN = torch.empty_like(scored.score_TN)
    for fold_K in fold_masks(shadows.block_K, 3):
        fitted = fit(attack, shadows.select(~fold_K))
        expected_KN[fold_K] = fitted.score_left_out(shadows, fold_K.nonzero().squeeze(1))
    assert torch.equal(scored.score_TN, expected_KN)


# --- order, ties, size -----------------------------------------------------------------------------------


@pytest.mark.costly
@pytest.mark.parametrize("attack", EVERY, ids=name_of)
def test_the_order_of_records_and_of_shadow_models_does_not_matter(attack: Attack) -> None:
    shadows, targets = random_case(12, 60)
    random = generator(0, "order")
    models, records = torch.randperm(12, generator=random), torch.randperm(60, generator=random)
    fitted, rows = fit(attack, shadows), torch.arange(12)
    score_TN, left_out_KN = fitted.score(targets, shadows.label_N), fitted.score_left_out(shadows, rows)
    close = {"rtol": 1e-9, "atol": 1e-9}

    other = reordered(shadows, models=models)
    again = fit(attack, other)
    torch.testing.assert_close(again.score(targets, shadows.label_N), score_TN, **close)
    torch.testing.assert_close(again.score_left_out(other, rows), left_out_KN[models], **close)
    assert again.threshold == pytest.approx(fitted.threshold, abs=1e-9)

    other = reordered(shadows, records=records)
    again = fit(attack, other)
    moved = Signals(log_probability_KANC=targets.log_probability_KANC[:, :, records])
    torch.testing.assert_close(again.score(moved, other.label_N), score_TN[:, records], **close)
    torch.testing.assert_close(again.score_left_out(other, rows), left_out_KN[:, records], **close)
    assert again.threshold == pytest.approx(fitted.threshold, abs=1e-9)


@pytest.mark.parametrize("attack", EVERY, ids=name_of)
def test_models_that_are_all_the_same_give_ties_and_no_nan(attack: Attack) -> None:
    shadows = evidence(two_classes(torch.full((8, 40), 1.5)), pairs(8, 40, 0), num_population=10)
    fitted = fit(attack, shadows)
    (score_N,) = fitted.score(two_classes(torch.full((1, 40), 1.5)), shadows.label_N)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(8))
    assert bool(score_N[:30].isfinite().all())
    assert bool(left_out_KN[:, :30].isfinite().all())
    assert float(score_N[:30].max() - score_N[:30].min()) <= 1e-9
    assert np.isfinite(fitted.threshold)


@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_saturated_signals_give_no_nan(attack: Attack) -> None:
    """Where the other classes have probability 0, φ and minus the loss are at their ends."""
    shadows, targets = random_case(8, 60)
    shadows.signals.log_probability_KANC[:, :, ::4] = torch.tensor([0.0, -torch.inf, -torch.inf])
    targets.log_probability_KANC[0, :, ::3] = torch.tensor([-torch.inf, 0.0, -torch.inf])
    fitted = fit(attack, shadows)
    assert not bool(fitted.score(targets, shadows.label_N).isnan().any())
    assert not bool(fitted.score_left_out(shadows, torch.arange(8)).isnan().any())
    assert not np.isnan(fitted.threshold)


@pytest.mark.parametrize(
    "attack",
    [each if each == Lira() else pytest.param(each, marks=pytest.mark.slow) for each in AT_DEFAULTS],
    ids=name_of,
)
def test_many_shadow_models_are_no_matter(attack: Attack) -> None:
    """256 models and 2,000 records, of which three are compared with a refit."""
    shadows, targets = random_case(256, 2000)
    fitted = fit(attack, shadows)
    assert fitted.score(targets, shadows.label_N).shape == (2, 2000)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(256))
    scored_N = shadows.target_scored_N
    assert bool(left_out_KN[:, scored_N].isfinite().all())
    if isinstance(attack, Rmia):
        attack = replace(attack, a=fitted.relative.a, gamma=fitted.relative.gamma)  # type: ignore[attr-defined]
    alone = fit(attack, shadows.select(shadows.block_K != 64))
    own = Signals(log_probability_KANC=shadows.signals.log_probability_KANC[129:130])
    torch.testing.assert_close(left_out_KN[129:130], alone.score(own, shadows.label_N), rtol=1e-9, atol=1e-9)


# --- direction and chance --------------------------------------------------------------------------------


def memorising(num_models: int, num_records: int, seed: int, effect: float) -> tuple[Evidence, Signals, Tensor]:
    """Shadow models and the first row of another pair as a target: φ is that of the record, plus `effect` if a member.

    The last tenth of the records is the population.
    """
    random = generator(seed, "memorising")
    member_KN = pairs(num_models + 2, num_records, seed)
    num_population = num_records // 10
    member_KN[:, num_records - num_population :] = False
    phi_KN = torch.randn(num_records, generator=random, dtype=torch.float64) - effect / 2 + effect * member_KN
    phi_KN += torch.randn(num_models + 2, num_records, generator=random, dtype=torch.float64)
    shadows = evidence(two_classes(phi_KN[2:]), member_KN[2:], num_population=num_population)
    return shadows, two_classes(phi_KN[:1]), member_KN[0]


@pytest.mark.costly
@pytest.mark.parametrize("attack", EVERY, ids=name_of)
def test_a_memorising_model_is_caught_and_scores_point_towards_members(attack: Attack) -> None:
    shadows, target, is_member_N = memorising(16, 1000, 0, effect=6.0)
    fitted = fit(attack, shadows)
    scored_N = shadows.target_scored_N
    (score_N,) = fitted.score(target, shadows.label_N)
    assert auc_of(score_N[scored_N], is_member_N[scored_N]) > 0.9
    flagged_N = score_N >= fitted.threshold
    assert float(flagged_N[scored_N & is_member_N].double().mean()) > 0.75
    assert float(flagged_N[scored_N & ~is_member_N].double().mean()) < 0.25
    for member_N, left_out_N in zip(shadows.member_KN, fitted.score_left_out(shadows, torch.arange(16)), strict=True):
        assert auc_of(left_out_N[scored_N], member_N[scored_N]) > 0.9


def null_deviations(score_N: Tensor, is_member_N: Tensor) -> tuple[float, float]:
    """How far the AUC is from one half, in its null standard errors; the p-value of equal laws (Kolmogorov-Smirnov)."""
    n1, n0 = int(is_member_N.sum()), int((~is_member_N).sum())
    error = sqrt((n1 + n0 + 1) / (12 * n1 * n0))
    p_value = ks_2samp(score_N[is_member_N].numpy(), score_N[~is_member_N].numpy(), method="asymp").pvalue
    return abs(auc_of(score_N, is_member_N) - 0.5) / error, float(p_value)


@pytest.mark.costly
@pytest.mark.parametrize("num_models", [4, 6, 8, 16])
@pytest.mark.parametrize("attack", EVERY, ids=name_of)
def test_on_models_that_leak_nothing_every_attack_stays_at_chance(attack: Attack, num_models: int) -> None:
    """Memberships of the shadow models alone must tell nothing of a target whose complement is left out with it."""
    shadows, target, is_member_N = memorising(num_models, 4000, num_models, effect=0.0)
    scored_N = shadows.target_scored_N
    if num_models == 4 and attack.needs.out_models == 2:
        with pytest.raises(DoesNotApplyError):  # one model on each side, once a pair is left out
            attack.fit(shadows, ENGINE)
        return
    fitted = fit(attack, shadows)
    (score_N,) = fitted.score(target, shadows.label_N)
    deviations = [null_deviations(score_N[scored_N], is_member_N[scored_N])]
    for member_N, left_out_N in zip(
        shadows.member_KN, fitted.score_left_out(shadows, torch.arange(num_models)), strict=True
    ):
        deviations.append(null_deviations(left_out_N[scored_N], member_N[scored_N]))
    assert max(deviation for deviation, _ in deviations) < 4.5
    assert min(p_value for _, p_value in deviations) > 1e-5


@pytest.mark.parametrize("num_models", [4, 8, 16])
def test_memberships_of_the_other_models_tell_nothing_unless_a_pair_is_parted(num_models: int) -> None:
    member_KN = pairs(num_models, 1000, 0)
    shadows = evidence(two_classes(torch.zeros(num_models, 1000)), member_KN)
    rows = torch.arange(num_models)
    minus_counts_KN = -Others.of(shadows, rows).sum(shadows.member_KN)
    assert all(auc_of(minus_counts_KN[k], member_KN[k]) == 0.5 for k in range(num_models))
    parted = replace(shadows, block_K=rows)
    minus_counts_KN = -Others.of(parted, rows).sum(shadows.member_KN)
    assert all(auc_of(minus_counts_KN[k], member_KN[k]) == 1.0 for k in range(num_models))


@pytest.mark.costly
@pytest.mark.parametrize("attack", [CalibratedLoss(), AttackR(), Lira(), Lira(online=False), Rmia(online=False, a=1.0)])
def test_an_attack_that_is_given_the_target_s_own_row_fails_the_null(attack: Attack) -> None:
    """Scored against all shadow models, itself among them: what the nulls above would look like by mistake.

    Not RMIA online: it takes a model's own row with equal weight from the in- or the out-models.
    """
    shadows, _, _ = memorising(6, 10_000, 0, effect=0.0)
    scored_N = shadows.target_scored_N
    by_mistake_KN = fit(attack, shadows).score(shadows.signals, shadows.label_N)
    deviations = [
        null_deviations(score_N[scored_N], member_N[scored_N])
        for score_N, member_N in zip(by_mistake_KN, shadows.member_KN, strict=True)
    ]
    assert min(p_value for _, p_value in deviations) < 1e-5
    if attack == Lira():
        assert min(deviation for deviation, _ in deviations) > 4.5
