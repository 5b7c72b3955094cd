"""Which members an attack is surest about: records, one by one, of which the model gives away most."""

from dataclasses import dataclass

import numpy as np

from mia_lightning.reports.schema import AuditReport


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """A member of a target that an attack flags.

    Attributes:
        attack, target, record, class_name: which; the record by its place in the data.
        score: higher = more likely a member.
        share_above: of the target's non-members, those that score at least as high; the FPR at which it is found.
    """

    attack: str
    target: int
    record: int
    class_name: str
    score: float
    share_above: float


def surest_members(report: AuditReport, count: int) -> list[Exposed]:
    """Of each attack, at most so many flagged members, those of the highest scores first; [] without scores."""
    scores, found = report.scores, []
    if scores is None:
        return []
    for attack in dict.fromkeys(each.name for each in report.attacks):
        (own,) = np.nonzero(scores.attack == attack)
        (flagged,) = np.nonzero(scores.is_member[own] & scores.is_flagged[own])
        rows = own[flagged]
        rows = rows[np.argsort(-scores.score[rows], kind="stable")][:count]
        for row in rows:
            others = scores.score[own][(scores.target[own] == scores.target[row]) & ~scores.is_member[own]]
            found.append(
                Exposed(
                    attack=attack,
                    target=int(scores.target[row]),
                    record=int(scores.record[row]),
                    class_name=report.dataset.class_names[int(scores.label[row])],
                    score=float(scores.score[row]),
                    share_above=float(np.mean(others >= scores.score[row])) if len(others) else float("nan"),
                )
            )
    return found
