"""Train the models of a role on several devices: a process for each, with a share of the models to itself."""

import multiprocessing
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.terminal.display import Look
from mia_lightning.terminal.progress import EpochBar, Stages
from mia_lightning.training.devices.share import JOB, Share, first_line, result_of, run_share
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import ExecutionPlan
from mia_lightning.training.trained import TrainedStack

if TYPE_CHECKING:  # which trains by this module itself
    from mia_lightning.training.engine import Engine


def threads_of_share(count: int) -> int:
    """Threads of torch for each of so many processes."""
    return max(1, torch.get_num_threads() // count)


@contextmanager
def as_one_of(count: int) -> Iterator[None]:
    """With the threads of one of so many processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of_share(count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_on_devices(
    job: TrainingJob,
    shares: Sequence[Share],
    plan: ExecutionPlan,
    make_engine: "Callable[..., Engine]",
    *,
    stages: Stages,
    device: torch.device,
) -> tuple[TrainedStack, ExecutionPlan, int]:
    """Train each share in a process of its own.

    Args:
        plan: how each share is trained.
        make_engine: an engine from `settings`, `stages` and `folder`; can be pickled.
        device: where the trained models are put together.

    Returns:
        The models in the order of the job; the plan that was followed in the end, with the fewest models at once where
        memory ran out; and how many of the models were found in the store.

    Raises:
        InputError: as the training of a share does; the job cannot be handed to other processes; one of them is gone.
    """
    epochs = [job.recipe.epochs * len(job.part(share.places).chunks(plan.chunk)) for share in shares]
    stages.note(
        f"{job.role}: {job.num_models} models on {len(shares)} devices, at most "
        f"{max(len(share.places) for share in shares)} on each."
    )
    with tempfile.TemporaryDirectory(prefix="mia_lightning_") as name:
        folder = Path(name)
        _hand_over((_on_cpu(job), plan, make_engine, list(shares)), folder / JOB, len(shares))
        with stages.stage(job.role, sum(epochs), job.num_models) as bar, _processes(shares, folder) as workers:
            _follow(workers, _Sum(bar, epochs), stages)
        made = [torch.load(result_of(folder, share), mmap=True, weights_only=True) for share in shares]
        plans = [replace(plan, chunk=each["chunk"], reason=each["reason"]) for each in made]
        weights_K: list[Mapping[str, Tensor]] = [{}] * job.num_models
        for share, each in zip(shares, made, strict=True):
            for place, weights in zip(share.places, each["weights_K"], strict=True):
                weights_K[place] = weights
        trained = TrainedStack.of_weights(job.stack([0]).to(device), weights_K, job.architecture, made[0]["execution"])
    return trained, min(plans, key=lambda each: each.chunk), sum(each["found"] for each in made)


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


def _hand_over(given: tuple[TrainingJob, ExecutionPlan, object, list[Share]], path: Path, count: int) -> None:
    """Write it once; every process maps the file, so that the records are in memory once.

    Raises:
        InputError: it holds what cannot be pickled, or cannot be written.
    """
    job, shares = given[0], given[3]
    parts = {
        "model": job.make_network,
        "training": job.recipe,
        "trainer.callbacks": shares[0].settings.callbacks,
        "trainer.options": shares[0].settings.options,
    }
    for name, part in parts.items():
        try:
            pickle.dumps(part)
        except Exception as error:  # whatever a class of the user raises
            raise InputError(
                f"`{name}` cannot be handed to the processes of {count} `trainer.devices` ({first_line(error)}); "
                "define its functions and classes by name in a module, or use trainer.devices=1."
            ) from error
    try:
        torch.save(given, path)
    except (OSError, RuntimeError) as error:  # a full disk is either
        raise InputError(
            f"What {count} `trainer.devices` are to train cannot be written to {path.parent} ({first_line(error)}); "
            "set TMPDIR to a folder with more space, or use trainer.devices=1."
        ) from error


@dataclass(eq=False)
class _Worker:
    share: Share
    process: BaseProcess
    connection: Connection

    def gone(self) -> InputError:
        """That the process ended without a word."""
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            mend = "as happens where main memory runs out; use fewer `trainer.devices` or a smaller `training.chunk`"
        else:
            how = f"ended with exit code {code}"
            mend = 'for the reason in its own output; a script must call the audit under `if __name__ == "__main__":`'
        return InputError(f"The process that trained models on {self.share.name} {how}, {mend}.")


@contextmanager
def _processes(shares: Sequence[Share], folder: Path) -> Iterator[list[_Worker]]:
    """One for each share; none is left afterwards, whatever happens.

    Raises:
        SIGTERMException: this process is told to end, as Lightning says it while it trains.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        with _on_signal(signal.SIGINT, signal.SIG_IGN):  # inherited: it is the parent that ends the others
            for share in shares:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=run_share, args=(folder, share.place, sender), daemon=True)
                process.start()
                sender.close()  # so that the end of the process is the end of the pipe
                workers.append(_Worker(share, process, receiver))
        with _on_signal(signal.SIGTERM, _terminated):
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
    """What happens within the context at a signal; nothing new outside of the main thread, where Python sets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SIGTERMException


class _Sum:
    """The bar of a stage to which several processes contribute."""

    def __init__(self, bar: EpochBar, epochs: list[int]) -> None:
        self._bar, self._epochs = bar, epochs

    def advance(self, look: Look | None) -> None:
        self._bar.advance(look)

    def skip(self, epochs: int) -> None:
        self._bar.skip(epochs)

    def count(self, models: int) -> None:
        self._bar.count(models)

    def until(self, worker: int, epochs: int) -> None:
        self._epochs[worker] = epochs
        self._bar.until(sum(self._epochs))


def _follow(workers: Sequence[_Worker], bar: _Sum, stages: Stages) -> None:
    """Until all have trained their share.

    Raises:
        InputError: one of them raised it, or is gone.
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
            if kind == "epoch":
                bar.advance(value)
            elif kind == "skip":
                bar.skip(value)
            elif kind == "count":
                bar.count(value)
            elif kind == "until":
                bar.until(place, value)
            elif kind == "remark":
                stages.remark(value)
            elif kind == "input error":
                raise InputError(value)
            elif kind == "bug":
                raise RuntimeError(f"Training on {worker.share.name} failed:\n{value}")
            else:
                assert kind == "done"
                del waiting[connection]
