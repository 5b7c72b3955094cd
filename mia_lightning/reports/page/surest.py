"""The members that the strongest attack is surest about, for the page of a run whose targets confirm none of them."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mia_lightning.reports import findings
from mia_lightning.reports.schema import AttackSection, AuditReport
from mia_lightning.reports.sections.exposed import Exposed, surest_members

NUM_SHOWN = 10
_LARGEST = 96  # pixels of a side of a picture


@dataclass(frozen=True, kw_only=True)
class Surest:
    """What the section shows.

    Attributes:
        attack: the strongest.
        members: the flagged ones of highest score, at most ten.
        num_flagged: members that the attack flags, over all targets.
        num_equal: how many more of these score exactly as the last that is shown.
        pictures: of records that are images, as addresses that hold the whole picture; {} for other records.
        is_chance: whether the attack as a whole cannot be told from guessing.
    """

    attack: AttackSection
    members: Sequence[Exposed]
    num_flagged: int
    num_equal: int
    pictures: Mapping[int, str]
    is_chance: bool


def surest(report: AuditReport) -> Surest | None:
    """The section's content; None without scores, without flagged members, or where records can be confirmed."""
    attack, scores = findings.strongest(report), report.scores
    if attack is None or scores is None or findings.has_trials(report):
        return None
    if any(each.vulnerability is not None for each in report.attacks):
        return None
    found = [each for each in surest_members(report, NUM_SHOWN) if each.attack == attack.name]
    if not found:
        return None
    is_flagged = (scores.attack == attack.name) & scores.is_member & scores.is_flagged
    last = found[-1].score
    num_shown = sum(each.score == last for each in found)
    return Surest(
        attack=attack,
        members=found,
        num_flagged=int(is_flagged.sum()),
        num_equal=int(np.sum(scores.score[is_flagged] == last)) - num_shown,
        pictures=_addresses(report, found),
        is_chance=bool(findings.is_at_chance(attack.overall, attack.num_targets)),
    )


def _addresses(report: AuditReport, found: Sequence[Exposed]) -> dict[int, str]:
    held = report.pictures or {}
    addresses = {}
    for record in {each.record for each in found} & set(held):
        image = Image.fromarray(held[record])
        image.thumbnail((_LARGEST, _LARGEST))
        content = io.BytesIO()
        image.save(content, format="PNG")
        addresses[record] = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return addresses
