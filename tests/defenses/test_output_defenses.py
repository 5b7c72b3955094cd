"""Output defences against slow loops over records and classes, and their algebra."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mia_lightning.defenses.answer_form import defenses_of
from mia_lightning.defenses.interface import (
    PROBABILITY_FLOOR,
    OutputDefense,
    TrainingDefense,
    apply_all,
    channel_of,
)
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.temperature import Temperature
from mia_lightning.defenses.top_k import TopK
from mia_lightning.training.signals import AnswerForm

LOG_FLOOR = float(np.float32(math.log(PROBABILITY_FLOOR)))
OUTPUT_DEFENSES = [TopK(k=1), TopK(k=3), LabelsOnly(), Rounding(digits=0), Rounding(digits=3), Temperature()]

# Sharp, flat and tied vectors alike: few whole logits make ties.
logits = arrays(
    np.float64,
    array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6),
    elements=st.one_of(st.floats(-60, 60), st.integers(-2, 2).map(float)),
)


def log_probability_of(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits).log_softmax(-1).float()


def random_KANC(seed: int = 0, *, C: int = 7, spread: float = 3.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, 20, C, generator=random, dtype=torch.float64).mul(spread).log_softmax(-1).float()


def slowly(of_a_record, log_probability: torch.Tensor) -> torch.Tensor:
    C = log_probability.shape[-1]
    records = [of_a_record(record.tolist()) for record in log_probability.reshape(-1, C)]
    return torch.tensor(records, dtype=torch.float64).reshape(log_probability.shape).float()


@pytest.mark.parametrize("k", [1, 2, 3, 6, 7, 100])
@pytest.mark.parametrize("spread", [0.5, 3.0, 30.0])
def test_top_k_equals_a_slow_loop(k: int, spread: float) -> None:
    def of_a_record(values: list[float]) -> list[float]:
        shown: list[int] = []
        for _ in range(min(k, len(values))):
            best = None
            for c in range(len(values)):
                if c not in shown and (best is None or values[c] > values[best]):
                    best = c
            assert best is not None
            shown.append(best)
        hidden = min([LOG_FLOOR, *(values[c] for c in shown)])
        return [value if c in shown else hidden for c, value in enumerate(values)]

    log_probability = random_KANC(spread=spread)
    log_probability[0, 0, :, 3] = log_probability[0, 0, :, 1]  # ties
    assert torch.equal(TopK(k=k).apply(log_probability), slowly(of_a_record, log_probability))


def test_labels_only_equals_a_slow_loop() -> None:
    log_probability = random_KANC()
    log_probability[1, 0] = math.log(1 / 7)  # all tied
    expected = slowly(
        lambda values: [0.0 if c == values.index(max(values)) else LOG_FLOOR for c in range(len(values))],
        log_probability,
    )
    assert torch.equal(LabelsOnly().apply(log_probability), expected)


@pytest.mark.parametrize("digits", range(8))
def test_rounding_equals_a_slow_loop(digits: int) -> None:
    def of_a_record(values: list[float]) -> list[float]:
        rounded = [float(np.round(np.exp(value), digits)) for value in values]
        return [math.log(p) if p > 0 else math.log(0.5 * 10**-digits) for p in rounded]

    log_probability = random_KANC()
    torch.testing.assert_close(
        Rounding(digits=digits).apply(log_probability), slowly(of_a_record, log_probability), rtol=3e-7, atol=1e-12
    )


@pytest.mark.parametrize("temperature", [0.25, 1, 2.0, 5, 20])
def test_temperature_equals_a_slow_loop_over_the_logits(temperature: float) -> None:
    logits = torch.randn(4, 1, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3

    def of_a_record(values: list[float]) -> list[float]:
        scaled = [value / temperature for value in values]
        return [value - math.log(sum(math.exp(other) for other in scaled)) for value in scaled]

    observed = Temperature(temperature=temperature).apply(logits.log_softmax(-1).float())
    torch.testing.assert_close(observed, slowly(of_a_record, logits), rtol=2e-6, atol=2e-6)


def test_answers_written_out_by_hand() -> None:
    log_probability = torch.tensor([0.625, 0.125, 0.19, 0.06, 0.0000001]).log()
    hidden = PROBABILITY_FLOOR
    for defense, expected in [
        (TopK(k=2), [0.625, hidden, 0.19, hidden, hidden]),
        (LabelsOnly(), [1.0, hidden, hidden, hidden, hidden]),
        (Rounding(digits=1), [0.6, 0.1, 0.2, 0.1, 0.05]),
        (Rounding(digits=0), [1.0, 0.5, 0.5, 0.5, 0.5]),
        (Temperature(temperature=0.5), [0.390625, 0.015625, 0.0361, 0.0036, 1e-14]),
    ]:
        probability = torch.tensor(expected, dtype=torch.float64)
        if isinstance(defense, Temperature):
            probability /= probability.sum()
        torch.testing.assert_close(defense.apply(log_probability).double().exp(), probability, rtol=1e-5, atol=0)


def test_what_is_shown_is_never_below_what_is_hidden() -> None:
    log_probability = torch.tensor([0.0, -40.0, -50.0, -60.0])
    assert TopK(k=2).apply(log_probability).tolist() == [0.0, -40.0, -40.0, -40.0]
    assert TopK(k=1).apply(log_probability).tolist() == [0.0, LOG_FLOOR, LOG_FLOOR, LOG_FLOOR]


def test_ties_at_the_border_go_to_the_lower_class() -> None:
    log_probability = torch.tensor([0.2, 0.2, 0.2, 0.4]).log()
    assert (TopK(k=2).apply(log_probability) > LOG_FLOOR).tolist() == [True, False, False, True]
    many = torch.full((100,), 0.01).log()
    assert (TopK(k=40).apply(many) > LOG_FLOOR).tolist() == [True] * 40 + [False] * 60
    assert LabelsOnly().apply(many).tolist() == [0.0] + [LOG_FLOOR] * 99


@given(logits)
def test_top_k_of_all_classes_and_temperature_1_are_the_identity(logits: np.ndarray) -> None:
    log_probability = log_probability_of(logits)
    C = log_probability.shape[-1]
    for defense in (TopK(k=C), TopK(k=C + 1), TopK(k=10**30), Temperature(temperature=1), Temperature(temperature=1.0)):
        assert torch.equal(defense.apply(log_probability), log_probability)


@given(logits, st.integers(0, 15), st.integers(1, 8))
def test_applied_twice_is_applied_once_exactly(logits: np.ndarray, digits: int, k: int) -> None:
    for defense in (Rounding(digits=digits), TopK(k=k), LabelsOnly()):
        once = defense.apply(log_probability_of(logits))
        assert torch.equal(defense.apply(once), once)


@pytest.mark.parametrize("digits", range(16))
def test_rounding_is_idempotent_on_a_dense_grid(digits: int) -> None:
    """Where the digits are about as fine as float32, next to powers of two, and at the floor: the hard places."""
    powers = torch.cat([-(2.0 ** torch.arange(-30, 6)), torch.tensor(0.5 * 10.0**-digits).log()[None]])
    offsets = torch.arange(-2000, 2000, dtype=torch.int32)
    around = (powers.view(torch.int32)[:, None] + offsets).view(torch.float32).flatten()
    once = Rounding(digits=digits).apply(around)
    assert torch.equal(Rounding(digits=digits).apply(once), once)
    assert bool(once.isfinite().all())


@given(logits, st.sampled_from(OUTPUT_DEFENSES), st.integers(0, 15), st.floats(0.01, 1000))
def test_the_most_probable_class_stays_so(
    logits: np.ndarray, defense: OutputDefense, digits: int, temperature: float
) -> None:
    """It may come to tie with others, which rounding and large temperatures do, but none passes it."""
    log_probability = log_probability_of(logits)
    best = log_probability.argmax(-1, keepdim=True)
    for each in (defense, Rounding(digits=digits), Temperature(temperature=temperature)):
        observed = each.apply(log_probability)
        assert torch.equal(observed.gather(-1, best), observed.amax(-1, keepdim=True))


@given(logits, st.sampled_from(OUTPUT_DEFENSES), st.floats(0.01, 1000))
def test_answers_are_finite_float32_of_the_same_shape(
    logits: np.ndarray, defense: OutputDefense, temperature: float
) -> None:
    log_probability = log_probability_of(logits)
    before = log_probability.clone()
    for each in (defense, Temperature(temperature=temperature)):
        observed = each.apply(log_probability)
        assert observed.dtype == torch.float32
        assert observed.shape == log_probability.shape
        assert bool(observed.isfinite().all())
        assert bool((observed <= 0).all())
    assert torch.equal(log_probability, before)


@pytest.mark.parametrize("temperature", [1e-309, 1e-300, 1e-40, 1e300, 10**300])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    log_probability = random_KANC()
    observed = Temperature(temperature=temperature).apply(log_probability)
    assert bool(observed.isfinite().all())
    assert torch.equal(observed.argmax(-1), log_probability.argmax(-1)) or temperature > 1


@pytest.mark.parametrize("defense", OUTPUT_DEFENSES)
@pytest.mark.parametrize("layout", ["strided", "expanded", "double"])
def test_the_layout_in_memory_does_not_matter(defense: OutputDefense, layout: str) -> None:
    plain = random_KANC()
    given_KANC = {
        "strided": plain.transpose(0, 2).contiguous().transpose(0, 2),
        "expanded": plain[:1].expand(3, -1, -1, -1),
        "double": plain.double(),
    }[layout]
    before = given_KANC.clone()
    expected = defense.apply(given_KANC.float().contiguous())
    torch.testing.assert_close(defense.apply(given_KANC), expected, rtol=2e-7, atol=0)
    assert torch.equal(given_KANC, before)


@pytest.mark.parametrize("defense", [*OUTPUT_DEFENSES, Rounding(digits=12)])
def test_a_broken_record_leaves_the_others_alone(defense: OutputDefense) -> None:
    log_probability = random_KANC()
    expected = defense.apply(log_probability)
    log_probability[0, 0, 3] = torch.nan
    observed = defense.apply(log_probability)
    expected[0, 0, 3] = observed[0, 0, 3]
    assert torch.equal(observed.nan_to_num(), expected.nan_to_num())


@given(logits)
def test_defences_are_composed_in_the_given_order(logits: np.ndarray) -> None:
    log_probability = log_probability_of(logits)
    chain = [Temperature(temperature=2), Rounding(digits=2), TopK(k=2)]
    expected = chain[2].apply(chain[1].apply(chain[0].apply(log_probability)))
    assert torch.equal(apply_all(chain, log_probability), expected)


def test_the_order_matters() -> None:
    log_probability = torch.tensor([[0.7, 0.29, 0.01]]).log()
    rounded_last = apply_all([TopK(k=1), Rounding(digits=1)], log_probability).exp()
    rounded_first = apply_all([Rounding(digits=1), TopK(k=1)], log_probability).exp()
    torch.testing.assert_close(rounded_last, torch.tensor([[0.7, 0.05, 0.05]]))
    torch.testing.assert_close(rounded_first, torch.tensor([[0.7, 1e-7, 1e-7]]))


@given(logits, st.integers(1, 8), st.integers(1, 8))
def test_of_two_filters_the_stricter_decides(logits: np.ndarray, one: int, other: int) -> None:
    log_probability = log_probability_of(logits)
    both = apply_all([TopK(k=max(one, other)), TopK(k=min(one, other))], log_probability)
    assert torch.equal(both, TopK(k=min(one, other)).apply(log_probability))
    labels = LabelsOnly().apply(log_probability)
    for k in (one, other):
        assert torch.equal(LabelsOnly().apply(TopK(k=k).apply(log_probability)), labels)
        assert torch.equal(TopK(k=k).apply(labels), labels)


@pytest.mark.slow
@given(logits, st.floats(0.5, 20), st.floats(0.5, 20))
def test_temperatures_multiply(logits: np.ndarray, one: float, other: float) -> None:
    assume(np.abs(logits).max() < 30)
    log_probability = log_probability_of(logits)
    both = apply_all([Temperature(temperature=one), Temperature(temperature=other)], log_probability)
    torch.testing.assert_close(both, Temperature(temperature=one * other).apply(log_probability), rtol=1e-5, atol=1e-5)


def test_slices_of_a_large_array_are_put_together_again(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probability = random_KANC()
    whole = apply_all([TopK(k=3), LabelsOnly()], log_probability)
    monkeypatch.setattr("mia_lightning.defenses.interface._SLICE_NUMBERS", 50)
    assert torch.equal(apply_all([TopK(k=3), LabelsOnly()], log_probability), whole)
    assert apply_all([TopK(k=3)], log_probability[:, :, :0]).shape == (3, 2, 0, 7)


def test_no_defence_is_the_full_channel() -> None:
    log_probability = random_KANC()
    assert torch.equal(apply_all([], log_probability), log_probability)
    assert channel_of([]) == "full"


def test_a_channel_names_its_defences_in_order() -> None:
    assert channel_of([Temperature(temperature=5.0), TopK(k=3)]) == "temperature 5, top 3 classes"
    assert channel_of([TopK(k=1), Rounding(digits=1)]) == "top 1 class, rounded to 1 digit"
    assert channel_of([LabelsOnly()]) == "labels only"
    assert channel_of([Rounding(digits=2), Temperature(temperature=0.25)]) == "rounded to 2 digits, temperature 0.25"


def test_names_and_what_an_onlooker_knows() -> None:
    known = {defense.name: defense.is_visible for defense in OUTPUT_DEFENSES}
    assert known == {"top_k": True, "labels_only": True, "rounding": True, "temperature": False}
    assert all(isinstance(each, OutputDefense) and not isinstance(each, TrainingDefense) for each in OUTPUT_DEFENSES)


@pytest.mark.parametrize("defense", [*OUTPUT_DEFENSES, Rounding(digits=1)], ids=lambda defense: defense.describe())
def test_the_form_of_answers_is_said_in_the_words_of_the_defence_that_leaves_it(defense: OutputDefense) -> None:
    hides = isinstance(defense, TopK | LabelsOnly | Rounding)
    assert (defense.form != AnswerForm()) == hides
    assert defenses_of(defense.form) == ((defense,) if hides else ())
    assert not hides or defense.form.describe() == defense.describe()
