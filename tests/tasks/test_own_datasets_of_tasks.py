"""Numbers and several labels from a user's own torch datasets and DataModules."""

from typing import Any

import numpy as np
import pytest
import torch
from quick import quick_audit
from torch.utils.data import DataLoader, Dataset, TensorDataset

import mia_lightning as mia
from mia_lightning.command.own_data import population_of
from mia_lightning.errors import InputError
from mia_lightning.seeds import generator

X = torch.randn(60, 3, generator=generator(0, "x"))
VALUE = X.sum(1) * 5 + 0.25
ON = (X > 0).long()


class Listed(Dataset[Any]):
    def __init__(self, labels: list[Any]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return X[index], self.labels[index]


@pytest.mark.parametrize("task", ["regression", mia.Regression()])
@pytest.mark.parametrize(
    "label",
    [VALUE, VALUE.double(), VALUE[:, None], VALUE.tolist(), list(VALUE.numpy()), VALUE.round().long()],
    ids=["float", "double", "column", "python", "numpy", "whole numbers"],
)
def test_numbers_of_a_dataset_are_those_of_the_arrays(task: Any, label: Any) -> None:
    data = Listed(list(label))
    expected = mia.make_population(X, torch.as_tensor(np.asarray(label)), task=task)
    found = mia.Population.of(data, task=task)
    assert found.task == mia.Regression()
    assert torch.equal(found.label_N, expected.label_N)
    assert torch.equal(found.x_N, expected.x_N)
    assert found.class_names == expected.class_names == ("value",)


def test_held_out_records_loaders_and_several_numbers() -> None:
    two = torch.stack([VALUE, -VALUE], 1)
    train, test = TensorDataset(X[:40], two[:40]), TensorDataset(X[40:], two[40:])
    for sets in ((train, test), (DataLoader(train, batch_size=7, shuffle=True), DataLoader(test))):
        found = mia.Population.of(sets[0], nonmembers=sets[1], task="regression", class_names=["up", "down"])
        assert torch.equal(found.label_N, two)
        assert found.class_names == ("up", "down")
        assert found.member_N is not None
        assert found.member_N.tolist() == [True] * 40 + [False] * 20


@pytest.mark.parametrize("label", [ON, ON.bool(), ON.float()], ids=["int", "bool", "float"])
def test_several_labels_of_a_dataset(label: torch.Tensor) -> None:
    found = mia.Population.of(TensorDataset(X, label), task="multilabel")
    assert found.label_N.tolist() == ON.tolist()
    assert found.class_names == ("0", "1", "2")


def test_an_audit_reads_the_labels_of_a_dataset_by_its_task() -> None:
    report = mia.audit(TensorDataset(X, VALUE), task="regression", **quick_audit(shadow=mia.Real(count=2)))
    arrays = mia.audit(X, VALUE, task="regression", **quick_audit(shadow=mia.Real(count=2)))
    assert report.task.name == "regression"
    assert report.scores is not None
    assert arrays.scores is not None
    assert report.scores.score.tolist() == arrays.scores.score.tolist()


def test_a_dataset_of_the_configuration_is_read_by_its_task() -> None:
    node = {"_target_": "torch.utils.data.TensorDataset"}
    found = population_of(node, lambda node, place: TensorDataset(X, VALUE), trusted=True, task=mia.Regression())
    assert torch.equal(found.label_N, VALUE)


@pytest.mark.parametrize(
    ("labels", "task", "names"),
    [
        ([0.5, float("nan")], "regression", ["item", "nan", "finite"]),
        ([0.5, None], "regression", ["item", "None", "number"]),
        ([0.5, "cat"], "regression", ["item", "'cat'", "number"]),
        ([0.5, torch.zeros(2, 2)], "regression", ["item", "number"]),
        ([(1.0, 2.0), (1.0,)], "regression", ["equal length"]),
        ([2.5, 2.5], "regression", ["2.5", "varies"]),
        ([(0, 1), (1, 2)], "multilabel", ["record 1", "0 and 1"]),
        ([0, 1], "multilabel", ["[records, labels]"]),
        ([0.5, 1.5], None, ["0.5", "task=regression"]),
        ([0.5, 1.5], "regressions", ["`task`", "'regressions'", "regression"]),
    ],
)
def test_labels_that_are_none_of_the_task_are_refused(labels: list[Any], task: str | None, names: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        mia.Population.of(Listed(labels), task=task)
    assert all(each.lower() in str(refused.value).lower() for each in names), refused.value


def test_arrays_take_a_task_by_name_and_say_which_there_are() -> None:
    assert mia.make_population(X, VALUE, task="regression").task == mia.Regression()
    with pytest.raises(InputError, match=r"`task`.*'numbers'.*regression"):
        mia.make_population(X, VALUE, task="numbers")
