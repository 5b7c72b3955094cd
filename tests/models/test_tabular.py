"""The network for tables against a slow loop over records, and in a stack."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from quick import slow_but
from torch import Tensor
from training_jobs import train_with

from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.models.by_form import fitting
from mia_lightning.models.tabular import Tabular
from mia_lightning.seeds import generator, isolated
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

SIZES = (4, 3)
GAP = float("nan")


def made(**options: Any) -> Tabular:
    with isolated(0, "tabular"):
        return Tabular(**{"num_classes": 2, "num_numeric": 3, "category_sizes": SIZES, "hidden": (5,), **options})


def drawn(count: int) -> dict[str, Tensor]:
    draw = generator(0, "records")
    numbers = torch.randn(count, 3, generator=draw) * torch.tensor([1e-3, 1.0, 1e4]) + torch.tensor([0.0, 5.0, -1e5])
    numbers[1::4, 1] = GAP
    codes = [torch.randint(size, (count,), generator=draw) for size in SIZES]
    return {"numbers": numbers, "categories": torch.stack(codes, 1)}


def slow(network: Tabular, training: dict[str, Tensor], record: dict[str, Tensor]) -> np.ndarray[Any, Any]:
    """The logits of one record, with statistics of the training records, number by number."""
    inputs: list[float] = []
    gaps: list[float] = []
    for j, value in enumerate(record["numbers"].tolist()):
        column = training["numbers"][:, j].double().numpy()
        present = column[~np.isnan(column)]
        varies = len(present) > 0 and present.std() > 0
        is_gap = value != value
        inputs.append(0.0 if is_gap or not varies else (value - present.mean()) / present.std())
        gaps.append(float(is_gap))
    inputs += gaps
    assert network.categories is not None
    first = 0
    for j, code in enumerate(record["categories"].tolist()):
        known = code in training["categories"][:, j].tolist()
        inputs += network.categories.vectors.weight[first + (code if known else 0)].tolist()
        first += SIZES[j]
    hidden = network.layers.linear_0(torch.tensor(inputs, dtype=torch.float32)).relu()
    result: np.ndarray[Any, Any] = network.layers.logits(hidden).detach().numpy()
    return result


def test_equals_a_loop_over_records_and_columns() -> None:
    network, records = made(), drawn(24)
    records["numbers"][:12, 2] = 7.0  # the same in all training records
    records["categories"][:12, 0] %= 3  # 3 is not known
    assert (records["categories"][12:, 0] == 3).any()
    training = {name: value[:12] for name, value in records.items()}
    network.fit_to(training)
    logits = network(**records).detach().numpy()
    for i in range(24):
        expected = slow(network, training, {name: value[i] for name, value in records.items()})
        np.testing.assert_allclose(logits[i], expected, rtol=1e-4, atol=1e-5)


def test_what_it_takes_from_records_is_from_the_given_ones_alone() -> None:
    network, records = made(), drawn(24)
    network.fit_to({name: value[:12] for name, value in records.items()})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    records["numbers"][12:] *= 100
    records["categories"][12:] = 0
    network.fit_to({name: value[:12] for name, value in records.items()})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_unit_of_a_number_changes_nothing() -> None:
    network, records = made(), drawn(24)
    network.fit_to(records)
    before = network(**records)
    records["numbers"] = records["numbers"] * torch.tensor([1000.0, 0.5, 1e-6])
    network.fit_to(records)
    torch.testing.assert_close(network(**records), before, rtol=1e-3, atol=1e-4)


def test_a_number_that_no_training_record_has_says_nothing() -> None:
    network, records = made(), drawn(24)
    records["numbers"][:, 0] = GAP
    network.fit_to(records)
    gap = network(**records)
    assert gap.isfinite().all()
    records["numbers"][:, 0] = 1e6
    assert network(**records).isfinite().all()


def test_numbers_or_categories_alone() -> None:
    records = drawn(8)
    numbers, categories = made(category_sizes=()), made(num_numeric=0)
    numbers.fit_to(records["numbers"])
    categories.fit_to({"categories": records["categories"]})
    assert torch.equal(numbers(records["numbers"]), numbers(numbers=records["numbers"]))
    assert numbers(records["numbers"]).shape == categories(categories=records["categories"]).shape == (8, 2)
    with pytest.raises(InputError, match="model=tabular needs numbers or categories"):
        made(num_numeric=0, category_sizes=())
    with pytest.raises(InputError, match=r"`model.embedding` is 0"):
        made(embedding=0)


def table(count: int = 120) -> Population:
    records = drawn(count)
    form = Form.of(
        [
            Field(name="numbers", shape=(3,), has_gaps=True),
            Field(name="categories", kind="category", dtype=torch.uint8, shape=(2,), sizes=SIZES),
        ]
    )
    label_N = (records["categories"][:, 0] + torch.arange(count)) % 3
    return make_population(form.packed(records), label_N, form=form, name="table")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([Field(name="numbers", shape=(3,), has_gaps=True)], "tabular"),
        ([Field(shape=(3,), has_gaps=True)], "tabular"),
        ([Field(shape=(2,), columns=("age", "income"))], "tabular"),
        ([Field(shape=(3,))], "mlp"),
        (
            [Field(name="x", kind="category", dtype=torch.uint8, shape=(1,), sizes=(3,)), Field(name="n", shape=(1,))],
            "tabular",
        ),
        (
            [Field(name="x", kind="tokens", dtype=torch.uint8, shape=(4,), sizes=(3,)), Field(name="n", shape=(1,))],
            None,
        ),
    ],
)
def test_the_architecture_of_tables_where_nobody_chooses_one(fields: list[Field], expected: str | None) -> None:
    assert fitting(Form.of(fields)) == expected


def test_one_tensor_of_numbers_with_gaps() -> None:
    numbers = drawn(40)["numbers"]
    population = make_population(numbers, torch.arange(40) % 2, kinds={"kind": "numeric", "has_gaps": True})
    engine = Engine(seed=7, settings=TrainerSettings(accelerator="cpu"))
    make = bind_records(Tabular, population)
    trained = train_with(engine, make, population, [torch.arange(20)], Recipe(epochs=2, batch_size=8), role="shadow")
    network = trained.stack.model(0)
    assert network(numbers).isfinite().all()
    expected = numbers[:20].nanmean(0)
    torch.testing.assert_close(network.get_buffer("numbers.mean"), expected)


def train(models: list[int], dropout: float = 0.0, **recipe: Any) -> TrainedStack:
    population = table()
    order = [torch.randperm(120, generator=generator(k, "rows"))[: 24 + k] for k in range(4)]
    return train_with(
        Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision="64")),
        bind_records(partial(Tabular, hidden=(6, 5), embedding=3, dropout=dropout), population),
        population,
        [order[k] for k in models],
        Recipe(**{"epochs": 3, "batch_size": 8, "optimizer": partial(torch.optim.AdamW, lr=3e-3), **recipe}),
        role="shadow",
        models=models,
    )


@pytest.mark.costly
@pytest.mark.parametrize("dropout", slow_but([0.4], [0.0, 0.4]))
def test_a_model_of_the_stack_is_the_model_trained_alone(dropout: float) -> None:
    together = train([0, 1, 2, 3], dropout, execution="stack")
    assert together.execution == "stack"
    others = [train([0, 1, 2, 3], dropout, **each) for each in ({"chunk": 3}, {"execution": "loop"})]
    state = together.stack.networks.state_dict()
    assert not torch.equal(state["numbers.mean"][0], state["numbers.mean"][1])
    for other in others:
        for name, tensor in other.stack.networks.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-8, atol=1e-8)
    for k in range(4):
        for name, tensor in train([k], dropout).stack.networks.state_dict().items():
            torch.testing.assert_close(state[name][k], tensor[0], rtol=1e-8, atol=1e-8)
