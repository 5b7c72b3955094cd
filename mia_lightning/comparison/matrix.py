"""Defences by attacks: what each variant leaks to the attacker who knows its defence, beside its utility.

The adaptive attacker counts: one who does not know a defence is easily fooled by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from mia_lightning.comparison.schema import ComparisonReport, Variant, VariantAttack
from mia_lightning.reports.words import show
from mia_lightning.terminal.tables import Columns, Sentence

_TWINS = ("-unaware", "-adaptive")
_MOST_WITH_LIMITS = 3  # attacks whose intervals fit 100 columns


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant of the matrix.

    Attributes:
        variant: that was run.
        attacks: for each column the attack that knows most of the defence; None where it was not run.
        is_efficient: whether no other variant does as well on new records and leaks as little to its strongest
            attack, and is better in one of the two (Pareto); runs whose low figures are no evidence do not count.
    """

    variant: Variant
    attacks: tuple[VariantAttack | None, ...]
    is_efficient: bool

    @property
    def leakage(self) -> float | None:
        """The largest AUC of the row; None where none is defined."""
        return _leakage(self.attacks)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Defences by attacks.

    Attributes:
        utility: what it is called.
        attacks: names of the columns.
        rows: in the order of the variants.
    """

    utility: str
    attacks: tuple[str, ...]
    rows: tuple[Row, ...]


def defense_matrix(report: ComparisonReport) -> Matrix | None:
    """The matrix of a comparison; None where it compares no defences, or only one variant was run."""
    ran = [variant for variant in report.variants if variant.skipped is None and variant.attacks]
    if len(ran) < 2 or all(variant.defense is None for variant in ran):
        return None
    names = tuple(dict.fromkeys(base_name(attack.name) for variant in ran for attack in variant.attacks))
    attacks = [tuple(_best_informed(variant, name) for name in names) for variant in ran]
    points = [
        (None, None) if variant.doubt else (variant.test_accuracy, _leakage(row))
        for variant, row in zip(ran, attacks, strict=True)
    ]
    rows = tuple(
        Row(variant=variant, attacks=row, is_efficient=_is_efficient(point, points))
        for variant, row, point in zip(ran, attacks, points, strict=True)
    )
    return Matrix(utility=report.utility, attacks=names, rows=rows)


def render_matrix(matrix: Matrix) -> Group:
    """A row for each variant, a column for each attack; fits 100 columns for a few attacks."""
    has_limits = len(matrix.attacks) <= _MOST_WITH_LIMITS
    rows = [
        [
            row.variant.name + (" *" if row.is_efficient else ""),
            show(row.variant.test_accuracy),
            *(_cell(attack, has_limits=has_limits) for attack in row.attacks),
        ]
        for row in matrix.rows
    ]
    return Group(
        Text("Defences by attacks: AUC of the attacker who knows the defence", "bold"),
        Columns(["variant", f"test {matrix.utility}", *matrix.attacks], rows, 1),
        Sentence(
            "* Pareto front: no other variant does at least as well and leaks no more; runs in doubt do not count"
        ),
    )


def _cell(attack: VariantAttack | None, *, has_limits: bool) -> str:
    if attack is None or attack.auc.value is None:
        return show(None)
    limits = (
        f" {show(attack.auc.low, 2)}–{show(attack.auc.high, 2)}" if has_limits and attack.auc.low is not None else ""
    )
    return show(attack.auc.value) + limits


def base_name(name: str) -> str:
    """The name of an attack, whether or not its attacker knows the defence."""
    for twin in _TWINS:
        name = name.removesuffix(twin)
    return name


def _best_informed(variant: Variant, name: str) -> VariantAttack | None:
    """The attack of this name, in its adaptive form where there is one."""
    named = [attack for attack in variant.attacks if base_name(attack.name) == name]
    return next((attack for attack in named if attack.adaptive), named[0] if named else None)


def _leakage(attacks: Sequence[VariantAttack | None]) -> float | None:
    return max((each.auc.value for each in attacks if each is not None and each.auc.value is not None), default=None)


def _is_efficient(
    point: tuple[float | None, float | None], points: Sequence[tuple[float | None, float | None]]
) -> bool:
    utility, leakage = point
    if utility is None or leakage is None:
        return False
    return not any(
        other >= utility and leaked <= leakage and (other, leaked) != (utility, leakage)
        for other, leaked in points
        if other is not None and leaked is not None
    )
