"""The family of log ratios against slow loops from the papers and the codes published with them."""

from math import exp, log
from statistics import fmean

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from shadow_cases import ENGINE, RATIO, evidence, from_a_pool, name_of, pairs, random_case, two_classes

from mia_lightning.attacks.interface import DoesNotApplyError, Evidence
from mia_lightning.attacks.ratio import Ratio
from mia_lightning.attacks.rmia import Rmia
from mia_lightning.metrics.roc import roc
from mia_lightning.training.signals import Signals


def log_p(attack: Ratio, signals: Signals, k: int, n: int, label: int) -> float:
    exponents = [float(each) / attack.temperature for each in signals.log_probability_KANC[k, 0, n]]
    exponents[label] -= attack.soft_margin
    return exponents[label] - log(sum(map(exp, exponents)))


def slow_score(attack: Ratio, shadows: Evidence, served: list[int], target: Signals, t: int, n: int) -> float:
    """From the definition, in the linear space of probabilities."""
    weight = attack.weight or (1 if attack.online else 0.33)

    def mean(side: bool, m: int) -> float:
        label = int(shadows.label_N[m])
        models = [k for k in served if bool(shadows.member_KN[k, m]) == side]
        return fmean(exp(log_p(attack, shadows.signals, k, m, label)) for k in models)

    def ratio(m: int, *, online: bool) -> float:
        outside = mean(False, m)
        p = (mean(True, m) + outside) / 2 if online else ((1 + attack.a) * outside + 1 - attack.a) / 2
        return log_p(attack, target, t, m, int(shadows.label_N[m])) - weight * log(p)

    mine = ratio(n, online=attack.online)
    if attack.population == "none":
        return mine
    others = [ratio(z, online=False) for z in shadows.population_N.nonzero().flatten().tolist()]
    if attack.population == "mean":
        return mine - fmean(others)
    return fmean(mine - each >= log(attack.gamma or 2) for each in others)


@pytest.mark.costly
@pytest.mark.parametrize("attack", RATIO, ids=name_of)
def test_scores_equal_a_slow_loop(attack: Ratio) -> None:
    shadows, targets = random_case(10, 40)
    fitted = attack.fit(shadows, ENGINE)
    score_TN = fitted.score(targets, shadows.label_N)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(10))
    assert score_TN.dtype == left_out_KN.dtype == torch.float64
    for n in range(0, 32, 2):
        for t in range(2):
            expected = slow_score(attack, shadows, list(range(10)), targets, t, n)
            assert float(score_TN[t, n]) == pytest.approx(expected, abs=1e-6)
    for k in range(10):
        served = [j for j in range(10) if j // 2 != k // 2]
        for n in range(0, 32, 5):
            expected = slow_score(attack, shadows, served, shadows.signals, k, n)
            assert float(left_out_KN[k, n]) == pytest.approx(expected, abs=1e-6)


def test_the_defaults_are_base_as_published() -> None:
    """log p at T = 2, less the log of the mean over all models; offline over out-models, and 0.33 of it."""
    random = torch.Generator().manual_seed(0)
    member_KN = pairs(12, 100, 0)
    label_N = torch.randint(10, (100,), generator=random)
    logit_KNC = 4 * torch.randn(13, 100, 10, generator=random)
    signals = Signals(log_probability_KANC=logit_KNC.log_softmax(-1).unsqueeze(1))
    is_shadow_K = torch.arange(13) < 12
    shadows = evidence(signals.select(is_shadow_K), member_KN, label_N=label_N)
    every = np.arange(100), label_N.numpy()
    log_p_KN = log_softmax(logit_KNC.double().numpy() / 2, axis=-1)[:, *every]
    of_models, of_target = log_p_KN[:12], log_p_KN[12]
    outside = np.where(member_KN.numpy(), -np.inf, of_models)
    published = {
        True: of_target - (logsumexp(of_models, axis=0) - log(12)),
        False: of_target - 0.33 * (logsumexp(outside, axis=0) - log(6)),
    }
    for online, expected in published.items():
        (score_N,) = Ratio(online=online).fit(shadows, ENGINE).score(signals.select(~is_shadow_K), label_N)
        np.testing.assert_allclose(score_N.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("constants", [{"a": 0.3}, {"a": 1.0, "temperature": 1.0}, {"a": 0.0, "soft_margin": 0.6}])
@pytest.mark.parametrize("online", [True, False])
def test_rmia_is_the_share_of_a_population(online: bool, constants: dict[str, float]) -> None:
    shadows, targets = random_case(12, 200)
    for gamma in (1.0, 2.0):
        rmia = Rmia(online=online, gamma=gamma, **constants).fit(shadows, ENGINE)
        ratio = Ratio(online=online, gamma=gamma, weight=1.0, population="share", **constants).fit(shadows, ENGINE)
        assert torch.equal(ratio.score(targets, shadows.label_N), rmia.score(targets, shadows.label_N))
        every_K = torch.arange(12)
        assert torch.equal(ratio.score_left_out(shadows, every_K), rmia.score_left_out(shadows, every_K))
        assert ratio.threshold == rmia.threshold
    of_task = Ratio(online=online, weight=1.0, population="share", **constants).fit(shadows, ENGINE)
    assert torch.equal(of_task.score(targets, shadows.label_N), ratio.score(targets, shadows.label_N))


@pytest.mark.parametrize("online", [True, False])
def test_within_a_target_all_rank_records_alike_but_for_ties(online: bool) -> None:
    """RMIA's score is a nondecreasing step function of the ratio, InfoRMIA's the ratio plus a constant."""
    shadows, targets = random_case(12, 200)
    settings = {"online": online, "weight": 1.0, "a": 0.3}
    base, share, mean = (
        Ratio(population=population, **settings).fit(shadows, ENGINE).score(targets, shadows.label_N)[:, :160]
        for population in ("none", "share", "mean")
    )
    for t in range(2):
        assert bool((share[t][base[t].argsort()].diff() >= 0).all())
        assert len(share[t].unique()) < 42 < len(base[t].unique())
    shift_T1 = (mean - base).mean(1, keepdim=True)
    torch.testing.assert_close(mean, base + shift_T1, rtol=0, atol=1e-9)
    assert float(shift_T1.diff(dim=0).abs()) > 1e-3  # across targets it matters


def test_the_constants_of_rmia_make_no_new_curve() -> None:
    """Whatever gamma is, each point of RMIA's ROC is one of the ratio's."""
    shadows, targets = random_case(12, 400)
    is_member_N = torch.arange(320) % 2 == 0
    (base_N,) = Ratio().fit(shadows, ENGINE).score(targets.select(torch.tensor([True, False])), shadows.label_N)
    curve = roc(base_N[:320], is_member_N)
    points = set(zip(curve.false_positives_F.tolist(), curve.true_positives_F.tolist(), strict=True))
    for gamma in (1.0, 1.5, 3.0):
        fitted = Rmia(a=0.5, gamma=gamma).fit(shadows, ENGINE)
        (score_N,) = fitted.score(targets.select(torch.tensor([True, False])), shadows.label_N)
        stepped = roc(score_N[:320], is_member_N)
        found = set(zip(stepped.false_positives_F.tolist(), stepped.true_positives_F.tolist(), strict=True))
        assert found <= points
        assert 2 < len(found) < len(points)


def test_probabilities_too_small_for_a_float_keep_their_ratio() -> None:
    """Without logarithms every mean would be 0: φ is −3,000 for out-models and −2,990 for in-models."""
    member_KN = pairs(8, 20, 0)
    shadows = evidence(two_classes(10.0 * member_KN - 3000), member_KN)
    attack = Ratio(temperature=1.0)
    fitted = attack.fit(shadows, ENGINE)
    (score_N,) = fitted.score(two_classes(torch.full((1, 20), -2990.0)), shadows.label_N)
    expected = -log((1 + exp(-10)) / 2)
    np.testing.assert_allclose(score_N.numpy(), expected, atol=1e-3)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(8))
    np.testing.assert_allclose(left_out_KN[member_KN].numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(left_out_KN[~member_KN].numpy(), expected - 10, atol=1e-3)


def test_a_population_is_needed_only_where_one_is_compared_with() -> None:
    without = evidence(two_classes(torch.linspace(-3, 3, 320).view(8, 40)), pairs(8, 40, 0))
    Ratio().fit(without, ENGINE)
    assert not Ratio().needs.population
    for population in ("mean", "share"):
        attack = Ratio(population=population)  # type: ignore[arg-type]
        assert attack.needs.population
        with pytest.raises(DoesNotApplyError, match=r"attack=ratio_online .*`membership\.population`"):
            attack.fit(without, ENGINE)


def test_the_online_attack_names_its_offline_form_where_no_model_has_seen_the_target_s_records() -> None:
    disjoint = from_a_pool(random_case(6, 20)[0], 8)
    with pytest.raises(DoesNotApplyError, match=r"8 of the 8 .*membership=disjoint.*attack=ratio_offline, which needs"):
        Ratio().fit(disjoint, ENGINE)
    Ratio(online=False).fit(disjoint, ENGINE)


def test_it_is_named_after_its_kind_unless_it_is_given_a_name() -> None:
    assert (Ratio().name, Ratio(online=False).name, Ratio(name="base").name) == (
        "ratio_online",
        "ratio_offline",
        "base",
    )
