"""RMIA against a slow loop over models, records and the population, written from the paper."""

import itertools
from dataclasses import dataclass, replace
from functools import cache
from math import exp
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, trim_mean
from shadow_cases import ENGINE, RMIA, evidence, from_a_pool, name_of, pairs, random_case, two_classes
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mia_lightning.attacks import relative, rmia
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, FittedReference, Needs
from mia_lightning.attacks.leave_one_out import fold_masks, score_each
from mia_lightning.attacks.relative import TRIED_A, TRIED_GAMMA, TRIED_TEMPERATURE, Ranked
from mia_lightning.attacks.rmia import FittedRmia, Rmia
from mia_lightning.errors import InputError
from mia_lightning.tasks import Regression
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


def probability(attack: Rmia, signals: Signals, k: int, n: int, label: int) -> float:
    """The true class by a softmax at the temperature, with the margin taken from its exponent."""
    assert isinstance(attack.temperature, float)
    exponents = [each / attack.temperature for each in signals.log_probability_KANC[k, 0, n].tolist()]
    exponents[label] -= attack.soft_margin
    return exp(exponents[label]) / sum(map(exp, exponents))


@cache
def marginal(attack: Rmia, a: float, shadows: Evidence, served: tuple[int, ...], m: int, offline: bool) -> float:
    """p(x) of record m by the shadow models that a target is compared with."""
    label, member_K = int(shadows.label_N[m]), shadows.member_KN[:, m].tolist()
    sides = (False,) if offline else (True, False)  # as many of each
    used = [probability(attack, shadows.signals, k, m, label) for side in sides for k in served if member_K[k] == side]
    mean = float(trim_mean(used, attack.trim))
    return ((1 + a) * mean + 1 - a) / 2 if offline else mean


def slow_score(attack: Rmia, a: float, shadows: Evidence, served: list[int], target: Signals, t: int, n: int) -> float:
    """Equations 2 to 4 of the paper: pairwise likelihood ratios that are at least gamma, over all z."""

    def ratio(m: int, *, offline: bool) -> float:
        own = probability(attack, target, t, m, int(shadows.label_N[m]))
        return own / marginal(attack, a, shadows, tuple(served), m, offline)

    mine = ratio(n, offline=not attack.online)
    population = shadows.population_N.nonzero().flatten().tolist()
    assert isinstance(attack.gamma, float)
    return fmean(mine / ratio(z, offline=True) >= attack.gamma for z in population)


@pytest.mark.costly
@pytest.mark.parametrize("attack", RMIA, ids=name_of)
def test_scores_equal_a_slow_loop(attack: Rmia) -> None:
    shadows, targets = random_case(10, 50)
    fitted = attack.fit(shadows, ENGINE)
    assert isinstance(fitted, FittedReference)
    assert isinstance(attack.a, float)
    score_TN = fitted.score(targets, shadows.label_N)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(10))
    assert score_TN.dtype == left_out_KN.dtype == torch.float64
    for t, n in itertools.product(range(2), range(0, 40, 2)):
        expected = slow_score(attack, attack.a, shadows, list(range(10)), targets, t, n)
        assert float(score_TN[t, n]) == pytest.approx(expected, abs=1e-12)
    for k, n in itertools.product(range(10), range(0, 40, 5)):
        served = [j for j in range(10) if j // 2 != k // 2]
        expected = slow_score(attack, attack.a, shadows, served, shadows.signals, k, n)
        assert float(left_out_KN[k, n]) == pytest.approx(expected, abs=1e-12)
    assert len(score_TN[:, :40].unique()) > 5
    assert fitted.remarks == (
        "The score is a share of 10 records of the population: at most 11 values, so ties are common.",
    )


def published(logit_KNC: Tensor, member_KN: Tensor, label_N: Tensor, target_NC: Tensor, **settings: float) -> Tensor:
    """`softmax_relative` as published, in plain NumPy: p(x) is a mean over as many in- as out-models, trimmed.

    Args:
        settings: `temperature`, `gamma`, `trim`; `a` offline; the last tenth of the records are the population.
    """
    every_N = np.arange(len(label_N))
    num_z = len(label_N) // 10

    def softmax(logit: np.ndarray) -> np.ndarray:
        tempered = logit / settings["temperature"]
        weight = np.exp(tempered - tempered.max(-1, keepdims=True))
        return (weight / weight.sum(-1, keepdims=True))[..., every_N, label_N.numpy()]

    p_KN, p_N, member = softmax(logit_KNC.double().numpy()), softmax(target_NC.double().numpy()), member_KN.numpy()
    ratio_N = np.empty(len(label_N))
    for n in every_N:
        inside, outside = p_KN[member[:, n], n], p_KN[~member[:, n], n]
        if "a" in settings:
            mean = (1 + settings["a"]) / 2 * trim_mean(outside, settings["trim"]) + (1 - settings["a"]) / 2
        else:
            mean = trim_mean(np.concatenate([inside, outside]), settings["trim"])
        ratio_N[n] = p_N[n] / mean
    pairs_NZ = np.outer(ratio_N, 1 / ratio_N[-num_z:])
    return torch.from_numpy((pairs_NZ > settings["gamma"]).mean(1))


@pytest.mark.costly
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("trim", [0.0, 0.2])
@pytest.mark.parametrize(("temperature", "gamma"), [(2.0, 2.0), (1.0, 1.5), (3.0, 2.0)])
def test_scores_equal_the_published_scoring_on_equal_signals(
    online: bool, trim: float, temperature: float, gamma: float
) -> None:
    random = torch.Generator().manual_seed(3)
    member_KN = pairs(14, 200, 0) & (torch.arange(200) < 180)
    label_N = torch.randint(10, (200,), generator=random)
    logit_KNC = 3 * torch.randn(15, 200, 10, generator=random)
    logit_KNC[:14, torch.arange(200), label_N] += 4 * member_KN
    signals = Signals(log_probability_KANC=logit_KNC.log_softmax(-1).unsqueeze(1))
    is_shadow_K = torch.arange(15) < 14
    shadows = evidence(signals.select(is_shadow_K), member_KN, label_N=label_N, num_population=20)
    # Online the published p(z) is a mean over all models, none of which trained on z here: that is a = 1.
    a = 1.0 if online else 0.3
    attack = Rmia(online=online, a=a, gamma=gamma, temperature=temperature, trim=trim)
    (score_N,) = attack.fit(shadows, ENGINE).score(signals.select(~is_shadow_K), label_N)
    given = {"temperature": temperature, "gamma": gamma, "trim": trim} | ({} if online else {"a": a})
    expected_N = published(logit_KNC[:14], member_KN, label_N, logit_KNC[14], **given)
    torch.testing.assert_close(score_N[:180], expected_N[:180], rtol=0, atol=1e-12)
    assert len(score_N[:180].unique()) > 8


def test_answers_that_are_equal_count_where_the_published_code_leaves_them_out() -> None:
    """At gamma = 1 a record whose ratio is that of z: at least as large, as in the paper, but not larger."""
    shadows = evidence(two_classes(torch.zeros(8, 40)), pairs(8, 40, 0), num_population=4)
    target = two_classes(torch.zeros(1, 40))
    score_TN = Rmia(online=False, a=1.0, gamma=1.0).fit(shadows, ENGINE).score(target, shadows.label_N)
    assert bool((score_TN == 1.0).all())
    logit_KNC = torch.zeros(8, 40, 2)
    settings = {"temperature": 2.0, "gamma": 1.0, "trim": 0.0, "a": 1.0}
    assert bool((published(logit_KNC, shadows.member_KN, shadows.label_N, logit_KNC[0], **settings) == 0.0).all())


@pytest.mark.parametrize("online", [True, False])
def test_a_temperature_finds_members_whose_probabilities_are_all_near_1(online: bool) -> None:
    """At T = 1 the ratio says how hard a record is for the others, and easy members rank below hard non-members."""
    random = torch.Generator().manual_seed(0)
    member_KN = pairs(34, 1000, 0) & (torch.arange(1000) < 900)
    phi_KN = 3 + 2 * torch.randn(1000, generator=random) + torch.randn(34, 1000, generator=random) + 5 * member_KN
    shadows = evidence(two_classes(phi_KN[2:]), member_KN[2:], num_population=100)
    found = {}
    for temperature in (1.0, 2.0):
        fitted = Rmia(online=online, temperature=temperature).fit(shadows, ENGINE)
        (score_N,) = fitted.score(two_classes(phi_KN[:1]), shadows.label_N)
        found[temperature] = roc_auc_score(member_KN[0, :900].numpy(), score_N[:900].numpy())
    assert found[2.0] > found[1.0] + 0.02


def test_the_means_of_both_sides_have_equal_weights_whatever_their_numbers() -> None:
    """Trimmed or not: else the number of in-models that are left would tell what a left-out model trained on."""
    p_K = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    log_p_KN = torch.tensor(p_K, dtype=torch.float64).log()[:, None]
    member_KN = torch.tensor(p_K)[:, None] > 0.75  # three in, seven out
    shadows = evidence(two_classes(torch.zeros(10, 1)), member_KN)
    for trim in (0.0, 0.2):
        found = relative.Averages.of(log_p_KN, shadows, rmia.Others.of(shadows), online=True, trim=trim)
        weights = [1 / 6 if member else 1 / 14 for member in member_KN[:, 0].tolist()]
        kept, total, before = 0.0, 0.0, 0.0
        for p, weight in zip(p_K, weights, strict=True):  # the weight between the quantiles
            inside = max(0.0, min(before + weight, 1 - trim) - max(before, trim))
            kept, total, before = kept + inside, total + inside * p, before + weight
        assert found.both_TN is not None
        assert float(found.both_TN) == pytest.approx(total / kept, abs=1e-12)
        assert float(found.outside_TN) == pytest.approx(float(trim_mean(p_K[:7], trim)), abs=1e-12)


def test_the_published_constants_are_the_defaults_and_a_alone_is_chosen() -> None:
    for attack in (Rmia(), Rmia(online=False)):
        assert (attack.a, attack.gamma, attack.temperature) == ("auto", 2.0, 2.0)
        assert attack.soft_margin == attack.trim == 0.0
    for tried in (TRIED_GAMMA, TRIED_TEMPERATURE):
        assert list(tried) == sorted(tried, key=lambda each: (abs(each - 2), each))
    assert TRIED_A == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def test_a_factor_that_nobody_set_is_that_of_the_task_in_changed_copies_too() -> None:
    shadows, _ = random_case(8, 60)
    for attack in (Rmia(), replace(Rmia(), a=0.3), Rmia(gamma=None)):
        assert attack.fit(shadows, ENGINE).relative.gamma == 2.0
        assert replace(attack, a=0.5)._tried(Regression()).gamma == (1.0,)
    assert replace(Rmia(gamma=2.0), a=0.3)._tried(Regression()).gamma == (2.0,)


def mean_auc(fitted: FittedRmia, shadows: Evidence, constants: dict[str, float]) -> float:
    """Of shadow models that are attacked with each other by these constants, by the sum of the members' ranks."""
    fitted = replace(fitted, relative=replace(fitted.relative, **constants))
    scored_N = shadows.target_scored_N
    score_KN = fitted.score_left_out(shadows, torch.arange(shadows.num_models))
    member_Kn, rank_Kn = shadows.member_KN[:, scored_N].numpy(), rankdata(score_KN[:, scored_N].numpy(), axis=1)
    n1_K = member_Kn.sum(1)
    pairs_K = n1_K * (member_Kn.shape[1] - n1_K)
    return fmean((((rank_Kn * member_Kn).sum(1) - n1_K * (n1_K + 1) / 2) / pairs_K).tolist())


@pytest.mark.parametrize(
    ("free", "chosen"),
    [
        ({}, "a = {a:g} was"),
        pytest.param({"gamma": "auto"}, "a = {a:g} and gamma = {gamma:g} were", marks=pytest.mark.slow),
        ({"a": 0.35, "temperature": "auto"}, "temperature = {temperature:g} was"),
        pytest.param(
            {"gamma": "auto", "temperature": "auto"},
            "a = {a:g}, gamma = {gamma:g} and temperature = {temperature:g} were",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["a", "a and gamma", "temperature", "all"],
)
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_auto_takes_what_has_the_largest_mean_auc_on_shadow_models(
    online: bool, seed: int, free: dict[str, Any], chosen: str
) -> None:
    shadows, _ = random_case(8, 60, seed, num_classes=5, effect=1.0)
    attack = Rmia(online=online, **free)
    fitted = attack.fit(shadows, ENGINE)
    names = ("temperature", "gamma", "a")
    every = {"temperature": TRIED_TEMPERATURE, "gamma": TRIED_GAMMA, "a": TRIED_A}
    tried = [every[name] if getattr(attack, name) == "auto" else [getattr(attack, name)] for name in names]
    found = {
        constants: mean_auc(fitted, shadows, dict(zip(names, constants, strict=True)))
        for constants in itertools.product(*tried)
    }
    best = max(found.values())
    expected = next(constants for constants, value in found.items() if value > best - 1e-12)
    assert tuple(getattr(fitted.relative, name) for name in names) == expected
    assert len({round(value, 6) for value in found.values()}) > 1
    sentence = chosen.format(**dict(zip(names, expected, strict=True)))
    assert fitted.remarks[1] == f"{sentence} chosen by attacking the shadow models with each other."


@pytest.mark.parametrize("online", [True, False])
def test_of_equals_the_constants_of_the_paper_and_the_smallest_a_are_taken(online: bool) -> None:
    """All models answer alike, so that nothing parts members from others whatever the constants are."""
    alike = evidence(two_classes(torch.zeros(8, 40)), pairs(8, 40, 0), num_population=10)
    fitted = Rmia(online=online, gamma="auto", temperature="auto").fit(alike, ENGINE)
    assert (fitted.relative.a, fitted.relative.gamma, fitted.relative.temperature) == (0.0, 2.0, 2.0)


def test_the_constants_are_learnt_from_shadow_models_and_kept() -> None:
    """Neither the target nor shadow models that are brought later have a say."""
    shadows, _ = random_case(8, 60)
    other, _ = random_case(8, 60, seed=1, effect=-1.5)
    attack = Rmia(online=False, gamma="auto", temperature="auto")
    fitted = attack.fit(shadows, ENGINE)
    assert attack.fit(other, ENGINE).relative != fitted.relative
    constants = fitted.relative
    given = replace(attack, a=constants.a, gamma=constants.gamma, temperature=constants.temperature).fit(
        shadows, ENGINE
    )
    rows = torch.arange(8)
    assert torch.equal(fitted.score_left_out(other, rows), given.score_left_out(other, rows))


@dataclass(frozen=True)
class Watched:
    """An attack that keeps what each fold chose."""

    attack: Rmia
    chosen: list[relative.Relative]
    name: str = "watched"
    description: str = "."

    @property
    def needs(self) -> Needs:
        return self.attack.needs

    def fit(self, shadows: Evidence, engine: Engine) -> FittedRmia:
        fitted = self.attack.fit(shadows, engine)
        self.chosen.append(fitted.relative)
        return fitted


def chosen_in_folds(attack: Rmia, shadows: Evidence, folds: int) -> list[relative.Relative]:
    watched = Watched(attack, [])
    score_each(watched, shadows, shadows.signals, ENGINE, folds=folds)
    return watched.chosen


@pytest.mark.costly
@pytest.mark.parametrize("online", [True, False])
def test_where_each_model_is_a_target_neither_it_nor_its_complement_has_a_say(online: bool) -> None:
    """What the models of a fold show and were trained on is turned round: their own fold keeps its choice."""
    shadows, _ = random_case(12, 80, num_classes=5, effect=1.0)
    before = chosen_in_folds(Rmia(online=online, gamma="auto"), shadows, 3)
    others_change = False
    for fold, fold_K in enumerate(fold_masks(shadows.block_K, 3)):
        turned = shadows.signals.log_probability_KANC.clone()
        turned[fold_K] = (-3 * turned[fold_K]).log_softmax(-1)
        member_KN = shadows.member_KN ^ (fold_K[:, None] & shadows.target_scored_N)
        changed = replace(shadows, signals=Signals(log_probability_KANC=turned), member_KN=member_KN)
        after = chosen_in_folds(Rmia(online=online, gamma="auto"), changed, 3)
        assert after[fold] == before[fold]
        others_change |= after != before
    assert others_change  # the test can tell


def test_at_most_sixteen_shadow_models_are_attacked_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = []
    averages_of = rmia.Averages.of

    def counted(*args: object, **kwargs: object) -> object:
        found = averages_of(*args, **kwargs)  # type: ignore[arg-type]
        attacked.append(len(found.outside_TN))
        return found

    monkeypatch.setattr(rmia.Averages, "of", counted)
    shadows, _ = random_case(40, 20)
    Rmia(online=False).fit(shadows, ENGINE)
    assert attacked == [16, 40, 1]
    attacked.clear()
    Rmia(online=False, a=0.5).fit(shadows, ENGINE)
    assert attacked == [40, 1]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 4.0])
def test_mean_auc_equals_scikit_learns_on_ties_and_skips_targets_of_one_class(gamma: float) -> None:
    random = np.random.default_rng(0)
    ratio_TN, ratio_TZ = (torch.from_numpy(random.normal(size=(3, size)).round(1)) for size in (50, 7))
    zero_TN, zero_TZ = torch.zeros(3, 50), torch.zeros(3, 7)
    score_TN = relative.relative_scores(ratio_TN.clone(), zero_TN, ratio_TZ, zero_TZ, gamma)
    member_TN, usable_TN = (torch.from_numpy(random.random((3, 50)) < share) for share in (0.4, 0.8))
    assert len(score_TN.unique()) > 3
    expected = [roc_auc_score(member_TN[t, usable_TN[t]], score_TN[t, usable_TN[t]]) for t in range(2)]
    member_TN[2] = True
    sorted_TZ = ratio_TZ.sort(1).values
    found = Ranked.of(ratio_TN, member_TN, usable_TN).mean_auc(sorted_TZ, gamma)
    assert found == pytest.approx(fmean(expected), abs=1e-12)
    assert Ranked.of(ratio_TN[2:], member_TN[2:], usable_TN[2:]).mean_auc(sorted_TZ[2:], gamma) == 0.5


def test_equal_ratios_are_ties_whatever_rounding_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the models agree on each record, all ratios are 1: at gamma = 1 each record equals every z."""
    phi_KN = torch.linspace(-3, 3, 40).expand(14, 40)
    shadows = evidence(two_classes(phi_KN), pairs(14, 40, 0), num_population=10)
    fitted = Rmia(online=False, a=1.0, gamma=1.0).fit(shadows, ENGINE)
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
    fitted = Rmia(a=1.0, gamma=1.0, temperature=1.0).fit(shadows, ENGINE)
    alone = shadows.select(torch.tensor([True, True, False, False, True, True]))
    refitted = Rmia(a=1.0, gamma=1.0, temperature=1.0).fit(alone, ENGINE)
    averages = relative.Averages.of(
        fitted.relative.log_p(shadows.signals, shadows.label_N),
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
        assert bool(fitted.score(targets, shadows.label_N).isfinite().all() | attack.online)
        assert not bool(fitted.score(targets, shadows.label_N).isnan().any())
        assert not bool(fitted.score_left_out(shadows, torch.arange(6)).isnan().any())


def test_plans_that_it_cannot_serve_are_refused() -> None:
    shadows, _ = random_case(6, 30)
    none = replace(shadows, population_N=torch.zeros(30, dtype=torch.bool))
    for attack in (Rmia(), Rmia(online=False)):
        assert attack.needs.population
        with pytest.raises(DoesNotApplyError, match=rf"attack={attack.name} .*set `membership.population`"):
            attack.fit(none, ENGINE)
    disjoint = from_a_pool(shadows, 8)
    with pytest.raises(DoesNotApplyError, match=r"at least one shadow model that trained on it.*attack=rmia_offline"):
        Rmia().fit(disjoint, ENGINE)
    Rmia(online=False).fit(disjoint, ENGINE)
    for attack in (Rmia(), Rmia(online=False)):
        with pytest.raises(DoesNotApplyError, match="too few are left"):
            attack.fit(shadows.select(torch.arange(6) < 2), ENGINE)


def test_it_is_named_after_its_kind_unless_it_is_given_a_name() -> None:
    assert (Rmia().name, Rmia(online=False).name, Rmia(name="mine").name) == ("rmia_online", "rmia_offline", "mine")
    assert (Rmia().needs.in_models, Rmia(online=False).needs.in_models) == (1, 0)


@pytest.mark.parametrize(
    "settings",
    [{"a": "best"}, {"a": 1.1}, {"a": True}, {"gamma": 0}, {"gamma": "2"}, {"temperature": 0}, {"temperature": "hot"}],
)
def test_constants_are_auto_or_numbers(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(InputError, match=rf"^`attack\.rmia_offline\.{name}` is .*, or auto\.$"):
        Rmia(online=False, name="rmia_offline", **settings)


@pytest.mark.parametrize("settings", [{"soft_margin": -0.1}, {"trim": 0.5}, {"trim": -0.1}, {"soft_margin": "auto"}])
def test_margin_and_trim_are_numbers_in_their_ranges(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(InputError, match=rf"^`attack\.rmia_online\.{name}` is .*; it must be "):
        Rmia(name="rmia_online", **settings)
