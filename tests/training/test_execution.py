"""Execution and chunk by measurement: the fastest is taken, within memory and time, written down, and followed."""

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from artefacts import refuse
from hypothesis import given
from hypothesis import strategies as st
from timed_networks import Clock
from torch import Tensor, nn
from training_jobs import job_of, train_with

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.store.documents import DamagedError, sealed, unsealed
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.plan.execution import (
    FILE,
    Candidate,
    ExecutionPlan,
    Measured,
    Plans,
    choose,
    gains_by_width,
    in_order,
    plan_from_json,
    widths,
)
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.stack.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.recipe import Chunk, Recipe
from mia_lightning.training.step.rules import Gradients, Step
from mia_lightning.training.trainer import TrainerSettings

ADAM = partial(torch.optim.Adam, lr=0.01)
CPU = TrainerSettings(accelerator="cpu")
PLENTY = 10**12


def row(candidate: Candidate, models_per_second: float) -> Measured:
    return Measured(
        execution=candidate.execution,
        chunk=candidate.chunk,
        seconds_per_step=1.0,
        models_per_second=models_per_second,
        bytes=1,
    )


@given(num_models=st.integers(1, 3000), limit=st.integers(-5, 4000))
def test_chunk_sizes_are_within_the_limit_even_and_begin_with_the_largest(num_models: int, limit: int) -> None:
    tried = widths(num_models, limit)
    assert tried == sorted(set(tried), reverse=True)
    assert max(tried) <= max(1, limit)
    assert tried[-1] == 1
    most = min(num_models, max(1, limit))
    assert -(-num_models // tried[0]) == -(-num_models // most)  # no more chunks than the limit needs
    for width in tried:
        assert num_models - (-(-num_models // width) - 1) * width > 0  # the last chunk is not empty
    assert all(large <= 8 * small for large, small in pairwise(tried))


def test_chunk_sizes_of_64_models_are_powers_of_four() -> None:
    assert widths(64, PLENTY) == [64, 16, 4, 1]
    assert widths(60, PLENTY) == [60, 15, 4, 1]
    assert widths(64, 40) == [32, 16, 4, 1]


def test_the_largest_stack_is_tried_first_then_the_executions_by_turns() -> None:
    order = in_order(("stack", "loop"), {"stack": [16, 4, 1], "loop": [8, 1]})
    assert [(each.execution, each.chunk) for each in order] == [
        ("stack", 16),
        ("loop", 1),
        ("stack", 4),
        ("loop", 8),
        ("stack", 1),
    ]
    assert [each.chunk for each in in_order(("loop",), {"loop": [4, 1]})] == [1, 4]


def test_convolutions_on_a_cpu_try_no_wider_stack_where_a_narrow_one_is_slower_than_a_loop() -> None:
    order = in_order(("stack", "loop"), {"stack": [16, 4, 1], "loop": [8, 1]}, narrow_first=True)
    ways = [(each.execution, each.chunk) for each in order]
    assert ways == [("loop", 1), ("stack", 4), ("loop", 8), ("stack", 16), ("stack", 1)]

    def tried(speed: dict[tuple[str, int], float]) -> list[tuple[str, int]]:
        rows = choose(
            order,
            lambda candidate, _: row(candidate, speed[candidate.execution, candidate.chunk]),
            num_models=1000,
            first_allowance=1.0,
            share=0.05,
            short=3.0,
            clock=Clock(),
            may_gain=gains_by_width,
        )
        return [(each.execution, each.chunk) for each in rows]

    equal = dict.fromkeys(ways, 1.0)
    assert tried({**equal, ("stack", 4): 0.9, ("stack", 16): 2.0}) == [("loop", 1), ("loop", 8), ("stack", 4)]
    assert tried({**equal, ("stack", 4): 1.1, ("stack", 16): 2.0})[:2] == [("stack", 16), ("stack", 4)]


@pytest.mark.parametrize(("make", "expected"), [(partial(CNN, (1, 8, 8)), True), (partial(MLP, (1, 8, 8)), False)])
def test_an_architecture_knows_its_convolutions(make: Callable[..., torch.nn.Module], expected: bool) -> None:
    images = make_population(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 1]))
    assert inspect_architecture(partial(make, 3), images).has_convolutions is expected


@given(
    speed=st.lists(st.one_of(st.none(), st.floats(1e-3, 1e3)), min_size=1, max_size=8),
    seconds=st.floats(0.0, 30.0),
    num_models=st.integers(1, 1000),
)
def test_nothing_slower_than_what_was_measured_is_chosen_and_the_time_is_bounded(
    speed: list[float | None], seconds: float, num_models: int
) -> None:
    clock = Clock()
    candidates = [Candidate(execution="stack", chunk=k + 1) for k in range(len(speed))]
    tried: list[float] = []

    def measure(candidate: Candidate, allowance: float) -> Measured | None:
        assert allowance > 0
        found = speed[candidate.chunk - 1]
        clock.now += min(seconds, allowance)
        if found is None:
            return None
        tried.append(found)
        return row(candidate, found)

    rows = choose(candidates, measure, num_models=num_models, first_allowance=1.0, share=0.05, short=3.0, clock=clock)
    assert sorted(tried, reverse=True) == [each.models_per_second for each in rows]
    if len(tried) > 1:  # more than one is tried only where the whole is long, for a share of it
        assert num_models / tried[0] > 3.0
        before_first = speed.index(tried[0]) + 1
        assert clock.now <= before_first * 1.0 + 0.05 * num_models / tried[0] + 1e-6


@dataclass(frozen=True, eq=False)
class CostlySteps:
    """A rule of gradients under which the clock shows what the test says that a step takes."""

    clock: Clock
    seconds: Callable[[str, int], float]
    made: list[tuple[str, int]] = field(default_factory=list)

    def for_models(self, models: Chunk) -> Gradients:
        return self._take

    def _take(self, stack: Stack, step: Step) -> Tensor:
        self.clock.now += self.seconds(step.execution, stack.num_models)
        self.made.append((step.execution, stack.num_models))
        for parameter in stack.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return torch.zeros(stack.num_models)


def plan_of(
    blobs: Population,
    seconds: Callable[[str, int], float],
    *,
    num_models: int = 16,
    budget: int = PLENTY,
    engine: Engine | None = None,
    **recipe: object,
) -> tuple[ExecutionPlan, CostlySteps, Engine]:
    clock = Clock()
    rule = CostlySteps(clock, seconds)
    planner = Planner(clock=clock, budget=lambda device: budget)
    engine = replace(engine, planner=planner) if engine else Engine(seed=0, settings=CPU, planner=planner)
    job = job_of(
        engine,
        bind_shapes(partial(MLP, hidden=[8]), blobs.input_shape, 3),
        blobs,
        [torch.arange(k, k + 40) for k in range(num_models)],
        Recipe(**{"epochs": 1000, "batch_size": 8, "optimizer": ADAM, "gradient_rule": rule, **recipe}),
        role="shadow",
    )
    return engine.plan(job), rule, engine


COSTS: dict[str, tuple[Callable[[str, int], float], tuple[str, int]]] = {
    "vmap is free": (lambda execution, K: 1.0 if execution == "stack" else 1.0 * K, ("stack", 16)),
    "vmap is slow": (lambda execution, K: 3.0 * K if execution == "stack" else 1.0 * K, ("loop", 1)),
    "large stacks are slow": (
        lambda execution, K: 0.4 + 0.1 * K + (K > 4) * K if execution == "stack" else K,
        ("stack", 4),
    ),
    "large loops are fast": (lambda execution, K: 2.0 * K if execution == "stack" else 1.0 + 0.5 * K, ("loop", 16)),
}


@pytest.mark.parametrize("case", COSTS)
def test_the_fastest_that_a_probe_finds_is_taken(case: str, blobs: Population) -> None:
    seconds, best = COSTS[case]
    plan, rule, _ = plan_of(blobs, seconds)
    assert (plan.execution, plan.chunk) == best
    assert plan.measured[0].models_per_second == max(each.models_per_second for each in plan.measured)
    for each in plan.measured:
        step = seconds(each.execution, each.chunk)
        assert each.seconds_per_step == pytest.approx(step)
        assert each.models_per_second == pytest.approx(each.chunk / (step * 1000 * 5))
    assert plan.seconds == pytest.approx(16 / plan.measured[0].models_per_second)
    assert plan.reason == f"the fastest of {len(plan.measured)} that were measured"
    assert len({(each.execution, each.chunk) for each in plan.measured}) == len(plan.measured) > 1
    assert rule.clock.now <= 0.05 * 5000 * seconds("stack", 16)  # of all models in the way that is tried first


def test_a_role_that_is_short_is_not_measured_twice(blobs: Population) -> None:
    tiny, rule, _ = plan_of(blobs, lambda execution, K: 1e-5 * K)
    assert (tiny.execution, tiny.chunk, list(tiny.measured)) == ("stack", 16, [])
    assert tiny.reason == "too short for a probe to pay"
    assert len(rule.made) == 3  # of one model, for its time
    quick, rule, _ = plan_of(blobs, lambda execution, K: 4e-4 if execution == "stack" else 4e-4 * K)
    assert [(each.execution, each.chunk) for each in quick.measured] == [("stack", 16)]
    assert quick.reason == "the only way that was worth measuring"


def test_so_few_steps_that_two_would_be_a_share_are_not_probed(blobs: Population) -> None:
    plan, _, _ = plan_of(blobs, lambda execution, K: 100.0 * K, epochs=1, batch_size=40)
    assert (plan.execution, plan.chunk, list(plan.measured)) == ("stack", 16, [])
    assert plan.reason == "too few steps for a probe to pay"


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"execution": "stack"}, {("stack", 16), ("stack", 4), ("stack", 1)}),
        ({"execution": "loop"}, {("loop", 16), ("loop", 4), ("loop", 1)}),
        ({"chunk": 5}, {("stack", 5), ("loop", 5)}),
        ({"chunk": 500}, {("stack", 16), ("loop", 16)}),
        ({"chunk": None}, {("stack", 16), ("loop", 16)}),
        ({"chunk": 5, "execution": "loop"}, {("loop", 5)}),
    ],
)
def test_what_is_set_is_obeyed(recipe: dict[str, object], expected: set[tuple[str, int]], blobs: Population) -> None:
    plan, _, _ = plan_of(blobs, lambda execution, K: 0.5 * K, **recipe)
    assert {(each.execution, each.chunk) for each in plan.measured} == expected


def test_an_automatic_chunk_stays_within_the_memory(blobs: Population) -> None:
    def free(execution: str, K: int) -> float:
        return 1.0 if execution == "stack" else 1.0 * K

    whole, _, _ = plan_of(blobs, free)
    for share in (0.9, 0.5, 0.2, 0.0):
        budget = int(share * whole.bytes)
        plan, _, _ = plan_of(blobs, free, budget=budget)
        assert plan.chunk < 16
        assert plan.reason.endswith("; more at once would not fit the memory")
        assert all(each.bytes <= budget for each in plan.measured) or plan.chunk == 1
    assert plan_of(blobs, free, budget=0, chunk=16)[0].chunk == 16  # what is set is the user's own affair


class SpyBelow(nn.Module):
    """Its weights show every number that it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def trained(blobs: Population, planner: Planner, stages: Stages | None = None) -> dict[str, Tensor]:
    engine = Engine(
        seed=0,
        settings=replace(CPU, precision="64"),
        stages=stages or Stages(),
        planner=planner,
    )
    recipe = Recipe(epochs=20, batch_size=8, optimizer=ADAM)
    networks = train_with(engine, SpyBelow, blobs, [torch.arange(40)] * 4, recipe, role="shadow")
    assert list(engine.losses) == ["shadow"]
    return networks.stack.state_dict()


@pytest.mark.slow
def test_a_probe_leaves_the_models_and_the_global_randomness_as_they_are(blobs: Population) -> None:
    plain = trained(blobs, Planner(short=1e9))
    state = torch.get_rng_state()
    stages = Stages()
    probed = trained(blobs, Planner(always=True, short=0.0, share=1e9), stages)
    assert torch.equal(state, torch.get_rng_state())
    assert stages.remarks == []
    for name, tensor in plain.items():
        torch.testing.assert_close(probed[name], tensor, rtol=1e-9, atol=1e-9)


def test_callbacks_and_loggers_take_no_part_in_a_probe(blobs: Population, tmp_path: Path) -> None:
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import CSVLogger

    fits: list[int] = []

    class Count(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            fits.append(pl_module.stack.num_models)

    settings = replace(CPU, callbacks=[Count()], options={"logger": CSVLogger(tmp_path)})
    engine = Engine(seed=0, settings=settings, planner=Planner(always=True, short=0.0, share=1e9))
    recipe = Recipe(epochs=2, batch_size=8, optimizer=ADAM)
    train_with(engine, SpyBelow, blobs, [torch.arange(40)] * 4, recipe, role="shadow")
    (plan,) = engine.plans
    assert len(plan.measured) > 1
    assert sum(fits) == 4


@pytest.mark.costly
@pytest.mark.parametrize("precision", ["32", "bf16", "64"])
def test_every_precision_and_what_else_a_recipe_holds_can_be_probed(blobs: Population, precision: str) -> None:
    settings = replace(CPU, precision=precision, options={"deterministic": "warn"})
    engine = Engine(seed=0, settings=settings, planner=Planner(always=True, short=0.0, share=1e9))
    recipe = Recipe(
        epochs=3,
        batches_per_epoch=4,
        optimizer=ADAM,
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1),
        accumulate_batches=2,
        early_stopping={"patience": 1},
    )
    records = [torch.arange(20), torch.arange(33)]
    train_with(engine, SpyBelow, blobs, records, recipe, role="shadow", validation_N=torch.arange(90, 120))
    (plan,) = engine.plans
    assert {each.execution for each in plan.measured} == {"stack", "loop"}
    torch.use_deterministic_algorithms(False)


def test_responses_of_a_regression_are_probed_too(blobs: Population) -> None:
    engine = Engine(seed=0, settings=CPU, planner=Planner(always=True, short=0.0, share=1e9))
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        optimizer=ADAM,
        objective=lambda output_KBC, response_KB: (output_KBC[..., 0] - response_KB).square(),
    )
    response_KN = torch.randn(3, 120, generator=torch.Generator().manual_seed(0))
    train_with(engine, SpyBelow, blobs, [torch.arange(40)] * 3, recipe, role="attack", response_KN=response_KN)
    (plan,) = engine.plans
    assert len(plan.measured) > 1


def test_a_plan_is_written_down_before_the_first_step_and_followed(blobs: Population, tmp_path: Path) -> None:
    def slow_stack(execution: str, K: int) -> float:
        return 3.0 * K if execution == "stack" else 1.0 * K

    engine = Engine(seed=0, settings=CPU, plans=Plans(tmp_path))
    plan, _, _ = plan_of(blobs, slow_stack, engine=engine)
    (written,) = json.loads((tmp_path / FILE).read_text())["plans"]
    assert (written["role"], written["execution"], written["chunk"]) == ("shadow", "loop", plan.chunk)
    assert len(written["measured"]) == len(plan.measured)

    again = Engine(seed=0, settings=CPU, plans=Plans(tmp_path))
    followed, rule, _ = plan_of(blobs, lambda execution, K: 1.0, engine=again)
    assert rule.made == []  # nothing is measured anew
    assert (followed.execution, followed.chunk, followed.seconds) == (plan.execution, plan.chunk, plan.seconds)
    assert [each.role for each in again.plans] == ["shadow"]

    other, rule, _ = plan_of(blobs, slow_stack, engine=again, num_models=12)
    assert rule.made != []
    assert other.num_models == 12
    assert len(json.loads((tmp_path / FILE).read_text())["plans"]) == 2


def test_a_role_that_comes_again_in_the_same_size_is_planned_once(blobs: Population) -> None:
    engine = Engine(seed=0, settings=CPU)
    first, _, engine = plan_of(blobs, lambda execution, K: 1.0 * K, engine=engine)
    second, rule, _ = plan_of(blobs, lambda execution, K: 1.0 * K, engine=engine)
    assert second is first
    assert rule.made == []


def test_plans_move_to_another_folder_and_leave_the_first_alone(blobs: Population, tmp_path: Path) -> None:
    plan, _, engine = plan_of(blobs, lambda execution, K: 1.0 * K)
    moved = engine.plans.moved(tmp_path)
    assert (
        moved.find(plan.role, plan.signature) == Plans(tmp_path).find(plan.role, plan.signature) == plan
    )  # written at once
    moved.keep(replace(plan, role="attack/shokri"))
    assert [each.role for each in moved] == ["shadow", "attack/shokri"]
    assert [each.role for each in engine.plans] == ["shadow"]
    assert (tmp_path / FILE).is_file()


@pytest.mark.parametrize("content", ["", "{", "{}", '{"plans": [{"role": "shadow"}]}', '{"plans": [3]}'])
def test_a_file_of_plans_that_is_damaged_is_refused(content: str, blobs: Population, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=r"execution.json cannot be read as the execution plans of a run"):
        plan_of(blobs, lambda execution, K: 1.0, engine=Engine(seed=0, settings=CPU, plans=Plans(tmp_path)))


def test_a_plan_that_was_edited_or_is_none_is_refused(blobs: Population, tmp_path: Path) -> None:
    """An edited one by its checksum; one of another form whatever its checksum."""
    plan, _, engine = plan_of(blobs, lambda execution, K: 1.0 * K)
    engine.plans.moved(tmp_path)
    path = tmp_path / FILE
    kept = unsealed(path.read_bytes(), FILE)
    other = "loop" if plan.execution == "stack" else "stack"
    forms = [{"chunk": 0}, {"chunk": -1}, {"chunk": "4"}, {"chunk": 2.0}, {"execution": "pool"}, {"seconds": "soon"}]
    forms += [{"more": 1}, {"measured": [{}]}, {"num_models": 0}, {"role": None}]
    for changed in [*forms, {"execution": other}]:
        edited = kept | {"plans": [kept["plans"][0] | changed]}
        contents = [json.dumps(edited | {"check": json.loads(path.read_bytes())["check"]}).encode()]
        contents += [sealed(edited, FILE)] if changed in forms else []
        for content in contents:
            (tmp_path / "edited").mkdir(exist_ok=True)
            (tmp_path / "edited" / FILE).write_bytes(content)
            with pytest.raises(InputError, match=r"execution.json cannot be read as the execution plans of a run"):
                Plans(tmp_path / "edited").find(plan.role, plan.signature)
    with pytest.raises(DamagedError, match="chunk"):
        plan_from_json(kept["plans"][0] | {"chunk": 0})


def test_plans_that_cannot_be_written_are_said_in_a_sentence(
    blobs: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, engine = plan_of(blobs, lambda execution, K: 1.0 * K)
    monkeypatch.setattr("os.replace", refuse(errno.EDQUOT))
    with pytest.raises(InputError, match="the folder of the run cannot be made or written"):
        engine.plans.moved(tmp_path)


def test_the_estimate_is_one_sentence() -> None:
    plan = ExecutionPlan(
        role="shadow",
        num_models=60,
        epochs=100,
        signature={},
        execution="stack",
        chunk=60,
        measured=(),
        reason="",
        seconds=25.2,
        bytes=400_000_000,
    )
    assert plan.sentence == "60 shadow models x 100 epochs: about 25 s here, 60 at once, under vmap, 0.4 GB"
    alone = replace(plan, role="target", num_models=1, chunk=1, execution="loop", seconds=0.31, bytes=1000)
    assert alone.sentence == "1 target model x 100 epochs: about 0.3 s here, alone, stepped one by one, 1 MB"


def test_an_estimate_is_printed_and_is_no_remark(blobs: Population) -> None:
    import io

    from rich.console import Console

    text = io.StringIO()
    with Stages(Console(file=text, width=200)) as stages:
        engine = Engine(seed=0, settings=CPU, stages=stages)
        plan, _, _ = plan_of(blobs, lambda execution, K: 1.0 * K, engine=engine)
        assert plan.sentence in text.getvalue()
        assert stages.remarks == []


def test_ragged_groups_are_cut_into_even_chunks(blobs: Population) -> None:
    """The attack networks: classes of unequal size, in one stack where they take equal numbers of steps."""
    engine = Engine(seed=0, settings=CPU)
    sizes: Sequence[int] = (40, 37, 24, 22, 21, 39, 35)
    job = job_of(
        engine,
        SpyBelow,
        blobs,
        [torch.arange(n) for n in sizes],
        Recipe(epochs=1, batch_size=8, optimizer=ADAM),
        role="attack/shokri",
    )
    assert job.groups() == [[0, 1, 5, 6], [2, 3, 4]]
    assert job.chunks(7) == job.groups()
    assert job.chunks(3) == [[0, 1], [5, 6], [2, 3, 4]]
    assert job.num_steps == 4 * 5 + 3 * 3
