"""Least squares with known noise, solved exactly (`oracles`), through the real attacks on predicted numbers."""

import math
from dataclasses import replace
from statistics import fmean

import oracles
import pytest
import torch
from shadow_cases import AT_DEFAULTS, ENGINE, evidence, name_of
from torch import Tensor

from mia_lightning.attacks.interface import Attack, Evidence
from mia_lightning.attacks.leave_one_out import in_units
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.rmia import Rmia
from mia_lightning.metrics.roc import auc, tpr_at_fpr
from mia_lightning.tasks import Regression
from mia_lightning.training.signals import Signals

N, SHADOWS, TARGETS = 4000, 64, 4
POPULATION = 400
SIMULATED = 200_000


class Case:
    """Shadow models in pairs, and targets of which each is the first of a pair of its own."""

    def __init__(self, g: int, unit: float = 1.0, num_records: int = N) -> None:
        rows = SHADOWS + 2 * TARGETS
        self.whole = oracles.simulate_group_regression(g, num_records, seed=0, num_models=rows)
        signals = Signals(
            log_probability_KANC=(unit * self.whole.prediction_KN).float()[:, None, :, None], task=Regression()
        )
        self.is_target_K = torch.arange(rows) >= SHADOWS
        self.is_target_K &= (torch.arange(rows) % 2) == 0
        self.label_N = (unit * self.whole.label_N).float()
        shadows = evidence(
            signals.select(torch.arange(rows) < SHADOWS), self.whole.member_KN[:SHADOWS], label_N=self.label_N
        )
        in_population_N = (
            torch.arange(num_records) >= num_records - POPULATION
        )  # scored, too, which is of no matter to the laws
        self.shadows: Evidence = replace(shadows, population_N=in_population_N).in_units_of()
        self.targets = in_units(signals.select(self.is_target_K), self.shadows)
        self.is_member_TN = self.whole.member_KN[self.is_target_K]

    def score(self, attack: Attack) -> Tensor:
        return attack.fit(self.shadows, ENGINE).score(self.targets, self.label_N)

    def auc(self, score_TN: Tensor) -> tuple[float, float]:
        """Of all targets' records together, which are scored on one scale, and its standard error.

        Records are drawn once for all targets, so that the error is that of one target, halved at most by the others.
        """
        areas = [auc(score_N, member_N) for score_N, member_N in zip(score_TN, self.is_member_TN, strict=True)]
        error = oracles.auc_standard_error(score_TN[0], self.is_member_TN[0])
        return sum(areas) / len(areas), error


@pytest.fixture(scope="module", params=[2, 4])
def case(request: pytest.FixtureRequest) -> tuple[int, Case]:
    return request.param, Case(request.param)


def test_the_squared_loss_meets_its_closed_form(case: tuple[int, Case]) -> None:
    g, made = case
    score_TN = made.score(Loss())
    found, error = made.auc(score_TN)
    assert abs(found - oracles.auc_of_group_means(g)) < 4 * error
    n1 = int(made.is_member_TN[0].sum())
    tpr_error = oracles.tpr_standard_error(lambda alpha: oracles.tpr_of_group_means(g, alpha), 0.05, n1, N - n1)
    tpr = tpr_at_fpr(score_TN[0], made.is_member_TN[0], max_fpr=0.05).tpr
    assert abs(tpr - oracles.tpr_of_group_means(g, 0.05)) < 4 * tpr_error


@pytest.mark.costly
@pytest.mark.parametrize("online", [True, False])
def test_lira_meets_its_own_simulation_at_as_many_shadow_models(case: tuple[int, Case], online: bool) -> None:
    g, made = case
    found, error = made.auc(made.score(Lira(online=online, variance="record")))
    expected, simulated = simulated_auc(g, per_side=SHADOWS // 2, online=online)
    assert abs(found - expected) < 4 * (error**2 + simulated**2) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("g", "expected", "tpr"), [(2, 0.714, 0.062), (4, 0.637, 0.040)])
def test_the_limit_of_lira_on_signed_residuals(g: int, expected: float, tpr: float) -> None:
    """The figures that were simulated beforehand; many shadow models approach them from below."""
    limit, error = simulated_auc(g)
    assert limit == pytest.approx(expected, abs=0.001 + 4 * error)
    inside, outside = oracles.simulate_residual_attack(g, SIMULATED, 0)
    flagged = float((inside > outside.quantile(0.99)).double().mean())
    assert flagged == pytest.approx(tpr, abs=0.002)
    few, many = (simulated_auc(g, per_side=per_side)[0] for per_side in (4, 64))
    assert few < many < limit + 4 * error


@pytest.mark.costly
@pytest.mark.parametrize("attack", [*AT_DEFAULTS, Loss(), Lira(variance="record")], ids=name_of)
def test_nothing_exceeds_the_conditional_optimum(case: tuple[int, Case], attack: Attack) -> None:
    _, made = case
    optimum, error = made.auc(made.whole.optimal_score_KN[made.is_target_K])
    found, _ = made.auc(made.score(attack))
    assert found < optimum + 4 * error
    assert found > 0.53  # and each of them finds something


def test_online_lira_exceeds_the_squared_loss_and_the_two_sided_statistic_the_raw_one(case: tuple[int, Case]) -> None:
    """The optimum of squared losses is no bound; and r alone, without the sign turned, says nothing offline."""
    g, made = case
    of_lira, error = made.auc(made.score(Lira(variance="record")))
    assert of_lira > oracles.auc_of_group_means(g) + 2 * error
    of_offline, _ = made.auc(made.score(Lira(online=False, variance="record")))
    assert of_offline > 0.5 + 4 * error


@pytest.mark.costly
@pytest.mark.parametrize("online", [True, False])
def test_rmia_of_numbers_is_that_of_a_slow_loop(online: bool) -> None:
    """Equations 2 to 4 of the paper on exp(-r^2 / (2 T s^2)), with T = 2 and, where nobody set it, a factor of 1."""
    made, a = Case(2, num_records=800), 0.3
    residual_KN = (made.label_N - made.shadows.signals.log_probability_KANC[:, 0, :, 0]).double()
    of_target_N = (made.label_N - made.targets.log_probability_KANC[0, 0, :, 0]).double().tolist()
    residual_NK, member_NK = residual_KN.T.tolist(), made.shadows.member_KN.T.tolist()
    variance = float((residual_KN[~made.shadows.member_KN] ** 2).mean())

    def ratio(n: int, *, offline: bool) -> float:
        p_K = [math.exp(-(r**2) / (4 * variance)) for r in residual_NK[n]]
        inside, outside = (
            fmean(p for p, is_member in zip(p_K, member_NK[n], strict=True) if is_member == side)
            for side in (True, False)
        )
        marginal = ((1 + a) * outside + 1 - a) / 2 if offline else (inside + outside) / 2
        return math.exp(-(of_target_N[n] ** 2) / (4 * variance)) / marginal

    ratio_Z = [ratio(z, offline=True) for z in range(800 - POPULATION, 800)]
    (score_N, *_) = made.score(Rmia(online=online, a=a))
    for n in range(0, 300, 7):
        expected = fmean(ratio(n, offline=not online) >= each for each in ratio_Z)
        assert float(score_N[n]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.costly
@pytest.mark.parametrize("online", [True, False])
def test_rmia_of_numbers_ties_few_records_unless_its_factor_is_that_of_classes(
    case: tuple[int, Case], online: bool
) -> None:
    """With a small population, at a factor of 2, most records exceed no z at all."""
    _, made = case
    few_N = torch.arange(N) >= N - 40
    shadows = replace(made.shadows, population_N=few_N)
    areas, tied = {}, {}
    for factor in (None, 2.0, "auto"):
        score_TN = Rmia(online=online, gamma=factor).fit(shadows, ENGINE).score(made.targets, made.label_N)
        areas[factor], _ = made.auc(score_TN)
        tied[factor] = float(score_TN[0].unique(return_counts=True)[1].max()) / N
    assert areas[None] > areas[2.0] + 0.02
    assert abs(areas[None] - areas["auto"]) < 0.005
    assert tied[None] < 0.2 < 0.7 < tied[2.0]


@pytest.mark.costly
@pytest.mark.parametrize("attack", [*AT_DEFAULTS, Loss()], ids=name_of)
def test_scores_do_not_depend_on_the_unit_of_the_value(attack: Attack) -> None:
    """Metres and millimetres: what is left are the roundings of float32."""
    metres, millimetres = (Case(2, unit=unit, num_records=800).score(attack) for unit in (1.0, 1000.0))
    assert torch.allclose(metres, millimetres, rtol=1e-3, atol=2e-3)
    doubled = Case(2, unit=1024.0, num_records=800).score(attack)  # which rounds nothing
    assert torch.allclose(metres, doubled, rtol=1e-9, atol=1e-9)


def simulated_auc(g: int, *, per_side: int | None = None, online: bool = True) -> tuple[float, float]:
    inside, outside = oracles.simulate_residual_attack(
        g, SIMULATED // (1 if per_side is None else 8), 0, per_side=per_side, online=online
    )
    score_N = torch.cat([inside, outside])
    is_member_N = torch.arange(len(score_N)) < len(inside)
    return auc(score_N, is_member_N), oracles.auc_standard_error(score_N, is_member_N)
