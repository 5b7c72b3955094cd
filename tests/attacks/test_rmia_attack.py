"""RMIA against a slow loop over models, records and the population, written from the paper."""

import itertools
from dataclasses import replace
from math import exp
from statistics import fmean

import numpy as np
import pytest
import torch
from shadow_cases import ENGINE, RMIA, evidence, name_of, pairs, random_case, two_classes
from sklearn.metrics import roc_auc_score

from mia_lightning.attacks import relative, rmia
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, FittedReference
from mia_lightning.attacks.rmia import TRIED, RmiaOffline, RmiaOnline
from mia_lightning.errors import InputError
from mia_lightning.training.signals import Signals

Rmia = RmiaOnline | RmiaOffline


def probability(signals: Signals, k: int, n: int, label: int) -> float:
    return exp(float(signals.log_probability_KANC[k, 0, n, label]))


def slow_score(attack: Rmia, a: float, shadows: Evidence, served: list[int], target: Signals, t: int, n: int) -> float:
    """Equations 2 to 4 of the paper: pairwise likelihood ratios that are at least gamma, over all z."""

    def mean(side: bool, m: int) -> float:
        label = int(shadows.label_N[m])
        return fmean(probability(shadows.signals, k, m, label) for k in served if shadows.member_KN[k, m] == side)

    def ratio(m: int, *, offline: bool) -> float:
        marginal = ((1 + a) * mean(False, m) + 1 - a) / 2 if offline else (mean(True, m) + mean(False, m)) / 2
        return probability(target, t, m, int(shadows.label_N[m])) / marginal

    mine = ratio(n, offline=isinstance(attack, RmiaOffline))
    population = shadows.population_N.nonzero().flatten().tolist()
    return fmean(mine / ratio(z, offline=True) >= attack.gamma for z in population)


@pytest.mark.parametrize("attack", RMIA, ids=name_of)
def test_scores_equal_a_slow_loop(attack: Rmia) -> None:
    shadows, targets = random_case(6, 50)
    fitted = attack.fit(shadows, ENGINE)
    assert isinstance(fitted, FittedReference)
    assert isinstance(attack.a, float)
    score_TN = fitted.score(targets, shadows.label_N)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(6))
    assert score_TN.dtype == left_out_KN.dtype == torch.float64
    for t, n in itertools.product(range(2), range(40)):
        expected = slow_score(attack, attack.a, shadows, list(range(6)), targets, t, n)
        assert float(score_TN[t, n]) == pytest.approx(expected, abs=1e-12)
    for k, n in itertools.product(range(6), range(0, 40, 5)):
        served = [j for j in range(6) if j // 2 != k // 2]
        expected = slow_score(attack, attack.a, shadows, served, shadows.signals, k, n)
        assert float(left_out_KN[k, n]) == pytest.approx(expected, abs=1e-12)
    assert len(score_TN[:, :40].unique()) > 5
    assert fitted.remarks == (
        "The score is a share of 10 records of the population: at most 11 values, so ties are common.",
    )


def test_gamma_is_1_and_a_is_tuned_by_default() -> None:
    for attack in (RmiaOnline(), RmiaOffline()):
        assert attack.gamma == 1.0
        assert attack.a == "auto"


@pytest.mark.parametrize("kind", [RmiaOnline, RmiaOffline])
@pytest.mark.parametrize("seed", range(3))
def test_auto_takes_the_a_with_the_largest_mean_auc_on_shadow_models(kind: type[Rmia], seed: int) -> None:
    shadows, _ = random_case(8, 60, seed, num_classes=5, effect=1.0)
    fitted = kind(gamma=1.5).fit(shadows, ENGINE)
    mean_auc = {}
    for a in TRIED:
        score_KN = kind(a=a, gamma=1.5).fit(shadows, ENGINE).score_left_out(shadows, torch.arange(8))
        scored_N = shadows.target_scored_N
        mean_auc[a] = fmean(
            roc_auc_score(member_N[scored_N].numpy(), score_N[scored_N].numpy())
            for member_N, score_N in zip(shadows.member_KN, score_KN, strict=True)
        )
    best = max(mean_auc.values())
    assert fitted.relative.a == next(a for a in TRIED if mean_auc[a] > best - 1e-12)
    assert len({round(value, 6) for value in mean_auc.values()}) > 1
    assert f"a = {fitted.relative.a:g} was chosen" in fitted.remarks[1]


def test_a_is_learnt_from_shadow_models_and_kept() -> None:
    """Neither the target nor shadow models that are brought later have a say."""
    shadows, _ = random_case(8, 60)
    other, _ = random_case(8, 60, seed=1, effect=-1.5)
    fitted = RmiaOffline().fit(shadows, ENGINE)
    assert RmiaOffline().fit(other, ENGINE).relative.a != fitted.relative.a
    given = RmiaOffline(a=fitted.relative.a).fit(shadows, ENGINE)
    rows = torch.arange(8)
    assert torch.equal(fitted.score_left_out(other, rows), given.score_left_out(other, rows))


def test_at_most_sixteen_shadow_models_are_attacked_to_choose_a(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = []
    averages_of = rmia.Averages.of

    def counted(*args: object, **kwargs: object) -> object:
        found = averages_of(*args, **kwargs)  # type: ignore[arg-type]
        attacked.append(len(found.outside_TN))
        return found

    monkeypatch.setattr(rmia.Averages, "of", counted)
    shadows, _ = random_case(40, 20)
    RmiaOffline().fit(shadows, ENGINE)
    assert attacked == [16, 40, 1]


def test_mean_auc_equals_scikit_learns_on_ties_and_skips_targets_of_one_class() -> None:
    random = np.random.default_rng(0)
    place_TN, inside_TN = (
        torch.from_numpy(random.integers(0, 5, (3, 50))),
        torch.from_numpy(random.random((3, 50)) < 0.4),
    )
    expected = [roc_auc_score(inside_TN[t].numpy(), place_TN[t].numpy()) for t in range(2)]
    inside_TN[2] = True
    assert rmia._mean_auc(place_TN, inside_TN, ~inside_TN) == pytest.approx(fmean(expected), abs=1e-12)
    assert rmia._mean_auc(place_TN[2:], inside_TN[2:], ~inside_TN[2:]) == 0.5


def test_equal_ratios_are_ties_whatever_rounding_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the models agree on each record, all ratios are 1: at gamma = 1 each record equals every z."""
    phi_KN = torch.linspace(-3, 3, 40).expand(14, 40)
    shadows = evidence(two_classes(phi_KN), pairs(14, 40, 0), num_population=10)
    fitted = RmiaOffline(a=1.0, gamma=1.0).fit(shadows, ENGINE)
    assert bool((fitted.score(two_classes(phi_KN[3:4]), shadows.label_N) == 1.0).all())
    assert bool((fitted.score_left_out(shadows, torch.arange(14)) == 1.0).all())
    monkeypatch.setattr(relative, "_ROUNDING", 0.0)  # the test can tell
    assert not bool((fitted.score_left_out(shadows, torch.arange(14)) == 1.0).all())


def test_a_single_confident_model_is_left_out_without_a_trace() -> None:
    """All others give the record 1e-20: subtracting 1 from a sum would leave noise in place of that."""
    phi_KN = torch.zeros(6, 20)
    phi_KN[:, 0] = -46.0
    phi_KN[2, 0] = 60.0
    shadows = evidence(two_classes(phi_KN), pairs(6, 20, 1), num_population=10)
    fitted = RmiaOnline(a=1.0).fit(shadows, ENGINE)
    alone = shadows.select(torch.tensor([True, True, False, False, True, True]))
    refitted = RmiaOnline(a=1.0).fit(alone, ENGINE)
    averages = relative.Averages.of(
        rmia._log_p(shadows.signals, shadows.label_N),
        shadows,
        rmia.Others.of(shadows, torch.tensor([3])),
        online=True,
    )
    np.testing.assert_allclose(averages.log_marginal(1.0), refitted.averages.log_marginal(1.0), rtol=0, atol=1e-9)
    assert float(averages.log_marginal(1.0)[0, 0]) == pytest.approx(-46.0, abs=1e-3)
    row = torch.tensor([3])
    own = Signals(log_probability_KANC=shadows.signals.log_probability_KANC[row])
    assert torch.equal(fitted.score_left_out(shadows, row), refitted.score(own, shadows.label_N))


def test_probabilities_of_zero_give_no_nan() -> None:
    shadows, targets = random_case(6, 30)
    shadows.signals.log_probability_KANC[:, :, ::2] = -torch.inf
    targets.log_probability_KANC[:, :, ::3] = -torch.inf
    for attack in RMIA:
        fitted = attack.fit(shadows, ENGINE)
        assert bool(fitted.score(targets, shadows.label_N).isfinite().all() | isinstance(attack, RmiaOnline))
        assert not bool(fitted.score(targets, shadows.label_N).isnan().any())
        assert not bool(fitted.score_left_out(shadows, torch.arange(6)).isnan().any())


def test_plans_that_it_cannot_serve_are_refused() -> None:
    shadows, _ = random_case(6, 30)
    none = replace(shadows, population_N=torch.zeros(30, dtype=torch.bool))
    for attack in (RmiaOnline(), RmiaOffline()):
        assert attack.needs.population
        with pytest.raises(DoesNotApplyError, match=rf"attack={attack.name} .*set `membership.population`"):
            attack.fit(none, ENGINE)
    in_pool_N = torch.arange(30) >= 8
    disjoint = replace(
        shadows,
        member_KN=shadows.member_KN & in_pool_N,
        scored_KN=shadows.scored_KN & in_pool_N,
        block_K=torch.arange(6),
        target_scored_N=~in_pool_N & ~shadows.population_N,
        plan="disjoint",
    )
    with pytest.raises(DoesNotApplyError, match=r"at least one shadow model that trained on it.*attack=rmia_offline"):
        RmiaOnline().fit(disjoint, ENGINE)
    RmiaOffline().fit(disjoint, ENGINE)
    for attack in (RmiaOnline(), RmiaOffline()):
        with pytest.raises(DoesNotApplyError, match="too few are left"):
            attack.fit(shadows.select(torch.arange(6) < 2), ENGINE)


@pytest.mark.parametrize("a", ["best", -0.1, 1.1, True, float("nan")])
def test_a_is_checked(a: object) -> None:
    with pytest.raises(InputError, match=r"`attack.rmia_offline.a` is .*; it must be auto or a number from 0 to 1"):
        RmiaOffline(a=a)  # type: ignore[arg-type]


@pytest.mark.parametrize("gamma", [0, -1.0, float("inf"), float("nan"), True, "2"])
def test_gamma_is_checked(gamma: object) -> None:
    with pytest.raises(InputError, match=r"`attack.rmia_online.gamma` is .*; it must be a number above 0"):
        RmiaOnline(gamma=gamma)  # type: ignore[arg-type]
