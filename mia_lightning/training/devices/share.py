"""What a process does that trains a share of a role's models on a device of its own."""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mia_lightning.errors import InputError
from mia_lightning.terminal.display import Hidden, Look, Row
from mia_lightning.terminal.progress import EpochBar, Stages
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.execution import ExecutionPlan
from mia_lightning.training.trainer import TrainerSettings

if TYPE_CHECKING:  # whose trainings are begun from here
    from mia_lightning.training.engine import Engine

JOB = "job.pt"


@dataclass(frozen=True, eq=False, kw_only=True)
class Share:
    """What the process of one device trains.

    Attributes:
        place: of the device among all of them.
        device: which it is.
        settings: of its `pl.Trainer`.
        places: of its models in the job.
        num_threads: of torch, on the CPU.
        folder: where its callbacks and loggers write.
    """

    place: int
    device: torch.device
    settings: TrainerSettings
    places: Sequence[int]
    num_threads: int
    folder: Path

    @property
    def name(self) -> str:
        """Such as "cuda:1"; on the CPU "cpu process 1"."""
        return f"cpu process {self.place}" if self.device.type == "cpu" else str(self.device)


def result_of(folder: Path, share: Share) -> Path:
    """The file of what the process has trained."""
    return folder / f"share_{share.place}.pt"


def first_line(error: Exception) -> str:
    """Of its message, without the full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def run_share(folder: Path, place: int, connection: Connection) -> None:
    """What a process does: train its share, write it to `folder`, and tell of it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        job, plan, make_engine, shares = _handed_over(folder / JOB)
        share: Share = next(each for each in shares if each.place == place)
        torch.set_num_threads(share.num_threads)
        engine = make_engine(settings=share.settings, stages=_Told(connection), folder=share.folder)
        trained = engine.follow(job.part(share.places), plan)
        followed = min([plan, *engine.plans], key=lambda each: each.chunk)
        made = {
            "weights_K": [trained.weights(k) for k in range(trained.num_models)],
            "execution": trained.execution,
            "chunk": followed.chunk,
            "reason": followed.reason,
            "found": engine.num_found(job.role),
        }
        torch.save(made, result_of(folder, share))
        connection.send(("done", None))
    except InputError as error:
        connection.send(("input error", str(error)))
    except BaseException:  # SystemExit of the user's code, too: the parent, which waits, raises it with its traceback
        connection.send(("bug", traceback.format_exc()))


def _handed_over(path: Path) -> "tuple[TrainingJob, ExecutionPlan, Callable[..., Engine], list[Share]]":
    """What `_hand_over` wrote.

    Raises:
        InputError: it names what this process cannot import.
    """
    try:
        # Code travels with it, the networks' classes: the file is the parent's own, in a folder of this user alone.
        given: tuple[TrainingJob, ExecutionPlan, Callable[..., Engine], list[Share]] = torch.load(
            path, mmap=True, weights_only=False
        )
    except (AttributeError, ImportError) as error:
        raise InputError(
            f"The processes of several `trainer.devices` cannot import what they are to train ({first_line(error)}); "
            "define it in a module rather than in a notebook or an interactive session, or use trainer.devices=1."
        ) from error
    return given


def _end_with_parent() -> None:
    """A process whose parent was killed would train on for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Told(Stages):
    """Stages of a process, told to its parent."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def remark(self, sentence: str) -> None:
        self._connection.send(("remark", sentence))

    @contextmanager
    def stage(self, name: str, epochs: int, models: int = 0) -> Iterator[EpochBar]:
        yield _ToldBar(self._connection)


class _ToldBar(EpochBar):
    def __init__(self, connection: Connection) -> None:
        super().__init__(Row(name="", begun=0.0), Hidden())
        self._connection = connection

    def until(self, epochs: int) -> None:
        self._connection.send(("until", epochs))

    def advance(self, look: Look | None) -> None:
        self._of_chunk += 1
        self._connection.send(("epoch", look))

    def skip(self, epochs: int) -> None:
        self._of_chunk += epochs
        self._connection.send(("skip", epochs))

    def count(self, models: int) -> None:
        self._connection.send(("count", models))
