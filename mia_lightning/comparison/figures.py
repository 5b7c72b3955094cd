"""The pictures of a comparison, as PNG."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mia_lightning.comparison.matrix import defense_matrix
from mia_lightning.comparison.schema import ComparisonReport, Estimate, Variant, VariantAttack
from mia_lightning.reports.curves import distribution_line
from mia_lightning.reports.figures import COLOURS, INK, MARKERS, MUTED, add_legend, new_figure, plain, png, short
from mia_lightning.reports.labels import label_places

_STYLES = ("-", "--", ":")


def comparison_figures(report: ComparisonReport) -> dict[str, tuple[str, bytes]]:
    """Title and PNG by file name; of each figure that the variants have numbers for."""
    ran = [variant for variant in report.variants if variant.skipped is None and variant.attacks]
    if not ran:
        return {}
    drawn: dict[str, tuple[str, Callable[[Sequence[Variant]], Figure | None]]] = {
        "precision_by_class.png": ("Cumulative distribution of precision over classes", _distribution),
        "precision_by_records.png": ("Precision and training records of the class", _by_records),
        "leakage_vs_gap.png": ("Leakage and overfitting", _leakage_vs_gap),
        "figure_over_x.png": ("Precision and recall along the axis of the comparison", _over_x),
        "leakage_vs_utility.png": ("Leakage and utility", _leakage_vs_utility),
    }
    pictures = {}
    for name, (title, draw) in drawn.items():
        figure = draw(ran)
        if figure is not None:
            pictures[name] = (title, png(figure))
    front = _pareto(report)
    if front is not None:
        pictures["pareto.png"] = ("Leakage to the strongest attacker, and utility", png(front))
    return pictures


def _first(variant: Variant) -> VariantAttack:
    return variant.attacks[0]


def _colour(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": _STYLES[place // len(COLOURS) % len(_STYLES)]}


def _distribution(variants: Sequence[Variant]) -> Figure | None:
    name = _first(variants[0]).label
    figure, axes = new_figure(f"Precision of {name}, class by class", (8.4, 5.2))
    for place, variant in enumerate(variants):
        defined = [value for value in _first(variant).per_class_precision if value is not None]
        if defined:
            axes.plot(*distribution_line(defined), label=plain(short(variant.name)), linewidth=1.8, **_colour(place))
    if not axes.lines:
        return None
    _guessing(axes.axvline)
    axes.set(xlabel="precision at one member per non-member", ylabel="share of classes at or below")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    add_legend(axes)
    return figure


def _by_records(variants: Sequence[Variant]) -> Figure | None:
    name = _first(variants[0]).label
    figure, axes = new_figure(f"Precision of {name}, by training records of the class", (8.4, 5.2))
    for place, variant in enumerate(variants):
        attack = _first(variant)
        points = [
            (count, value)
            for count, value in zip(attack.per_class_members, attack.per_class_precision, strict=True)
            if value is not None
        ]
        if points:
            axes.scatter(
                [point[0] for point in points],
                [point[1] for point in points],
                s=22,
                alpha=0.75,
                linewidths=0,
                color=COLOURS[place % len(COLOURS)],
                marker=MARKERS[place // len(COLOURS) % len(MARKERS)],
                label=plain(short(variant.name)),
            )
    if not axes.collections:
        return None
    _guessing(axes.axhline)
    axes.set(xlabel="training records of the class", ylabel="precision at one member per non-member")
    add_legend(axes)
    return figure


def _leakage_vs_gap(variants: Sequence[Variant]) -> Figure | None:
    if len({variant.generalization_gap for variant in variants}) < 2:
        return None
    return _scatter(
        variants,
        "Leakage and overfitting",
        lambda variant: variant.generalization_gap,
        lambda attack: attack.auc,
        "generalisation gap (train − test accuracy)",
        "AUC of the attack",
    )


def _leakage_vs_utility(variants: Sequence[Variant]) -> Figure | None:
    if all(variant.defense is None for variant in variants):
        return None
    return _scatter(
        variants,
        "Leakage and utility",
        lambda variant: variant.test_accuracy,
        lambda attack: attack.precision,
        "test accuracy of the target",
        "precision of the attack",
    )


def _pareto(report: ComparisonReport) -> Figure | None:
    """Every defence by test accuracy and by the AUC of its strongest attacker; the efficient ones are joined."""
    matrix = defense_matrix(report)
    if matrix is None:
        return None
    figure, axes = new_figure("Leakage to the strongest attacker who knows the defence, and utility", (8.4, 5.2))
    rows = sorted(matrix.rows, key=lambda row: not row.is_efficient)  # these are labelled first
    points = []
    for row in rows:
        defined = [each.auc for each in row.attacks if each is not None and each.auc.value is not None]
        if defined and row.variant.test_accuracy is not None:
            points.append((row.variant.test_accuracy, max(defined, key=_value), row.variant.name))
    if not points:
        return None
    _points(axes, points, 0, "defence", is_labelled=True)
    front = sorted((x, _value(estimate)) for x, estimate, _ in points[: sum(row.is_efficient for row in rows)])
    axes.plot(
        [x for x, _ in front],
        [y for _, y in front],
        color=COLOURS[1],
        linewidth=1.2,
        marker="o",
        markersize=12,
        fillstyle="none",
        label="none is as accurate\nand leaks as little",
    )
    _guessing(axes.axhline)
    axes.margins(x=0.12)
    axes.set(xlabel="test accuracy of the target", ylabel="AUC of the strongest attack")
    add_legend(axes)
    return figure


def _scatter(
    variants: Sequence[Variant],
    title: str,
    across: Callable[[Variant], float | None],
    up: Callable[[VariantAttack], Estimate],
    xlabel: str,
    ylabel: str,
) -> Figure | None:
    """One point for each variant and attack, labelled by the variant where there is room."""
    figure, axes = new_figure(title, (8.4, 5.2))
    for place, name in enumerate(_attack_names(variants)):
        points = []
        for variant in variants:
            attack = next((each for each in variant.attacks if each.name == name), None)
            x = across(variant)
            if attack is not None and x is not None and up(attack).value is not None:
                points.append((x, up(attack), variant.name))
        if points:
            _points(axes, points, place, name, is_labelled=place == 0)
    if not axes.lines:
        return None
    _guessing(axes.axhline)
    axes.margins(x=0.12)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    add_legend(axes)
    return figure


def _points(
    axes: Axes, points: Sequence[tuple[float, Estimate, str]], place: int, name: str, *, is_labelled: bool
) -> None:
    xs, values = [x for x, _, _ in points], [_value(estimate) for _, estimate, _ in points]
    axes.errorbar(
        xs,
        values,
        yerr=_reach([estimate for _, estimate, _ in points]),
        fmt=MARKERS[place % len(MARKERS)],
        color=COLOURS[place % len(COLOURS)],
        markersize=6,
        linewidth=1,
        capsize=2,
        alpha=0.85,
        label=plain(name),
    )
    if is_labelled:
        names = [short(text, 22) for _, _, text in points]
        for index, side in label_places(list(zip(xs, values, strict=True)), names).items():
            axes.annotate(
                plain(names[index]),
                (xs[index], values[index]),
                xytext=(8 if side == "right" else -8, 0),
                textcoords="offset points",
                ha="left" if side == "right" else "right",
                va="center",
                fontsize=8.5,
                color=INK,
            )


def _over_x(variants: Sequence[Variant]) -> Figure | None:
    placed = sorted((each for each in variants if each.x is not None), key=lambda each: each.x or 0.0)
    if len(placed) < 2:
        return None
    name = _first(placed[0]).label
    figure, axes = new_figure(f"Precision and recall of {name}", (8.4, 5.2))
    for place, figure_name in enumerate(("precision", "recall")):
        estimates = [(each.x or 0.0, getattr(_first(each), figure_name)) for each in placed]
        shown = [(x, estimate) for x, estimate in estimates if estimate.value is not None]
        if shown:
            axes.errorbar(
                [x for x, _ in shown],
                [_value(estimate) for _, estimate in shown],
                yerr=_reach([estimate for _, estimate in shown]),
                marker=MARKERS[place],
                capsize=3,
                linewidth=1.6,
                label=figure_name,
                **_colour(place),
            )
    _guessing(axes.axhline)
    xs = [each.x for each in placed if each.x is not None]
    if min(xs) > 0 and max(xs) / min(xs) > 20:
        axes.set_xscale("log")
    axes.set_xticks(xs, [f"{x:g}" for x in xs], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(ylim=(0, 1.03), xlabel=_axis_name(placed), ylabel="precision, recall")
    add_legend(axes)
    return figure


def _axis_name(variants: Sequence[Variant]) -> str:
    """What the numbers on the axis count: the words that all names of variants have beside their number."""
    words = [{word for word in each.name.split() if not word.strip("%.").isdigit()} for each in variants]
    common = set.intersection(*words)
    return " ".join(word for word in variants[0].name.split() if word in common) or "setting"


def _attack_names(variants: Sequence[Variant]) -> list[str]:
    return list(dict.fromkeys(attack.name for variant in variants for attack in variant.attacks))


def _value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def _reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far the interval reaches below and above each value."""
    below = [max(0.0, _value(e) - (_value(e) if e.low is None else e.low)) for e in estimates]
    above = [max(0.0, (_value(e) if e.high is None else e.high) - _value(e)) for e in estimates]
    return [below, above]


def _guessing(line: Callable[..., object]) -> None:
    line(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
