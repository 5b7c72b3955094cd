"""What served models answer, read for what it is."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scripted_endpoint import reading

from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.top_k import TopK
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.answers import Reading
from mia_lightning.targets.endpoints.seen import Decimals, decimals_of
from mia_lightning.training.signals import SMALLEST_PROBABILITY, AnswerForm, rounded

NAMES = tuple("abcdefghij")


def random_probabilities(num: int, num_classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(num_classes, 0.3), size=num)


def many(classes: tuple[str, ...] | None = None, answer: str = "auto") -> Reading:
    return Reading(place="here", class_names=NAMES, classes=classes, answer=answer)


def test_probabilities_are_the_float32_logarithms_of_their_double_precision() -> None:
    probability = random_probabilities(50, 10)
    log, seen = many().read(probability.tolist(), range(50))
    assert log.dtype == torch.float32
    assert np.array_equal(log.numpy(), np.log(probability).astype(np.float32))
    assert seen.form == AnswerForm()
    assert seen.digits is None


def test_a_zero_of_a_full_answer_is_raised_to_the_floor_of_services() -> None:
    log, _ = reading().read([[1.0, 0.0, 0.0]], [0])
    assert log[0].tolist() == [0.0, *[float(np.float32(math.log(SMALLEST_PROBABILITY)))] * 2]


def test_the_servers_order_of_classes_becomes_that_of_the_data_set() -> None:
    read = partial(reading(classes=("c", "a", "b")).read, record_B=[0])
    assert read([[0.2, 0.5, 0.3]])[0].exp()[0].tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert int(read([0])[0].argmax()) == 2
    assert int(read(["c"])[0].argmax()) == 2


def test_logits_become_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 10)) * 40
    log, seen = many(answer="logits").read(logits.tolist(), range(20))
    np.testing.assert_allclose(log.numpy(), log_softmax(logits, axis=1), rtol=1e-6, atol=1e-12)
    named = [dict(zip(NAMES, row, strict=True)) for row in logits.tolist()]
    assert torch.equal(many(answer="logits").read(named, range(20))[0], log)
    assert seen.form == AnswerForm()


@pytest.mark.parametrize("as_what", ["name", "number", "list", "float"])
def test_labels_are_what_labels_only_makes_of_probabilities_to_the_bit(as_what: str) -> None:
    probability = random_probabilities(40, 10)
    full, _ = many().read(probability.tolist(), range(40))
    labels = probability.argmax(1).tolist()
    answers = {"name": [NAMES[y] for y in labels], "number": labels, "list": [[y] for y in labels]}
    answers["float"] = [[float(y)] for y in labels]
    log, seen = many(answer="labels" if as_what == "float" else "auto").read(answers[as_what], range(40))
    assert torch.equal(log, LabelsOnly().apply(full))
    assert seen.form == AnswerForm(kind="labels")


@given(k=st.integers(1, 9), seed=st.integers(0, 100))
def test_top_k_answers_are_what_top_k_makes_of_probabilities_to_the_bit(k: int, seed: int) -> None:
    probability = random_probabilities(20, 10, seed)
    full, _ = many().read(probability.tolist(), range(20))
    answers = []
    for row in probability:
        best = np.argsort(-row, kind="stable")[:k]
        answers.append({NAMES[c]: float(row[c]) for c in np.random.default_rng(seed).permutation(best)})
    log, seen = many().read(answers, range(20))
    assert torch.equal(log, TopK(k=k).apply(full))
    assert seen.form == AnswerForm(kind="top_k", k=k)


def test_all_names_are_a_full_answer() -> None:
    probability = random_probabilities(5, 10)
    named = [dict(reversed(list(zip(NAMES, row, strict=True)))) for row in probability.tolist()]
    assert torch.equal(many().read(named, range(5))[0], many().read(probability.tolist(), range(5))[0])
    assert many().read(named, range(5))[1].form == AnswerForm()


@pytest.mark.parametrize("digits", range(1, 7))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_digits_are_found_and_observed_as_rounding_does(digits: int, dtype: type) -> None:
    probability = random_probabilities(200, 10)
    sent = np.round(probability, digits).astype(dtype).astype(np.float64)
    log, seen = many().read(sent.tolist(), range(200))
    assert seen.digits == digits
    observed = rounded(log, digits)
    full, _ = many().read(probability.tolist(), range(200))
    assert torch.equal(observed, Rounding(digits=digits).apply(observed))
    # Where the double precision number is rounded, and not the float32 logarithm, halves may fall to either side.
    near = torch.from_numpy(np.abs(probability * 10**digits % 1 - 0.5) < 0.1)
    assert torch.equal(observed[~near], Rounding(digits=digits).apply(full)[~near])


def test_numbers_that_nobody_rounded_have_no_digits() -> None:
    assert decimals_of(random_probabilities(200, 10)).digits is None
    assert decimals_of(random_probabilities(200, 10).astype(np.float32).astype(np.float64)).digits is None


def test_too_few_numbers_or_zeros_and_ones_alone_show_no_digits() -> None:
    assert decimals_of(np.full((299, 1), 0.5)).digits is None
    assert decimals_of(np.full((300, 1), 0.5)).digits == 1
    assert decimals_of(np.eye(100)).digits is None
    assert (Decimals() + decimals_of(np.full((300, 1), 0.25))).digits == 2


REFUSED = [
    ([0.5, 0.5], "has 2 numbers for 3 classes"),
    ([0.5], "has 1 number for 3 classes"),
    ([0.5, 0.25, math.nan], "NaN or infinite"),
    ([0.5, 0.25, math.inf], "NaN or infinite"),
    ([0.75, 0.5, -0.25], "below 0"),
    ([3.5, -1.0, 2.0], "below 0"),
    ([1.5, 0.0, 0.0], "above 1"),
    ([0.512345678, 0.3, 0.1], "adds up to 0.912346"),
    ([0.5, 0.5, None], "other things than numbers"),
    ([0.5, 0.5, True], "other things than numbers"),
    ([[0.5, 0.25, 0.25]], "has other things than numbers"),
    ([], "has 0 numbers"),
    (None, "neither a list"),
    (0.5, "neither a list"),
    (True, "neither a list"),
    (3, "no number of one of 3 classes"),
    (-1, "no number of one of 3 classes"),
    ("dog", "no class of the data set"),
    ({"dog": 0.5}, "no class of the data set: 'dog'"),
    ({}, "names no class"),
    ({"a": "much"}, "other things than numbers"),
    ({"a": -0.5}, "below 0"),
    ({"a": math.nan}, "NaN or infinite"),
    ({"a": 0.812345678, "b": 0.7}, "adds up to 1.51235"),
]


@pytest.mark.parametrize(("answer", "why"), REFUSED)
def test_what_is_no_answer_is_refused_with_its_record_and_what_was_received(answer: object, why: str) -> None:
    with pytest.raises(InputError, match=r"The model at here answered record 17 with") as refusal:
        reading().read([answer], [17])
    assert why in str(refusal.value)
    assert repr(answer)[:30] in str(refusal.value)


def test_a_long_answer_is_shortened() -> None:
    with pytest.raises(InputError) as refusal:
        reading().read([list(range(1000))], [0])
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("other", [1, [1.0, 0.0, 0.0], {"a": 0.5, "b": 0.25}])
def test_a_mixture_of_forms_is_refused(other: object) -> None:
    first: list[object] = [{"a": 0.5}]
    with pytest.raises(InputError, match=r"record 8.*record 4; attack a model that gives all its answers in one form"):
        reading().read([*first, other], [4, 8])
    _, seen = reading().read(first, [4])
    _, second = reading().read([other], [8])
    with pytest.raises(InputError, match=r"record 8.*record 4; attack a model that gives all its answers in one form"):
        reading().join(seen, second)


@pytest.mark.parametrize(
    ("setting", "answer", "why"),
    [
        ("labels", [1.0, 0.0, 0.0], "is no label"),
        ("labels", {"a": 1.0}, "is no label"),
        ("labels", 0.5, "no number of one"),
        ("probabilities", "a", "is a label alone"),
        ("logits", 1, "is a label alone"),
        ("logits", {"a": 1.0}, "logits of 1 of 3 classes"),
        ("logits", {"a": 1.0, "b": 0.0, "c": math.nan}, "NaN or infinite"),
        ("logits", [1.0, 0.0, math.inf], "NaN or infinite"),
    ],
)
def test_an_answer_that_is_not_what_was_set_is_refused(setting: str, answer: object, why: str) -> None:
    with pytest.raises(InputError, match=why):
        reading(setting).read([answer], [0])


def test_sums_of_rounded_answers_may_be_off_by_what_their_digits_explain_and_no_more() -> None:
    third = [[0.3, 0.3, 0.3]] * 150
    _, seen = reading().read(third, range(150))
    assert seen.digits == 1
    reading().check_sums(seen, 1)
    with pytest.raises(InputError, match=r"record 0 with \[0.3, 0.3, 0.3\], which adds up to 0.9"):
        reading().check_sums(seen, None)
    with pytest.raises(InputError, match=r"adds up to 0.8"):
        reading().read([[0.3, 0.3, 0.2]], [0])


@pytest.mark.parametrize(
    ("classes", "why"),
    [(("a", "b", "d"), "names 'd'"), (("a", "b"), "has 2 names"), (("a", "b", "b"), "2 of them different")],
)
def test_classes_must_be_those_of_the_data_set(classes: tuple[str, ...], why: str) -> None:
    with pytest.raises(InputError, match=why):
        reading(classes=classes)


def test_arrays_are_read_as_lists() -> None:
    probability = random_probabilities(3, 10)
    assert torch.equal(many().read(list(probability), range(3))[0], many().read(probability.tolist(), range(3))[0])
    assert int(reading().read([np.int64(2)], [0])[0].argmax()) == 2
    assert float(reading().read([(np.float32(1.0), 0.0, 0.0)], [0])[0][0, 0]) == 0.0
    assert float(reading().read([{"b": np.float32(1.0)}], [0])[0][0, 1]) == 0.0


def test_forms_are_described_in_the_words_of_the_defences() -> None:
    for form, defence in (
        (AnswerForm(kind="labels"), LabelsOnly()),
        (AnswerForm(kind="top_k", k=1), TopK(k=1)),
        (AnswerForm(kind="top_k", k=3), TopK(k=3)),
        (AnswerForm(digits=1), Rounding(digits=1)),
        (AnswerForm(digits=4), Rounding(digits=4)),
    ):
        assert form.describe() == defence.describe()
    assert AnswerForm().describe() == "full"


def two(**options: Any) -> Reading:
    return Reading(place="here", **{"class_names": ("no", "yes"), **options})


NO = np.array([0.75, 0.25, 1.0, 0.0])


@pytest.mark.parametrize(
    "answers", [[[1 - p] for p in NO], [1 - p for p in NO], [[0.25], [0.75], [0], [1]], [{"No ": p} for p in NO]]
)
def test_one_probability_for_two_classes_is_read_as_both(answers: list[Any]) -> None:
    wanted, seen = two().read(np.stack([NO, 1 - NO], 1).tolist(), range(4))
    found, of_one = two().read(answers, range(4))
    assert torch.equal(found, wanted)
    assert of_one.form == seen.form == AnswerForm()


def test_one_probability_is_that_of_the_second_in_the_servers_order() -> None:
    found, _ = two(classes=("Yes", "no")).read([[0.75], [0.5]], range(2))
    assert found.exp()[:, 0].tolist() == pytest.approx([0.75, 0.5])


@pytest.mark.parametrize("answers", [[[0.0], [3.0]], [0, 3], [{"yes": 0.0}, {"yes": 3.0}]])
def test_one_logit_for_two_classes(answers: list[Any]) -> None:
    found, _ = two(answer="logits").read(answers, range(2))
    np.testing.assert_allclose(found[:, 1].exp(), 1 / (1 + np.exp(-np.array([0, 3.0]))), rtol=1e-6)


def test_ones_and_zeros_alone_are_labels_unless_others_are_probabilities() -> None:
    for answers in ([0, 1], [[0.0], [1.0]], [0.0, 1.0]):
        found, seen = two().read(answers, range(2))
        assert seen.form == AnswerForm(kind="labels")
        assert found.argmax(1).tolist() == [0, 1]
        for known in (two(is_single=True), two(answer="probabilities")):
            assert known.read(answers, range(2))[1].form == AnswerForm()


@pytest.mark.parametrize(
    ("options", "answer", "why"),
    [
        ({}, [1.5], r"\[1.5\], which is no probability of one of two classes; .*answer=logits"),
        ({}, -0.5, "is no probability of one of two classes"),
        ({}, [math.nan], "has 1 number for 2 classes"),
        ({"class_names": ("1", "2")}, [1.0], "probability and a label; set target.asking.answer=probabilities or"),
        ({"answer": "labels"}, [0.5], "is no number of one of 2 classes"),
        ({"class_names": ("1", "2", "other")}, 1, "set target.asking.labels=names or target.asking.labels=places"),
        ({"class_names": ("1", "2"), "classes": ("1", "2")}, 1, "set target.asking.labels=names or"),
        ({"class_names": ("1", "2", "3")}, 0, "no class of the data set; .*target.asking.labels"),
        ({"class_names": ("a", "b", "c")}, {"a": 0.5, "A ": 0.5}, "names a class twice"),
    ],
)
def test_what_could_be_two_things_is_refused(options: Any, answer: object, why: str) -> None:
    with pytest.raises(InputError, match=why):
        two(**options).read([answer], [0])


@pytest.mark.parametrize(
    ("names", "labels", "answers", "wanted"),
    [
        (("1", "2", "3"), "auto", [3, [1], 2.0, "1", "2.0"], [2, 0, 1, 0, 1]),
        (("1", "2", "3"), "places", [2, 0], [2, 0]),
        (("01", "02", "10"), "auto", [10, 1, "02"], [2, 0, 1]),
        (("1", "2", "other"), "names", [1, "other"], [0, 2]),
        (("1", "2", "other"), "places", [1, "other"], [1, 2]),
        (("a", "b", "c"), "auto", [2, "B", " c", [0.0]], [2, 1, 2, 0]),
        (("false", "true"), "auto", [True, False], [1, 0]),
    ],
)
def test_labels_are_read_by_name_first(names: Any, labels: Any, answers: list[Any], wanted: list[int]) -> None:
    found, seen = two(class_names=names, labels=labels).read(answers, range(len(answers)))
    assert found.argmax(1).tolist() == wanted
    assert seen.form == AnswerForm(kind="labels")


def test_names_of_answers_are_compared_regardless_of_case() -> None:
    found, _ = two().read([{"YES": 0.75, "No": 0.25}], [0])
    assert found.exp()[0].tolist() == pytest.approx([0.25, 0.75])


def test_one_number_under_a_name_that_is_no_class_may_be_a_probability() -> None:
    with pytest.raises(InputError, match=r"no class of the data set: 'probability'.*target\.prediction_key"):
        two().read([{"probability": 0.75}], [0])
    with pytest.raises(InputError, match=r"no class of the data set: 'dog'.*target\.asking\.classes"):
        two().read([{"dog": 0.75, "cat": 0.25}], [0])


def test_one_class_that_is_not_the_most_probable_of_two_is_no_top_1() -> None:
    _, seen = two().read([{"yes": 0.75}, {"yes": 0.5}], range(2))
    assert seen.form == AnswerForm(kind="top_k", k=1)
    of_both, seen = two().read([{"yes": 0.75}, {"yes": 0.25}], range(2))
    assert seen.form == AnswerForm()
    assert of_both.exp()[1].tolist() == pytest.approx([0.75, 0.25])
    with pytest.raises(InputError, match=r"'no': 0.25.* names the less probable of two classes; .*target.output"):
        two().read([{"yes": 0.75}, {"no": 0.25}], range(2))
