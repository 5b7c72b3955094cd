"""LiRA against slow loops written from the paper, and from the code published with it."""

import itertools
from dataclasses import replace
from math import exp, log, sqrt
from statistics import fmean, median

import numpy as np
import pytest
import torch
from scipy.stats import norm
from shadow_cases import ENGINE, LIRA, evidence, from_a_pool, name_of, pairs, random_case, two_classes
from torch import Tensor

from mia_lightning.attacks import normal
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, FittedReference
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.statistics import scaled_logit
from mia_lightning.errors import InputError
from mia_lightning.training.signals import Signals, ViewSignals

Phi = list[list[list[float]]]  # [model][record][view]


def scaled_logits(signals: Signals, label_N: Tensor) -> Phi:
    """Section V-A: log p_y − log Σ p of the other classes, one view."""
    rows = signals.log_probability_KANC[:, 0].double().tolist()
    return [
        [
            [row[y] - log(sum(exp(value) for c, value in enumerate(row) if c != y))]
            for row, y in zip(model, label_N, strict=True)
        ]
        for model in rows
    ]


class Slow:
    """Algorithm 1, record by record; `served` are the models that the target is compared with."""

    def __init__(self, attack: Lira, variance: str, phi: Phi, shadows: Evidence, served: list[int]) -> None:
        self.attack, self.variance, self.phi, self.served = attack, variance, phi, served
        self.member = shadows.member_KN.tolist()
        self.scored = shadows.target_scored_N.nonzero().flatten().tolist()
        self.num_views = len(phi[0][0])

    def values(self, side: bool, n: int, a: int) -> list[float]:
        return [self.phi[k][n][a] for k in self.served if self.member[k][n] == side]

    def std(self, side: bool, n: int, a: int) -> float:
        if self.attack.published:
            if self.variance == "record":
                return float(np.std(self.values(side, n, a))) + 1e-30
            side = side or self.attack.online
            every = [value for m in self.scored for b in range(self.num_views) for value in self.values(side, m, b)]
            return float(np.std(every)) + 1e-30
        if self.variance == "record":
            return max(1e-3, float(np.std(self.values(side, n, a), ddof=1)))
        squares, freedom = 0.0, 0
        for m in self.scored:
            values = self.values(side, m, a)
            squares += sum((value - fmean(values)) ** 2 for value in values)
            freedom += len(values) - 1
        return max(1e-3, sqrt(squares / freedom))

    def score(self, target: list[list[float]], n: int) -> float:
        centre = median if self.attack.published else fmean
        scores = []
        for a, phi in enumerate(target[n]):
            distributions = {
                side: norm(centre(self.values(side, n, a)), self.std(side, n, a))
                for side in ((True, False) if self.attack.online else (False,))
            }
            if self.attack.online:
                scores.append(distributions[True].logpdf(phi) - distributions[False].logpdf(phi))
            elif self.attack.published:
                scores.append(-distributions[False].logpdf(phi))
            else:
                scores.append(distributions[False].logcdf(phi))
        return float(fmean(scores) if self.attack.published else sum(scores))


@pytest.mark.costly
@pytest.mark.parametrize("attack", LIRA, ids=name_of)
def test_scores_equal_a_slow_loop(attack: Lira) -> None:
    shadows, targets = random_case(10, 15)
    fitted = attack.fit(shadows, ENGINE)
    assert isinstance(fitted, FittedReference)
    phi, of_targets = (scaled_logits(signals, shadows.label_N) for signals in (shadows.signals, targets))
    score_TN = fitted.score(targets, shadows.label_N)
    left_out_KN = fitted.score_left_out(shadows, torch.arange(10))
    assert score_TN.dtype == left_out_KN.dtype == torch.float64
    slow = Slow(attack, attack.variance, phi, shadows, list(range(10)))
    for t, n in itertools.product(range(2), range(12)):
        assert float(score_TN[t, n]) == pytest.approx(slow.score(of_targets[t], n), rel=1e-8, abs=1e-8)
    for k in range(10):
        slow = Slow(attack, attack.variance, phi, shadows, [j for j in range(10) if j // 2 != k // 2])
        for n in (0, 5, 11):
            assert float(left_out_KN[k, n]) == pytest.approx(slow.score(phi[k], n), rel=1e-8, abs=1e-8)


@pytest.mark.costly
@pytest.mark.parametrize("attack", LIRA, ids=name_of)
def test_views_are_independent_normals(attack: Lira, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several φ of each record log-likelihoods add up, or are averaged as in the published code."""
    attack = replace(attack, shift=1, flip=True)
    names = [view.name for view in attack.needs.views]
    assert len(names) == 5
    shadows, targets = random_case(10, 15, views=6)

    def of_each_view(signals: Signals) -> Tensor:
        views = signals.log_probability_KANC.split(1, dim=1)
        return torch.stack([scaled_logit(Signals(log_probability_KANC=view), shadows.label_N) for view in views], 1)

    def with_views(signals: Signals) -> Signals:
        """The first view as the record itself, the others in another order, beside one of another attack."""
        others_KAN = of_each_view(signals)[:, 1:].float()
        stray_KN = torch.full_like(others_KAN[:, 0], 7.0)
        observed = ViewSignals(
            names=(*reversed(names), "stray"),
            scaled_logit_KAN=torch.cat([others_KAN.flip(1), stray_KN.unsqueeze(1)], 1),
            is_correct_KAN=torch.ones(len(stray_KN), 6, len(shadows.label_N), dtype=torch.bool),
        )
        return Signals(log_probability_KANC=signals.log_probability_KANC[:, :1], views=observed)

    monkeypatch.setattr(normal, "record_slices", lambda _, num_records: iter([slice(0, 9), slice(9, num_records)]))
    seen = replace(shadows, signals=with_views(shadows.signals))
    fitted = attack.fit(seen, ENGINE)
    assert isinstance(fitted, FittedReference)
    score_TN = fitted.score(with_views(targets), shadows.label_N)
    left_out_KN = fitted.score_left_out(seen, torch.tensor([4]))
    defended_KN = fitted.score_left_out(
        seen, torch.tensor([4]), with_views(targets.select(torch.tensor([False, True])))
    )
    phi, of_targets = (of_each_view(signals).transpose(1, 2).tolist() for signals in (shadows.signals, targets))
    slow = Slow(attack, attack.variance, phi, shadows, list(range(10)))
    slow_left_out = Slow(attack, attack.variance, phi, shadows, [0, 1, 2, 3, 6, 7, 8, 9])
    for n in range(12):
        assert float(score_TN[1, n]) == pytest.approx(slow.score(of_targets[1], n), rel=1e-5, abs=1e-5)
        assert float(left_out_KN[0, n]) == pytest.approx(slow_left_out.score(phi[4], n), rel=1e-5, abs=1e-5)
        assert float(defended_KN[0, n]) == pytest.approx(slow_left_out.score(of_targets[1], n), rel=1e-5, abs=1e-5)


def test_offline_scores_are_those_of_scipy_far_into_the_tail() -> None:
    phi_KN = torch.tensor([[0.0], [2.0], [0.0], [2.0]]).expand(4, 40)
    shadows = evidence(two_classes(phi_KN), pairs(8, 40, 0)[::2] & False, block_K=torch.arange(4))
    shadows.member_KN[0, :5] = True  # so that there is a threshold
    shadows.target_scored_N[:5] = False
    phi_N = torch.linspace(-60, 12, 40)
    (score_N,) = (
        Lira(online=False, variance="record").fit(shadows, ENGINE).score(two_classes(phi_N[None]), shadows.label_N)
    )
    expected = norm(1.0, sqrt(4 / 3)).logcdf(phi_N.double().numpy())
    np.testing.assert_allclose(score_N[5:].numpy(), expected[5:], rtol=1e-5)
    assert bool((score_N[5:].diff() > 0).all())


def test_models_that_agree_have_the_smallest_deviation_and_no_more() -> None:
    """φ is 1 in and 0 out: without a smallest deviation the likelihoods would be infinite."""
    member_KN = pairs(8, 20, 0)
    shadows = evidence(two_classes(member_KN.double()), member_KN)
    targets = two_classes(torch.tensor([[0.0, 1.0] * 10]))
    for variance in ("record", "fixed"):
        (score_N,) = Lira(variance=variance).fit(shadows, ENGINE).score(targets, shadows.label_N)
        expected = 0.5 / normal.SMALLEST_STD**2
        np.testing.assert_allclose(score_N.numpy(), [-expected, expected] * 10, rtol=1e-3)


def test_the_online_attack_names_its_offline_form_where_no_model_has_seen_the_target_s_records() -> None:
    disjoint = from_a_pool(random_case(6, 20)[0], 8)
    with pytest.raises(DoesNotApplyError, match=r"8 of the 8 .*membership=disjoint.*attack=lira_offline, which needs"):
        Lira().fit(disjoint, ENGINE)
    Lira(online=False).fit(disjoint, ENGINE)


def test_a_variance_takes_two_shadow_models_on_each_side() -> None:
    single = evidence(two_classes(torch.zeros(1, 4)), torch.zeros(1, 4, dtype=torch.bool), plan_name="disjoint")
    with pytest.raises(DoesNotApplyError, match="at least 2 shadow models that did not train on it, and 4 of the 4"):
        Lira(online=False).fit(single, ENGINE)
    shadows, _ = random_case(4, 20)  # two on each side, and one once a pair is left out
    for online, variance in itertools.product((True, False), ("record", "fixed")):
        with pytest.raises(DoesNotApplyError, match="too few are left"):
            Lira(online=online, variance=variance).fit(shadows, ENGINE)


def test_it_is_named_after_its_kind_unless_it_is_given_a_name() -> None:
    assert (Lira().name, Lira(online=False).name, Lira(name="mine").name) == ("lira_online", "lira_offline", "mine")
    assert (Lira().needs.in_models, Lira(online=False).needs.in_models) == (2, 0)


@pytest.mark.parametrize("name", ["", "two words", "a/b"])
def test_a_name_that_no_report_can_use_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"name` is .*word of letters"):
        Lira(name=name)


def test_a_wrong_setting_is_said_of_the_attack_by_its_name() -> None:
    with pytest.raises(InputError, match=r"^`attack\.mine\.shift` is -1"):
        Lira(name="mine", shift=-1)
    with pytest.raises(InputError, match=r"^`attack\.lira\.shift` is -1"):
        Lira(shift=-1)
