"""What stands in a store, by its manifests: nothing here reads a model, or imports torch."""

import calendar
import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import DAMAGED, LOCKS, Store

# Folders of a store. What is trained and asked takes the space; the others say how, and what is under way.
MODELS, ANSWERS, SYNTHESES, STACKS, PLANS, RUNNING = "models", "answers", "syntheses", "stacks", "plans", "running"
KINDS = (MODELS, ANSWERS, SYNTHESES, STACKS, PLANS, RUNNING)
CHECKPOINT = "-checkpoint"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Models that have all but their records in common; None where the manifest that says so is not there.

    Attributes:
        stack: the hash of what they have in common.
        models, model_bytes, answer_bytes: how many are kept, and what they and their answers take.
        written: the last of it, in seconds since 1970; 0.0 for nothing.
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
    """Models that train, or that a killed process left.

    Attributes:
        state: "running", "ended" where its process is gone, "elsewhere" on another host.
        epoch: of the last checkpoint; None without one.
        started: in seconds since 1970.
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
    """How many, and their bytes."""

    count: int
    bytes: int

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Files":
        sizes = [path.stat().st_size for path in paths if path.exists()]
        return cls(count=len(sizes), bytes=sum(sizes))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What stands in a store; `unreadable` are places of manifests that cannot be read."""

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
        InputError: there is none.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give that of a store with --dir, or set MIA_STORE.")
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read ({error.strerror}).") from error
    store = Store(dir=folder)
    # A folder that is called models is not enough: what is in the folder of a store may be removed.
    if names and LOCKS not in names and not any(store.fields(place) for place in places(store)):
        raise InputError(f"{folder} is no store: it holds {min(names)}; give that of a store with --dir.")
    return store


def contents(store: Store) -> Contents:
    """What stands in it, by its manifests."""
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


def damages(store: Store) -> Iterator[tuple[str, str | None]]:
    """Every place, read in full, with what is wrong with it; None where nothing is."""
    for place in places(store):
        yield place, store.damage(place)


def places(store: Store) -> list[str]:
    """Of everything in it; what else lies in the folder is not the store's."""
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
    """The name of the class or function that makes a network."""
    while isinstance(identity, Mapping):
        for kind in ("class", "function", "method"):
            if isinstance(identity.get(kind), str):
                return str(identity[kind]).rpartition(".")[2]
        identity = identity.get("call") or identity.get("object")
    return None


def trainings(store: Store) -> list[Training]:
    """Those that are under way, or were left."""
    found = []
    for place in store.places(RUNNING):
        fields = None if place.endswith(CHECKPOINT) else store.fields(place)
        if fields is None:
            continue
        checkpoint = store.fields(f"{place}{CHECKPOINT}")
        training = Training(
            place=place,
            role=fields["role"],
            models=len(fields["keys"]),
            host=fields["host"],
            process=fields["process"],
            started=float(calendar.timegm(time.strptime(fields["started"], "%Y-%m-%dT%H:%M:%SZ"))),
            epoch=None if checkpoint is None else checkpoint["epoch"],
            state=_state(fields["host"], fields["process"]),
        )
        found.append(training)
    return found


def leftovers(store: Store) -> list[Path]:
    """Files of processes that were killed while they wrote, or that are being written."""
    root = store.folder
    return [path for path in store.leftovers() if path.parent == root or path.relative_to(root).parts[0] in KINDS]


def damaged(store: Store) -> list[Path]:
    """Files that were set aside."""
    return sorted(path for path in (store.folder / DAMAGED).rglob("*") if path.is_file())


def written(path: Path) -> float | None:
    """When, in seconds since 1970; None where it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def key_of(place: str) -> str:
    """The last part of a place: of models and their answers it is the key that a process holds while it trains."""
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
