"""What must never reach an attack: train-mode layers, neighbours in a batch, the order of records."""

from functools import partial

import pytest
import torch
from torch import nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.membership import Disjoint, Wanted
from mia_lightning.training import trained as trained_module
from mia_lightning.training.engine import Engine
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


def make_network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def train(population: Population, execution: str) -> TrainedStack:
    recipe = Recipe(epochs=2, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.01), execution=execution)
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    records_K = Disjoint().fill(population, Wanted(num_targets=1, num_shadows=2, seed=0)).records_of(slice(None))
    return train_with(engine, make_network, population, records_K, recipe, role="shadow")


@pytest.fixture(params=["stack", "loop"])
def trained(request: pytest.FixtureRequest, blobs: Population) -> TrainedStack:
    return train(blobs, request.param)


def test_signals_are_taken_in_eval_mode_even_of_a_stack_in_train_mode(trained: TrainedStack, blobs: Population) -> None:
    """Train-mode dropout or batch statistics would differ between the calls, and move the running statistics."""
    trained.stack.train()
    before = {name: tensor.clone() for name, tensor in trained.stack.state_dict().items()}
    assert any("running_mean" in name for name in before)
    first = trained.observe(blobs).log_probability_KANC
    trained.stack.train()
    second = trained.observe(blobs).log_probability_KANC
    assert torch.equal(first, second)
    after = trained.stack.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_signals_equal_the_log_softmax_of_each_single_model(trained: TrainedStack, blobs: Population) -> None:
    trained.stack.train()
    observed = trained.observe(blobs)
    assert observed.log_probability_KANC.shape == (3, 1, 120, 3)
    assert observed.log_probability_KANC.dtype == torch.float32
    assert observed.channel == "full"
    for k in range(3):
        network = trained.stack.model(k)
        assert not network.training
        with torch.no_grad():
            expected = torch.stack([network(x[None])[0].double().log_softmax(0) for x in blobs.x_N])
        torch.testing.assert_close(observed.log_probability_KANC[k, 0].double(), expected, rtol=0, atol=1e-5)


def test_a_records_signals_depend_neither_on_its_place_nor_on_its_neighbours(
    trained: TrainedStack, blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.stack.train()
    observed = trained.observe(blobs).log_probability_KANC
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    shuffled = Population(
        name="shuffled", x_N=blobs.x_N[order], label_N=blobs.label_N[order], class_names=blobs.class_names
    )
    torch.testing.assert_close(trained.observe(shuffled).log_probability_KANC, observed[:, :, order], rtol=0, atol=1e-5)
    monkeypatch.setattr(trained_module, "_BATCH_NUMBERS", 3 * 128 * 7)  # seven records at a time, the last alone
    torch.testing.assert_close(trained.observe(blobs).log_probability_KANC, observed, rtol=0, atol=1e-5)


def test_labels_do_not_enter_signals(trained: TrainedStack, blobs: Population) -> None:
    relabelled = Population(
        name="relabelled", x_N=blobs.x_N, label_N=(blobs.label_N + 1) % 3, class_names=blobs.class_names
    )
    assert torch.equal(trained.observe(relabelled).log_probability_KANC, trained.observe(blobs).log_probability_KANC)
