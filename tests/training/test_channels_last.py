"""Loops with convolutions channels last: the same models, and where the layout is a choice, the faster one is taken."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from quick import slow_but
from ragged_jobs import CONVOLUTIONS, CPU, DENSE, HOST, close, ragged_job, trained
from recorded_graphs import Recorded
from recorded_graphs import recorded as recorded
from timed_networks import Clock
from timed_networks import clock as clock
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.store.artefacts import Store
from mia_lightning.training.engine import Engine, Reuse
from mia_lightning.training.plan.execution import Candidate, plan_from_json
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.stack.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.step import channels_last
from mia_lightning.training.step.channels_last import refusal
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack

RECIPE = Recipe(
    epochs=2,
    batches_per_epoch=3,
    optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    execution="loop",
    channels_last=True,
    threads=1,
)


@pytest.fixture
def _is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is a device where both layouts are measured, as on CUDA."""
    monkeypatch.setattr(channels_last, "ALWAYS", set())
    monkeypatch.setattr(channels_last, "DEVICES", {"cpu"})


def are_channels_last(found: TrainedStack) -> set[bool]:
    """Whether the convolutions of the models are."""
    weights = [weight for weight in found.stack.parameters() if weight.dim() == 5]
    assert weights
    return {each.is_contiguous(memory_format=torch.channels_last) for weight in weights for each in weight}


WAYS = {
    "plain": RECIPE,
    "adam, clipped and accumulated": replace(
        RECIPE, optimizer=partial(torch.optim.Adam, lr=2**-7, eps=1e-3), gradient_clip_norm=0.1, accumulate_batches=2
    ),
    "private": DPSGD(noise_multiplier=1.0, clip_norm=1.0).adapt(RECIPE),
    "recorded": replace(RECIPE, epochs=6, cuda_graphs=True),
}


@pytest.mark.usefixtures("_is_a_choice")
@pytest.mark.parametrize("name", slow_but(["plain", "adam, clipped and accumulated"], list(WAYS)))
def test_channels_last_loops_train_the_same_models(name: str, pictures: Population, recorded: Recorded) -> None:
    make = partial(CONVOLUTIONS, batch_norm=name != "private")
    found = []
    for is_on in (False, True):
        engine = Engine(seed=0, settings=CPU)
        found.append(trained(pictures, make, replace(WAYS[name], channels_last=is_on), engine))
        (plan,) = engine.plans
        assert plan.channels_last is is_on, plan.reason
        assert are_channels_last(found[-1]) == {is_on}
    assert ("again" in recorded.calls) is (name == "recorded")
    close(*found)


class ByLayout(nn.Module):
    """A network whose steps take as long as the test says for the layout of its weights."""

    clock: ClassVar = Clock()
    seconds: ClassVar[Mapping[bool, float]] = {}

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(input_shape[0], 3, 3)
        self.logits = nn.Linear(3, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.pass_by(
            self.seconds.get(self.convolution.weight.is_contiguous(memory_format=torch.channels_last), 0.0)
        )
        logits: Tensor = self.logits(self.convolution(x).mean((-2, -1)))
        return logits


@pytest.mark.usefixtures("_is_a_choice")
@pytest.mark.parametrize("is_faster", slow_but([True], [False, True]))
def test_a_loop_is_channels_last_where_the_probe_finds_that_faster(
    is_faster: bool, pictures: Population, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByLayout, "clock", clock)
    monkeypatch.setattr(ByLayout, "seconds", {not is_faster: 0.5, is_faster: 0.1})
    engine = Engine(seed=0, settings=CPU, planner=Planner(clock=clock))
    recipe = replace(RECIPE, epochs=40, channels_last="auto", chunk=None)
    found = engine.run(ragged_job(pictures, ByLayout, recipe))
    (plan,) = engine.plans
    assert {row.channels_last for row in plan.measured} == {False, True}
    assert plan.channels_last is is_faster
    assert ("with channels-last convolutions" in plan.sentence) is is_faster
    assert plan_from_json(asdict(plan)) == plan
    assert are_channels_last(found) == {is_faster}


@pytest.mark.usefixtures("_is_a_choice")
@pytest.mark.parametrize("is_on", [False, True])
def test_models_from_the_store_are_laid_out_as_where_they_trained(
    is_on: bool, pictures: Population, tmp_path: Path
) -> None:
    engine = Engine(seed=0, settings=CPU, store=Store(dir=tmp_path / "store"))
    recipe = replace(RECIPE, channels_last=is_on)
    job = ragged_job(pictures, CONVOLUTIONS, recipe, keep=True)
    for places, num_found in (([0, 2], 0), ([0, 1, 2], 2)):
        assert are_channels_last(engine.run(job.part(places))) == {is_on}
        assert engine.reused["shadow"].found == num_found
    assert are_channels_last(engine.run(job)) == {is_on}
    assert engine.reused["shadow"] == Reuse(found=3, trained=0)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("setting", "is_on", "is_said"), [("auto", True, False), (True, True, True), (False, False, False)]
)
def test_on_a_cpu_loops_are_channels_last_unless_the_recipe_says_otherwise(
    setting: bool | str, is_on: bool, is_said: bool, pictures: Population
) -> None:
    engine = Engine(seed=0, settings=CPU, planner=Planner(always=True, short=0.0, share=1e6))
    found = trained(pictures, CONVOLUTIONS, replace(RECIPE, epochs=1, channels_last=setting), engine)
    (plan,) = engine.plans
    assert are_channels_last(found) == {is_on}
    assert plan.channels_last is is_said
    assert {row.channels_last for row in plan.measured} == {is_said}  # there is nothing to compare
    assert "without" not in plan.reason


def test_a_stack_is_never_channels_last(pictures: Population) -> None:
    engine = Engine(seed=0, settings=CPU)
    found = trained(pictures, CONVOLUTIONS, replace(RECIPE, epochs=1, execution="stack"), engine)
    assert are_channels_last(found) == {False}
    assert not Candidate(execution="stack", chunk=1, channels_last=True).channels_last


def test_a_network_without_convolutions_that_run_so_is_said_to_have_none(blobs: Population) -> None:
    engine = Engine(seed=0, settings=CPU)
    trained(blobs, DENSE, replace(RECIPE, epochs=1), engine)
    (plan,) = engine.plans
    assert not plan.channels_last
    assert "without channels-last convolutions, since MLP has none" in plan.reason


def test_the_layout_is_no_choice_on_a_cpu_and_where_the_recipe_rules_it_out(pictures: Population) -> None:
    found = inspect_architecture(bind_shapes(CONVOLUTIONS, pictures.input_shape, 3), pictures)
    cuda = torch.device("cuda")
    assert refusal(replace(RECIPE, channels_last="auto"), found, cuda) is None
    assert refusal(RECIPE, found, HOST) is None
    assert "cpu" in str(refusal(replace(RECIPE, channels_last="auto"), found, HOST))
    assert "false" in str(refusal(replace(RECIPE, channels_last=False), found, cuda))
