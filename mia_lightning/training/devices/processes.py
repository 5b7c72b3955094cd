"""Train the models of a role on several devices: a process for each, with a shard of the models to itself."""

import multiprocessing
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from mia_lightning.errors import InputError, first_line
from mia_lightning.terminal.progress import EpochBar, Stages
from mia_lightning.training.chunks import Made, of_weights
from mia_lightning.training.devices.local_shard import (
    HANDED_OVER,
    HandedOver,
    LocalShard,
    measure_shard,
    result_of,
    train_shard,
)
from mia_lightning.training.devices.visible import having
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import plan_from_json
from mia_lightning.training.plan.threads import allowed_threads

_LONGEST_START = 60.0  # seconds in which a process must be ready to measure


def threads_of_shard(count: int) -> int:
    """Threads of torch for each of so many processes."""
    return max(1, allowed_threads() // count)


def train_on_devices(given: HandedOver, *, stages: Stages, device: torch.device) -> Made:
    """Train each shard in a process of its own.

    Args:
        given: what is trained, and by whom.
        device: where the trained models are put together.

    Returns:
        The models in the order of the job; of the execution plans that the processes followed in the end the one with
        the fewest models at once, of these the slowest.

    Raises:
        InputError: as the training of a shard does; the job cannot be handed to other processes; one of them has ended.
    """
    job, plan, shards = given.job, given.plan, given.shards
    epochs = [job.recipe.epochs * len(job.part(shard.places).chunks(plan.chunk)) for shard in shards]
    where, each = ("in", "processes") if plan.processes > 1 else ("on", "devices")
    stages.note(
        f"{job.role}: {job.num_models} models {where} {len(shards)} {each}, at most "
        f"{max(len(shard.places) for shard in shards)} {where} each."
    )
    with _terminable(), tempfile.TemporaryDirectory(prefix="mia_lightning_") as name:
        folder = Path(name)
        _hand_over(replace(given, job=_on_cpu(job)), folder / HANDED_OVER)
        with stages.stage(job.role, sum(epochs), job.num_models) as bar, _processes(shards, folder) as workers:
            _follow(workers, bar, epochs, stages)
        made = [torch.load(result_of(folder, shard), mmap=True, weights_only=True) for shard in shards]
        plans = [plan_from_json(each["plan"]) for each in made]
        weights_K: list[Mapping[str, Tensor]] = [{}] * job.num_models
        for shard, each in zip(shards, made, strict=True):
            for place, weights in zip(shard.places, each["weights_K"], strict=True):
                weights_K[place] = weights
        return Made(
            trained=of_weights(job, weights_K, made[0]["execution"], device, is_channels_last=plans[0].channels_last),
            plan=min(plans, key=lambda each: (each.chunk, -each.seconds)),
            num_found=sum(each["found"] for each in made),
        )


def seconds_side_by_side(given: HandedOver, allowance: float) -> tuple[float, list[tuple[float, float]]] | None:
    """Let a process for each shard take a few steps of throw-away networks, all at the same time.

    Args:
        given: what would be trained, and by whom.
        allowance: as of `Probe.seconds`.

    Returns:
        Seconds until all processes were ready, and what `Probe.seconds` gives in each; None where one of them failed.
    """
    started = time.perf_counter()
    try:
        with _terminable(), tempfile.TemporaryDirectory(prefix="mia_lightning_") as name:
            folder = Path(name)
            _hand_over(replace(given, job=_on_cpu(given.job)), folder / HANDED_OVER)
            with _processes(given.shards, folder, measure_shard) as workers:
                for worker in workers:
                    _received(worker, _LONGEST_START)
                ready = time.perf_counter() - started
                for worker in workers:
                    worker.connection.send(allowance)
                return ready, [_received(worker, allowance + _LONGEST_START) for worker in workers]
    except (InputError, EOFError, OSError):  # what is to be trained cannot be handed over, or a process has ended
        return None


def _received(worker: "_Worker", longest: float) -> Any:
    if not worker.connection.poll(longest):
        raise TimeoutError
    return worker.connection.recv()


def _on_cpu(job: TrainingJob) -> TrainingJob:
    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.cpu()

    return replace(
        job,
        population=job.population.to("cpu"),
        records_K=[records.cpu() for records in job.records_K],
        validation_N=moved(job.validation_N),
        response_KN=moved(job.response_KN),
        buffers={name: buffer_K.cpu() for name, buffer_K in job.buffers.items()},
    )


def _hand_over(given: HandedOver, path: Path) -> None:
    """Write it once; every process maps the file, so that memory holds the records once.

    Raises:
        InputError: it holds what cannot be pickled, or cannot be written.
    """
    job, settings, count = given.job, given.shards[0].settings, len(given.shards)
    parts = {
        "model": job.make_network,
        "training": job.recipe,
        "trainer.callbacks": settings.callbacks,
        "trainer.options": settings.options,
    }
    for name, part in parts.items():
        try:
            pickle.dumps(part)
        except Exception as error:  # a class of the user may raise anything
            raise InputError(
                f"`{name}` cannot be handed to the processes of {count} `trainer.devices` ({first_line(error)}); "
                "define its functions and classes by name in a module, or use trainer.devices=1."
            ) from error
    try:
        path.touch(mode=0o600, exist_ok=False)  # for this user alone: reading it runs code
        torch.save(given, path)
    except (OSError, RuntimeError) as error:  # a full disk is either
        raise InputError(
            f"What {count} `trainer.devices` are to train cannot be written to {path.parent} ({first_line(error)}); "
            "set TMPDIR to a folder with more space, or use trainer.devices=1."
        ) from error


@dataclass(eq=False)
class _Worker:
    shard: LocalShard
    process: BaseProcess
    connection: Connection

    def gone(self) -> InputError:
        """The error of a process that ended without a word."""
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            mend = "as happens where main memory runs out; use fewer `trainer.devices` or a smaller `training.chunk`"
        else:
            how = f"ended with exit code {code}"
            mend = 'for the reason in its own output; a script must call the audit under `if __name__ == "__main__":`'
        return InputError(f"The process that trained models on {self.shard.name} {how}, {mend}.")


@contextmanager
def _processes(
    shards: Sequence[LocalShard], folder: Path, work: Callable[[Path, int, Connection], None] = train_shard
) -> Iterator[list[_Worker]]:
    """A process for each shard, which does `work`; none is left afterwards, whatever happens."""
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        with _on_signal(signal.SIGINT, signal.SIG_IGN):  # inherited: at Ctrl-C the parent ends the others
            for shard in shards:
                receiver, sender = context.Pipe()
                process = context.Process(target=work, args=(folder, shard.place, sender), daemon=True)
                with having(shard.environment):
                    process.start()
                sender.close()  # so that the end of the process is the end of the pipe
                workers.append(_Worker(shard, process, receiver))
        yield workers
        for worker in workers:
            worker.process.join()
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


@contextmanager
def _on_signal(
    number: signal.Signals, handler: "Callable[[int, FrameType | None], Any] | signal.Handlers"
) -> Iterator[None]:
    """Handle a signal so within the context; outside of the main thread, where Python sets none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def _terminable() -> Iterator[None]:
    """Within the context SIGTERM ends what is done in good order; a second one does not disturb that.

    Raises:
        SIGTERMException: this process is told to end; it is what Lightning raises then while it trains.
    """
    with _on_signal(signal.SIGTERM, _terminated):
        yield


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, _answered)
    raise SIGTERMException


def _answered(number: int, _: FrameType | None) -> None:
    """Not `SIG_IGN`, of which Python complains where a signal has come just before."""


def _follow(workers: Sequence[_Worker], bar: EpochBar, epochs: list[int], stages: Stages) -> None:
    """Show how far all of them are, until all have trained their shard.

    Args:
        epochs: that each is to train, summed over its chunks.

    Raises:
        InputError: one of them raised it, or has ended without a word.
        RuntimeError: one of them raised something else; with its traceback.
    """
    waiting = {worker.connection: (place, worker) for place, worker in enumerate(workers)}
    while waiting:
        for connection in wait(list(waiting)):
            assert isinstance(connection, Connection)
            place, worker = waiting[connection]
            try:
                kind, value = connection.recv()
            except (EOFError, OSError) as error:
                raise worker.gone() from error
            if kind in ("advance", "skip", "count"):
                getattr(bar, kind)(value)
            elif kind == "until":
                epochs[place] = value
                bar.until(sum(epochs))
            elif kind in ("remark", "note"):
                getattr(stages, kind)(value)
            elif kind == "input error":
                raise InputError(value)
            elif kind == "bug":
                raise RuntimeError(f"Training on {worker.shard.name} failed:\n{value}")
            else:
                assert kind == "done"
                del waiting[connection]
