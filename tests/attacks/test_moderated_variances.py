"""Moderated variances, LiRA's by default and BaVarIA's, against slow loops from the papers, and where they help."""

from dataclasses import replace
from math import exp, log, sqrt
from statistics import fmean, variance

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import norm, t
from shadow_cases import ENGINE, evidence, pairs, random_case, two_classes

from mia_lightning.attacks.bavaria import Bavaria
from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.moderated import VariancePrior, log_student
from mia_lightning.attacks.statistics import scaled_logit
from mia_lightning.metrics.roc import tpr_at_fpr
from mia_lightning.seeds import generator

Attack = Lira | Bavaria
ATTACKS: list[Attack] = [Lira(), Lira(online=False), Bavaria(), Bavaria(form="n")]


def floor(sample: list[float], atoms: int | None) -> float:
    """The smallest deviation: of φ that stand for votes of three classes, a step of one vote over √12."""
    if atoms is None:
        return 1e-3
    votes = (atoms + 1) / (1 + exp(-fmean(sample))) - 1 / 3
    low = min(max(votes - 0.5, 0), atoms - 1)
    shares = [(v + 1 / 3) / (atoms + 1) for v in (low, low + 1)]
    return max(1e-3, (log(shares[1] / (1 - shares[1])) - log(shares[0] / (1 - shares[0]))) / sqrt(12))


def prior(samples: list[list[float]], atoms: int | None) -> tuple[float, float]:
    """d₀ and s₀² of Smyth (2004), by root finding."""
    freedom = [len(sample) - 1 for sample in samples]
    floored = [max(floor(sample, atoms) ** 2, variance(sample)) for sample in samples]
    e = [log(v) - digamma(d / 2) + log(d / 2) for v, d in zip(floored, freedom, strict=True)]
    left = variance(e) - fmean(float(polygamma(1, d / 2)) for d in freedom)
    half = brentq(lambda x: polygamma(1, x) - left, 1e-5, 1e9, xtol=1e-13, rtol=1e-14)
    return 2 * half, exp(fmean(e) + digamma(half) - log(half))


class Slow:
    """Record by record; `served` are the models that the target is compared with."""

    def __init__(self, attack: Attack, shadows: Evidence, served: list[int]) -> None:
        self.attack, self.served = attack, served
        self.phi = scaled_logit(shadows.signals, shadows.label_N).tolist()
        self.member = shadows.member_KN.tolist()
        scored = shadows.target_scored_N.nonzero().flatten().tolist()
        self.atoms = shadows.signals.atoms
        self.prior = {side: prior([self.values(side, n) for n in scored], self.atoms) for side in (True, False)}

    def values(self, side: bool, n: int) -> list[float]:
        return [self.phi[k][n] for k in self.served if self.member[k][n] == side]

    def law(self, side: bool, n: int) -> tuple[float, float, float]:
        """Centre, scale, degrees of freedom."""
        values, (freedom, scale) = self.values(side, n), self.prior[side]
        alpha, beta = freedom / 2 + (len(values) - 1) / 2, freedom * scale / 2
        beta += sum((value - fmean(values)) ** 2 for value in values) / 2
        std = sqrt(beta * (len(values) + 1) / (alpha * len(values)))
        return fmean(values), max(std, floor(values, self.atoms)), 2 * alpha

    def log_density(self, side: bool, n: int, phi: float) -> float:
        mean, std, freedom = self.law(side, n)
        if isinstance(self.attack, Bavaria) and self.attack.form == "t":
            return float(t(freedom, mean, std).logpdf(phi))
        return float(norm(mean, std).logpdf(phi))

    def score(self, n: int, phi: float) -> float:
        if isinstance(self.attack, Lira) and not self.attack.online:
            mean, std, _ = self.law(False, n)
            return float(norm(mean, std).logcdf(phi))
        return self.log_density(True, n, phi) - self.log_density(False, n, phi)


@pytest.mark.costly
@pytest.mark.parametrize("atoms", [None, 6])
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_scores_equal_a_slow_loop(attack: Attack, atoms: int | None) -> None:
    shadows, targets = random_case(10, 20)
    shadows.signals.log_probability_KANC[:, :, :10] *= 3  # variances that differ, or they would all be drawn to one
    shadows = replace(shadows, signals=replace(shadows.signals, atoms=atoms))
    fitted = attack.fit(shadows, ENGINE)
    score_TN = fitted.score(targets, shadows.label_N)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(10))
    of_targets = scaled_logit(targets, shadows.label_N).tolist()
    slow = Slow(attack, shadows, list(range(10)))
    assert 0.2 < slow.prior[False][0] < 200
    for row, phi in zip(score_TN.tolist(), of_targets, strict=True):
        assert row[:16] == pytest.approx([slow.score(n, phi[n]) for n in range(16)], rel=1e-7, abs=1e-7)
    for k in range(10):
        slow = Slow(attack, shadows, [j for j in range(10) if j // 2 != k // 2])
        expected = [slow.score(n, slow.phi[k][n]) for n in range(16)]
        assert left_out_KN[k, :16].tolist() == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_the_normal_form_is_lira() -> None:
    shadows, targets = random_case(10, 60)
    lira, bavaria = (attack.fit(shadows, ENGINE) for attack in (Lira(), Bavaria(form="n")))
    assert torch.equal(lira.score(targets, shadows.label_N), bavaria.score(targets, shadows.label_N))
    assert lira.threshold == bavaria.threshold


def test_as_published_the_variance_is_fixed_below_64_shadow_models() -> None:
    for num_models, expected in ((62, "fixed"), (64, "record")):
        shadows, _ = random_case(num_models, 10)
        for online in (True, False):
            assert Lira(online=online, published=True).fit(shadows, ENGINE).normal.variance == expected
            assert Lira(online=online).fit(shadows, ENGINE).normal.variance == "moderated"


# --- the prior -------------------------------------------------------------------------------------------


def drawn_variances(freedom: float, own: int, num_records: int, seed: int) -> torch.Tensor:
    """Sample variances of normal samples whose variances are inverse-gamma with s₀² = 2."""
    random = np.random.default_rng(seed)
    true = 2 * freedom / random.chisquare(freedom, num_records)
    return torch.from_numpy(true * random.chisquare(own, num_records) / own)[None, None]


def freedoms(num_records: int, freedom: int) -> torch.Tensor:
    return torch.full((1, 1, num_records), float(freedom), dtype=torch.float64)


@pytest.mark.parametrize("own", [1, 4, 30])
@pytest.mark.parametrize("freedom", [2.0, 10.0])
def test_the_prior_that_variances_were_drawn_from_is_found(freedom: float, own: int) -> None:
    found = [
        VariancePrior.of([(drawn_variances(freedom, own, 50_000, seed), freedoms(50_000, own))]) for seed in range(5)
    ]
    # e has about the fourth moment of a normal variable, or up to three times that: relative errors of about 2 %.
    assert fmean(float(each.freedom) for each in found) == pytest.approx(freedom, rel=0.15)
    assert fmean(float(each.variance) for each in found) == pytest.approx(2, rel=0.05)


def test_records_of_one_variance_are_drawn_all_the_way_to_it() -> None:
    random = np.random.default_rng(0)
    variance_TAn = torch.from_numpy(3 * random.chisquare(4, 20_000) / 4)[None, None]
    prior = VariancePrior.of([(variance_TAn, freedoms(20_000, 4))])
    posterior, _ = prior.posterior(4 * variance_TAn, freedoms(1, 4))
    assert float(prior.freedom) > 100
    assert posterior.numpy() == pytest.approx(3, rel=0.25)


def test_slices_and_records_without_freedom_change_nothing() -> None:
    variance_TAn = drawn_variances(5.0, 3, 100, 0)
    whole = VariancePrior.of([(variance_TAn, freedoms(100, 3))])
    extra = torch.tensor([[[1e-6, 1e6]]], dtype=torch.float64)
    parts = [(variance_TAn[..., :30], freedoms(30, 3)), (extra, freedoms(2, 0))]
    again = VariancePrior.of([*parts, (variance_TAn[..., 30:], freedoms(70, 3))])
    torch.testing.assert_close(again.freedom, whole.freedom, rtol=1e-10, atol=0)
    torch.testing.assert_close(again.variance, whole.variance, rtol=1e-10, atol=0)


def test_student_s_density_is_that_of_scipy() -> None:
    place = torch.linspace(-1e3, 1e3, 41, dtype=torch.float64)
    for freedom in (0.1, 1.0, 7.5, 1e6):
        expected = t(freedom).logpdf(place.numpy())
        np.testing.assert_allclose(log_student(place, torch.tensor(freedom).double()).numpy(), expected, rtol=1e-7)


# --- where it helps --------------------------------------------------------------------------------------


def unequal(num_models: int, num_records: int, seed: int) -> tuple[Evidence, torch.Tensor, torch.Tensor]:
    """φ = a_i + 2 σ_i m + N(0, σ_i²), σ_i² inverse-gamma with two degrees of freedom; a target of the first row."""
    random = generator(seed, "unequal")
    member_KN = pairs(num_models + 2, num_records, seed)
    gamma_N = np.random.default_rng(seed).chisquare(2, num_records) / 2
    sigma_N = torch.from_numpy(1 / np.sqrt(gamma_N))
    noise_KN = torch.randn(num_models + 2, num_records, generator=random, dtype=torch.float64)
    phi_KN = torch.randn(num_records, generator=random, dtype=torch.float64) + sigma_N * (2 * member_KN + noise_KN)
    return evidence(two_classes(phi_KN[2:]), member_KN[2:]), phi_KN[:1], member_KN[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_models", [6, 16])
def test_with_few_models_and_unequal_variances_moderated_ones_find_more_at_a_low_rate(num_models: int) -> None:
    """TPR at 1 % FPR of 3,000 non-members, mean over three seeds: its standard error is about 0.01."""
    found: dict[str, list[float]] = {}
    for seed in range(3):
        shadows, phi_1N, is_member_N = unequal(num_models, 6000, seed)
        for attack in (
            Bavaria(),
            Lira(),
            Lira(variance="fixed"),
            Lira(online=False),
            Lira(online=False, variance="fixed"),
        ):
            (score_N,) = attack.fit(shadows, ENGINE).score(two_classes(phi_1N), shadows.label_N)
            found.setdefault(str(attack), []).append(tpr_at_fpr(score_N, is_member_N, max_fpr=0.01).tpr)
    student, moderated, fixed, offline, fixed_offline = (fmean(each) for each in found.values())
    assert student > fixed + 0.02
    assert moderated > fixed
    assert offline > fixed_offline + 0.03


def test_models_that_agree_have_finite_scores() -> None:
    """Their variance is the smallest there is, and Student's t has no infinite ratio."""
    member_KN = pairs(8, 20, 0)
    shadows = evidence(two_classes(member_KN.double()), member_KN)
    targets = two_classes(torch.tensor([[0.0, 1.0] * 10]))
    for attack in (Lira(), Bavaria()):
        (score_N,) = attack.fit(shadows, ENGINE).score(targets, shadows.label_N)
        assert bool(score_N.isfinite().all())
        assert bool((score_N[1::2] > 0).all())
        assert bool((score_N[::2] < 0).all())
