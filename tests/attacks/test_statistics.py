"""The numbers that attacks read off prediction vectors, against slow loops in plain Python and in 60 digits."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor

from mia_lightning.attacks import statistics
from mia_lightning.attacks.statistics import (
    confidence,
    correctness,
    entropy,
    log_confidence,
    modified_entropy,
    scaled_logit,
    tempered_log_confidence,
)
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.top_k import TopK
from mia_lightning.training.signals import Signals

Plain = Callable[[list[float], int], float]


def plain_log_confidence(p: list[float], y: int) -> float:
    return math.log(p[y])


def plain_confidence(p: list[float], y: int) -> float:
    return p[y]


def plain_correctness(p: list[float], y: int) -> float:
    return float(p.index(max(p)) == y)


def plain_scaled_logit(p: list[float], y: int) -> float:
    return math.log(p[y]) - math.log(math.fsum(p[:y] + p[y + 1 :]))


def plain_entropy(p: list[float], y: int) -> float:
    return -math.fsum(each * math.log(each) for each in p)


def plain_modified_entropy(p: list[float], y: int) -> float:
    wrong = [each * math.log(1 - each) for c, each in enumerate(p) if c != y]
    return -(1 - p[y]) * math.log(p[y]) - math.fsum(wrong)


ALL: list[tuple[Callable[[Signals, Tensor], Tensor], Plain]] = [
    (log_confidence, plain_log_confidence),
    (confidence, plain_confidence),
    (correctness, plain_correctness),
    (scaled_logit, plain_scaled_logit),
    (entropy, plain_entropy),
    (modified_entropy, plain_modified_entropy),
]


def random_signals(seed: int = 0, *, models: int = 3, views: int = 2, records: int = 7, classes: int = 4) -> Signals:
    logits = 2 * torch.randn(models, views, records, classes, generator=torch.Generator().manual_seed(seed))
    return Signals(log_probability_KANC=logits.log_softmax(-1))


@pytest.mark.parametrize(("fast", "plain"), ALL)
def test_equals_a_plain_loop_and_is_the_mean_over_views(
    fast: Callable[[Signals, Tensor], Tensor], plain: Plain
) -> None:
    signals, label_N = random_signals(), torch.tensor([0, 1, 2, 3, 3, 0, 1])
    value_KN = fast(signals, label_N)
    assert value_KN.dtype == torch.float64
    p = signals.log_probability_KANC.double().exp().tolist()
    expected = [
        [(plain(p[k][0][n], int(label_N[n])) + plain(p[k][1][n], int(label_N[n]))) / 2 for n in range(7)]
        for k in range(3)
    ]
    # The others' sum, where 1 − p is meant, differs from it by the rounding of float32.
    torch.testing.assert_close(value_KN, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("fast", "_plain"), ALL)
def test_the_number_of_models_in_memory_changes_nothing(
    fast: Callable[[Signals, Tensor], Tensor], _plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals, label_N = random_signals(models=5), torch.arange(7) % 4
    together_KN = fast(signals, label_N)
    for width in (1, 2):
        monkeypatch.setattr(statistics, "_SLICE_NUMBERS", width * 2 * 7 * 4)
        assert torch.equal(fast(signals, label_N), together_KN)


@pytest.mark.parametrize("gap", [20.0, 50.0, 100.0])
@pytest.mark.parametrize("true_class", [0, 1])
def test_saturated_vectors_are_exact(gap: float, true_class: int) -> None:
    """Logits [gap, 0, 0]: in float32 the first probability is 1, and only the others say how far from it."""
    signals = Signals(log_probability_KANC=torch.tensor([gap, 0.0, 0.0], dtype=torch.float64).log_softmax(-1).float())
    signals = Signals(log_probability_KANC=signals.log_probability_KANC.view(1, 1, 1, 3))
    label_N = torch.tensor([true_class])
    with localcontext() as context:
        context.prec = 60
        weight = [Decimal(gap).exp(), Decimal(1), Decimal(1)]
        p = [each / sum(weight) for each in weight]
        logit = (p[true_class] / (1 - p[true_class])).ln()
        others = sum(p[c] * (1 - p[c]).ln() for c in range(3) if c != true_class)
        modified = -(1 - p[true_class]) * p[true_class].ln() - others
        plain = -sum(each * each.ln() for each in p)
        expected = [float(each) for each in (logit, modified, plain)]
    found = [float(each(signals, label_N)) for each in (scaled_logit, modified_entropy, entropy)]
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1] == pytest.approx(expected[1], rel=1e-6, abs=1e-7)
    assert found[2] == pytest.approx(expected[2], rel=1e-6, abs=1e-7)


def test_modified_entropy_tells_apart_how_confident_a_mistake_was() -> None:
    label_N = torch.tensor([1])
    wrong = [torch.tensor([gap, 0.0, 0.0]).double().log_softmax(-1).float() for gap in (30.0, 50.0, 80.0)]
    values = [float(modified_entropy(Signals(log_probability_KANC=each.view(1, 1, 1, 3)), label_N)) for each in wrong]
    assert values[0] < values[1] < values[2] < 200
    assert all(math.isfinite(value) for value in values)


def test_what_a_defence_hides_counts_as_not_the_shown_class() -> None:
    """Of [0.6, 0.3, 0.1] the first is shown: 1 − p of it is 0.4, though what is seen of the others adds up to 2e-7."""
    log_probability = TopK(k=1).apply(torch.tensor([0.6, 0.3, 0.1]).log().view(1, 1, 1, 3))
    signals = Signals(log_probability_KANC=log_probability)
    assert float(modified_entropy(signals, torch.tensor([0]))) == pytest.approx(-0.4 * math.log(0.6), abs=1e-5)
    hidden = -math.log(1e-7) - 0.6 * math.log(0.4)
    assert float(modified_entropy(signals, torch.tensor([1]))) == pytest.approx(hidden, abs=1e-4)


def test_all_are_finite_where_only_labels_are_shown() -> None:
    signals = random_signals()
    signals = Signals(log_probability_KANC=LabelsOnly().apply(signals.log_probability_KANC))
    for fast, _ in ALL:
        assert bool(fast(signals, torch.arange(7) % 4).isfinite().all())


def test_of_tied_classes_the_lowest_is_predicted() -> None:
    tied = torch.tensor([[0.3, 0.35, 0.35], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.2, 0.3, 0.5]]).log()
    signals = Signals(log_probability_KANC=tied.view(1, 1, 4, 3))
    predicted = [
        [n for n in range(4) if float(correctness(signals, torch.full((4,), c))[0, n]) == 1.0] for c in range(3)
    ]
    assert predicted == [[1, 2], [0], [3]]
    assert torch.equal(correctness(signals, tied.argmax(-1))[0], torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("soft_margin", [0.0, 0.6])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_tempered_log_confidence_equals_a_softmax_in_60_digits(temperature: float, soft_margin: float) -> None:
    random = torch.Generator().manual_seed(0)
    log_p_NC = (8 * torch.randn(40, 6, generator=random)).log_softmax(-1)
    label_N = torch.randint(6, (40,), generator=random)
    signals = Signals(log_probability_KANC=log_p_NC[None, None])
    (found_N,) = tempered_log_confidence(signals, label_N, temperature=temperature, soft_margin=soft_margin)
    for n, y in enumerate(label_N.tolist()):
        with localcontext() as context:
            context.prec = 60
            exponents = [Decimal(float(each)) / Decimal(temperature) for each in log_p_NC[n]]
            exponents[y] -= Decimal(soft_margin)
            expected = exponents[y] - sum(each.exp() for each in exponents).ln()
        assert float(found_N[n]) == pytest.approx(float(expected), rel=1e-12)


def test_at_a_temperature_of_1_it_is_the_log_confidence_for_hidden_answers_too() -> None:
    """What an answer hides counts as one more class; what float32 rounds away does not."""
    random = torch.Generator().manual_seed(0)
    log_p_NC = (2 * torch.randn(60, 6, generator=random)).log_softmax(-1)
    label_N = torch.randint(6, (60,), generator=random)
    for answer_NC in (log_p_NC, TopK(k=2).apply(log_p_NC), LabelsOnly().apply(log_p_NC)):
        signals = Signals(log_probability_KANC=answer_NC[None, None])
        found_KN = tempered_log_confidence(signals, label_N, temperature=1.0, soft_margin=0.0)
        torch.testing.assert_close(found_KN, log_confidence(signals, label_N), rtol=0, atol=1e-5)
        assert not bool(tempered_log_confidence(signals, label_N, temperature=2.0, soft_margin=0.5).isnan().any())
    # Of the largest alone: surer answers still score higher at other temperatures.
    top_N = log_p_NC.argmax(-1)
    signals = Signals(log_probability_KANC=TopK(k=1).apply(log_p_NC)[None, None])
    (found_N,) = tempered_log_confidence(signals, top_N, temperature=2.0, soft_margin=0.0)
    assert torch.equal(found_N.argsort(), log_p_NC.amax(-1).argsort())


def test_a_probability_of_zero_that_rounding_left_hides_nothing() -> None:
    p_NC = torch.tensor([[0.7, 0.3 - 1e-6, 0.0]])
    signals = Signals(log_probability_KANC=p_NC.log()[None, None])
    (found_N,) = tempered_log_confidence(signals, torch.tensor([0]), temperature=2.0, soft_margin=0.0)
    assert float(found_N) == pytest.approx(-math.log1p(math.sqrt(0.3 / 0.7)), abs=1e-5)


def test_answers_that_give_no_class_anything_are_no_nan() -> None:
    signals = Signals(log_probability_KANC=torch.full((1, 1, 2, 3), -torch.inf))
    found = tempered_log_confidence(signals, torch.tensor([0, 2]), temperature=2.0, soft_margin=0.6)
    assert bool((found == -torch.inf).all())
