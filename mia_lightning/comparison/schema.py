"""`comparison.json`: several audits side by side, with the findings checked on them; typed and versioned."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mia_lightning.comparison.differences.schema import PairDifference
from mia_lightning.reports.names import FolderBelow
from mia_lightning.reports.rows import ACCURACY, shared_name

SCHEMA: Literal["mia_lightning.comparison/2"] = "mia_lightning.comparison/2"
FIGURES = ("accuracy", "precision", "recall", "auc")
Verdict = Literal["holds", "does not hold", "undecided", "not run"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Section):
    """A figure with its 95 % interval over records: these trained models, other records of the same population."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None  # why the value is null


class VariantAttack(_Section):
    """One attack on one variant, at its own operating point.

    The counts are those of one target: of several, which share their records, they are means.
    """

    name: str
    label: str  # as shown: the name, with its defence
    adaptive: bool
    true_positives: float
    false_positives: float
    num_members: int
    num_nonmembers: int
    auc_logit_error: float | None  # standard error of the AUC on the logit scale
    accuracy: Estimate
    precision: Estimate
    recall: Estimate
    auc: Estimate
    tpr_at_fpr: dict[str, float | None]
    per_class_precision: tuple[float | None, ...]  # re-weighted to one member for each non-member
    per_class_members: tuple[int, ...]


class Variant(_Section):
    """One audit; one that could not be run has a reason, and nothing else."""

    name: str
    x: float | None = None  # where it stands on a numeric axis
    skipped: str | None = None
    folder: FolderBelow | None = None  # of its report, relative to the comparison's
    dataset: str | None = None
    num_classes: int | None = None
    num_members: int | None = None
    num_nonmembers: int | None = None
    architecture: str | None = None
    shadow_source: str | None = None
    num_shadows: int | None = None
    shadow_train_size: int | None = None
    queries_per_record: float | None = None  # of synthetic shadow records
    failed_classes: tuple[str, ...] = ()  # of which no record could be synthesised
    defense: str | None = None
    doubt: str | None = None  # why low figures are no evidence
    remarks: tuple[str, ...] = ()  # the warnings of its report
    stratum: str = "class"  # what the figures of parts are about, one and several
    strata_name: str = "classes"
    utility: str = ACCURACY  # what the two accuracies are
    train_accuracy: float | None = None
    test_accuracy: float | None = None
    generalization_gap: float | None = None
    attacks: tuple[VariantAttack, ...] = ()


class Statement(_Section):
    """A finding of the paper, checked."""

    text: str
    verdict: Verdict
    detail: str  # the figures that decide, or why it was not run
    estimate: float | None = None
    low: float | None = None
    high: float | None = None


class ComparisonReport(_Section):
    """The content of `comparison.json`."""

    schema_: Literal["mia_lightning.comparison/2"] = Field(default=SCHEMA, alias="schema")
    title: str
    question: str
    source: str  # of the paper
    command: str
    created: str  # ISO 8601, UTC
    seconds: float
    versions: dict[str, str]
    estimand: str
    variants: tuple[Variant, ...]
    statements: tuple[Statement, ...]
    differences: tuple[PairDifference, ...] = ()  # of the first variant that was run from each of the others

    @property
    def utility(self) -> str:
        """What the utility of the variants is called."""
        return shared_name((each.utility for each in self._ran), "utility")

    @property
    def stratum(self) -> str:
        """What a part is called that has figures of its own."""
        return shared_name((each.stratum for each in self._ran), "part")

    @property
    def strata_name(self) -> str:
        """The same of several."""
        return shared_name((each.strata_name for each in self._ran), "parts")

    @property
    def _ran(self) -> list[Variant]:
        return [each for each in self.variants if each.skipped is None]
