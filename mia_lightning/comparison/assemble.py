"""From the reports of several audits to their comparison."""

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from scipy.special import logit, ndtri

from mia_lightning.comparison.differences.schema import PairDifference
from mia_lightning.comparison.findings import Finding
from mia_lightning.comparison.intervals import ESTIMAND, Correlation, draws, independent, limits, rates_to
from mia_lightning.comparison.schema import FIGURES, ComparisonReport, Estimate, Variant, VariantAttack
from mia_lightning.metrics.intervals.areas import TOO_FEW, auc_interval, delong
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.roc import roc
from mia_lightning.reports.rows import RunRow
from mia_lightning.reports.schema import AttackSection, AuditReport
from mia_lightning.reports.scores import Scores
from mia_lightning.reports.words import label

_UNKNOWN = Estimate(value=None, low=None, high=None)


def variant_of(name: str, report: AuditReport, folder: Path, x: float | None = None) -> Variant:
    """One audit as a part of a comparison.

    Args:
        name: of the variant.
        report: with its scores.
        folder: of the report, relative to the comparison's.
        x: where the variant stands on a numeric axis.
    """
    assert report.scores is not None, "a report that was read back has no scores"
    synthesis = report.shadow.synthesis
    run = RunRow.of(report)
    shared = Variant.model_fields.keys() & RunRow.model_fields.keys() - {"attacks"}
    return Variant(
        name=name,
        x=x,
        folder=folder.as_posix(),
        doubt=run.doubt,
        remarks=report.warnings,
        queries_per_record=None if synthesis is None else synthesis.queries_per_record,
        failed_classes=() if synthesis is None else synthesis.failed_classes,
        attacks=tuple(_attack(attack, report.scores) for attack in report.attacks),
        **{column: getattr(run, column) for column in shared},
    )


def skipped_variant(name: str, reason: str, x: float | None = None) -> Variant:
    """A variant that could not be run."""
    return Variant(name=name, x=x, skipped=reason)


def compare(
    variants: Sequence[Variant],
    findings: Sequence[Finding],
    *,
    title: str,
    question: str,
    source: str,
    command: str,
    seconds: float,
    differences: Sequence[PairDifference] = (),
    correlation: Correlation = independent,
) -> ComparisonReport:
    """The comparison, with every finding checked.

    Args:
        differences: between variants; see `KeptVariants`.
        correlation: of a figure of two variants, over the records that they share.

    Raises:
        InputError: a finding names a variant or an attack that there is none of.
    """
    packages = ("mia_lightning", "torch", "pytorch_lightning")
    versions = {name: importlib.metadata.version(name.replace("_", "-")) for name in packages}
    return ComparisonReport(
        title=title,
        question=question,
        source=source,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        versions={"python": platform.python_version(), **versions},
        estimand=ESTIMAND,
        variants=tuple(variants),
        statements=tuple(finding.check(variants, correlation) for finding in findings),
        differences=tuple(differences),
    )


def _attack(section: AttackSection, scores: Scores) -> VariantAttack:
    rows = scores.attack == section.name
    is_member, is_flagged = scores.is_member[rows], scores.is_flagged[rows]
    num_targets = section.num_targets
    true_positives, num_members = _of_one_target(is_flagged, is_member, num_targets)
    false_positives, num_nonmembers = _of_one_target(is_flagged, ~is_member, num_targets)
    counted = VariantAttack(
        name=section.name,
        label=label(section),
        adaptive=section.adaptive,
        true_positives=true_positives,
        false_positives=false_positives,
        num_members=num_members,
        num_nonmembers=num_nonmembers,
        auc_logit_error=_auc_error(section, scores.score[rows], is_member, scores.target[rows]),
        accuracy=_UNKNOWN,
        precision=_UNKNOWN,
        recall=_UNKNOWN,
        auc=Estimate(value=section.overall.auc.value, low=None, high=None),
        tpr_at_fpr={rate: figure.value for rate, figure in section.overall.tpr_at_fpr.items()},
        per_class_precision=tuple(group.precision_balanced.value for group in section.per_class),
        per_class_members=tuple(group.num_members // num_targets for group in section.per_class),
    )
    return counted.model_copy(update={figure: _estimate(counted, figure, section) for figure in FIGURES})


def _of_one_target(
    is_flagged: np.ndarray[tuple[int], np.dtype[np.bool_]],
    is_kind: np.ndarray[tuple[int], np.dtype[np.bool_]],
    num_targets: int,
) -> tuple[float, int]:
    """How many of the members, or of the non-members, of one target are flagged, and how many there are.

    Of several targets the share is that of all their records together, whether or not they have equally many.
    """
    total = int(is_kind.sum())
    n = max(total // num_targets, min(total, 1))
    flagged = float((is_flagged & is_kind).sum()) / num_targets
    return (min(flagged * (n * num_targets / total), float(n)) if total else 0.0), n


def _estimate(attack: VariantAttack, figure: str, section: AttackSection) -> Estimate:
    """The figure of all targets together, with its interval; a null one keeps the report's reason."""
    reported = getattr(section.overall, figure)
    if reported.value is None:
        return Estimate(value=None, low=None, high=None, reason=reported.reason)
    value = reported.value
    if figure != "auc":
        tpr, fpr = (
            np.array([count / total])
            for count, total in (
                (attack.true_positives, attack.num_members),
                (attack.false_positives, attack.num_nonmembers),
            )
        )
        value = float(rates_to(figure, tpr, fpr, attack.num_members, attack.num_nonmembers)[0])
    elif attack.auc_logit_error is None and 0 < value < 1:
        return Estimate(value=value, low=None, high=None, reason=f"no interval: {TOO_FEW.removeprefix('none: ')}")
    low, high = limits(draws(attack, figure, "estimate"))
    if figure == "auc":  # one-sided where members and non-members are separated
        low, high = min(low, value), max(high, value)
    return Estimate(value=value, low=low, high=high)


def _auc_error(
    section: AttackSection,
    score: np.ndarray[tuple[int], np.dtype[np.float64]],
    is_member: np.ndarray[tuple[int], np.dtype[np.bool_]],
    target: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> float | None:
    """Standard error on the logit scale; of several targets, which share records, the mean of theirs.

    DeLong's variance is 0 where all scores of a target are tied, or separate its members from its non-members. Its
    error is then the distance of a limit of `auc_interval`, in normal quantiles. None with too few records, and where
    all targets are separated.
    """
    errors, mean = [], section.overall.auc.value
    for t in range(section.num_targets):
        # Of one target, or of trials that are one together.
        of_target = np.ones_like(is_member) if section.num_targets == 1 else target == t
        members = is_member[of_target]
        if min(members.sum(), (~members).sum()) < 2:
            return None
        curve = roc(torch.from_numpy(score[of_target]), torch.from_numpy(members))
        area, variance = curve.auc, delong(curve)
        if 0 < area < 1 and variance > 0:
            errors.append(np.sqrt(variance) / (area * (1 - area)))
            continue
        if mean is None or not 0 < mean < 1:
            return None
        low, high, _ = auc_interval(curve)
        assert low is not None
        assert high is not None
        reach = logit(high) if 0 < area < 1 else (high - low) / (mean * (1 - mean))  # the area of ties is a half
        errors.append(reach / -float(ndtri(TAIL)))
    return float(np.mean(errors))
