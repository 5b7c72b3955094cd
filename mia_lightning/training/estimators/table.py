"""The records of a population as estimators take them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.estimators.frames import Array, Layout, RecordFiles, as_given


def records_of(population: Population, folder: Path, *, normalised: bool = False) -> RecordFiles:
    """The records in files, for all processes; as `columns_of`."""
    return RecordFiles.write(folder, *columns_of(population, normalised=normalised))


def given_records(population: Population, *, normalised: bool = False) -> Any:
    """All records as an estimator takes them, in memory; as `columns_of`."""
    return as_given(*columns_of(population, normalised=normalised))


def columns_of(population: Population, *, normalised: bool = False) -> tuple[Layout, Array, Array | None]:
    """The layout of the records, numbers as float32 `[N, F]` and, of named columns of categories, codes `[N, M]`.

    Args:
        normalised: whether records without named columns are scaled and normalised, as networks see them.

    Raises:
        InputError: the records are texts, sounds or images in several parts.
    """
    population = population.to("cpu")
    form = population.form
    if form is None:
        x_N: Any = population.normalised(population.x_N) if normalised else population.x_N
        return Layout(), x_N.flatten(1).float().numpy(), None
    _check(form, population.name)
    seen: Any = form.seen(population.x_N, torch.float32)
    values = {form.fields[0].name: seen} if form.is_one else seen
    numbers = [field for field in form.fields if field.kind == "numeric"]
    categories = [field for field in form.fields if field.kind == "category"]
    names = [name for field in numbers for name in _columns(field)]
    coded = tuple(
        (name, tuple(field.vocabulary[m]) if field.vocabulary else ())
        for field in categories
        for m, name in enumerate(_columns(field))
    )
    N = len(population)
    numbers_NF = [values[field.name].reshape(N, -1).numpy() for field in numbers]
    codes_NM = [values[field.name].reshape(N, -1).numpy() for field in categories]
    return (
        Layout(numbers=tuple(names), categories=coded),
        np.concatenate(numbers_NF, 1) if numbers_NF else np.zeros((N, 0), np.float32),
        np.concatenate(codes_NM, 1) if codes_NM else None,
    )


def _check(form: Form, name: str) -> None:
    other = next((field for field in form.fields if field.kind not in ("numeric", "category")), None)
    if other is not None:
        raise InputError(
            f"The records of {name} have {other.kind} ({other.name or 'their only part'}), and estimators take numbers "
            "and categories; attack a network, or give a table of features."
        )


def _columns(field: Field) -> list[str]:
    if field.columns:
        return [*field.columns]
    size = int(np.prod(field.shape, dtype=np.int64))
    stem = field.name or "x"
    return [stem] if size == 1 else [f"{stem}{place}" for place in range(size)]
