"""Steps of a model that take long on a CPU: little is measured, since a stack has little to gain."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from timed_networks import Clock
from torch import Tensor
from training_jobs import job_of

from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.training.engine import Engine
from mia_lightning.training.plan.execution import ExecutionPlan, Measured
from mia_lightning.training.plan.memory import Footprint
from mia_lightning.training.plan.planner import Planner, leads_narrowly, smallest_of_several, widened
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.recipe import Chunk, Recipe
from mia_lightning.training.step.rules import Gradients, Step
from mia_lightning.training.trainer import TrainerSettings


@dataclass(frozen=True, eq=False)
class Costly:
    """A rule of gradients whose steps take as long as the test says."""

    clock: Clock
    seconds: Callable[[str, int], float]

    def for_models(self, models: Chunk) -> Gradients:
        def take(stack: Stack, step: Step) -> Tensor:
            self.clock.now += self.seconds(step.execution, stack.num_models)
            for parameter in stack.parameters():
                parameter.grad = torch.zeros_like(parameter)
            return torch.zeros(stack.num_models)

        return take


def plan_of(blobs: Population, seconds: Callable[[str, int], float]) -> tuple[ExecutionPlan, float]:
    """The plan of 16 models with 100 steps each, and the seconds that were measured for it."""
    clock = Clock()
    engine = Engine(
        seed=0, settings=TrainerSettings(accelerator="cpu"), planner=Planner(clock=clock, budget=lambda _: 10**12)
    )
    make = bind_shapes(partial(MLP, hidden=[8]), blobs.input_shape, 3)
    adam = partial(torch.optim.Adam, lr=0.01)
    recipe = Recipe(epochs=20, batch_size=8, optimizer=adam, gradient_rule=Costly(clock, seconds), threads=1)
    job = job_of(engine, make, blobs, [torch.arange(k, k + 40) for k in range(16)], recipe, role="shadow")
    return engine.plan(job), clock.now


def ways(plan: ExecutionPlan) -> set[tuple[str, int]]:
    return {(row.execution, row.chunk) for row in plan.measured}


def test_a_stack_that_is_slower_than_a_loop_costs_little(blobs: Population) -> None:
    plan, spent = plan_of(blobs, lambda execution, K: (0.04 if execution == "stack" else 0.02) * K)
    assert ways(plan) == {("loop", 1), ("stack", 4)}
    assert (plan.execution, plan.chunk) == ("loop", 16)  # as wide as the cache holds
    assert spent < 0.05 * 16 * 100 * 0.02


def test_a_stack_that_is_faster_is_still_found(blobs: Population) -> None:
    plan, _ = plan_of(blobs, lambda execution, K: 0.02 + 0.001 * K if execution == "stack" else 0.02 * K)
    assert plan.execution == "stack"
    assert plan.chunk > 1
    assert ("loop", 1) in ways(plan)


def test_short_steps_begin_with_the_largest_stack(blobs: Population) -> None:
    plan, _ = plan_of(blobs, lambda execution, K: 0.004 * K)
    assert ("stack", 16) in ways(plan)


def test_steps_that_others_slowed_down_are_not_long(blobs: Population) -> None:
    taken: list[int] = []

    def seconds(execution: str, K: int) -> float:
        taken.append(K)
        return 0.02 if len(taken) <= 2 else 0.004 * K

    plan, _ = plan_of(blobs, seconds)
    assert ("stack", 16) in ways(plan)


def test_a_loop_of_several_overtakes_a_stack_that_leads_narrowly(blobs: Population) -> None:
    plan, spent = plan_of(blobs, lambda execution, K: 0.019 * K if execution == "stack" else 0.004 + 0.016 * K)
    assert ways(plan) == {("loop", 1), ("stack", 4), ("loop", 4)}
    assert (plan.execution, plan.chunk) == ("loop", 16)
    assert spent < 0.05 * 16 * 100 * 0.02


def test_a_single_model_takes_few_steps_where_several_would_be_trained(blobs: Population) -> None:
    steps: Counter[tuple[str, int]] = Counter()

    def seconds(execution: str, K: int) -> float:
        steps[execution, K] += 1
        return (0.04 if execution == "stack" else 0.02) * K

    plan_of(blobs, seconds)
    # Three steps find out the seconds of a model, four are taken under a Trainer; of four models it is one and two.
    assert steps == {("loop", 1): 3 + 4, ("stack", 4): 1 + 2}


def row(execution: str, chunk: int, models_per_second: float) -> Measured:
    return Measured(
        execution=execution, chunk=chunk, seconds_per_step=1.0, models_per_second=models_per_second, bytes=1
    )


@pytest.mark.parametrize(
    ("rows", "held", "expected"),
    [
        ([row("loop", 1, 2.0), row("stack", 4, 1.0)], 2**10, 16),
        ([row("loop", 1, 2.0), row("stack", 4, 1.0)], 6 * 2**20, 4),
        ([row("loop", 1, 2.0), row("stack", 4, 1.0)], 30 * 2**20, 1),
        ([row("loop", 1, 2.0), row("loop", 4, 1.0)], 2**10, 1),  # a wider one was slower
        ([row("stack", 4, 2.0), row("loop", 1, 1.0)], 2**10, 4),
    ],
)
def test_a_loop_is_as_wide_as_the_cache_holds(rows: list[Measured], held: int, expected: int) -> None:
    footprint = Footprint(parameters=held // 4, held=held, activations=1)
    assert widened(rows, {"loop": [16, 4, 1], "stack": [16, 4, 1]}, footprint) == expected


@pytest.mark.parametrize(("held", "expected"), [(2**10, 4), (6 * 2**20, 4), (12 * 2**20, None)])
def test_the_smallest_loop_of_several_fits_the_cache(held: int, expected: int | None) -> None:
    footprint = Footprint(parameters=held // 4, held=held, activations=1)
    assert smallest_of_several({"loop": [16, 4, 1], "stack": [16, 4, 1]}, footprint) == expected
    assert smallest_of_several({"loop": [1], "stack": [1]}, footprint) is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("stack", 4, 1.2), row("loop", 1, 1.0)], True),
        ([row("stack", 4, 1.3), row("loop", 1, 1.0)], False),  # far ahead
        ([row("loop", 1, 1.0), row("stack", 4, 0.9)], False),
        ([row("stack", 4, 1.2), row("loop", 4, 1.1), row("loop", 1, 1.0)], False),  # measured already
        ([row("stack", 4, 1.2)], False),
        ([], False),
    ],
)
def test_a_lead_is_narrow_where_a_wider_loop_may_overtake(rows: list[Measured], expected: bool) -> None:
    assert leads_narrowly(rows) is expected
