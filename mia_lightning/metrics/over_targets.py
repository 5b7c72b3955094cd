"""The figures of an attack over several targets."""

from collections.abc import Sequence
from math import fsum
from statistics import stdev
from typing import Any

import torch
from torch import Tensor

from mia_lightning.attacks.decisions import FIXED
from mia_lightning.attacks.smooth_threshold import is_tied
from mia_lightning.errors import InputError
from mia_lightning.metrics.figures import Figure, Figures, Interval, limited, null
from mia_lightning.metrics.intervals.areas import TOO_FEW, auc_interval
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.intervals.crossed import auc_contributions, crossed_interval, share_contributions
from mia_lightning.metrics.intervals.learnt_thresholds import SHARES, Relearnt, blocks_of, rate_intervals, relearnt
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.leakage import MAX_FPRS, attack_figures
from mia_lightning.metrics.operating_point import NOTHING_FLAGGED
from mia_lightning.metrics.ranking_over_targets import pooled_tprs, ranking_intervals
from mia_lightning.metrics.roc import roc

_FIGURE_NAMES = [name for name, field in Figures.model_fields.items() if field.annotation is Figure]
NOT_KNOWN = "none: scores are tied at the threshold, and whether it was fixed beforehand is not known"
NO_INTERVAL = "none: targets share records and shadow models"


def target_figures(
    score_TN: Tensor,
    is_flagged_TN: Tensor,
    member_TN: Tensor,
    scored_TN: Tensor,
    *,
    max_fprs: Sequence[float] = MAX_FPRS,
    bootstrap: Bootstrap | None = None,
    decision: Relearnt | str | None = None,
) -> Figures:
    """What an attack achieves against T targets on one group of records; `attack_figures` of a single one.

    Of several the values are means over targets (`mean_figures`), `spread` their standard deviation over targets. The
    intervals are those of `crossed_interval`: new records of the same population and new trainings on them. TPR at FPR
    is the mean of each target's own, and beside it that of one threshold for the scores of all targets. Where an
    interval was found to cover less than it says there is none, and `interval` names the reason.

    Precision, recall, PPV, accuracies and advantage depend on the threshold of the attack. Where it was learnt from the
    other targets its error is common to all, and the interval is that of `rate_intervals`.

    Args:
        score_TN, is_flagged_TN, member_TN: as for `attack_figures`, for each target.
        scored_TN: bool; records that are evidence about the target.
        bootstrap: of a single target; see `attack_figures`.
        decision: how records came to be flagged: at a threshold `FIXED` beforehand, at one that was `relearnt`, or
            otherwise, with the reason why there are no intervals ("none: ..."). None takes thresholds that differ
            between targets for learnt ones. `FIXED` is for scores of each target alone: at a fixed threshold of scores
            that compare targets with each other (a likelihood ratio at 0) it covers less where leakage is weak.

    Raises:
        InputError: as `attack_figures`.
    """
    if len(score_TN) == 1:
        of_one = (each_TN[0][scored_TN[0]] for each_TN in (score_TN, is_flagged_TN, member_TN))
        return attack_figures(*of_one, max_fprs=max_fprs, bootstrap=bootstrap)
    if decision is None:
        decision = _inferred(score_TN, is_flagged_TN, member_TN, scored_TN)
    figures = mean_figures(
        [
            attack_figures(
                *(each_TN[t][scored_TN[t]] for each_TN in (score_TN, is_flagged_TN, member_TN)),
                max_fprs=max_fprs,
                intervals=False,
            )
            for t in range(len(score_TN))
        ]
    )
    return figures.model_copy(
        update={
            **_with_intervals(figures, score_TN, is_flagged_TN, member_TN, scored_TN, max_fprs, decision),
            "tpr_at_fpr_pooled": pooled_tprs(score_TN, member_TN, scored_TN, max_fprs),
        }
    )


def mean_auc_interval(score_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, *, tail: float = TAIL) -> Interval:
    """The interval of the mean AUC over targets; none where a target lacks two members or two non-members.

    Args:
        score_TN, member_TN, scored_TN: as for `target_figures`.
        tail: of each side; for C groups at once, a C-th of that of one (Bonferroni).
    """
    if int(_fewest(member_TN, scored_TN)) < 2:
        return Interval(None, None, TOO_FEW)
    if len(score_TN) == 1:
        return auc_interval(roc(score_TN[0][scored_TN[0]], member_TN[0][scored_TN[0]]), tail=tail)
    return crossed_interval(*auc_contributions(score_TN, member_TN, scored_TN), tail=tail)


def mean_figures(figures: Sequence[Figures]) -> Figures:
    """The figures of an attack over several targets; those of a single target are returned as they are.

    Each value is the mean over the targets for which it is defined, its `n` the sum over these (over all,
    where it is defined for none), its `spread` their standard deviation; `reason` says for how many targets it is
    missing, and keeps one caution. PPV is that of the mean rates: its mean over targets would leave out those without a
    false positive. Counts are summed, and the base rate is that of the sums. Intervals are not averaged: `low` and
    `high` are null.

    Raises:
        InputError: no figures, or false-positive rates that differ between the targets.
    """
    if not figures:
        raise InputError("`figures` is empty; a mean needs at least one target.")
    first = figures[0]
    if len(figures) == 1:
        return first
    for other in figures:
        if other.tpr_at_fpr.keys() != first.tpr_at_fpr.keys():
            raise InputError(
                f"the targets have TPRs at the FPRs {list(first.tpr_at_fpr)} and {list(other.tpr_at_fpr)}; "
                "they must be evaluated at the same rates."
            )
    n1 = sum(each.num_members for each in figures)
    n0 = sum(each.num_nonmembers for each in figures)
    means: dict[str, Any] = {name: _mean([getattr(each, name) for each in figures]) for name in _FIGURE_NAMES}
    for name in ("tpr_at_fpr", "precision_at_recall"):
        means[name] = {key: _mean([getattr(each, name)[key] for each in figures]) for key in getattr(first, name)}
    return Figures(
        num_members=n1,
        num_nonmembers=n0,
        base_rate=n1 / (n1 + n0) if n1 + n0 else None,
        ppv={prior: _mean_ppv(figures, prior) for prior in first.ppv},
        **means,
    )


def _mean(figures: Sequence[Figure]) -> Figure:
    total = len(figures)
    values = [each.value for each in figures if each.value is not None]
    missing = [each.reason or "no reason given" for each in figures if each.value is None]
    cautions = [each.reason for each in figures if each.value is not None and each.reason]
    if not values:
        same = len(set(missing)) == 1
        reason = missing[0] if same else f"defined for none of {total:,} targets, for the first because {missing[0]}"
        return null(sum(each.n for each in figures), reason)
    notes = []
    if missing:
        notes.append(f"the mean over the {len(values):,} of {total:,} targets for which it is defined ({missing[0]})")
    if cautions:
        same = len(cautions) == total and len(set(cautions)) == 1
        notes.append(cautions[0] if same else f"for {len(cautions):,} of {total:,} targets such as: {cautions[0]}")
    return Figure(
        value=fsum(values) / len(values),
        n=sum(each.n for each in figures if each.value is not None),
        reason="; ".join(notes) or None,
        interval=NO_INTERVAL,
        spread=stdev(values) if len(values) > 1 else None,
    )


def _mean_ppv(figures: Sequence[Figures], prior: str) -> Figure:
    """PPV of the mean rates over the targets that have members and non-members."""
    both = [each for each in figures if each.advantage.value is not None]
    flagged = sum(each.precision.n for each in both)
    if not both:
        return _mean([each.ppv[prior] for each in figures])
    if not flagged:
        return null(0, NOTHING_FLAGGED)
    tpr = fsum(each.recall.value or 0.0 for each in both) / len(both)
    fpr = tpr - fsum(each.advantage.value or 0.0 for each in both) / len(both)
    if fpr < 1e-12:  # the difference of rounded means
        return null(flagged, "no false positive on any target")
    value = float(prior) * tpr / (float(prior) * tpr + (1 - float(prior)) * fpr)
    return Figure(value=value, n=flagged, interval=NO_INTERVAL)


def _inferred(score_TN: Tensor, is_flagged_TN: Tensor, member_TN: Tensor, scored_TN: Tensor) -> Relearnt | str:
    """`FIXED` where one threshold decides on all targets, or none on one of them; else what was learnt again.

    Of tied scores one threshold may decide on all targets though each has learnt its own.
    """
    high_T = score_TN.masked_fill(~(is_flagged_TN & scored_TN), torch.inf).amin(1).double()
    low_T = score_TN.masked_fill(is_flagged_TN | ~scored_TN, -torch.inf).amax(1).double()
    if bool((low_T >= high_T).any()):
        return FIXED
    if float(low_T.max()) < float(high_T.min()):
        return NOT_KNOWN if is_tied(score_TN[scored_TN], float(high_T.min())) else FIXED
    middle_T = torch.where(low_T.isfinite() & high_T.isfinite(), (low_T + high_T) / 2, high_T)
    return relearnt(score_TN, middle_T, member_TN, scored_TN, blocks_of(member_TN, scored_TN))


def _with_intervals(
    figures: Figures,
    score_TN: Tensor,
    is_flagged_TN: Tensor,
    member_TN: Tensor,
    scored_TN: Tensor,
    max_fprs: Sequence[float],
    decision: Relearnt | str,
) -> dict[str, Any]:
    """The figures with their limits; none where a target lacks members or non-members."""
    if int(_fewest(member_TN, scored_TN)) < 1:
        return {}
    priors = [float(prior) for prior in figures.ppv]
    if decision == FIXED:
        spans = _crossed(is_flagged_TN, member_TN, scored_TN, priors)
    elif isinstance(decision, str):
        names = (*SHARES, *(f"ppv {prior:g}" for prior in priors))
        spans = dict.fromkeys(names, Interval(None, None, decision))
    else:
        spans = rate_intervals(score_TN, member_TN, scored_TN, decision, priors)
    balanced = spans["balanced_accuracy"]
    spans["advantage"] = Interval(_doubled(balanced.low), _doubled(balanced.high), balanced.method)
    if not bool((is_flagged_TN & scored_TN).any(1).all()):
        del spans["precision"], spans["precision_balanced"]
    ppv = {
        prior: figure if figure.value is None else limited(figure, spans[f"ppv {prior}"])
        for prior, figure in figures.ppv.items()
    }
    found = {name: limited(getattr(figures, name), span) for name, span in spans.items() if not name.startswith("ppv")}
    auc = limited(figures.auc, mean_auc_interval(score_TN, member_TN, scored_TN))
    return {**found, "auc": auc, "ppv": ppv, **ranking_intervals(figures, score_TN, member_TN, scored_TN, max_fprs)}


def _crossed(
    is_flagged_TN: Tensor, member_TN: Tensor, scored_TN: Tensor, priors: Sequence[float]
) -> dict[str, Interval]:
    """The limits of the crossed bootstrap, for thresholds that are fixed; names as of `rate_intervals`."""
    tpr_T, of_tpr_TN = share_contributions(is_flagged_TN, member_TN & scored_TN)
    fpr_T, of_fpr_TN = share_contributions(is_flagged_TN, ~member_TN & scored_TN)
    found = {
        "recall": crossed_interval(tpr_T, of_tpr_TN),
        "balanced_accuracy": crossed_interval((1 + tpr_T - fpr_T) / 2, (of_tpr_TN - of_fpr_TN) / 2),
        "accuracy": crossed_interval(*share_contributions(is_flagged_TN == member_TN, scored_TN)),
        "precision": crossed_interval(*share_contributions(member_TN, is_flagged_TN & scored_TN)),
        "precision_balanced": _precision(1.0, tpr_T, of_tpr_TN, fpr_T, of_fpr_TN),
    }
    mean_tpr, mean_fpr = tpr_T.mean().expand_as(tpr_T), fpr_T.mean().expand_as(fpr_T)
    for prior in priors:
        odds = (1 - prior) / prior
        gain_tpr, gain_fpr = _slopes(odds, mean_tpr, mean_fpr)
        # Of the mean rates, made linear in the rates of each target.
        value = mean_tpr / (mean_tpr + odds * mean_fpr)
        value_T = value + gain_tpr * (tpr_T - mean_tpr) + gain_fpr * (fpr_T - mean_fpr)
        part_TN = gain_tpr[:, None] * of_tpr_TN + gain_fpr[:, None] * of_fpr_TN
        found[f"ppv {prior:g}"] = crossed_interval(value_T, part_TN)
    return found


def _precision(odds: float, tpr_T: Tensor, of_tpr_TN: Tensor, fpr_T: Tensor, of_fpr_TN: Tensor) -> Interval:
    gain_tpr_T, gain_fpr_T = _slopes(odds, tpr_T, fpr_T)
    value_T = tpr_T / (tpr_T + odds * fpr_T)
    return crossed_interval(value_T, gain_tpr_T[:, None] * of_tpr_TN + gain_fpr_T[:, None] * of_fpr_TN)


def _slopes(odds: float, tpr_T: Tensor, fpr_T: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of TPR / (TPR + odds FPR) by both rates."""
    square_T = (tpr_T + odds * fpr_T).square()
    return odds * fpr_T / square_T, -odds * tpr_T / square_T


def _doubled(share: float | None) -> float | None:
    return None if share is None else 2 * share - 1


def _fewest(member_TN: Tensor, scored_TN: Tensor) -> Tensor:
    """The smallest number of members or of non-members of a target."""
    return torch.minimum((member_TN & scored_TN).sum(1).min(), (~member_TN & scored_TN).sum(1).min())
