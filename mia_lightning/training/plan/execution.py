"""Execution plans: whether models train as a stack or in a loop, how many at once, with how many threads; measured."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, Field

from mia_lightning.errors import InputError
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, NotNegative
from mia_lightning.store.atomic import write_whole
from mia_lightning.store.documents import EXACT, DamagedError, read, sealed, understood
from mia_lightning.store.run_folder import written_to_run
from mia_lightning.terminal.amounts import duration, size

FILE = "execution.json"
SCHEMA = "mia_lightning.execution/2"
Execution = Annotated[str, Field(pattern="^(stack|loop)$")]
# The factor between chunk sizes that are tried.
_STEP = 4
SWITCHES = {
    "cuda_graphs": "CUDA graphs",
    "packed_bits": "packed bits",
    "compile": "compiled steps",
    "streams": "several streams",
    "channels_last": "channels-last convolutions",
}
"""What a device may do in a step or not, in words: names of settings of a recipe and of fields of a `Candidate`."""
_OF_LOOPS = ("streams", "channels_last")
SHORT = 3.0  # seconds of a role that is not worth a probe


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to train a role.

    Attributes:
        execution: `stack` (vmap) or `loop`.
        chunk: the number of models at once.
        threads: of torch on the CPU.
        cuda_graphs: whether its steps are recorded.
        packed_bits: whether its records are packed.
        compile: whether its gradients are compiled.
        streams: whether models of a loop are stepped at the same time; a stack has nothing to step so.
        channels_last: whether a loop lays out the weights of convolutions so; a stack never does. On a CPU, where all
            loops do, it is true only where the recipe asks for it.
    """

    execution: str
    chunk: int
    threads: int = field(default_factory=torch.get_num_threads)
    cuda_graphs: bool = False
    packed_bits: bool = False
    compile: bool = False
    streams: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        for name in _OF_LOOPS:
            object.__setattr__(self, name, getattr(self, name) and self.execution == "loop")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a probe found of a candidate.

    Attributes:
        seconds_per_step: of one optimiser step of all models of a chunk, with its part of an epoch's overhead.
        models_per_second: trained from beginning to end.
        bytes: estimated, of the device's memory.
        processes: that trained at the same time; `seconds_per_step` and `chunk` are of the slowest of them.
        cuda_graphs, packed_bits, compile, streams, channels_last: as in `Candidate`.
    """

    __pydantic_config__ = EXACT

    execution: Execution
    chunk: AtLeast1
    seconds_per_step: NotNegative
    models_per_second: NotNegative
    bytes: AtLeast0
    threads: AtLeast1 = field(default_factory=torch.get_num_threads)
    processes: AtLeast1 = 1
    cuda_graphs: bool = False
    packed_bits: bool = False
    compile: bool = False
    streams: bool = False
    channels_last: bool = False


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """The execution plan of one role: how its models are trained.

    Attributes:
        role: "target", "shadow", "attack/shokri", ...
        num_models: K.
        epochs: of each.
        signature: for which jobs the plan holds; one of another size or shape, or on another device, has another plan.
        execution, chunk, threads, cuda_graphs, packed_bits, compile, streams, channels_last: as in `Candidate`.
        measured: the candidates that were tried, the fastest first; empty where a probe was not worth its time.
        reason: why this candidate was chosen.
        seconds: estimated, for all models; where nothing was measured, of their forward and backward steps alone.
        bytes: estimated, of the device's memory.
        processes: on the CPU, each of which trains a part of the models on so many threads.
    """

    __pydantic_config__ = EXACT

    role: str
    num_models: AtLeast1
    epochs: AtLeast1
    signature: Mapping[str, Any]
    execution: Execution
    chunk: AtLeast1
    measured: Annotated[Sequence[Measured], AfterValidator(tuple)]
    reason: str
    seconds: NotNegative
    bytes: AtLeast0
    threads: AtLeast1 = field(default_factory=torch.get_num_threads)
    processes: AtLeast1 = 1
    cuda_graphs: bool = False
    packed_bits: bool = False
    compile: bool = False
    streams: bool = False
    channels_last: bool = False

    @property
    def sentence(self) -> str:
        """Such as "60 shadow models x 100 epochs: about 25 s here, 60 at once, under vmap, 0.4 GB, 2 threads"."""
        models = "model" if self.num_models == 1 else "models"
        at_once = f"{self.chunk} at once" if self.num_models > 1 else "alone"
        way = "under vmap" if self.execution == "stack" else "stepped one by one"
        way += "".join(f", with {words}" for name, words in SWITCHES.items() if getattr(self, name))
        threads = f", {threads_in_words(self.threads)}" if self.signature.get("device") == "cpu" else ""
        threads += f" in each of {self.processes} processes" if self.processes > 1 else ""
        return (
            f"{self.num_models} {self.role} {models} x {self.epochs} epochs: about {duration(self.seconds)} here, "
            f"{at_once}, {way}, {size(self.bytes)}{threads}"
        )

    def seconds_of_step(self, steps: int) -> float:
        """The most that an optimiser step of a chunk is expected to take, of an epoch with so many steps."""
        if self.measured:
            return self.measured[0].seconds_per_step * max(1.0, self.chunk / self.measured[0].chunk)
        return max(self.seconds, SHORT) / (self.epochs * steps)

    def remeasured(self, rows: Sequence[Measured], reason: str) -> "ExecutionPlan":
        """The plan with the fastest of `rows`, which comes first, in the place of what was measured before."""
        seconds = self.num_models / rows[0].models_per_second
        return replace(self, threads=rows[0].threads, measured=tuple(rows), reason=reason, seconds=seconds)


def switches_of(way: Candidate | Measured) -> dict[str, Any]:
    """Which of `SWITCHES` are on."""
    return {name: getattr(way, name) for name in SWITCHES}


def fastest_of(count: int) -> str:
    """Why a plan was chosen of so many that were measured."""
    return "the only way that was worth measuring" if count == 1 else f"the fastest of {count} that were measured"


def threads_in_words(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def widths(num_models: int, limit: int) -> list[int]:
    """Chunk sizes to be tried, the largest first: as many as possible, then powers of four, each divided evenly.

    Args:
        limit: the most models at once.
    """
    largest = min(num_models, max(1, limit))
    tried = [largest, *(_STEP**power for power in range(int(math.log(largest, _STEP)) + 1, -1, -1))]
    even = [math.ceil(num_models / math.ceil(num_models / width)) for width in tried if width <= largest]
    return list(dict.fromkeys(even))


def in_order(
    executions: Sequence[str], chunks: Mapping[str, Sequence[int]], *, narrow_first: bool = False
) -> list[Candidate]:
    """Candidates in the order in which they are tried: the largest stack, the smallest loop, then in turns.

    Args:
        narrow_first: the smallest loop first, and then the smallest stack of several models.
    """
    stacks = [Candidate(execution="stack", chunk=c) for c in chunks.get("stack", ())] if "stack" in executions else []
    loops = [Candidate(execution="loop", chunk=c) for c in chunks.get("loop", ())[::-1]] if "loop" in executions else []
    first, second = stacks, loops
    if narrow_first:
        first, second = loops, sorted(stacks, key=lambda each: (each.chunk == 1, each.chunk))
    return [each[i] for i in range(max(len(stacks), len(loops))) for each in (first, second) if i < len(each)]


def gains_by_width(candidate: Candidate, rows: Sequence[Measured]) -> bool:
    """Whether the candidate may be the fastest: not if it is a stack and a narrower one is slower than some loop."""
    if candidate.execution != "stack" or not any(row.execution == "stack" for row in rows):
        return True
    return max(rows, key=lambda row: row.models_per_second).execution == "stack"


def choose(
    candidates: Sequence[Candidate],
    measure: Callable[[Candidate, float], Measured | None],
    *,
    num_models: int,
    first_allowance: float,
    share: float,
    short: float,
    clock: Callable[[], float],
    threads: Sequence[int] = (),
    switches: Sequence[str] = (),
    may_gain: Callable[[Candidate, Sequence[Measured]], bool] | None = None,
) -> list[Measured]:
    """Try candidates in turn, as long as it is worth the time; returns what was measured, the fastest first.

    The first candidate is tried with each number of threads and each switch, the first of the other execution with each
    switch; every other in the way that was fastest until then, and the fastest of all in the other ways, too. Trying
    ends where all models are estimated to take less than `short` seconds, or once a share of the time beyond that has
    been spent after the first measurement.

    Args:
        measure: measures a candidate, in about so many seconds at most; None where it cannot be measured.
        num_models: to be trained in all.
        first_allowance: seconds for the first candidate, of which nothing is known.
        share: of the estimated seconds, which trying may take.
        clock: in seconds.
        threads: further numbers of threads to be tried, beside that of the candidates.
        switches: names of `SWITCHES` that are tried both ways.
        may_gain: whether a candidate is worth trying, after what was measured; None for all.
    """
    started = clock()
    rows: list[Measured] = []

    def fastest() -> Measured:
        return max(rows, key=lambda row: row.models_per_second)

    def as_fastest(candidate: Candidate) -> Candidate:
        best = fastest()
        return replace(candidate, threads=best.threads, **switches_of(best))

    def other_ways(candidate: Candidate, counts: Sequence[int]) -> Iterator[Candidate]:
        yield from (replace(candidate, threads=count) for count in counts)
        for name in switches:
            changed: dict[str, Any] = {name: not getattr(candidate, name)}
            yield replace(candidate, **changed)

    def turns() -> Iterator[Candidate]:
        begun: set[str] = set()
        for place, candidate in enumerate(candidates):
            way = as_fastest(candidate) if rows else candidate
            yield way
            if rows and candidate.execution not in begun:
                yield from other_ways(way, threads if place == 0 else ())
            begun.add(candidate.execution)
        if rows:
            best = as_fastest(Candidate(execution=fastest().execution, chunk=fastest().chunk))
            yield from other_ways(best, (candidates[0].threads, *threads))

    tried: set[Candidate] = set()
    for candidate in turns():
        if candidate in tried or (may_gain is not None and not may_gain(candidate, rows)):
            continue
        tried.add(candidate)
        allowance = first_allowance
        if rows:
            whole = num_models / fastest().models_per_second
            allowance = share * (whole - short) - (clock() - started)
            if allowance <= 0:
                break
        row = measure(candidate, allowance)
        if row is not None:
            started = started if rows else clock()
            rows.append(row)
    return sorted(rows, key=lambda row: -row.models_per_second)  # stable: of equals the one that was tried first


class Plans:
    """The execution plans of a run, by role and signature; its folder keeps them, so that a resumed run follows them.

    Args:
        folder: where `execution.json` stands or will stand; None keeps them in memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = None if folder is None else folder / FILE
        self._used: dict[str, ExecutionPlan] = {}

    def __iter__(self) -> Iterator[ExecutionPlan]:
        """The execution plans that were followed in this run, in order."""
        return iter(self._used.values())

    def find(self, role: str, signature: Mapping[str, Any]) -> ExecutionPlan | None:
        """The execution plan of the same role, size and shape, of this run or of an earlier one in its folder.

        Raises:
            InputError: `execution.json` cannot be read.
        """
        key = _key(role, signature)
        return self._used[key] if key in self._used else self._read().get(key)

    def keep(self, plan: ExecutionPlan) -> None:
        """Keep an execution plan, in place of an earlier one for the same role and signature."""
        key = _key(plan.role, plan.signature)
        if self._used.get(key) == plan:
            return
        self._used[key] = plan
        if self._path is not None:
            self._write()

    def moved(self, folder: Path | None) -> "Plans":
        """The same execution plans, for a run that goes on in another folder."""
        plans = Plans(folder)
        plans._used = dict(self._used)
        if plans._path is not None and plans._used:
            plans._write()
        return plans

    def _write(self) -> None:
        assert self._path is not None
        plans = {**self._read(), **self._used}.values()
        content = {"schema": SCHEMA, "plans": [asdict(each) for each in plans]}
        with written_to_run():
            write_whole(self._path, sealed(content, FILE))

    def _read(self) -> dict[str, ExecutionPlan]:
        try:
            kept = None if self._path is None else read(self._path, _Kept, seal=FILE)
        except DamagedError as damage:
            raise InputError(
                f"{self._path} cannot be read as the execution plans of a run: it {damage}; delete it, and new ones "
                "are made."
            ) from damage
        return {} if kept is None else {_key(each.role, each.signature): each for each in kept.plans}


class _Kept(BaseModel):
    """The content of `execution.json`."""

    model_config = EXACT

    schema_: Literal["mia_lightning.execution/2"] = Field(alias="schema")
    plans: tuple[ExecutionPlan, ...]


def _key(role: str, signature: Mapping[str, Any]) -> str:
    return json.dumps([role, dict(signature)], sort_keys=True)


def plan_from_json(content: object) -> ExecutionPlan:
    """An execution plan from what `dataclasses.asdict` made of it.

    Raises:
        DamagedError: it is none.
    """
    return understood(content, ExecutionPlan)
