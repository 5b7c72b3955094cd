"""Removing artefacts from a store; never one that another process has locked."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import Store
from mia_lightning.store.housekeeping import (
    ANSWERS,
    CHECKPOINT,
    MODELS,
    RUNNING,
    STACKS,
    Training,
    damaged,
    key_of,
    leftovers,
    trainings,
    written,
)

HOUR, DAY = 3600.0, 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Removal:
    """An artefact or a file to be removed.

    Attributes:
        what: the place of the artefact, or the path of the file within the store.
        bytes: of its content.
        is_place: whether it is an artefact.
        keys: of its models; another process may hold their locks.
    """

    what: str
    bytes: int
    is_place: bool
    keys: frozenset[str] = frozenset()


def older_than(store: Store, kinds: Sequence[str], seconds: float) -> list[str]:
    """The places of artefacts that are older than so many seconds, the oldest first."""
    now = time.time()
    return [place for place, moment in _by_age(store, kinds) if now - moment > seconds]


def beyond(store: Store, kinds: Sequence[str], keep: float) -> list[str]:
    """The places to remove, the oldest first, so that the rest takes at most `keep` bytes; a model goes together with
    its cached answers."""
    aged = [place for place, _ in _by_age(store, kinds)]
    answers_of: dict[str, list[str]] = defaultdict(list)
    for place in store.places(ANSWERS):
        answers_of[key_of(place)].append(place)
    size_of = {place: store.size(place) for place in aged}
    total, chosen = sum(size_of.values()), dict[str, None]()
    for place in aged:
        if total <= keep:
            break
        theirs = answers_of[key_of(place)] if place.startswith(f"{MODELS}/") else []
        for each in (place, *theirs):
            total -= 0 if each in chosen else size_of.get(each, 0)
            chosen[each] = None
    return list(chosen)


def removals_of(store: Store, places: Iterable[str]) -> list[Removal]:
    """The removals of artefacts; a model goes together with its cached answers."""
    chosen = dict.fromkeys(places)
    keys = {key_of(place) for place in chosen if place.startswith(f"{MODELS}/")}
    chosen |= dict.fromkeys(place for place in store.places(ANSWERS) if key_of(place) in keys)
    return [_of_place(store, place) for place in chosen]


def removals_of_damaged(store: Store) -> list[Removal]:
    """The removals of what was set aside as damaged."""
    return [_of_file(store, path) for path in damaged(store)]


def removals_of_leftovers(store: Store) -> list[Removal]:
    """The removals of partial files that are older than an hour, and of trainings that are older than a day or whose
    process has ended.

    A younger file may belong to a process that is writing it.
    """
    now = time.time()
    files = [path for path in leftovers(store) if now - (written(path) or now) > HOUR]
    known = trainings(store)
    left = [training.place for training in known if _is_left(training, now)]
    checkpoints = [place for place in store.places(RUNNING) if place.endswith(CHECKPOINT)]
    alone = [place for place in checkpoints if place.removesuffix(CHECKPOINT) not in {each.place for each in known}]
    theirs = [place for place in checkpoints if place.removesuffix(CHECKPOINT) in left]
    # The checkpoints first: a checkpoint whose training is gone would belong to nobody.
    return [
        *(_of_file(store, path) for path in files),
        *(_of_place(store, place) for place in [*alone, *theirs, *left]),
    ]


def remove(store: Store, removals: Sequence[Removal], *, dry_run: bool) -> tuple[list[Removal], list[Removal]]:
    """Remove what no other process has locked.

    Args:
        dry_run: whether to remove nothing.

    Returns:
        What was removed, and what another process has locked.

    Raises:
        InputError: the folder cannot be written.
    """
    removed, held = [], []
    with store.locked_free({key for removal in removals for key in removal.keys}) as free:
        for removal in removals:
            if not removal.keys <= free:
                held.append(removal)
                continue
            if not dry_run:
                _remove(store, removal)
            removed.append(removal)
        emptied = _emptied(store, {removal.what for removal in removed})
        if not dry_run:
            for removal in emptied:
                _remove(store, removal)
    return removed + emptied, held


def _remove(store: Store, removal: Removal) -> None:
    if removal.is_place:
        store.forget(removal.what)
        return
    try:
        (store.folder / removal.what).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{store.folder / removal.what} cannot be removed ({error.strerror}).") from error


def _emptied(store: Store, removed: set[str]) -> list[Removal]:
    """The manifests of stacks whose last model was removed; none while a training is under way."""
    theirs = {place.split("/")[1] for place in removed if place.startswith(f"{MODELS}/")}
    others = {place.split("/")[1] for place in store.places(MODELS) if place not in removed}
    if any(training.place not in removed for training in trainings(store)):
        return []
    stacks = [f"{STACKS}/{stack}" for stack in sorted(theirs - others)]
    return [_of_place(store, place) for place in stacks if store.has(place)]


def _by_age(store: Store, kinds: Sequence[str]) -> list[tuple[str, float]]:
    """The places of artefacts with the times when they were written, the oldest first."""
    places = [place for kind in kinds for place in store.places(kind) if store.fields(place) is not None]
    aged = [(place, written(store.folder / f"{place}.json")) for place in places]
    return sorted(
        ((place, moment) for place, moment in aged if moment is not None), key=lambda each: (each[1], each[0])
    )


def _is_left(training: Training, now: float) -> bool:
    return training.state == "ended" or now - training.started > DAY


def _of_place(store: Store, place: str) -> Removal:
    keys: Iterable[str] = ()
    if place.startswith((f"{MODELS}/", f"{ANSWERS}/")):
        keys = [key_of(place)]
    elif place.startswith(f"{RUNNING}/"):
        keys = (store.fields(place.removesuffix(CHECKPOINT)) or {}).get("keys", ())
    return Removal(what=place, bytes=store.size(place), is_place=True, keys=frozenset(keys))


def _of_file(store: Store, path: Path) -> Removal:
    size = path.stat().st_size if path.exists() else 0
    return Removal(what=path.relative_to(store.folder).as_posix(), bytes=size, is_place=False)
