"""The Gaussian release, solved exactly (`oracles`), through the attacks that compare a target with shadow models."""

from collections.abc import Callable

import oracles
import pytest
import torch
from shadow_cases import AT_DEFAULTS, ENGINE, EVERY, evidence, name_of, two_classes
from torch import Tensor

from mia_lightning.attacks.attack_r import AttackR
from mia_lightning.attacks.bavaria import Bavaria
from mia_lightning.attacks.interface import Attack, Evidence, FittedAttack
from mia_lightning.attacks.lira import Lira, logits
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.ratio import Ratio
from mia_lightning.attacks.rmia import FittedRmia, Rmia
from mia_lightning.metrics.roc import auc, tpr_at_fpr
from mia_lightning.training.signals import Signals

LIMITS: dict[str, tuple[Callable[[], float], Callable[[float], float]]] = {
    "optimum": (oracles.auc_of_gaussian_optimum, oracles.tpr_of_gaussian_optimum),
    "offline": (oracles.auc_of_offline_limit, oracles.tpr_of_offline_limit),
    "raw": (oracles.auc_of_raw_signal, oracles.tpr_of_raw_signal),
}


class Case:
    """The release by K shadow models in pairs and a target, the first row of a pair of its own.

    The last tenth of the records is the population, whose members have become non-members.
    """

    def __init__(self, num_models: int, num_records: int, seed: int) -> None:
        self.release = oracles.simulate_gaussian_release(num_records, seed, num_models=num_models + 2)
        num_population = num_records // 10
        in_population_N = torch.arange(num_records) >= num_records - num_population
        moved_KN = self.release.shift_N * (self.release.member_KN & in_population_N)
        phi_KN = self.release.score_KN - moved_KN
        self.shadows: Evidence = evidence(
            two_classes(phi_KN[2:]), self.release.member_KN[2:], num_population=num_population
        )
        self.target: Signals = two_classes(phi_KN[:1])
        self.scored_N = ~in_population_N
        self.is_member_N = self.release.member_KN[0][self.scored_N]
        self._fitted: dict[Attack, tuple[FittedAttack, Tensor]] = {}

    def fitted(self, attack: Attack) -> tuple[FittedAttack, Tensor]:
        """The attack fitted to the shadow models, and its scores of the target; each attack is fitted once."""
        if attack not in self._fitted:
            fitted = attack.fit(self.shadows, ENGINE)
            (score_N,) = fitted.score(self.target, self.shadows.label_N)
            self._fitted[attack] = fitted, score_N[self.scored_N]
        return self._fitted[attack]

    def score(self, attack: Attack) -> Tensor:
        _, score_N = self.fitted(attack)
        return score_N

    def excess(self, score_N: Tensor, limit: str, max_fpr: float | None = None) -> float:
        """How far the AUC, or the TPR at a rate, is above the closed form, in Monte-Carlo standard errors."""
        auc_of, tpr_of = LIMITS[limit]
        if max_fpr is None:
            error = oracles.auc_standard_error(score_N, self.is_member_N)
            return (auc(score_N, self.is_member_N) - auc_of()) / error
        n1, n0 = int(self.is_member_N.sum()), int((~self.is_member_N).sum())
        error = oracles.tpr_standard_error(tpr_of, max_fpr, n1, n0)
        return (tpr_at_fpr(score_N, self.is_member_N, max_fpr=max_fpr).tpr - tpr_of(max_fpr)) / error


@pytest.fixture(scope="module")
def small() -> Case:
    return Case(128, 4000, seed=0)


APPROACHES: list[tuple[Attack, str]] = [
    *((Lira(variance=variance), "optimum") for variance in ("auto", "fixed", "record")),
    *((Lira(online=False, variance=variance), "offline") for variance in ("auto", "fixed", "record")),
    (Bavaria(), "optimum"),
    (Loss(), "raw"),
]


@pytest.mark.costly
@pytest.mark.parametrize(("attack", "limit"), APPROACHES, ids=str)
def test_attacks_approach_their_limits(attack: Attack, limit: str, small: Case) -> None:
    score_N = small.score(attack)
    assert abs(small.excess(score_N, limit)) < 4
    assert abs(small.excess(score_N, limit, 0.01)) < 4


@pytest.mark.parametrize("attack", EVERY, ids=name_of)
@pytest.mark.slow
def test_no_attack_exceeds_the_optimum(attack: Attack, small: Case) -> None:
    score_N = small.score(attack)
    assert small.excess(score_N, "optimum") < 4
    assert small.excess(score_N, "optimum", 0.01) < 4
    assert auc(score_N, small.is_member_N) > 0.6


@pytest.mark.costly
@pytest.mark.parametrize("attack", [Ratio(), Ratio(online=False, weight=1.0), Ratio(temperature=4.0)], ids=name_of)
def test_the_log_ratio_meets_its_limit(attack: Ratio, small: Case) -> None:
    """BASE and RMIA have one ratio, and so one limit: where they end with many shadow models is known."""
    score_N = small.score(attack)
    limit = oracles.auc_of_relative_limit(None if attack.online else attack.a, temperature=attack.temperature)
    assert abs(auc(score_N, small.is_member_N) - limit) < 4 * oracles.auc_standard_error(score_N, small.is_member_N)


def excess_over_ratio(case: Case, attack: Rmia) -> float:
    """How far RMIA's AUC is above that of the likelihood ratio behind it, in Monte-Carlo standard errors."""
    fitted, score_N = case.fitted(attack)
    assert isinstance(fitted, FittedRmia)
    relative = fitted.relative
    limit = oracles.auc_of_relative_limit(None if attack.online else relative.a, temperature=relative.temperature)
    return (auc(score_N, case.is_member_N) - limit) / oracles.auc_standard_error(score_N, case.is_member_N)


RELATIVE = [
    Rmia(),
    Rmia(online=False),
    Rmia(a=0.3, temperature=1.0),
    Rmia(online=False, a=1.0, gamma=1.0, temperature=4.0),
]


@pytest.mark.costly
@pytest.mark.parametrize("attack", RELATIVE, ids=name_of)
def test_rmia_reaches_the_likelihood_ratio_that_it_compares(attack: Rmia, small: Case) -> None:
    assert abs(excess_over_ratio(small, attack)) < 4


def test_a_temperature_brings_the_likelihood_ratio_nearer_to_the_optimum() -> None:
    """A ratio of probabilities near 1 says little of where on the scale of logits they are."""
    limits = [oracles.auc_of_relative_limit(temperature=temperature) for temperature in (1.0, 2.0, 4.0)]
    assert limits == pytest.approx([0.831, 0.864, 0.882], abs=0.001)
    assert oracles.auc_of_relative_limit(num_points=300) == pytest.approx(limits[1], abs=2e-4)
    assert oracles.auc_of_gaussian_optimum() == pytest.approx(0.9095, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_with_many_shadow_models_the_limits_are_met_at_low_rates_too(seed: int) -> None:
    case = Case(256, 20_000, seed)
    for attack, limit in APPROACHES:
        score_N = case.score(attack)
        for max_fpr in (None, 0.01, 0.001):
            assert abs(case.excess(score_N, limit, max_fpr)) < 4, (attack, max_fpr)
    assert abs(case.excess(case.score(AttackR()), "offline")) < 4  # the same order as offline LiRA's, in steps
    for rmia in RELATIVE:
        assert abs(excess_over_ratio(case, rmia)) < 4, rmia
    for attack in AT_DEFAULTS:
        score_N = case.score(attack)
        for max_fpr in (None, 0.01, 0.001):
            assert case.excess(score_N, "optimum", max_fpr) < 4, (attack, max_fpr)


def test_the_scaled_logit_is_the_released_signal(small: Case) -> None:
    phi_KAN = logits(small.shadows.signals, small.shadows.label_N)
    assert phi_KAN.shape == (128, 1, 4000)
    released_KN = small.release.score_KN[2:]
    torch.testing.assert_close(phi_KAN[:, 0, small.scored_N], released_KN[:, small.scored_N], rtol=1e-5, atol=1e-5)
