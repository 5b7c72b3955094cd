"""A file of the answers of a model for the records of the data set; nothing else is known of the model."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, first_line
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Name, PathLike
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.in_process import IN_PROCESS, classes_of
from mia_lightning.targets.endpoints.interface import RawAnswer
from mia_lightning.targets.endpoints.models import EndpointModels, EndpointTarget
from mia_lightning.targets.endpoints.own_classes import places
from mia_lightning.training.models import Kind, Models
from mia_lightning.training.plan.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals


@settings("target")
class Predictions(EndpointTarget):
    """The answers of some model for the records of the data set, in a file; it cannot be asked for others.

    Attributes:
        path: a `.parquet` or `.csv` file with a line for each record. It has a column for each class, which are named
            by the classes or stand in their order, or one column of labels.
        row_column: the column with the number of the record in the data set, from 0. Without this column the lines are
            in the order of the records.
    """

    path: PathLike
    row_column: Name = "row"
    asking: Asking = field(default_factory=lambda: IN_PROCESS)
    answers_others: ClassVar[bool] = False

    def connect(self, setup: Setup) -> "PredictionsEndpoint":
        """The file, read.

        Raises:
            InputError: the file cannot be used.
        """
        return PredictionsEndpoint(
            Path(self.path),
            classes_of(self.asking, setup),
            num_records=len(setup.population),
            row_column=self.row_column,
        )

    def obtain(self, setup: Setup) -> "PredictedModels":
        """The model, of which only the answers in the file are known."""
        endpoint, remark = self.connect(setup), setup.engine.stages.remark
        return PredictedModels(
            endpoint, self.asking, setup.population, kind=self.kind or self.known_kind(endpoint), remark=remark
        )

    def asked_again(self, models: Models, setup: Setup) -> Models | None:
        return None


class PredictedModels(EndpointModels):
    """A model whose answers for the records of one population are known.

    A record of another population gets the answer of the equal record of this one.

    Args:
        endpoint: which knows records by their numbers.
        asking: how it is asked.
        population: the records that the endpoint numbers.
        kind: what was trained.
        remark: is given sentences for the report.
    """

    answers_others: ClassVar[bool] = False

    def __init__(
        self,
        endpoint: "PredictionsEndpoint",
        asking: Asking,
        population: Population,
        *,
        kind: Kind = "unknown",
        remark: Callable[[str], object] = print,
    ) -> None:
        super().__init__(endpoint, asking, population.class_names, kind=kind, remark=remark)
        self._file, self._population = endpoint, population

    def observe(
        self,
        population: Population,
        *,
        room: Room | None = None,
        wanted: Tensor | None = None,
        answered: Callable[[int], object] | None = None,
    ) -> Signals:
        """What the file says of every record.

        Raises:
            InputError: a record is none of the data set's, or equals several with different answers.
        """
        row_N = self._rows(population).to(population.device)
        rows = replace(population, x_N=row_N[:, None], scale=1.0, mean=None, std=None)
        return super().observe(rows, room=room, wanted=wanted, answered=answered)

    def _rows(self, population: Population) -> Tensor:
        """int64 `[N]`: the number of each record in the data set."""
        own_N = self._population.x_N
        if population.x_N is own_N or (population.x_N.dtype == own_N.dtype and population.x_N.equal(own_N)):
            return torch.arange(len(population))
        rows_of: dict[bytes, list[int]] = {}
        for row, digest in enumerate(self._population.record_digests()):
            rows_of.setdefault(digest.tobytes(), []).append(row)
        digests = population.record_digests()
        return torch.tensor([self._row(record, rows_of.get(each.tobytes())) for record, each in enumerate(digests)])

    def _row(self, record: int, rows: list[int] | None) -> int:
        """The one of the equal records `rows` of the data set whose answer holds for all of them."""
        mend = "take attacks that ask for no more, such as shokri, loss or lira_offline, and shadow=real"
        if rows is None:
            raise InputError(
                f"target=predictions has no answer for record {record}, which is none of the data set's: a file has no "
                f"answers for changed or made-up records; {mend}."
            )
        differing = [row for row in rows[1:] if not self._file.agree(rows[0], row)]
        if differing:
            raise InputError(
                f"target=predictions has different answers for the records {rows[0]} and {differing[0]} of the data "
                f"set, which are equal, so it has no one answer for a further equal record; {mend}."
            )
        return rows[0]


class PredictionsEndpoint:
    """The answers in a file (`mia_lightning.targets.endpoints.interface.Endpoint`).

    A record is known by its number in the data set, so that equal records keep answers of their own.

    Args:
        path: a `.parquet` or `.csv` file with a line for each record.
        class_names: C of them, in the order of the answers. The file has a column for each, by these names in any
            order, or C columns in the order of the classes, or one column of labels.
        num_records: N.
        row_column: the column of the record's numbers from 0, where the file has it; without it, lines are in the
            order of the records.

    Raises:
        InputError: the file cannot be read, has other columns or other records.
    """

    protocol = "predictions"

    def __init__(self, path: Path, class_names: Sequence[str], *, num_records: int, row_column: str = "row") -> None:
        self.place, self._what = path.name, f"`target.path` {path}"
        table = _read(path, self._what)
        line_N = _lines(table, row_column, num_records, self._what)
        if row_column in table.column_names:
            table = table.drop_columns([row_column])
        names = table.column_names
        if len(names) == 1:
            self._answer_N = _labels(table.column(0), class_names, self._what)
        else:
            self._answer_N = _numbers(table, _class_columns(names, class_names, self._what), self._what)
        self._answer_N = self._answer_N[line_N]
        self._identity = {
            "protocol": self.protocol,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "row_column": row_column,
            "class_names": list(class_names),
        }

    @property
    def identity(self) -> Mapping[str, object]:
        """The content of the file."""
        return self._identity

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """What the file says of the records of these numbers, int64 `[B, 1]`."""
        return self._answer_N[x_B[:, 0].numpy()].tolist()  # type: ignore[no-any-return]  # of numpy

    def agree(self, row: int, other: int) -> bool:
        """Whether the file says the same of two records."""
        return bool(np.array_equal(self._answer_N[row], self._answer_N[other], equal_nan=True))

    def close(self) -> None:
        """Nothing is open."""


def _read(path: Path, what: str) -> pa.Table:
    if not path.is_file():
        raise InputError(f"{what} is not a file; give a .parquet or .csv file of predictions.")
    try:
        if path.suffix == ".parquet":
            table = pa.parquet.read_table(path)
        elif path.suffix == ".csv":
            table = pa.csv.read_csv(path)
        else:
            raise InputError(f"{what} ends in {path.suffix!r}; give a .parquet or .csv file.")
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{what} cannot be read ({first_line(error)}); write it anew as parquet, or as CSV with a header."
        ) from error
    for name, count in Counter(table.column_names).items():
        if count > 1:
            raise InputError(f"{what} has the column {name!r} {count} times; name each column differently.")
    for name in table.column_names:
        if table.column(name).null_count:
            line = table.column(name).is_null().to_pylist().index(True)
            raise InputError(f"{what} has no value for prediction {line} in column {name!r}; give all of them.")
    return table


def _lines(table: pa.Table, row_column: str, N: int, what: str) -> np.ndarray[Any, Any]:
    """int64 `[N]`: where in the file the answer for each record stands."""
    if row_column not in table.column_names:
        if len(table) != N:
            raise InputError(
                f"{what} has {len(table)} predictions for a data set of {N} records; give one for each, in their "
                "order, or with their numbers from 0 in a column `row` (target.row_column)."
            )
        return np.arange(N)
    row = table.column(row_column).to_numpy()
    if row.dtype.kind not in "iu":
        raise InputError(
            f"{what} has {table.column(row_column).type} in column {row_column!r}; give numbers of records, from 0."
        )
    wrong = (row < 0) | (row >= N)
    if wrong.any():
        raise InputError(
            f"{what} has a prediction for record {int(row[wrong][0])}, but the data set has {N}, numbered from 0; "
            "give their own numbers, or leave the column out."
        )
    count_N = np.bincount(row.astype(np.int64), minlength=N)
    if (count_N != 1).any():
        record = int((count_N != 1).nonzero()[0][0])
        found = f"{count_N[record]} predictions" if count_N[record] else "no prediction"
        raise InputError(f"{what} has {found} for record {record}; give exactly one for each of the {N} records.")
    line_N = np.empty(N, np.int64)
    line_N[row] = np.arange(N)
    return line_N


def _class_columns(names: list[str], class_names: Sequence[str], what: str) -> list[str]:
    """The column of each class: by the names of all, else by their order."""
    missing = [each for each in class_names if each not in names]
    if not missing:
        return list(class_names)
    if len(missing) == len(class_names) == len(names):
        return names
    if len(missing) < len(class_names):
        raise InputError(
            f"{what} has columns of some classes but none of {missing[0]!r}; name a column for each of the "
            f"{len(class_names)} classes, or none (`row` aside) and put them in the order of the classes."
        )
    raise InputError(
        f"{what} has {len(names)} columns of predictions ({', '.join(map(repr, names[:5]))}"
        f"{', …' if len(names) > 5 else ''}) for {len(class_names)} classes; give one for each class, or one of labels."
    )


def _numbers(table: pa.Table, columns: list[str], what: str) -> np.ndarray[Any, Any]:
    answer_NC = np.empty((len(table), len(columns)))
    for c, name in enumerate(columns):
        values = table.column(name).to_numpy()
        if values.dtype.kind not in "fiu":
            raise InputError(
                f"{what} has {table.column(name).type} in column {name!r}; give probabilities, or logits with "
                "target.asking.answer=logits."
            )
        answer_NC[:, c] = values
    return answer_NC


def _labels(column: pa.ChunkedArray, class_names: Sequence[str], what: str) -> np.ndarray[Any, Any]:
    encoded = column.combine_chunks().dictionary_encode()
    number_of = np.array(places(encoded.dictionary.to_pylist(), class_names, what), np.int64)
    return number_of[encoded.indices.to_numpy()]  # type: ignore[no-any-return]  # of numpy
