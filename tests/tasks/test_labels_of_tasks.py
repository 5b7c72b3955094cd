"""Labels of each task: what is taken, and what is refused in one sentence that names the mend."""

from pathlib import Path

import numpy as np
import pytest
import torch
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.datasets.csv import load_csv
from mia_lightning.datasets.diabetes import load_diabetes
from mia_lightning.datasets.npz import load_npz
from mia_lightning.errors import InputError
from mia_lightning.tasks import BY_NAME

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
ON = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 2)


def test_numbers_may_be_of_any_type_and_stand_in_a_column() -> None:
    task = mia.Regression()
    whole = mia.make_population(X, np.arange(8), task=task)
    column = mia.make_population(X, np.arange(8.0)[:, None], task=task)
    assert whole.label_N.dtype == torch.float32
    assert torch.equal(whole.label_N, column.label_N)
    assert whole.num_classes == 1
    assert whole.class_names == ("value",)
    several = mia.make_population(X, np.random.default_rng(1).normal(size=(8, 2)), task=task, class_names=["a", "b"])
    assert several.label_N.shape == (8, 2)
    large = mia.make_population(X, 2.0**30 * np.arange(8), task=task)  # each is a float32
    assert large.label_N.tolist() == [2.0**30 * each for each in range(8)]
    assert several.num_classes == 2


def test_labels_are_bytes_of_0_and_1() -> None:
    for label in (ON, ON.astype(bool), ON.astype(np.float32), torch.tensor(ON)):
        population = mia.make_population(X, label, task=mia.Multilabel(), class_names=["cat", "dog"])
        assert population.label_N.dtype == torch.uint8
        assert population.label_N.tolist() == ON.tolist()


@pytest.mark.parametrize(
    ("task", "label", "names"),
    [
        ("classification", np.linspace(0, 1, 8), ["float", "task=regression"]),
        ("regression", np.full(8, 2.5), ["value", "2.5"]),
        ("regression", np.array([1.0, np.nan, *range(6)]), ["record 1", "nan"]),
        ("regression", np.array([1.0, np.inf, *range(6)]), ["record 1", "inf"]),
        ("regression", 1e9 + np.arange(8.0), ["float32", "1e+09"]),
        ("regression", np.stack([np.arange(8.0), 1e9 + np.arange(8.0)], 1), ["float32", "1e+09"]),
        ("regression", torch.arange(8) + 10**12, ["float32", "1e+12"]),
        ("regression", np.zeros((8, 2, 2)), ["(8, 2, 2)", "task=regression"]),
        ("multilabel", ON * [1, 0], ["label '1'", "never on"]),
        ("multilabel", ON | [1, 0], ["label '0'", "never off"]),
        ("multilabel", ON + 1, ["label", "0 and 1"]),
        ("multilabel", np.arange(8) % 2, ["[records, labels]", "task=classification"]),
        ("binary", np.arange(8) % 3, ["3 classes", "task=classification"]),
    ],
)
def test_labels_that_are_none_of_the_task_are_refused(task: str, label: np.ndarray, names: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        mia.make_population(X, label, task=BY_NAME[task]())
    assert all(each in str(refused.value) for each in names)


def test_a_part_of_the_records_may_lack_a_label_or_a_spread() -> None:
    """The parts that attacks and checks look at are not refused."""
    population = mia.make_population(X, ON, task=mia.Multilabel())
    assert len(population.chosen(torch.arange(8) == 3)) == 1
    numbers = mia.make_population(X, np.arange(8), task=mia.Regression())
    assert len(numbers.chosen(torch.arange(8) == 3)) == 1


@pytest.mark.parametrize(
    "population",
    [
        lambda: mia.Population(
            name="p", x_N=torch.zeros(4, 1), label_N=torch.zeros(4).long(), class_names=("v",), task=mia.Regression()
        ),
        lambda: mia.Population(
            name="p", x_N=torch.zeros(4, 1), label_N=torch.zeros(4), class_names=("a", "b"), task=mia.Regression()
        ),
        lambda: mia.Population(
            name="p", x_N=torch.zeros(4, 1), label_N=torch.zeros(4, 2), class_names=("a", "b"), task=mia.Multilabel()
        ),
        lambda: mia.make_population(X, np.arange(8), task=mia.Regression(label_mean=[0, 1], label_std=[1, 1])),
    ],
)
def test_a_population_whose_labels_have_another_form_is_refused(population) -> None:
    with pytest.raises(InputError, match=r"label"):
        population()


def test_public_constants_are_given_together() -> None:
    for settings in ({"label_mean": [0.0]}, {"label_std": [1.0]}):
        with pytest.raises(InputError, match=r"task.label_mean.*task.label_std|task.label_std.*task.label_mean"):
            mia.Regression(**settings)
    with pytest.raises(InputError, match=r"task.label_std"):
        mia.Regression(label_mean=[0.0], label_std=[0.0])
    with pytest.raises(InputError, match=r"task.label_std.*2 numbers"):
        mia.make_population(X, np.arange(8), task=mia.Regression(label_mean=[0.0], label_std=[1.0, 1.0]))


def test_an_audit_takes_a_task_by_name_or_as_an_object_and_says_which_it_knows() -> None:
    label = np.arange(8.0)
    by_name = mia.Audit(X, label, task="regression", **quick_audit())
    assert by_name.population.task == mia.Regression() == by_name.task
    laplace = mia.Audit(X, label, task=mia.Regression(likelihood="laplace"), **quick_audit())
    assert laplace.population.task.likelihood == "laplace"
    again = mia.Audit(by_name.population, **quick_audit())
    assert again.task == mia.Regression()
    with pytest.raises(InputError, match=r"`task`.*regression"):
        mia.Audit(X, label, task="regressions", **quick_audit())
    with pytest.raises(InputError, match=r"task=regression.*classification"):
        mia.Audit(by_name.population, task="classification", **quick_audit())


def test_loaders_read_labels_of_the_task(tmp_path: Path) -> None:
    np.savez(tmp_path / "records.npz", x=X, label=np.arange(8) / 2)
    assert load_npz(path=tmp_path / "records.npz", task=mia.Regression()).label_N.tolist() == [i / 2 for i in range(8)]
    np.savez(tmp_path / "labels.npz", x=X, label=ON)
    assert load_npz(path=tmp_path / "labels.npz", task=mia.Multilabel()).label_N.tolist() == ON.tolist()
    lines = ["a,b,price", *(f"{i},{i * i},{i / 4}" for i in range(40))]
    (tmp_path / "houses.csv").write_text("\n".join(lines))
    houses = load_csv(path=tmp_path / "houses.csv", label_column="price", task=mia.Regression())
    assert houses.class_names == ("price",)
    assert houses.label_N.tolist() == [i / 4 for i in range(40)]
    with pytest.raises(InputError, match=r"price.*measurement"):
        load_csv(path=tmp_path / "houses.csv", label_column="price")


def test_diabetes_is_a_regression() -> None:
    population = load_diabetes()
    assert population.task == mia.Regression()
    assert len(population) == 442
    assert (float(population.label_N.min()), float(population.label_N.max())) == (25.0, 346.0)
    assert torch.allclose(population.x_N.std(0, correction=0), torch.ones(10), atol=1e-4)
