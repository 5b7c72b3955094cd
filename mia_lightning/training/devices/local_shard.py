"""What a process does that trains a shard of a role's models on a device of its own."""

import multiprocessing
import os
import stat
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from mia_lightning.errors import InputError, first_line
from mia_lightning.store.artefacts import Store
from mia_lightning.terminal.display import Hidden, Look, Row
from mia_lightning.terminal.progress import EpochBar, RemarkKind, Stages
from mia_lightning.training.chunks import OneDevice
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.kept import kept_models
from mia_lightning.training.plan.execution import Candidate, ExecutionPlan, Plans
from mia_lightning.training.plan.probe import Probe
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning

HANDED_OVER = "handed_over.pt"


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalShard:
    """The models that one device of `trainer.devices` trains.

    It is cut otherwise than a `Shard` of a sweep (`mia_lightning.shadows.shard`). The jobs of a sweep do not know each
    other's work, so a `Shard` is a range of numbers that follows from its own number and their count. Here one process
    knows all models, so each device gets as many steps as the others (`TrainingJob.shards`).

    Attributes:
        place: of the device among all of them.
        device: the device.
        settings: of its `pl.Trainer`.
        places: of its models in the job.
        num_threads: of torch, on the CPU.
        folder: where its callbacks and loggers write.
        environment: variables that its process has beside those of this one.
    """

    place: int
    device: torch.device
    settings: TrainerSettings
    places: Sequence[int]
    num_threads: int
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Such as "cuda:1"; on the CPU "cpu process 1"."""
        return f"cpu process {self.place}" if self.device.type == "cpu" else str(self.device)


@dataclass(frozen=True, eq=False, kw_only=True)
class HandedOver:
    """What every process is given.

    Attributes:
        job: all models, on the CPU.
        plan: by which each shard is trained.
        shards: one for each process.
        store: where models are found and kept.
    """

    job: TrainingJob
    plan: ExecutionPlan
    shards: Sequence[LocalShard]
    store: Store | None


def result_of(folder: Path, shard: LocalShard) -> Path:
    """The file of what the process has trained."""
    return folder / f"shard_{shard.place}.pt"


def train_shard(folder: Path, place: int, connection: Connection) -> None:
    """What a process does: train its shard, write it to `folder`, and report on `connection`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        given = _handed_over(folder / HANDED_OVER)
        shard = next(each for each in given.shards if each.place == place)
        torch.set_num_threads(shard.num_threads)
        job, stages = given.job.part(shard.places), _Told(connection)
        kept = kept_models(given.store, job, shard.settings, stages.remark)
        worker = OneDevice(
            job=job, settings=shard.settings, kept=kept, plans=Plans(), stages=stages, folder=shard.folder
        )
        made = worker.follow(given.plan)
        content = {
            "weights_K": [made.trained.weights(k) for k in range(made.trained.num_models)],
            "execution": made.trained.execution,
            "plan": asdict(made.plan),
            "found": made.num_found,
        }
        torch.save(content, result_of(folder, shard))
        connection.send(("done", None))
    except InputError as error:
        connection.send(("input error", str(error)))
    except BaseException:  # SystemExit of the user's code, too: the parent, which waits, raises it with its traceback
        connection.send(("bug", traceback.format_exc()))


def measure_shard(folder: Path, place: int, connection: Connection) -> None:
    """What a process does that measures its shard beside the others: it says that it is ready, waits, and measures.

    Where it fails it ends without a word.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(Exception):
        given = _handed_over(folder / HANDED_OVER)
        shard, plan = given.shards[place], given.plan
        torch.set_num_threads(shard.num_threads)
        probe = Probe(
            job=given.job.part(shard.places), settings=shard.settings, device=shard.device, clock=time.perf_counter
        )
        way = Candidate(execution=plan.execution, chunk=plan.chunk, threads=plan.threads)
        connection.send("ready")
        allowance = connection.recv()
        with quiet_lightning(), shard.settings.matmul_precision():
            connection.send(probe.seconds(way, allowance))


def _handed_over(path: Path) -> HandedOver:
    """What the parent wrote.

    Raises:
        InputError: it names what this process cannot import, or anybody but this user can have written it.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise _not_ours(path, first_line(error)) from error
    try:
        status = os.fstat(file)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _not_ours(path, "it belongs to another user, or others can write it")
        # It holds code, the classes of the networks. Read by its number, it is the file that was looked at.
        given: HandedOver = torch.load(f"/dev/fd/{file}", mmap=True, weights_only=False)
    except (AttributeError, ImportError) as error:
        raise InputError(
            f"The processes of several `trainer.devices` cannot import what they are to train ({first_line(error)}); "
            "define it in a module rather than in a notebook or an interactive session, or use trainer.devices=1."
        ) from error
    finally:
        os.close(file)
    return given


def _not_ours(path: Path, why: str) -> InputError:
    return InputError(
        f"What several `trainer.devices` are to train is not read from {path} ({why}), since reading it runs code; set "
        "TMPDIR to a folder of your own, or use trainer.devices=1."
    )


def _end_with_parent() -> None:
    """End this process when its parent has ended, as it does where it is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Told(Stages):
    """The stages of a process, which its parent shows."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def remark(self, sentence: str, *, kind: RemarkKind = "warning") -> None:
        assert kind == "warning"  # a process of a training says nothing else
        self._connection.send(("remark", sentence))

    def note(self, sentence: str) -> None:
        self._connection.send(("note", sentence))

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
        self._connection.send(("advance", look))

    def skip(self, epochs: int) -> None:
        self._of_chunk += epochs
        self._connection.send(("skip", epochs))

    def count(self, models: int) -> None:
        self._connection.send(("count", models))
