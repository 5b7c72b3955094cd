"""The one flat table of runs: what a report says of a run, of each attack on it, and of each class or group under it.

`sweep.parquet`, the dashboard, `comparison.csv`, `per_class.csv` and the loggers take their columns from here. Neither
torch nor the whole schema is loaded, so that thousands of runs are read in seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import AliasPath, BaseModel, BeforeValidator, ConfigDict, Field

from mia_lightning.errors import InputError
from mia_lightning.reports.names import REPORT
from mia_lightning.reports.reading import report_content
from mia_lightning.store.documents import DamagedError, understood

if TYPE_CHECKING:
    from mia_lightning.metrics.figures import Figures
    from mia_lightning.reports.schema import AuditReport

Row = dict[str, Any]
FIGURE_NAMES = (
    "precision",
    "precision_balanced",
    "recall",
    "accuracy",
    "balanced_accuracy",
    "advantage",
    "auc",
    "average_precision",
)
FIGURE_FAMILIES = ("tpr_at_fpr", "tpr_at_fpr_pooled", "precision_at_recall", "ppv")
ACCURACIES = ("train_accuracy", "test_accuracy", "generalization_gap")  # of the target
ACCURACY = "accuracy"
UNDERSTATED = "leakage may be understated"
# Figures by whose intervals runs are compared.
_WITH_LIMITS = ("auc", "tpr_at_fpr_")


def _at(path: str, **options: Any) -> Any:
    """A column, by its place in the report."""
    return Field(validation_alias=AliasPath(*path.split(".")), **options)


def figures_by_name(figures: "Figures | Mapping[str, Any]") -> dict[str, Any]:
    """All figures of one group, flat: `precision`, …, `auc`, …, `tpr_at_fpr_0.01`, …, `ppv_0.1`."""
    parts = dict(figures)
    flat = {name: parts[name] for name in FIGURE_NAMES}
    for family in FIGURE_FAMILIES:
        flat |= {f"{family}_{key}": figure for key, figure in parts.get(family, {}).items()}
    return flat


def _figures(content: Any) -> dict[str, Any]:
    try:
        return figures_by_name(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"these are no figures ({error!r})") from None


def shared_name(names: Iterable[str], otherwise: str) -> str:
    """What something of several runs is called: by its name where all have one, else by a word for any of them."""
    several = set(names)
    return several.pop() if len(several) == 1 else otherwise


class _Columns(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, from_attributes=True)


class Limited(_Columns):
    """A figure and the limits of its 95 % interval; null where undefined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class AttackRow(_Columns):
    """The columns of one attack; `figures` by name: `auc`, `tpr_at_fpr_0.01`, `ppv_0.1`, …."""

    attack: str = _at("name")
    defense: str | None = None  # that the attack met
    adaptive: bool = False  # whether the attacker knew it
    figures: Annotated[dict[str, Limited], BeforeValidator(_figures)] = _at("overall")


class RunRow(_Columns):
    """The columns of a run, which all of its attacks share."""

    created: str = _at("run.created")  # ISO 8601, UTC
    seed: int = _at("run.seed")
    dataset: str = _at("dataset.name")
    fingerprint: str | None = _at("dataset.fingerprint", default=None)  # of its records and labels
    num_records: int = _at("dataset.num_records")  # of the data set
    num_classes: int = _at("dataset.num_classes")
    trust: str | None = _at("trust.verdict", default=None)  # void, unconfirmed, sound or not checked
    understated: str | None = _at("trust.understated", default=None)  # why the attacks may find too little
    broken: tuple[str, ...] = ()  # the warnings after which low figures are no evidence
    plan: str = _at("membership.plan")
    num_members: int = _at("membership.num_members")  # of one target
    num_nonmembers: int = _at("membership.num_nonmembers")
    architecture: str = _at("target.architecture")
    num_targets: int = _at("target.num_targets")
    shadow_source: str = _at("shadow.source")
    num_shadows: int = _at("shadow.count")
    shadow_train_size: int = _at("membership.shadow_train_size")
    defense: str | None = _at("defense.description", default=None)
    stratum: str = _at("task.stratum", default="class")  # what the figures of parts are about, one and several
    strata_name: str = _at("task.strata_name", default="classes")
    utility: str = _at("task.utility", default=ACCURACY)  # what the two accuracies are
    train_accuracy: float = _at("target.train_accuracy")
    test_accuracy: float = _at("target.test_accuracy")
    generalization_gap: float = _at("target.generalization_gap")
    seconds: dict[str, float] = _at("run.seconds")  # by stage
    config: dict[str, Any] = _at("run.config")  # {} for a run from Python
    attacks: tuple[AttackRow, ...]

    @classmethod
    def of(cls, report: "AuditReport | Mapping[str, Any]") -> "RunRow":
        """The columns of a report, or of the content of a report.json."""
        return cls.model_validate(report)

    @property
    def doubt(self) -> str | None:
        """Why low figures of the run are no evidence, in a word or two; None where they are."""
        of_target = {"void": "cannot be trusted", "unconfirmed": "could not be confirmed"}.get(str(self.trust))
        return of_target or (UNDERSTATED if self.understated or self.broken else None)

    def rows(self) -> list[Row]:
        """A flat row for each attack; one without an attack for a run that has none."""
        nested = {"attacks", "figures", "seconds", "config", "trust", "understated", "broken", "fingerprint"}
        shared = self.model_dump(exclude=nested) | {"doubt": self.doubt}
        rows = [
            shared | attack.model_dump(exclude=nested) | with_limits(attack.figures, attack.figures)
            for attack in self.attacks
        ]
        return rows or [shared]


def read_run(folder: Path) -> RunRow:
    """The columns of the run in `folder`.

    Raises:
        InputError: its report.json is gone, damaged, or no report of this version.
    """
    path = folder / REPORT
    try:
        return understood(report_content(path), RunRow)
    except DamagedError as damage:
        raise InputError(f"{path} is not a valid report: {damage.violation}; run the audit again.") from None


class _HasLimits(Protocol):
    @property
    def value(self) -> float | None: ...

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


def with_limits(figures: Mapping[str, _HasLimits], names: Iterable[str]) -> Row:
    """For each name three columns: the figure, `<name>_low` and `<name>_high`; None where there is no such figure."""
    row: Row = {}
    for name in names:
        figure = figures.get(name, Limited())
        row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return row


def per_class_rows(report: "AuditReport") -> list[Row]:
    """One row for each attack and class: who, how many, the target's accuracies, all figures, then the reasons.

    A figure that is undefined is None; `<figure>_low` and `<figure>_high` are the limits of its interval, and
    `<figure>_reason` says why it is undefined: they are None if there is nothing to say. `auc_simultaneous_low`
    and `_high` hold for all classes at once. All rows have the same columns, in the same order.
    """
    of_class = {section.class_index: section for section in report.target.per_class}
    return _rows_of_groups(
        report,
        [
            (
                attack,
                {"class_index": group.class_index, "class_name": group.class_name},
                group,
                of_class[group.class_index],
            )
            for attack in report.attacks
            for group in attack.per_class
        ],
    )


def per_group_rows(report: "AuditReport") -> list[Row]:
    """One row for each attack and group of records, with the columns of `per_class_rows` but those of the class.

    Empty where the records have no groups.
    """
    return _rows_of_groups(
        report,
        [
            (attack, {"group_name": group.group_name}, group, of_target)
            for attack in report.attacks
            for group, of_target in zip(attack.per_group, report.target.per_group, strict=True)
        ],
    )


def _rows_of_groups(report: "AuditReport", parts: Sequence[tuple[Any, Row, Any, Any]]) -> list[Row]:
    """A row for each (attack, what names the group, its figures, the target's accuracies on it)."""
    names = list(dict.fromkeys(name for attack in report.attacks for name in figures_by_name(attack.overall)))
    rows = []
    for attack, key, group, of_target in parts:
        figures = figures_by_name(group)
        rows.append(
            {"attack": attack.name, "defense": attack.defense, "adaptive": attack.adaptive}
            | key
            | {name: getattr(group, name) for name in ("num_members", "num_nonmembers", "base_rate")}
            | {name: getattr(of_target, name) for name in ACCURACIES}
            | with_limits(figures, names)
            | {f"auc_simultaneous_{end}": getattr(group.auc_simultaneous, end, None) for end in ("low", "high")}
            | {f"{name}_reason": figures[name].reason if name in figures else None for name in names}
        )
    return rows


def headline_scalars(report: "AuditReport") -> dict[str, float]:
    """The figures by which runs are compared, under names that read like paths; undefined ones are left out.

    `leakage/<attack>/auc` and the other figures, `target/train_accuracy`, `target/test_accuracy`, which another utility
    has under its own name (`target/test_r2`), and `target/generalization_gap`; AUC and TPR with their limits,
    `leakage/<attack>/auc_low` and `auc_high`. An output defence is part of the path: `leakage/<attack>/<defense>/auc`.
    """
    utility = report.task.utility.replace("²", "2").replace(" ", "_").lower()
    scalars = {f"target/{name.replace(ACCURACY, utility)}": getattr(report.target, name) for name in ACCURACIES}
    for attack in report.attacks:
        parts = ["leakage", attack.name]
        if attack.defense is not None:
            parts.append(f"{attack.defense}_adaptive" if attack.adaptive else attack.defense)
        figures = figures_by_name(attack.overall)
        for name in figures:
            columns = with_limits(figures, [name]) if name.startswith(_WITH_LIMITS) else {name: figures[name].value}
            scalars |= {"/".join([*parts, column]): value for column, value in columns.items() if value is not None}
    return scalars
