"""LightningModules that train themselves: stopped and resumed, on several devices, in the store, made anew."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from kept_models import stopped_after
from own_modules import LitClassifier, SimpleDenseNet, TemplateModule, TimmLike
from own_training import assert_solo, own_job, trained
from quick import slow_but
from test_own_training import CASES, Net
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import isolated
from mia_lightning.store.artefacts import Store
from mia_lightning.training.engine import Engine
from mia_lightning.training.own.making import FrozenOwnParts, OwnParts, WithParts, made_for_stacks
from mia_lightning.training.own.nothing import NoMetric
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.trainer import TrainerSettings

pytestmark = pytest.mark.usefixtures("global_generators")  # networks and ordinary fits draw from them


@pytest.mark.costly
@pytest.mark.parametrize(
    "case", ["groups", "cosine-by-step", "by-epoch", "dropout", "metrics", "epochs", "counts-inside", "mixup"]
)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    case: str, blobs: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, recipe = CASES[case]
    job = replace(own_job(make, blobs, **recipe), keep=True)
    undisturbed = trained(replace(job, keep=False))
    store = Store(dir=tmp_path / "store", checkpoint_minutes=0)
    with stopped_after(2, monkeypatch):
        trained(job, store=store)
    assert any("checkpoint" in place for place in store.places("running"))
    resumed = trained(job, store=store)
    for name, tensor in undisturbed.stack.state().items():
        assert torch.equal(tensor, resumed.stack.state()[name]), name
    assert torch.equal(undisturbed.train_loss_EK, resumed.train_loss_EK)
    assert_solo(resumed, job, make)


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.xdist_group("devices")
def test_two_processes_train_the_same_models(blobs: Population) -> None:
    job = own_job(LitClassifier, blobs, sizes=[20, 21, 20, 21])
    one = trained(job)
    engine = Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision="64", devices=2))
    two = engine.run(job)
    for name, tensor in one.stack.state().items():
        torch.testing.assert_close(two.stack.state()[name], tensor, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_probe_measures_both_executions_and_changes_no_model(blobs: Population) -> None:
    job = own_job(CASES["metrics"][0], blobs, sizes=[40] * 4, epochs=20)
    engine = Engine(
        seed=7,
        settings=TrainerSettings(accelerator="cpu", precision="64"),
        planner=Planner(short=0.0, always=True, share=100.0),
    )
    found = engine.run(job)
    (plan,) = engine.plans
    assert {each.execution for each in plan.measured} == {"stack", "loop"}
    assert plan.bytes > 0
    for name, tensor in trained(job).stack.state().items():
        torch.testing.assert_close(found.stack.state()[name], tensor, rtol=1e-8, atol=1e-8)


# How networks are made.


class Held(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.head = net, nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(x))


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in network.state_dict().values()]


def test_networks_that_share_a_part_get_parts_of_their_own_that_begin_anew(blobs: Population) -> None:
    shared = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    before = weights(shared)
    make, sentence = made_for_stacks(partial(Held, shared), blobs, max_epochs=1)
    assert sentence is not None
    for part in ("`net`", "Sequential", "reset_parameters"):
        assert part in sentence
    made = []
    for seed in (1, 2, 1):
        with isolated(seed, "begin"):
            made.append(make())
    assert all(network.net is not shared for network in made)
    assert all(map(torch.equal, weights(shared), before))
    first, second, again = map(weights, made)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], second[0])
    limit = 1 / 6**0.5  # of nn.Linear's own initialisation
    assert 0.5 * limit < float(first[0].abs().max()) <= limit


class Frozen(Held):
    """Its part, as a pretrained one, is left alone in training."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        net.requires_grad_(False)


def test_a_frozen_part_keeps_its_weights_and_statistics(blobs: Population) -> None:
    shared = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Sequential(nn.BatchNorm1d(8, affine=False)))
    shared(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))  # which the statistics follow
    before = weights(shared)
    make, sentence = made_for_stacks(partial(Frozen, shared), blobs, max_epochs=1)
    for part in ("`net`", "Sequential", "frozen", "keeps"):
        assert part in sentence
    first, second = make(), make()
    assert first.net is not shared
    assert first.net is not second.net
    for network in (first, second):
        assert all(map(torch.equal, weights(network.net), before))
    assert not torch.equal(first.head.weight, second.head.weight)


def test_of_a_part_that_is_frozen_in_part_the_rest_begins_anew(blobs: Population) -> None:
    shared = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    shared[0].requires_grad_(False)
    shared[1].bias.requires_grad_(False)
    make, sentence = made_for_stacks(partial(Held, shared), blobs, max_epochs=1)
    assert "reset_parameters" in sentence
    assert "frozen" in sentence
    learning, _ = made_for_stacks(partial(Held, nn.Linear(6, 8)), blobs, max_epochs=1)
    assert {type(each.make) for each in (make, learning)} == {FrozenOwnParts, OwnParts}  # which a store tells apart
    anew = dict(make().net.named_parameters())
    kept = {name for name, p in shared.named_parameters() if torch.equal(p, anew[name])}
    assert kept == {"0.weight", "0.bias", "1.bias"}
    assert {name for name, p in anew.items() if not p.requires_grad} == kept


def test_networks_without_shared_parts_are_made_as_they_are(blobs: Population) -> None:
    plain = partial(nn.Linear, 6, 3)
    assert made_for_stacks(plain, blobs, max_epochs=1) == (plain, None)

    def fresh() -> Held:
        return Held(nn.Linear(6, 8))

    make, sentence = made_for_stacks(fresh, blobs, max_epochs=1)
    assert sentence is None
    assert not isinstance(make, OwnParts)


def test_a_part_of_attention_begins_anew_as_well(blobs: Population) -> None:
    attention = nn.MultiheadAttention(8, 2)
    make, _ = made_for_stacks(partial(Held, attention), blobs, max_epochs=1)
    first, second = make(), make()
    assert not torch.equal(first.net.in_proj_weight, second.net.in_proj_weight)
    assert not torch.equal(first.net.in_proj_weight, attention.in_proj_weight)


class SetsUp(pl.LightningModule):
    """Makes its layers where Lightning lets it, and wraps one."""

    def __init__(self, wraps: bool = False) -> None:
        super().__init__()
        self.wraps, self.metrics = wraps, {"list": MulticlassAccuracy(num_classes=3)}
        self.accuracy = MulticlassAccuracy(num_classes=3)

    def setup(self, stage: str) -> None:
        assert stage == "fit"
        self.length = self.trainer.max_epochs
        self.body = nn.Linear(6, 8)
        if self.wraps:
            self.body = torch.compile(self.body)

    def configure_model(self) -> None:
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.metrics["list"].update(logits, y)
        return nn.functional.cross_entropy(logits, y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize("wraps", slow_but([False], [False, True]))
def test_setup_and_configure_model_run_before_a_network_is_used(wraps: bool, blobs: Population) -> None:
    job = own_job(partial(SetsUp, wraps), blobs, epochs=2)
    network = job.make_network()
    assert network.length == 2
    assert isinstance(network.accuracy, NoMetric)
    assert isinstance(network.metrics["list"], NoMetric)
    assert sorted(name for name, _ in network.named_parameters()) == [
        *("body.bias", "body.weight", "head.bias", "head.weight")
    ]
    assert trained(job).num_models == 3


def test_parts_of_a_configuration_are_made_for_each_network(blobs: Population) -> None:
    make = WithParts(partial(Held), {"net": partial(nn.Linear, 6, 8)})
    assert make.__name__ == "partial" or make.__name__ == "Held"
    assert make().net is not make().net
    assert made_for_stacks(make, blobs, max_epochs=1)[1] is None


@pytest.mark.costly
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_other_precisions_train(precision: str, pictures: Population) -> None:
    engine = Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision=precision))
    found = engine.run(own_job(partial(TimmLike, drop_path=0.0), pictures, epochs=1))
    assert found.stack.dtype == torch.float32
    assert bool((found.failed_epoch_K < 0).all())


def test_records_that_are_flattened_images_reach_the_step_as_images(pictures: Population) -> None:
    flat = replace(pictures, x_N=pictures.x_N.flatten(1), image_shape=(2, 6, 6), mean=torch.full((72,), 0.5), std=None)
    make = partial(TimmLike, drop_path=0.0)
    found, expected = (
        trained(own_job(make, population, epochs=1))
        for population in (flat, replace(pictures, mean=torch.full((2, 1, 1), 0.5), std=None))
    )
    for name, tensor in expected.stack.state().items():
        assert torch.equal(tensor, found.stack.state()[name])


def test_a_model_that_is_taken_out_is_an_ordinary_module(blobs: Population) -> None:
    found = trained(own_job(partial(Net, norm=True, dropout=0.2), blobs, epochs=1))
    module = found.stack.model(1)
    assert isinstance(module, Net)
    assert "log" not in vars(module)
    assert {type(layer) for layer in module.body} == {nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout}
    state = found.stack.state_of(1)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


@pytest.mark.slow
def test_the_template_keeps_its_network(blobs: Population) -> None:
    make = partial(
        TemplateModule, SimpleDenseNet(), optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=None, compile=True
    )
    found = trained(own_job(make, blobs, epochs=1))
    assert "net.model.0.weight" in found.stack.state()
