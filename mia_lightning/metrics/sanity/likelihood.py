"""Whether a given target is what it is taken for, where its answers are no classes: by the likelihood of its records.

It is `void` if its members are less likely under it than the others, if other members, or its answers in another order,
suit the records better, or if its answers have nothing to do with those of the shadow models that were not trained on
them; it is `unconfirmed` if it predicts no better than a constant, or far worse than the shadow models do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom, mannwhitneyu

from mia_lightning.metrics.sanity.answers import ALPHA, Answers, Array, Found, Peers, Repair, Sanity
from mia_lightning.metrics.sanity.check import OTHERS_MEMBERS, SEE_MEMBERS, correlated, unshown_members
from mia_lightning.metrics.sanity.repairs import gained, moved_members
from mia_lightning.tasks import Task
from mia_lightning.terminal.amounts import show

_FAR_BELOW = 0.1  # in utility, or a quarter of what the shadow models are better than nothing


@dataclass(frozen=True, eq=False, kw_only=True)
class Utilities:
    """How well models do on records that they were not trained on; NaN where that is not defined.

    Attributes:
        all: the target, on members and others together.
        nonmembers: the target, on the others.
        peers: mean over the shadow models, each on the records that it was not trained on.
    """

    all: float
    nonmembers: float
    peers: float


class Moved(NamedTuple):
    """The log density of each record, float64 `[N]`, with the answers in another order; the records that can be judged,
    bool; and what to do about it."""

    signal_N: Array
    judged_N: Array
    mend: str


def output_order(answer_NC: Array, label_NC: Array) -> list[int] | None:
    """The label, or number, that each output most likely is (Hungarian); None where it is the one it should be."""
    if len(answer_NC) < 2:
        return None
    answer_NC, label_NC = (each - each.mean(0) for each in (answer_NC.astype(float), label_NC.astype(float)))
    scale_CC = np.sqrt(np.outer((answer_NC**2).sum(0), (label_NC**2).sum(0)))
    alike_CC = (answer_NC.T @ label_NC) / np.where(scale_CC > 0, scale_CC, 1.0)
    # Outputs of which nothing is known stay where they are.
    order: list[int] = linear_sum_assignment(alike_CC + 1e-6 * np.eye(len(alike_CC)), maximize=True)[1].tolist()
    return None if order == list(range(len(order))) else order


def check_likelihood(
    task: Task,
    answers: Answers,
    said_N: Array,
    peers: Peers | None,
    utilities: Utilities,
    moved: Mapping[str, Moved],
    members: Sequence[Repair],
    density_KN: Array,
) -> Sanity:
    """Whether the target is what it is taken for.

    Args:
        answers: `signal_N` is the log density of the record under the target, `label_N` the stratum of its label.
        said_N: one number of each answer of the target alone; the signals of `peers` are theirs.
        moved: by what would be wrong, the records with its answers in another order.
        members: the records with their members counted otherwise.
        density_KN: log density of each record under each shadow model of `peers`.
    """
    found = Found(
        notes=["Whether it was trained on otherwise normalised records was not tried: its answers are none of classes."]
    )
    _members_less_likely(answers, found)
    known = None if peers is None else replace(peers, signal_KN=density_KN)
    _other_members(answers, members, None if known is None else known.mean_out_N(density_KN), found)
    _other_order(answers, moved, found)
    correlation = correlated(replace(answers, signal_N=said_N), peers, found, parts=task.strata_name)
    _no_better(task, utilities, found)
    unshown = unshown_members(answers, known, found)
    found.unconfirmed += unshown
    if unshown:
        found.causes.append((0.95, OTHERS_MEMBERS, SEE_MEMBERS))
    return found.judged(None if correlation is None else correlation.rho)


def _members_less_likely(answers: Answers, found: Found) -> None:
    """One-sided test of Mann and Whitney."""
    inside, outside = answers.signal_N[answers.member_N], answers.signal_N[answers.nonmember_N]
    if min(len(inside), len(outside)) and mannwhitneyu(inside, outside, alternative="less").pvalue < ALPHA:
        found.void.append(
            "Its members are less likely under it than the others: a model does not know the records that it was "
            "trained on less well than others."
        )
        found.causes.append(
            (
                1.0,
                "the membership: members and non-members are exchanged, or are not those of this target",
                "look at how `membership` numbers the records",
            )
        )


def _other_members(answers: Answers, members: Sequence[Repair], outside_N: Array | None, found: Found) -> None:
    """Whether the records that would become members are more likely than those that would be others."""
    passed = []
    for repair in members:
        p, score = moved_members(answers, repair, outside_N, answers.scored_N)
        if p * len(members) < ALPHA:
            passed.append((score, repair))
    if passed:
        _, best = max(passed, key=lambda each: each[0])
        found.void.append(gained(answers, best))
        found.causes.append((0.0, best.cause, best.mend))


def _other_order(answers: Answers, moved: Mapping[str, Moved], found: Found) -> None:
    """A sign test of each order, over the records that it changes."""
    for cause, (signal_N, judged_N, mend) in moved.items():
        judged = judged_N & answers.scored_N
        better = int((signal_N > answers.signal_N)[judged].sum())
        worse = int((signal_N < answers.signal_N)[judged].sum())
        p = float(binom.sf(better - 1, better + worse, 0.5)) if better > worse else 1.0
        if p < ALPHA / len(moved):
            found.void.append(
                f"With its answers in another order {better:,} of {better + worse:,} records are more likely under it."
            )
            found.causes.append((p, cause, mend))


def _no_better(task: Task, utilities: Utilities, found: Found) -> None:
    least, what = task.nothing
    if not utilities.all > least:  # nor where it is not defined
        found.unconfirmed.append(
            f"Its {task.utility} on the records is {show(utilities.all)}, no better than {what} ({least:g})."
        )
    missing = utilities.peers - utilities.nonmembers
    if missing > max(_FAR_BELOW, (utilities.peers - least) / 4):
        found.unconfirmed.append(
            f"Its {task.utility} on records that it was not trained on is {show(utilities.nonmembers)}, where the "
            f"shadow models reach {show(utilities.peers)} on those that they were not trained on."
        )
    if found.unconfirmed:
        found.causes.append(
            (
                0.9,
                "it was trained on other records or values, such as values in another unit or scale",
                "compare what it gives for a few records with their values",
            )
        )
