"""Where the classes of a model stand among those of the data set."""

from typing import Any

import numpy as np
import pytest

from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.own_classes import ClassNames, label_places, places

TEN = [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("classes", "names", "wanted"),
    [
        (["b", "a"], ["a", "b", "c"], [1, 0]),
        ([0, 2], ["a", "b", "c"], [0, 2]),
        ([1, 2, 3], ["1", "2", "3"], [0, 1, 2]),  # names before numbers
        ([0, 1, 2], ["1", "2", "3"], [0, 1, 2]),  # not all are names
        (list(np.array([3.0, 7.0])), TEN, [3, 7]),
        (list(np.array([3, 7], np.uint8)), TEN, [3, 7]),
        ([False, True], ["no", "yes"], [0, 1]),
        (list(np.array(["c", "a"])), ["a", "b", "c"], [2, 0]),
        (["B ", "A"], ["a", "b"], [1, 0]),  # regardless of case and blanks
        ([True, False], ["FALSE", "true"], [1, 0]),
        (["1.0", "02"], ["1", "2"], [0, 1]),  # one number in two spellings
        (["007", "7"], ["7", "007"], [1, 0]),  # two codes
        (["a", "A"], ["A", "a"], [1, 0]),  # two names
        ([0.5, 1.5], ["0.5", "1.5"], [0, 1]),
    ],
)
def test_names_first_then_numbers(classes: list[object], names: list[str], wanted: list[int]) -> None:
    assert places(classes, names, "It") == wanted


@pytest.mark.parametrize("foreign", ["d", 3, -1, 0.5])
def test_what_is_no_class_is_refused(foreign: object) -> None:
    with pytest.raises(
        InputError,
        match=rf"It has the class {foreign!r}, which is neither the name nor the number of one.*3 classes \('a', ",
    ):
        places([foreign], ["a", "b", "c"], "It")


@pytest.mark.parametrize("find", [places, lambda *rest: label_places(np.array(rest[0]), *rest[1:])])
def test_what_could_be_a_name_and_a_number_is_decided_by_a_setting(find: Any) -> None:
    names = ["1", "2", "other"]
    with pytest.raises(InputError, match=r"'1' and the number, from 0, of '2'; set target.asking.labels=names or"):
        find([1, 2], names, "It")
    assert find([1, 2], names, "It", "names") == [0, 1]
    assert find([1, 2], names, "It", "places") == [1, 2]
    assert find([0, 1], ["1", "2"], "It", "places") == [0, 1]
    with pytest.raises(InputError, match=r"the class 0, which is neither .*target.asking.labels"):
        find([0, 1], ["1", "2"], "It", "names")


def test_names_that_are_alike_are_not_mixed_up() -> None:
    known = ClassNames(["Ash", "ASH", "birch", "1", "01"])
    assert [known.find(each) for each in ("Ash", "ASH", "BIRCH ", "1", "01", 1)] == [0, 1, 2, 3, 4, 3]
    assert known.find("ash") is None
    assert known.find("001") is None


def test_two_names_of_one_class_are_refused() -> None:
    with pytest.raises(InputError, match="It has the class 1 under two names"):
        places([1, 1.0], ["a", "b"], "It")


@pytest.mark.parametrize(
    ("labels", "names", "wanted"),
    [
        (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        ([2, 0, 2], ["a", "b", "c"], [2, 0, 2]),
        ([3, 1, 3], ["1", "2", "3"], [2, 0, 2]),
        ([2.0, 1.0], ["1", "2", "3"], [1, 0]),
        (["-1", "1"], ["-1", "1"], [0, 1]),
    ],
)
def test_a_label_stands_for_the_same_class_whatever_stands_beside_it(
    labels: list[object], names: list[str], wanted: list[int]
) -> None:
    assert label_places(np.array(labels), names, "It") == wanted
    assert [label_places(np.array([each]), names, "It")[0] for each in labels] == wanted


@pytest.mark.parametrize(("label", "names"), [(0, ["1", "2"]), (2, ["a", "b"]), ("1", ["a", "b"])])
def test_a_label_of_no_class_is_refused(label: object, names: list[str]) -> None:
    with pytest.raises(
        InputError, match=f"It has the class {label!r}, which is neither the name nor the number of one"
    ):
        label_places(np.array([label]), names, "It")
