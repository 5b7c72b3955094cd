"""Groups of records: where they come from, and that they follow their records."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mia_lightning.datasets.csv import load_csv
from mia_lightning.datasets.groups import in_group
from mia_lightning.datasets.npz import load_npz
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.targets.model_black_box import ModelBlackBox

X = torch.arange(12.0).reshape(4, 3)
LABEL = torch.tensor([0, 1, 1, 0])


def grouped(group: object = ("b", "a", "b", "c"), **options: object) -> Population:
    return make_population(X, LABEL, name="mine", group=group, **options)


@pytest.mark.parametrize(
    "group",
    [
        ["b", "a", "b", "c"],
        np.array(["b", "a", "b", "c"]),
        np.array(["b", "a", "b", "c"], dtype=object),
    ],
    ids=["list", "text", "objects"],
)
def test_distinct_text_in_its_order(group: object) -> None:
    population = grouped(group)
    assert population.group_names == ("a", "b", "c")
    assert population.group_N is not None
    assert population.group_N.dtype == torch.int64
    assert population.group_N.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize("group", [[10, 9, 10, -3], torch.tensor([10, 9, 10, -3], dtype=torch.int16)])
def test_distinct_numbers_are_sorted_by_value(group: object) -> None:
    population = grouped(group)
    assert population.group_names == ("-3", "9", "10")
    assert population.group_N.tolist() == [2, 1, 2, 0]


def test_numbers_into_names_with_some_of_no_group() -> None:
    population = grouped(torch.tensor([1, -1, 0, 1]), group_names=["x", "y", "empty"])
    assert population.group_names == ("x", "y", "empty")
    assert population.group_N.tolist() == [1, -1, 0, 1]


def test_several_groupings() -> None:
    population = grouped([[0, 2], [1, -1], [0, 3], [1, 2]], group_names=["f", "m", "north", "south"])
    assert population.group_N is not None
    members = [in_group(population.group_N, number).tolist() for number in range(4)]
    assert members == [
        [True, False, True, False],
        [False, True, False, True],
        [True, False, False, True],
        [False, False, True, False],
    ]
    followed = population.followed_by(torch.zeros(1, 3), torch.tensor([1]))
    assert followed.group_N is not None
    assert followed.group_N.tolist()[-1] == [-1, -1]
    assert population.part(slice(1, 3)).group_N.tolist() == [[1, -1], [0, 3]]


def test_none_by_default() -> None:
    population = make_population(X, LABEL)
    assert population.group_N is None
    assert population.group_names == ()


def test_they_follow_their_records(monkeypatch: pytest.MonkeyPatch) -> None:
    population = grouped()
    assert population.part(slice(1, 3)).group_N.tolist() == [0, 1]
    chosen = population.chosen(torch.tensor([True, False, False, True]))
    assert chosen.group_N.tolist() == [1, 2]
    assert chosen.x_N.tolist() == [[0, 1, 2], [9, 10, 11]]
    assert chosen.group_names == population.group_names
    longer = population.followed_by(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert longer.group_N.tolist() == [1, 0, 1, 2, -1, -1]
    assert longer.part(slice(0, 4)).group_N.tolist() == population.group_N.tolist()
    # The meta device is there on every machine, but holds no values to check.
    monkeypatch.setattr("mia_lightning.datasets.population.check_population", lambda _: None)
    assert population.to("meta").group_N.device.type == "meta"


def test_they_are_no_part_of_the_fingerprint() -> None:
    assert grouped().fingerprint() == make_population(X, LABEL).fingerprint()


def test_a_target_is_asked_about_other_records_than_the_population_has() -> None:
    class Asked:
        is_local = False

        def observe(self, population: Population) -> object:
            self.population = population
            raise LookupError

    models = Asked()
    with pytest.raises(LookupError):
        ModelBlackBox(models, grouped()).predict(torch.zeros(7, 3))
    assert len(models.population) == 7
    assert models.population.group_N is None


REFUSED = {
    "reals": ({"group": [0.5, 1, 2, 3]}, "group of population 'mine' has dtype float64: give text or whole numbers"),
    "objects": ({"group": np.array([None] * 4)}, "has dtype object: give text or whole numbers, one for each record"),
    "text and names": ({"group": list("abab"), "group_names": ["a", "b"]}, "<U1: give numbers into group_names"),
    "names that are no list": ({"group_names": "ab"}, "group_names of population 'mine' is 'ab': give a list"),
    "names alone": (
        {"group": None, "group_names": ["a"]},
        "has 1 group_names but no group: give the group",
    ),
    "too short": ({"group": [0, 1]}, r"group of population 'mine' has shape \(2,\) and dtype torch.int64: give one"),
    "two axes": ({"group": [["a"]] * 4}, r"has shape \(4, 1\)"),
    "three axes": ({"group": [[[0]]] * 4, "group_names": ["a"]}, r"shape \(4, 1, 1\) .* or a row of numbers"),
    "beyond, of several": (
        {"group": [[0, 1]] * 3 + [[0, 2]], "group_names": ["a", "b"]},
        "group 2 of record 3 .* not one of the 2 group_names",
    ),
    "twice": ({"group": [0] * 4, "group_names": ["a", "a"]}, "group name 'a' of population 'mine' appears twice"),
    "above": (
        {"group": [0, 0, 2, 3], "group_names": ["a", "b"]},
        "group 2 of record 2 .* not one of the 2 group_names",
    ),
    "below": ({"group": [0, -2, 0, 0], "group_names": ["a"]}, "group -2 of record 1 .* or give -1 to a record of none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    arguments, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        grouped(**arguments)


def test_refused_when_built_without_make_population() -> None:
    parts = {"name": "mine", "x_N": X, "label_N": LABEL, "class_names": ("a", "b"), "group_names": ("g",)}
    with pytest.raises(InputError, match=r"dtype torch.int32: give one int64 number for each of the 4 records"):
        Population(**parts, group_N=torch.zeros(4, dtype=torch.int32))
    with pytest.raises(InputError, match="'mine' lie on cpu and meta"):
        Population(**{**parts, "x_N": X.to("meta")}, group_N=torch.zeros(4, dtype=torch.int64))


def test_csv_column(tmp_path: Path) -> None:
    path = tmp_path / "ill.csv"
    path.write_text("age,ward,y\n1,10,p\n2,9,q\n3,10,q\n4, 9 ,p\n")
    population = load_csv(path=path, label_column="y", group_column="ward")
    assert population.x_N.tolist() == [[1], [2], [3], [4]]
    assert population.group_names == ("9", "10")
    assert population.group_N.tolist() == [1, 0, 1, 0]
    assert load_csv(path=path, label_column="y").input_shape == (2,)
    assert load_csv(path=path, label_column="y").group_N is None
    assert load_csv(path=path, label_column="y", group_column="y").group_names == ("p", "q")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("age,wart,y\n1,a,p\n2,b,q\n", r"no column 'ward' among its 3 .*: set dataset.group_column to a name"),
        ("age,ward,y\n1,a,p\n2, ,q\n", "line 3 of .* has '' in column 'ward': give each record a group"),
    ],
)
def test_csv_column_refused(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "ill.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        load_csv(path=path, label_column="y", group_column="ward")


def test_npz_array(tmp_path: Path) -> None:
    path = tmp_path / "ill.npz"
    np.savez(path, x=X, label=LABEL, ward=np.array(["west", "east", "west", "north"]))
    population = load_npz(path=path, group_key="ward")
    assert population.group_names == ("east", "north", "west")
    assert population.group_N.tolist() == [2, 0, 2, 1]
    with pytest.raises(InputError, match=r"no array 'war' \(it has 'x', 'label', 'ward'\): set dataset.group_key to"):
        load_npz(path=path, group_key="war")
