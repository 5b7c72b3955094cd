"""Which members an attack is surest about: records, one by one, of which the model gives away most."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mia_lightning.datasets.population import Population
from mia_lightning.reports.schema import AuditReport

COUNT = 50  # of each attack
_CHANNELS = (1, 3)
_FEW_LEVELS = 64


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


def pictures(population: Population, records: Iterable[int]) -> dict[int, np.ndarray[Any, Any]] | None:
    """Records as images, `[H, W]` or `[H, W, 3]` uint8; None where they are no `[C, H, W]` with one or three channels.

    Integers are taken for levels from 0 to 255, or from 0 to the largest of these records where that is below 64, as of
    digits of 17 levels; other numbers are spread from the least to the largest of a record.
    """
    shape = population.input_shape
    if len(shape) != 3 or shape[0] not in _CHANNELS:
        return None
    records, drawn = list(dict.fromkeys(records)), {}
    brightest = 255.0
    if records and not population.x_N.is_floating_point():
        largest = max(float(population.x_N[record].max()) for record in records)
        brightest = largest if 0 < largest < _FEW_LEVELS else 255.0
    for record in records:
        x = population.x_N[record].cpu().double().numpy()
        if population.x_N.is_floating_point():
            x = 255 * (x - x.min()) / max(x.max() - x.min(), np.finfo(float).tiny)
        else:
            x = x * (255 / brightest)
        image = x.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0)
        drawn[record] = image[..., 0] if shape[0] == 1 else image
    return drawn
