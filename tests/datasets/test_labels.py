"""Labels as people have them, on every road by which records come."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from own_modules import LitClassifier
from quick import quick_audit
from sklearn.preprocessing import LabelEncoder
from torch import nn
from torch.utils.data import Dataset

import mia_lightning as mia
from mia_lightning.datasets.csv import load_csv
from mia_lightning.datasets.npz import load_npz
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError

NUMBER = np.array([0, 2, 1, 1, 0, 2])
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
TEXT = np.array(["cat", "dog", "eel"])[NUMBER]

# What is given, the names of its classes, and a part of the remark; None where there is none.
FORMS: dict[str, tuple[Any, tuple[str, ...], str | None]] = {
    "numbers": (NUMBER, ("0", "1", "2"), None),
    "column": (NUMBER[:, None], ("0", "1", "2"), None),
    "list": (NUMBER.tolist(), ("0", "1", "2"), None),
    "bool": (NUMBER > 0, ("0", "1"), None),
    "from 1": (NUMBER + 1, ("1", "2", "3"), ": 1 to 3 are the classes 0 to 2, in this order"),
    "from 7": (NUMBER + 7, ("7", "8", "9"), ": 7 to 9 are the classes 0 to 2"),
    "gaps": (NUMBER * 10, ("0", "10", "20"), ": 0, 10, 20 are the classes 0 to 2"),
    "codes": (np.array([404, 200, 500])[[1, 2, 0, 0, 1, 2]], ("200", "404", "500"), "200, 404, 500 are"),
    "text": (TEXT, ("cat", "dog", "eel"), "'cat', 'dog', 'eel' are the classes 0 to 2, in this order"),
    "list of text": (TEXT.tolist(), ("cat", "dog", "eel"), "'cat', 'dog', 'eel'"),
    "objects": (TEXT.astype(object), ("cat", "dog", "eel"), "'cat', 'dog', 'eel'"),
    "numbers as objects": (NUMBER.astype(object), ("0", "1", "2"), None),
    "numbers as text": (np.array(["2", "10", "9"])[[0, 1, 2, 2, 0, 1]], ("2", "9", "10"), "2, 9, 10 are"),
    "one-hot": (np.eye(3, dtype=int)[NUMBER], ("0", "1", "2"), "one-hot rows of 3 numbers: the place of the 1"),
    "one-hot tensor": (torch.eye(3)[NUMBER], ("0", "1", "2"), "one-hot rows of 3 numbers"),
    "dummies": (pd.get_dummies(pd.Series(TEXT)), ("cat", "dog", "eel"), "one-hot rows of 3 numbers: 'cat', 'dog'"),
    "floats": (NUMBER.astype(float), ("0", "1", "2"), "whole numbers of type float64: they are the class numbers"),
    "floats from 1": (torch.tensor(NUMBER + 1.0), ("1", "2", "3"), "of type float64: 1 to 3 are the classes 0 to 2"),
    "series": (pd.Series(TEXT), ("cat", "dog", "eel"), "'cat', 'dog', 'eel'"),
    "series of text": (pd.Series(TEXT, dtype="string"), ("cat", "dog", "eel"), "'cat', 'dog', 'eel'"),
    "nullable": (pd.Series(NUMBER + 1, dtype="Int64"), ("1", "2", "3"), "1 to 3 are"),
    "categorical": (pd.Categorical(TEXT, ["cat", "dog", "eel"]), ("cat", "dog", "eel"), "a categorical: 'cat', 'dog'"),
    "series of categories": (pd.Series(TEXT, dtype="category"), ("cat", "dog", "eel"), "a categorical"),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_in_their_forms(form: str) -> None:
    label, names, part = FORMS[form]
    made = make_population(X, label)
    expected = (NUMBER > 0).astype(int) if form == "bool" else NUMBER
    assert made.label_N.dtype == torch.int64
    assert made.label_N.tolist() == expected.tolist()
    assert made.class_names == names
    remarks = [each for each in made.remarks if each.startswith("The labels of population 'data'")]
    assert len(remarks) == (part is not None)
    assert part is None or part in remarks[0]
    assert (made.label_map is None) == (part is None)


def test_classes_are_in_the_order_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    for label in (rng.integers(1, 30, 300) * 7 - 3, rng.choice(["z", "B", "aa", "a"], 50)):
        encoder = LabelEncoder()
        expected = encoder.fit_transform(label)
        made = make_population(np.zeros((len(label), 1)), label)
        assert made.label_N.tolist() == expected.tolist()
        assert made.class_names == tuple(map(str, encoder.classes_))


def test_categories_keep_their_own_order_also_those_that_no_record_has() -> None:
    made = make_population(X, pd.Categorical(TEXT, ["eel", "fox", "dog", "cat"]))
    assert made.class_names == ("eel", "fox", "dog", "cat")
    assert [made.class_names[c] for c in made.label_N] == TEXT.tolist()


NAMED: dict[str, tuple[Any, list[str], list[int]]] = {
    "places": (NUMBER, ["a", "b", "c"], NUMBER.tolist()),
    "text": (TEXT, ["eel", "dog", "cat"], (2 - NUMBER).tolist()),
    "numbers that are names": (NUMBER * 10 + 10, ["30", "20", "10"], (2 - NUMBER).tolist()),
    "all from 1": (NUMBER + 1, ["a", "b", "c"], NUMBER.tolist()),
    "one-hot": (np.eye(3)[NUMBER], ["a", "b", "c"], NUMBER.tolist()),
    "categories": (pd.Categorical(TEXT), ["eel", "dog", "cat"], (2 - NUMBER).tolist()),
}


@pytest.mark.parametrize("case", NAMED)
def test_labels_beside_names_of_the_classes(case: str) -> None:
    label, names, expected = NAMED[case]
    made = make_population(X, label, class_names=names)
    assert (made.label_N.tolist(), list(made.class_names)) == (expected, names)


def test_minus_one_and_one_are_two_classes() -> None:
    for sign in (2 * (NUMBER % 2) - 1, 2.0 * (NUMBER % 2) - 1, torch.tensor(2 * (NUMBER % 2) - 1)):
        made = make_population(X, sign)
        assert (made.label_N.tolist(), made.class_names) == ((NUMBER % 2).tolist(), ("-1", "1"))
        assert "-1, 1 are the classes 0 to 1" in made.remarks[0]


def test_classes_that_differ_in_case_alone_are_named() -> None:
    (remark,) = (each for each in make_population(X, ["Yes", "yes", "no"] * 2).remarks if "case" in each)
    assert "'Yes'" in remark
    assert "'yes'" in remark


REFUSED: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "NaN": ([0, 1, np.nan, 1, 0, 1], {}, ["record 2", "NaN"]),
    "NaN in a tensor": (torch.tensor([0, 1, 1, torch.nan, 0, 1]), {}, ["record 3"]),
    "None": (["a", None, "b", "a", "a", "b"], {}, ["record 1"]),
    "NA": (pd.Series([1, 2, 3, 1, 2, None], dtype="Int64"), {}, ["record 5"]),
    "NaT": (np.array([1, 1, 2, 2, pd.NaT, 1], object), {}, ["record 4"]),
    "a word for it among numbers": (["0", "1", "1", "nan", "0", "1"], {}, ["record 3"]),
    "empty text": (["a", "b", "", "a", "b", "b"], {}, ["record 2"]),
    "no category": (pd.Categorical(["a", None, "b", "a", "a", "b"]), {}, ["record 1"]),
    "fraction": (np.array([0, 1, 0, 0.5, 1, 1]), {}, ["0.5", "record 3", "float64", "task=regression"]),
    "infinite": (np.array([0, 1, 0, np.inf, 1, 1]), {}, ["inf", "record 3"]),
    "soft": (np.full((6, 2), 0.5), {}, ["0.5", "record 0", "argmax"]),
    "several": (np.array([[1, 0], [1, 1], [0, 1]] * 2), {}, ["record 1", "[1, 1]", "task=multilabel"]),
    "none of several": (np.array([[1, 0], [0, 0], [0, 1]] * 2), {}, ["record 1", "[0, 0]", "one label"]),
    "mixed": (["a", 1, "b", 2, 1, 1], {}, ["'a'", "1", "one type"]),
    "dates": (np.array(["2020-01-01"] * 6, "datetime64[D]"), {}, ["datetime64"]),
    "objects": (np.array([object()] * 6), {}, ["object", "numbers or text"]),
    "text of no class": (TEXT, {"class_names": ["cat", "dog"]}, ["'eel'", "record 1", "class_names"]),
    "other categories": (pd.Categorical(TEXT), {"class_names": ["a", "b"]}, ["'eel'", "'a'", "class_names"]),
    "above the names": (NUMBER + 1, {"class_names": ["a", "b"]}, ["label 3", "record 1", "0 to 1"]),
    "below": (NUMBER - 1, {}, ["label -1", "record 0"]),
    "one class": (["a"] * 6, {}, ["1 class"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_class_is_refused(case: str) -> None:
    label, options, parts = REFUSED[case]
    with pytest.raises(InputError) as refused:
        make_population(X, label, **options)
    assert all(part in str(refused.value) for part in parts), str(refused.value)


def test_a_word_for_what_is_missing_may_name_a_class_among_words() -> None:
    assert make_population(X, ["none", "some", "all"] * 2).class_names == ("all", "none", "some")


def test_text_that_is_an_identifier_is_refused() -> None:
    with pytest.raises(InputError, match="30 different values for 40 records"):
        make_population(np.zeros((40, 2)), [f"p{min(i, 29)}" for i in range(40)])


class Listed(Dataset):
    def __init__(self, label: Callable[[int], Any], **own: Any) -> None:
        self.label = label
        self.__dict__.update(own)

    def __len__(self) -> int:
        return len(NUMBER)

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(X[index]), self.label(index)


OWN: dict[str, tuple[Dataset, tuple[str, ...]]] = {
    "text": (Listed(lambda i: str(TEXT[i])), ("cat", "dog", "eel")),
    "text of classes": (Listed(lambda i: str(TEXT[i]), classes=["cat", "dog", "eel"]), ("cat", "dog", "eel")),
    "from 1": (Listed(lambda i: int(NUMBER[i]) + 1), ("1", "2", "3")),
    "from 1, named": (Listed(lambda i: int(NUMBER[i]) + 1, classes=["a", "b", "c"]), ("a", "b", "c")),
    "one-hot": (Listed(lambda i: torch.eye(3)[int(NUMBER[i])]), ("0", "1", "2")),
    "floats": (Listed(lambda i: torch.tensor(float(NUMBER[i]))), ("0", "1", "2")),
}


@pytest.mark.parametrize("form", OWN)
def test_labels_of_a_users_own_dataset(form: str) -> None:
    data, names = OWN[form]
    made = Population.of(data)
    assert made.label_N.tolist() == NUMBER.tolist()
    assert made.class_names == names
    assert made.label_map is not None
    assert made.label_map.sentence in made.remarks


def test_a_number_of_classes_that_the_data_say_leaves_numbers_what_they_are() -> None:
    made = Population.of(Listed(lambda i: int(NUMBER[i]) + 1, num_classes=4))
    assert (made.label_N.tolist(), made.num_classes, made.label_map) == ((NUMBER + 1).tolist(), 4, None)


def test_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, label=TEXT)
    made = load_npz(path=str(tmp_path / "a.npz"))
    assert (made.label_N.tolist(), made.class_names) == (NUMBER.tolist(), ("cat", "dog", "eel"))
    rows = "".join(f"{x},{y}\n" for x, y in zip(X[:, 0].tolist(), (NUMBER + 1).tolist(), strict=True))
    (tmp_path / "a.csv").write_text("a,y\n" + rows)
    table = load_csv(path=str(tmp_path / "a.csv"), label_column="y")
    assert (table.label_N.tolist(), table.class_names) == (NUMBER.tolist(), ("1", "2", "3"))
    assert "column 'y' of a.csv: 1 to 3 are the classes 0 to 2" in table.remarks[-1]


def test_a_training_step_of_the_users_own_is_not_given_other_numbers_than_its_data_have() -> None:
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    with pytest.raises(InputError, match=r"LitClassifier.*1 to 3 are the classes 0 to 2"):
        mia.audit(x, np.arange(60) % 3 + 1, **quick_audit(model=LitClassifier, shadow=mia.Real(count=2)))


# A target that is trained already.

N = 600
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(N, 6)).astype(np.float32)
TRUE = (Z[:, :3] + 0.6 * RNG.normal(size=(N, 3))).argmax(1)
MEMBER = RNG.permutation(N) < 200


def trained(label_N: Any, num_outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 48), nn.Tanh(), nn.Linear(48, num_outputs))
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(100):
            optimizer.zero_grad()
            output = network(torch.from_numpy(Z[MEMBER]))
            nn.functional.cross_entropy(output, torch.from_numpy(label_N)[MEMBER]).backward()
            optimizer.step()
    return network.eval()


def audited(target: nn.Module, label: Any, **options: Any) -> Any:
    shared = quick_audit(
        model=lambda num_classes: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, num_classes)),
        target=target,
        membership=mia.Given(member_N=torch.from_numpy(MEMBER)),
        shadow=mia.Real(count=4),
    )
    return mia.audit(Z, label, **{**shared, **options})


def test_a_target_with_as_many_outputs_is_found_right_under_labels_from_1_and_the_order_is_said() -> None:
    report = audited(trained(TRUE, 3), TRUE + 1)
    assert report.trust.verdict == "sound"
    assert report.target.test_accuracy > 0.6
    assert any("in the order 1 to 3" in each for each in report.warnings)


def test_a_target_with_an_output_for_0_is_refused_with_what_the_labels_were_taken_for() -> None:
    with pytest.raises(InputError, match=r"\[\d+, 4\].*1 to 3 are the classes 0 to 2.*class_names"):
        audited(trained(TRUE + 1, 4), TRUE + 1)
    numbers = make_population(Z, TRUE + 1, class_names=["0", "1", "2", "3"])
    assert numbers.label_N.tolist() == (TRUE + 1).tolist()


@pytest.mark.costly
@pytest.mark.parametrize("label", [np.array(["low", "mid", "top"])[TRUE], TRUE * 10 + 5], ids=["text", "numbers"])
def test_a_target_of_another_order_of_classes_is_void(label: Any) -> None:
    """As by the order of first appearance, which is not that of the values."""
    order = np.array([2, 0, 1])
    report = audited(trained(order[TRUE], 3), label)
    assert report.trust.verdict == "void"
    assert "another order" in str(report.trust.cause)
