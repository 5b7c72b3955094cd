"""What a report holds beside its JSON: the scores of all records, and the losses of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from mia_lightning.errors import InputError, first_line

# Of the columns in a file.
_TYPES = {
    "attack": str,
    "target": np.int64,
    "record": np.int64,
    "label": np.int64,
    "is_member": bool,
    "score": np.float64,
    "is_flagged": bool,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """One row for each attack, target and scored record; columns of equal length.

    `score`: float64, higher = more likely a member, its scale the attack's own.
    `label`: the class, or the part of the records that figures per class are about; of several labels the first, -1 for
    none. `is_flagged`: the attack's own decision "member", at an operating point never chosen on the target.
    `parts_NS`: bool, by record, where these parts overlap; None where `label` says it all. It is in no file.
    """

    attack: np.ndarray[Any, np.dtype[np.str_]]
    target: np.ndarray[Any, np.dtype[np.int64]]
    record: np.ndarray[Any, np.dtype[np.int64]]
    label: np.ndarray[Any, np.dtype[np.int64]]
    is_member: np.ndarray[Any, np.dtype[np.bool_]]
    score: np.ndarray[Any, np.dtype[np.float64]]
    is_flagged: np.ndarray[Any, np.dtype[np.bool_]]
    parts_NS: np.ndarray[Any, np.dtype[np.bool_]] | None = None

    @property
    def classes(self) -> list[int]:
        """Those with a row, ascending."""
        if self.parts_NS is None:
            return [int(each) for each in np.unique(self.label)]
        return list(range(self.parts_NS.shape[1]))

    def of_class(self, index: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The rows of a class, bool."""
        found: np.ndarray[Any, np.dtype[np.bool_]]
        found = self.label == index if self.parts_NS is None else self.parts_NS[self.record, index]
        return found

    def class_name(self, row: int, names: Sequence[str]) -> str:
        """The class of a row, or all labels of its record."""
        if self.parts_NS is None:
            return names[int(self.label[row])]
        return ", ".join(compress(names, self.parts_NS[self.record[row]])) or "none"

    @property
    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """The columns of equal length, by name."""
        return {name: column for name, column in vars(self).items() if name != "parts_NS"}


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingCurves:
    """Losses of one stack: `[E, K]` float64, epochs by models, NaN where a model had stopped.

    `validation_loss_EK` is None where nothing was held out.
    """

    train_loss_EK: np.ndarray[Any, np.dtype[np.float64]]
    validation_loss_EK: np.ndarray[Any, np.dtype[np.float64]] | None = None


def read_scores(path: Path) -> tuple[Scores, dict[int, str]]:
    """The scores in a `scores.parquet`, and the names of records by their places in the data, where they have names.

    Raises:
        InputError: there is no such file, or it is damaged, or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
        columns = {name: table[name].to_numpy(zero_copy_only=False).astype(kind) for name, kind in _TYPES.items()}
        names = table["record_name"].to_pylist() if "record_name" in table.column_names else []
    except FileNotFoundError:
        raise InputError(f"There is no {path}, which holds the scores; give the folder of a finished run.") from None
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); run the audit again.") from None
    scores = Scores(**columns)
    if np.isnan(scores.score).any():
        raise InputError(f"{path} holds scores that are not numbers; run the audit again.")
    return scores, dict(zip(scores.record.tolist(), names, strict=True)) if names else {}
