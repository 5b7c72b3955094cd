"""Attacks of one number and a threshold, global and by class, against slow loops; what they find and must ignore."""

import math
from dataclasses import replace

import oracles
import pytest
import torch
from attack_toys import cpu_engine, in_order, make_evidence, memorising, reordered, scores_of
from torch import Tensor

from mia_lightning.attacks.gap import Gap
from mia_lightning.attacks.interface import Attack, DoesNotApplyError, Evidence, Needs
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.operating_point import balanced_accuracy_threshold, learnt_threshold
from mia_lightning.attacks.thresholds import (
    ClassConfidence,
    ClassEntropy,
    ClassModifiedEntropy,
    Confidence,
    Entropy,
    ModifiedEntropy,
)
from mia_lightning.metrics.roc import auc
from mia_lightning.training.signals import Signals

GLOBAL = [Confidence(), Entropy(), ModifiedEntropy()]
BY_CLASS = [ClassConfidence(), ClassEntropy(), ClassModifiedEntropy()]
NAMED = {attack.name: attack for attack in (Gap(), *GLOBAL, *BY_CLASS)}


def plain_signal(attack: Attack, p: list[float], y: int) -> float:
    kind = attack.name.removeprefix("class_")
    if kind == "confidence":
        return p[y]
    if kind == "entropy":
        return sum(each * math.log(each) for each in p)
    others = sum(each * math.log(1 - each) for c, each in enumerate(p) if c != y)
    return (1 - p[y]) * math.log(p[y]) + others


def best_thresholds(observed: list[tuple[float, bool]]) -> tuple[list[float], float]:
    """All thresholds, among the scores, of largest TPR − FPR, up to rounding; and that."""
    inside, outside = ([s for s, member in observed if member == side] for side in (True, False))
    gains = {
        t: sum(s >= t for s in inside) / len(inside) - sum(s >= t for s in outside) / len(outside) for t, _ in observed
    }
    return [t for t, gain in gains.items() if gain > max(gains.values()) - 1e-12], max(gains.values())


def observations(attack: Attack, shadows: Evidence) -> list[tuple[int, float, bool]]:
    """Class, signal and membership of every scored observation."""
    p = shadows.signals.log_probability_KANC[:, 0].double().exp().tolist()
    return [
        (int(shadows.label_N[n]), plain_signal(attack, p[k][n], int(shadows.label_N[n])), bool(shadows.member_KN[k, n]))
        for k in range(shadows.num_models)
        for n in range(len(shadows.label_N))
        if shadows.scored_KN[k, n]
    ]


@pytest.mark.parametrize("attack", GLOBAL, ids=lambda attack: attack.name)
def test_global_scores_and_threshold_equal_a_slow_loop(attack: Attack) -> None:
    shadows, target, _ = memorising(records=60, excess=1.0)
    score_N, _ = scores_of(attack, shadows, target)
    p = target.log_probability_KANC[0, 0].double().exp().tolist()
    expected_N = [plain_signal(attack, p[n], int(shadows.label_N[n])) for n in range(60)]
    assert score_N.tolist() == pytest.approx(expected_N, rel=1e-6, abs=1e-6)
    _, score, is_member = zip(*observations(attack, shadows), strict=True)
    expected = learnt_threshold(torch.tensor(score, dtype=torch.float64), torch.tensor(is_member))
    assert attack.fit(shadows, cpu_engine()).threshold == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("attack", BY_CLASS, ids=lambda attack: attack.name)
def test_class_scores_equal_a_slow_loop(attack: Attack) -> None:
    shadows, target, _ = memorising(records=60, excess=1.0)
    fitted = attack.fit(shadows, cpu_engine())
    assert (fitted.threshold, fitted.remarks) == (0.0, ())
    observed = observations(attack, shadows)
    threshold_C = [max(best_thresholds([(s, member) for c, s, member in observed if c == y])[0]) for y in range(3)]
    assert len(set(threshold_C)) == 3
    p = target.log_probability_KANC[0, 0].double().exp().tolist()
    label = shadows.label_N.tolist()
    expected_N = [plain_signal(attack, p[n], label[n]) - threshold_C[label[n]] for n in range(60)]
    (score_N,) = fitted.score(target, shadows.label_N)
    assert score_N.tolist() == pytest.approx(expected_N, rel=1e-6, abs=1e-6)
    # On the shadow models themselves the operating point does as well as the best of each class.
    flagged_KN = fitted.score(shadows.signals, shadows.label_N) >= 0
    for c in range(3):
        chosen_KN = shadows.scored_KN & (shadows.label_N == c)
        rates = [float(flagged_KN[chosen_KN & (shadows.member_KN == side)].double().mean()) for side in (True, False)]
        _, gain = best_thresholds([(s, member) for y, s, member in observed if y == c])
        assert rates[0] - rates[1] == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize("attack", BY_CLASS, ids=lambda attack: attack.name)
def test_a_class_without_both_sides_takes_the_global_threshold(attack: Attack) -> None:
    shadows, target, _ = memorising(records=90, classes=4, excess=2.0)
    is_second_N, is_last_N = shadows.label_N == 1, shadows.label_N == 3
    shadows = replace(
        shadows,
        member_KN=(shadows.member_KN & ~is_second_N) | (is_last_N & ~shadows.population_N),  # no member; no non-member
    )
    fitted = attack.fit(shadows, cpu_engine())
    assert len(fitted.remarks) == 1
    assert "classes [1, 3]" in fitted.remarks[0]
    whole = NAMED[attack.name.removeprefix("class_")].fit(shadows, cpu_engine())
    difference_N = (whole.score(target, shadows.label_N) - fitted.score(target, shadows.label_N))[0]
    is_missing_N = is_second_N | is_last_N
    score_KN, scored_KN = whole.score(shadows.signals, shadows.label_N), shadows.scored_KN
    best = balanced_accuracy_threshold(score_KN[scored_KN], shadows.member_KN[scored_KN])
    assert difference_N[is_missing_N].tolist() == pytest.approx([best] * int(is_missing_N.sum()), abs=1e-12)
    assert float((difference_N[~is_missing_N] - best).abs().min()) > 1e-6


@pytest.mark.parametrize("attack", GLOBAL + BY_CLASS, ids=lambda attack: attack.name)
def test_shadow_models_without_both_sides_are_refused(attack: Attack) -> None:
    shadows, _, _ = memorising(records=30)
    for member_KN in (torch.zeros_like(shadows.member_KN), shadows.scored_KN):
        with pytest.raises(DoesNotApplyError, match=rf"attack={attack.name} learns .* raise `shadow.count`"):
            attack.fit(replace(shadows, member_KN=member_KN), cpu_engine())


def test_gap_needs_nothing_and_flags_what_is_right() -> None:
    shadows, target, _ = memorising(records=60, excess=1.0)
    nothing = shadows.select(torch.zeros(4, dtype=torch.bool))
    assert Gap().needs == Needs(shadows=False, right=True)
    score_N, flagged_N = scores_of(Gap(), nothing, target)
    p = target.log_probability_KANC[0, 0].tolist()
    right = [p[n].index(max(p[n])) == int(shadows.label_N[n]) for n in range(60)]
    assert score_N.tolist() == [float(each) for each in right]
    assert flagged_N.tolist() == right
    assert any(right)
    assert not all(right)


@pytest.mark.parametrize("attack", NAMED.values(), ids=NAMED)
def test_a_memorising_model_is_caught(attack: Attack) -> None:
    """The gap attack is at most as good as the accuracy on others lets it be: 1 − 1 / (2 C) of random guesses."""
    classes = 3 if attack.name != "gap" else 20
    shadows, target, member_N = memorising(records=600, classes=classes, excess=12.0)
    score_N, flagged_N = scores_of(attack, shadows, target)
    scored_N = shadows.scored_KN[0]
    assert auc(score_N[scored_N], member_N[scored_N]) > 0.9
    assert float(flagged_N[member_N].double().mean()) > 0.8
    assert float(flagged_N[scored_N & ~member_N].double().mean()) < 0.2


@pytest.mark.parametrize("attack", NAMED.values(), ids=NAMED)
def test_the_order_of_records_and_of_shadow_models_does_not_matter(attack: Attack) -> None:
    shadows, target, _ = memorising(records=80, excess=1.0)
    score_N, flagged_N = scores_of(attack, shadows, target)
    order_N = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    other_N, other_flagged_N = scores_of(attack, reordered(shadows, order_N), in_order(target, order_N))
    assert torch.equal(other_N, score_N[order_N])
    assert torch.equal(other_flagged_N, flagged_N[order_N])
    turned = replace(
        shadows,
        signals=Signals(log_probability_KANC=shadows.signals.log_probability_KANC.flip(0)),
        member_KN=shadows.member_KN.flip(0),
        scored_KN=shadows.scored_KN.flip(0),
    )
    assert torch.equal(scores_of(attack, turned, target)[0], score_N)


@pytest.mark.parametrize("attack", NAMED.values(), ids=NAMED)
def test_the_names_of_classes_do_not_matter(attack: Attack) -> None:
    shadows, target, _ = memorising(records=80, excess=1.0)
    score_N, _ = scores_of(attack, shadows, target)
    new_name_C = torch.tensor([2, 0, 1])
    old_name_C = new_name_C.argsort()
    renamed = replace(
        shadows,
        label_N=new_name_C[shadows.label_N],
        signals=Signals(log_probability_KANC=shadows.signals.log_probability_KANC[..., old_name_C]),
    )
    other = Signals(log_probability_KANC=target.log_probability_KANC[..., old_name_C])
    torch.testing.assert_close(scores_of(attack, renamed, other)[0], score_N, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attack", GLOBAL + BY_CLASS, ids=lambda attack: attack.name)
def test_what_is_no_evidence_teaches_nothing(attack: Attack) -> None:
    shadows, target, _ = memorising(records=80, excess=1.0)
    score_N, flagged_N = scores_of(attack, shadows, target)
    changed_KANC = shadows.signals.log_probability_KANC.clone()
    hidden_KN = ~shadows.scored_KN
    changed_KANC[:, 0][hidden_KN] = torch.tensor([0.0, -50.0, -50.0])
    other = replace(
        shadows, signals=Signals(log_probability_KANC=changed_KANC), member_KN=shadows.member_KN | hidden_KN
    )
    other_N, other_flagged_N = scores_of(attack, other, target)
    assert torch.equal(other_N, score_N)
    assert torch.equal(other_flagged_N, flagged_N)


def run_oracle(attack: Attack, simulation: oracles.Simulation) -> tuple[Tensor, Tensor]:
    signals = simulation.log_probability_KNC.float().unsqueeze(1)
    shadows = make_evidence(
        signals=Signals(log_probability_KANC=signals[2:]),
        member_KN=simulation.member_KN[2:],
        scored_KN=torch.ones_like(simulation.member_KN[2:]),
        label_N=simulation.label_N,
        num_classes=signals.shape[-1],
    )
    return scores_of(attack, shadows, Signals(log_probability_KANC=signals[:1]))


@pytest.mark.parametrize("attack", [Confidence(), ModifiedEntropy(), ClassConfidence()], ids=lambda attack: attack.name)
def test_two_classes_leave_one_order_that_of_the_signal_itself(attack: Attack) -> None:
    release = oracles.simulate_gaussian_release(40_000, 0, num_models=4)
    score_N, _ = run_oracle(attack, release)
    error = oracles.auc_standard_error(score_N, release.member_KN[0])
    assert abs(auc(score_N, release.member_KN[0]) - oracles.auc_of_raw_signal()) < 4 * error
    by_loss_N, _ = run_oracle(Loss(), release)
    assert auc(score_N, release.member_KN[0]) == pytest.approx(auc(by_loss_N, release.member_KN[0]), abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 5, 20])
def test_gap_on_memorised_random_labels(num_classes: int) -> None:
    simulation, _ = oracles.simulate_memorising(num_classes, 2000, 0, num_models=4)
    member_N = simulation.member_KN[0]
    score_N, flagged_N = run_oracle(Gap(), simulation)
    assert torch.equal(score_N, simulation.score_KN[0])
    assert bool(flagged_N[member_N].all())
    error = math.sqrt((1 - 1 / num_classes) / num_classes / 1000)
    assert abs(auc(score_N, member_N) - oracles.auc_of_memorising(num_classes)) < 4 * error / 2
    advantage = 1 - float(flagged_N[~member_N].double().mean())
    assert abs(advantage - oracles.gap_of_memorising(num_classes)) < 4 * error


@pytest.mark.parametrize("attack", NAMED.values(), ids=NAMED)
def test_descriptions_say_what_is_looked_at(attack: Attack) -> None:
    word = {"gap": "correctly", "confidence": "probability", "entropy": "entropy"}
    assert word[attack.name.split("_")[-1]] in attack.description
    assert attack.needs.shadows == (attack.name != "gap")
    assert (attack.needs.out_models, attack.needs.in_models, attack.needs.population) == (0, 0, False)
    assert attack.needs.queries == 1
