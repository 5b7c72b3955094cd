"""One fit, with the answers of what was fitted: what a process of the pool does. No torch."""

import contextlib
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mia_lightning.errors import InputError, first_line
from mia_lightning.training.estimators.answers import NumbersWay, Way, way_of
from mia_lightning.training.estimators.frames import Array, RecordFiles
from mia_lightning.training.estimators.label_answers import way_of_labels
from mia_lightning.training.estimators.leaves import Structure, structure_of
from mia_lightning.training.estimators.making import Outputs, as_taken, ready, seeded_alone, weights_keyword


@dataclass(frozen=True, kw_only=True, eq=False)
class FitKind:
    """What all fits of a role have in common.

    Attributes:
        make: an estimator to clone, or what makes one.
        records: of the population that they are fitted on.
        num_outputs: C classes, L labels, or D numbers.
        outputs: which of these.
        weighs_leaves: as of `way_of`.
        looks_at_leaves: whether the structure of each is asked for.
    """

    make: Any
    records: RecordFiles
    num_outputs: int
    outputs: Outputs = "classes"
    weighs_leaves: bool = True
    looks_at_leaves: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """One model.

    Attributes:
        number: k.
        seed: of all that is random in it.
        index_n, label_n: its training records and their classes, labels `[n, L]`, or numbers `[n]` or `[n, D]`.
        path: of the file of the fitted estimator.
        weight_n: how much each counts in the fit; None for the same.
    """

    number: int
    seed: int
    index_n: Array
    label_n: Array
    path: str
    weight_n: Array | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fitted estimator.

    Attributes:
        estimator: it.
        way: how it is asked.
        known_c: by the number of a class that it was given, the class of the data set.
        structure: its leaves; None where they are not known, or not asked for.
    """

    estimator: Any
    way: Way
    known_c: tuple[int, ...]
    structure: Structure | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """What came of a fit.

    Attributes:
        number: k.
        log_nC: float32; the answers for the records asked about (`Way.answers`); None where it could not be fitted.
        failure: why it could not be fitted, a clause; None where it could.
        atoms: as of `Votes`.
        method: by which it answers.
        structure: its leaves; None where they are not known, or not asked for.
        said: its warnings.
        seconds: of the fit and the answers.
    """

    number: int
    log_nC: Array | None = None
    failure: str | None = None
    atoms: int | None = None
    method: str = ""
    structure: Structure | None = None
    said: tuple[str, ...] = field(default=())
    seconds: float = 0.0


def fit_and_answer(kind: FitKind, fit: Fit, records: RecordFiles, asked_n: Array, anew: bool = False) -> Answered:
    """Fit an estimator, if its file does not hold it yet, and ask it about records.

    Args:
        records: that it is asked about.
        asked_n: the numbers of these.
        anew: whether it is fitted whatever its file holds, and not written there.
    """
    begun = time.perf_counter()
    said: list[str] = []
    try:
        with seeded_alone(fit.seed) as said:
            fitted = None if anew else _read(fit.path)
            if fitted is None:
                x_n = kind.records.rows(fit.index_n)
                with _own_code():
                    fitted = _fitted(kind, fit, x_n)
                if not anew:
                    _write(fitted, fit.path)
            parts = [_answers(fitted, records.rows(part), kind.num_outputs) for part in _parts(asked_n)]
            log_nC = np.concatenate(parts or [np.zeros((0, kind.num_outputs), np.float32)])
    except InputError as error:
        return Answered(number=fit.number, failure=str(error).removesuffix("."), said=tuple(said))
    return Answered(
        number=fit.number,
        log_nC=log_nC,
        atoms=fitted.way.votes.atoms,
        method=fitted.way.method,
        structure=fitted.structure,
        said=tuple(said),
        seconds=time.perf_counter() - begun,
    )


_AT_ONCE = 16_384  # records: bounds memory, not results


def _parts(index_n: Array) -> list[Array]:
    return [index_n[start : start + _AT_ONCE] for start in range(0, len(index_n), _AT_ONCE)]


@contextmanager
def _own_code() -> Iterator[None]:
    """Within the context an estimator's own code runs; whatever it raises becomes an `InputError`, a clause."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # it would end the process without a word
        raise InputError(f"{type(error).__name__}: {first_line(error)}") from error


def _answers(fitted: Fitted, x_B: Any, num_outputs: int) -> Array:
    with _own_code():
        return fitted.way.answers(fitted.estimator, x_B, num_outputs, fitted.known_c)


def _fitted(kind: FitKind, fit: Fit, x_n: Any) -> Fitted:
    estimator = ready(kind.make, kind.records.layout, fit.seed)
    weights = _weights(estimator, fit)
    if kind.outputs != "classes":
        estimator.fit(x_n, as_taken(estimator, fit.label_n), **weights)
        own = way_without_classes(kind.outputs, estimator, x_n, fit.label_n, weighs_leaves=kind.weighs_leaves)
        return Fitted(estimator=estimator, way=own, known_c=(), structure=_structure(kind, estimator, x_n, fit.label_n))
    present_c, own_n = np.unique(fit.label_n, return_inverse=True)
    known_c, given_n = np.arange(kind.num_outputs), fit.label_n
    try:
        estimator.fit(x_n, given_n, **weights)
    except Exception:
        if len(present_c) == present_c[-1] + 1:  # numbered without gaps as they are
            raise
        # Some refuse numbers of classes with a gap, as a resample without one of them has.
        estimator = ready(kind.make, kind.records.layout, fit.seed)
        known_c, given_n = present_c, own_n
        estimator.fit(x_n, given_n, **weights)
    known = tuple(int(c) for c in known_c)
    way = way_of(estimator, x_n, given_n, known, weighs_leaves=kind.weighs_leaves)
    return Fitted(estimator=estimator, way=way, known_c=known, structure=_structure(kind, estimator, x_n, given_n))


def way_without_classes(
    outputs: Outputs, estimator: Any, x_n: Any, label_n: Array, *, weighs_leaves: bool = True
) -> Way:
    """How an estimator of several labels, or of numbers, is asked.

    Args:
        x_n, label_n: its training records and their labels `[n, L]`, or numbers.
        weighs_leaves: as of `way_of`.

    Raises:
        InputError: it does not answer with a probability of each label.
    """
    if outputs == "labels":
        return way_of_labels(estimator, x_n, label_n, weighs_leaves=weighs_leaves)
    return NumbersWay(num_records=len(label_n))


def _structure(kind: FitKind, estimator: Any, x_n: Any, label_n: Array) -> Structure | None:
    return structure_of(estimator, x_n, label_n) if kind.looks_at_leaves else None


def _weights(estimator: Any, fit: Fit) -> dict[str, Array]:
    """The weights of the training records as its `fit` takes them; nothing where they have none."""
    if fit.weight_n is None:
        return {}
    keyword = weights_keyword(estimator)
    if keyword is None:
        raise InputError(f"{type(estimator).__name__}.fit takes no weights of records; leave the weights out.")
    return {keyword: fit.weight_n}


def _write(fitted: Fitted, path: str) -> None:
    """For further questions; where it cannot be written, it is fitted again."""
    partial = f"{path}.{os.getpid()}"
    with contextlib.suppress(Exception):
        with open(partial, "wb") as file:
            pickle.dump(fitted, file, protocol=5)
        os.replace(partial, path)
    with contextlib.suppress(OSError):
        os.unlink(partial)


def _read(path: str) -> Fitted | None:
    """What this run has written to its own folder; None for nothing."""
    return _loaded(path, os.stat(path).st_mtime_ns) if Path(path).exists() else None


@lru_cache(2)
def _loaded(path: str, _: int) -> Fitted:
    with open(path, "rb") as file, _own_code():
        return pickle.load(file)  # type: ignore[no-any-return]
