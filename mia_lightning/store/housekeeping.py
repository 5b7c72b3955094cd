"""The contents of a store, read from its manifests: nothing here reads a model, or imports torch."""

import os
import socket
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel

from mia_lightning.errors import InputError
from mia_lightning.settings.kinds import AtLeast0
from mia_lightning.store.artefacts import DAMAGED, LOCKS, Store
from mia_lightning.store.documents import EXACT, DamagedError, understood

# The folders of a store. Models, their cached answers and synthetic records take the space; the others are small.
MODELS, ANSWERS, SYNTHESES, STACKS, PLANS, RUNNING = "models", "answers", "syntheses", "stacks", "plans", "running"
KINDS = (MODELS, ANSWERS, SYNTHESES, STACKS, PLANS, RUNNING)
CHECKPOINT = "-checkpoint"


class Intent(BaseModel):
    """The fields of a training under way.

    Attributes:
        keys: of the models that are trained together.
        role: of these.
        host, process: where they are trained.
        started: UTC.
    """

    model_config = EXACT

    keys: tuple[str, ...]
    role: str
    host: str
    process: AtLeast0
    started: AwareDatetime

    @classmethod
    def of(cls, keys: Iterable[str], role: str) -> "Intent":
        """Of a training that this process begins."""
        started = datetime.now(UTC).replace(microsecond=0)
        return cls(keys=tuple(keys), role=role, host=socket.gethostname(), process=os.getpid(), started=started)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Models that share everything but their records.

    Attributes:
        stack: the hash of what they share.
        role, architecture, seed, epochs: shared by the models; None where the manifest of the stack is missing.
        models, model_bytes, answer_bytes: the number of models, their size, and that of their cached answers.
        written: when the last model was written, in seconds since 1970; 0.0 without models.
    """

    stack: str
    role: str | None
    architecture: str | None
    seed: int | None
    epochs: int | None
    models: int
    model_bytes: int
    answer_bytes: int
    written: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training under way, or one that a killed process left.

    Attributes:
        started: in seconds since 1970.
        epoch: of the last checkpoint; None without one.
        state: "running", "ended" where the process has ended, "elsewhere" on another host.
    """

    place: str
    role: str
    models: int
    host: str
    process: int
    started: float
    epoch: int | None
    state: str


@dataclass(frozen=True, kw_only=True)
class Files:
    """The number of files, and their bytes."""

    count: int
    bytes: int

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Files":
        sizes = [path.stat().st_size for path in paths if path.exists()]
        return cls(count=len(sizes), bytes=sum(sizes))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The contents of a store; `unreadable` are the places whose manifest cannot be read."""

    folder: str
    stacks: Sequence[Stack]
    syntheses: Files
    plans: Files
    running: Sequence[Training]
    damaged: Files
    leftovers: Files
    unreadable: Sequence[str]


def opened(folder: Path) -> Store:
    """The store in a folder.

    Raises:
        InputError: the folder is missing, cannot be read, or is no store.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder of a store by --dir, or set MIA_STORE.")
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read ({error.strerror}).") from error
    store = Store(dir=folder)
    # A folder named models is not evidence enough: files of a store may be removed.
    if names and LOCKS not in names and not any(store.fields(place) for place in places(store)):
        raise InputError(f"{folder} is no store: it holds {min(names)}; give the folder of a store by --dir.")
    return store


def contents(store: Store) -> Contents:
    """The contents of the store, read from its manifests."""
    unreadable = [place for place in places(store) if store.fields(place) is None]
    return Contents(
        folder=str(store.folder),
        stacks=_stacks(store),
        syntheses=_files(store, SYNTHESES),
        plans=_files(store, PLANS),
        running=trainings(store),
        damaged=Files.of(damaged(store)),
        leftovers=Files.of(leftovers(store)),
        unreadable=unreadable,
    )


def places(store: Store) -> list[str]:
    """The places of all artefacts; other files in the folder are not the store's."""
    return [place for kind in KINDS for place in store.places(kind)]


def _files(store: Store, kind: str) -> Files:
    found = store.places(kind)
    return Files(count=len(found), bytes=sum(store.size(place) for place in found))


def _stacks(store: Store) -> list[Stack]:
    models_of: dict[str, list[str]] = defaultdict(list)
    for place in store.places(MODELS):
        models_of[place.split("/")[1]].append(place)
    answers: Counter[str] = Counter()
    for place in store.places(ANSWERS):
        answers[key_of(place)] += store.size(place)
    stacks = sorted({*models_of, *(key_of(place) for place in store.places(STACKS))})
    described = [_stack(store, stack, models_of[stack], answers) for stack in stacks]
    return sorted(described, key=lambda stack: (-stack.written, stack.stack))


def _stack(store: Store, stack: str, models: Sequence[str], answers: Mapping[str, int]) -> Stack:
    fields = store.fields(f"{STACKS}/{stack}") or {}
    return Stack(
        stack=stack,
        role=fields.get("role"),
        architecture=_architecture(fields.get("model")),
        seed=fields.get("seed"),
        epochs=(fields.get("training") or {}).get("epochs"),
        models=len(models),
        model_bytes=sum(store.size(place) for place in models),
        answer_bytes=sum(answers.get(key_of(place), 0) for place in models),
        written=max((written(store.folder / f"{place}.json") or 0.0 for place in models), default=0.0),
    )


def _architecture(identity: Any) -> str | None:
    """The name of the class or function that makes a network, from its identity."""
    while isinstance(identity, Mapping):
        for kind in ("class", "function", "method"):
            if isinstance(identity.get(kind), str):
                return str(identity[kind]).rpartition(".")[2]
        identity = identity.get("call") or identity.get("object")
    return None


def trainings(store: Store) -> list[Training]:
    """The trainings that are under way, or were left by a killed process."""
    found = []
    for place in store.places(RUNNING):
        fields = None if place.endswith(CHECKPOINT) else store.fields(place)
        try:
            intent = understood(fields, Intent)
        except DamagedError:
            continue
        checkpoint = store.fields(f"{place}{CHECKPOINT}")
        training = Training(
            place=place,
            role=intent.role,
            models=len(intent.keys),
            host=intent.host,
            process=intent.process,
            started=intent.started.timestamp(),
            epoch=None if checkpoint is None else checkpoint.get("epoch"),
            state=_state(intent.host, intent.process),
        )
        found.append(training)
    return found


def leftovers(store: Store) -> list[Path]:
    """Partial files: a process is writing them, or was killed while it wrote."""
    root = store.folder
    return [path for path in store.leftovers() if path.parent == root or path.relative_to(root).parts[0] in KINDS]


def damaged(store: Store) -> list[Path]:
    """The files of artefacts that were set aside as damaged."""
    return sorted(path for path in (store.folder / DAMAGED).rglob("*") if path.is_file())


def written(path: Path) -> float | None:
    """When the file was written, in seconds since 1970; None where it is missing."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def key_of(place: str) -> str:
    """The last part of a place: for models and their answers the key whose lock a process holds while it trains."""
    return place.rpartition("/")[2]


def _state(host: str, process: int) -> str:
    if host != socket.gethostname():
        return "elsewhere"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "ended"
    except PermissionError:  # somebody else's
        return "running"
    return "running"
