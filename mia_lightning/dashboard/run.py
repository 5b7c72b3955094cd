"""What the dashboard reads of a `report.json`: a small part of its schema, so that thousands are read in seconds."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mia_lightning.errors import InputError
from mia_lightning.reports.names import REPORT
from mia_lightning.reports.reading import report_content


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Figure(_Part):
    """Limits of the 95 % interval are null where there are none."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Overall(_Part):
    auc: Figure
    advantage: Figure | None = None
    tpr_at_fpr: dict[str, Figure] = {}


class Attack(_Part):
    name: str
    overall: Overall


class Dataset(_Part):
    name: str


class Target(_Part):
    architecture: str
    train_accuracy: float
    test_accuracy: float
    generalization_gap: float


class Shadow(_Part):
    count: int


class Defense(_Part):
    description: str


class Made(_Part):
    created: str  # ISO 8601, UTC
    seed: int
    config: dict[str, Any]  # {} for a run from Python


class Run(_Part):
    run: Made
    dataset: Dataset
    target: Target
    shadow: Shadow
    defense: Defense | None = None
    attacks: tuple[Attack, ...]


def read_run(folder: Path) -> Run:
    """The run of `folder`.

    Raises:
        InputError: its report.json is gone, damaged, or no report of this version.
    """
    path = folder / REPORT
    try:
        return Run.model_validate(report_content(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give it to whoever runs this command.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a valid report: {first['msg']} at `{place}`; run the audit again.") from None
