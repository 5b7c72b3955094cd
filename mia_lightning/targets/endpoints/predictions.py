"""A file of the answers of a model for the records of the data set; nothing else is known of the model."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, listed
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Name, PathLike
from mia_lightning.settings.overrides import override
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.class_columns import matched, matched_alone
from mia_lightning.targets.endpoints.in_process import IN_PROCESS, classes_of
from mia_lightning.targets.endpoints.interface import RawAnswer
from mia_lightning.targets.endpoints.models import EndpointModels, EndpointTarget
from mia_lightning.targets.endpoints.own_classes import ClassNames, as_number, folded, places
from mia_lightning.targets.endpoints.prediction_columns import read_columns
from mia_lightning.training.models import ModelKind, Models
from mia_lightning.training.plan.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals

_ROW = "row"


@settings("target")
class Predictions(EndpointTarget):
    """The answers of some model for the records of the data set, in a file; it cannot be asked for others.

    Attributes:
        path: a `.parquet` file, or a CSV file (`.csv` or `.tsv`, as it is or compressed), with a line for each record.
            It has a column for each class, one of labels, or, of two classes, one of the probability of the
            second, or of the class that its name says. Columns are named by the classes, all with the same addition or
            none (`p_yes`), or number the classes from 0.
        row_column: the column with the number of the record in the data set, from 0. Where there is no column `row`,
            the lines are in the order of the records; any other column that is named here must be there.
    """

    path: PathLike
    row_column: Name = _ROW
    asking: Asking = field(default_factory=lambda: IN_PROCESS)
    labels_are_places: ClassVar[bool] = True
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
            asking=self.asking,
            remark=setup.engine.stages.remark,
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
        kind: ModelKind = "unknown",
        remark: Callable[[str], object] = print,
    ) -> None:
        super().__init__(endpoint, asking, population.class_names, kind=kind, labels_are_places=True, remark=remark)
        self._file, self._population = endpoint, population

    def _observed(
        self, population: Population, wanted_KN: Tensor, room: Room, answered: Callable[[int], object]
    ) -> Signals:
        """What the file says of every record.

        Raises:
            InputError: a record is none of the data set's, or equals several with different answers.
        """
        row_N = self._rows(population).to(population.device)
        rows = replace(population, x_N=row_N[:, None], scale=1.0, mean=None, std=None, image_shape=None, form=None)
        return super()._observed(rows, wanted_KN, room, answered)

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
        path: of the file, as in `Predictions`.
        class_names: C of them, in the order of the answers.
        num_records: N.
        row_column: the column of the record's numbers from 0.
        asking: how answers are read.
        remark: is given a sentence where one column is taken for the probability of a class.

    Raises:
        InputError: the file cannot be read, has other columns or other records.
    """

    protocol = "predictions"

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        *,
        num_records: int,
        row_column: str = _ROW,
        asking: Asking = IN_PROCESS,
        remark: Callable[[str], object] = print,
    ) -> None:
        self.place, self._what, self._remark = path.name, f"`target.path` {path}", remark
        self._classes, self._asking = ClassNames(class_names), asking
        self._table = read_columns(path, self._what)
        rows = self._row_column(row_column)
        answer_N = self._answers([name for name in self._table.columns if name != rows])
        self._answer_N = answer_N[self._lines(rows, num_records)]
        self._identity = {
            "protocol": self.protocol,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "row_column": row_column,
            "class_names": list(class_names),
            "answer": asking.answer,
            "labels": asking.labels,
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

    def _row_column(self, wanted: str) -> str | None:
        """The column of the numbers of records; None where the lines are in their order."""
        columns = self._table.columns
        alike = [name for name in columns if folded(name) == folded(wanted)]
        if wanted in columns or len(alike) == 1:
            return wanted if wanted in columns else alike[0]
        if wanted == _ROW and not alike:
            return None
        raise InputError(
            f"{self._what} has no column {wanted!r} (target.row_column), but {listed(columns)}; name the one with the "
            "numbers of the records."
        )

    def _lines(self, column: str | None, N: int) -> np.ndarray[Any, Any]:
        """int64 `[N]`: where in the file the answer for each record stands."""
        what, num = self._what, len(self._table)
        if column is None:
            if num != N:
                raise InputError(
                    f"{what} has {num} predictions for a data set of {N} records; give one for each, in their "
                    "order, or with their numbers from 0 in a column `row` (target.row_column)."
                )
            return np.arange(N)
        row = self._table.whole(column)
        if row is None:
            raise InputError(
                f"{what} has {self._table.kind(column)} in column {column!r}; give numbers of records, from 0."
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

    def _answers(self, columns: list[str]) -> np.ndarray[Any, Any]:
        """`[lines, C]` numbers in the order of the classes, or `[lines]` places of classes."""
        C = len(self._classes)
        if not columns:
            raise InputError(f"{self._what} has no column of predictions; give one for each class, or one of labels.")
        if len(columns) == 1:
            return self._one(columns[0])
        place_of = matched(columns, self._classes)
        if place_of is not None and len(place_of) == C == len(columns):
            ordered = sorted(columns, key=place_of.__getitem__)
            return np.stack([self._numbers(name) for name in ordered], 1)
        raise self._foreign(columns, place_of)

    def _one(self, column: str) -> np.ndarray[Any, Any]:
        """Of one column: labels, or the probability of one of two classes."""
        asking, is_two = self._asking, len(self._classes) == 2
        if not is_two or asking.answer == "labels":
            return self._labels(column)
        values = self._table.floats(column)
        is_whole = values is not None and bool((values % 1 == 0).all())
        place = None if re.fullmatch(r"\d+", column) else matched_alone(column, self._classes)
        if values is None or (asking.answer == "auto" and is_whole and place is None):
            return self._labels(column)
        if asking.answer == "auto" and is_whole and place is not None and set(values) <= {0.0, 1.0}:
            return np.where(values == 1, place, 1 - place)
        if place is None and re.fullmatch(r"\d+", column):
            raise InputError(
                f"{self._what} has one column, {column!r}, which may be a class or a number that pandas gave it; call "
                f"it by the class whose probability it is, such as p_{self._classes.names[1]}."
            )
        place = 1 if place is None else place
        name = self._classes.names[place]
        kind = "logit" if asking.answer == "logits" else "probability"
        self._remark(
            f"{self._what} has one column, {column!r}: it is taken for the {kind} of {name!r}, one of two classes."
        )
        answer_N2 = np.empty((len(values), 2))
        answer_N2[:, place] = values
        answer_N2[:, 1 - place] = 0 if asking.answer == "logits" else 1 - values
        return answer_N2

    def _numbers(self, column: str) -> np.ndarray[Any, Any]:
        values = self._table.floats(column, is_strict=True)
        if values is None:
            raise InputError(
                f"{self._what} has {self._table.kind(column)} in column {column!r}; give probabilities, or logits with "
                "target.asking.answer=logits."
            )
        return values

    def _labels(self, column: str) -> np.ndarray[Any, Any]:
        distinct, index_N = self._table.distinct(column)
        labels = self._asking.labels
        if all(isinstance(each, str) for each in distinct) and labels != "names":
            numbers = [_label_number(str(each)) for each in distinct]
            are_names = labels == "auto" and all(self._classes.find(each) is not None for each in distinct)
            if not are_names and None not in numbers:
                distinct = list(numbers)
        place_of = np.array(places(distinct, self._classes.names, self._what, labels), np.int64)
        return place_of[index_N]  # type: ignore[no-any-return]  # of numpy

    def _foreign(self, columns: list[str], place_of: Mapping[str, int] | None) -> InputError:
        """The error for columns that are not one for each class."""
        names, what = self._classes.names, self._what
        known = place_of or {name: place for name in columns if (place := self._classes.find(name)) is not None}
        others = [name for name in columns if name not in known]
        missing = [name for place, name in enumerate(names) if place not in known.values()]
        if all(as_number(name) is not None for name in columns) and not known:
            return InputError(
                f"{what} has the columns {listed(columns)} in its first line, which are none of the classes "
                f"{listed(names)}; let the first line name the columns."
            )
        numbering = next((name for name in others if self._may_number(name)), None)
        if not missing or numbering is not None:
            other = numbering or others[0]
            mend = "leave it out"
            if numbering is not None:
                setting = override("target.row_column", numbering)
                mend = f"if it holds the numbers of the records, from 0, set {setting}; else {mend}"
            return InputError(
                f"{what} has the column {other!r}, which is neither one of the classes {listed(names)} nor the row "
                f"column; {mend}."
            )
        if known:
            return InputError(
                f"{what} has columns of some classes but none of {missing[0]!r} ({listed(columns)}); name a column "
                f"for each of the {len(names)} classes, and have no other beside the row column."
            )
        return InputError(
            f"{what} has {len(columns)} columns of predictions ({listed(columns)}) for {len(names)} classes "
            f"({listed(names)}); name one by each class, or give one of labels."
        )

    def _may_number(self, column: str) -> bool:
        """Whether a column holds different whole numbers."""
        row = self._table.whole(column)
        return row is not None and len(np.unique(row)) == len(row) > 1


def _label_number(text: str) -> int | None:
    """The whole number, or true or false as one, that a text writes."""
    if text.lower() in ("true", "false"):
        return int(text.lower() == "true")
    number = as_number(text)
    return int(number) if number is not None and number % 1 == 0 else None
