"""What a report says of single records.

Over several targets: which records an attack flags more often where they are in, each with its counts. Of targets that
cannot show that: the flagged members of the highest scores.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mia_lightning.datasets.population import Population
from mia_lightning.membership import Membership
from mia_lightning.metrics.vulnerability import Vulnerability, vulnerability
from mia_lightning.reports.schema import AttackSection, AuditReport, ExposedRecord, VulnerabilitySection
from mia_lightning.reports.selection import has_trials, is_at_chance, strongest
from mia_lightning.run.scoring import AttackOutcome

Columns = dict[str, np.ndarray[Any, Any]]
MOST_FLAGGED = 50  # members of each attack that are kept with their pictures
_NUM_SHOWN = 10
_CHANNELS = (1, 3)
_FEW_LEVELS = 64
_LARGEST = 96  # pixels of a side of a picture


@dataclass(frozen=True, kw_only=True)
class FlaggedMember:
    """A member of a target that an attack flags.

    Attributes:
        attack, target, record, class_name: which; the record by its place in the data.
        record_name: its own name; None where records have none.
        score: higher = more likely a member.
        share_above: of the target's non-members, those that score at least as high; the FPR at which it is found.
    """

    attack: str
    target: int
    record: int
    class_name: str
    score: float
    share_above: float
    record_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class HighestScores:
    """What the page shows where no record can be confirmed.

    Attributes:
        attack: the strongest.
        members: the flagged ones of highest score, at most ten.
        num_flagged: members that the attack flags, over all targets.
        num_equal: how many more of these score exactly as the last that is shown.
        pictures: of records that are images, as addresses that hold the whole picture; {} for other records.
        is_chance: whether the attack as a whole is no better than chance.
    """

    attack: AttackSection
    members: Sequence[FlaggedMember]
    num_flagged: int
    num_equal: int
    pictures: Mapping[int, str]
    is_chance: bool


def vulnerability_section(
    outcome: AttackOutcome, population: Population, membership: Membership
) -> VulnerabilitySection | None:
    """What one attack finds record by record; None where no record is in one target and out of another."""
    rows = membership.targets
    found = vulnerability(
        outcome.is_flagged_TN, membership.member_KN[rows], membership.scored_KN[rows], membership.block_K[rows]
    )
    if found is None:
        return None
    return VulnerabilitySection(
        num_records=len(found.record_M),
        num_candidates=int(found.is_candidate_M.sum()),
        num_confirmed=int(found.is_confirmed_M.sum()),
        stability=found.stability,
        most_exposed=tuple(_exposed(found, m, population) for m in _most_exposed(found)),
        table=_columns(found, population),
    )


def record_table(attacks: Sequence[AttackSection]) -> Columns | None:
    """One row for each attack and record, in columns; None where no attack has such a table.

    `attack`, `record`, `label`; numbers of targets and of their flags, shares of flags and their limits, with the
    record and without it; `advantage`; `p_value` and `p_adjusted` of all targets; `is_candidate` by the first half of
    the targets, `p_confirmation` on the second, `is_confirmed`. Records that are in no target, or out of none, have no
    row.
    """
    tables = {attack.name: attack.vulnerability.table for attack in attacks if attack.vulnerability is not None}
    held = {name: table for name, table in tables.items() if table is not None}
    if not held:
        return None
    names = np.repeat(np.array(list(held)), [len(table["record"]) for table in held.values()])
    columns = next(iter(held.values()))
    return {"attack": names, **{name: np.concatenate([table[name] for table in held.values()]) for name in columns}}


def flagged_members(report: AuditReport, count: int) -> list[FlaggedMember]:
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
                FlaggedMember(
                    attack=attack,
                    target=int(scores.target[row]),
                    record=int(scores.record[row]),
                    class_name=scores.class_name(int(row), report.dataset.class_names),
                    score=float(scores.score[row]),
                    share_above=float(np.mean(others >= scores.score[row])) if len(others) else float("nan"),
                    record_name=report.record_names[int(scores.record[row])] if report.record_names else None,
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


def highest_scores(report: AuditReport) -> HighestScores | None:
    """The section's content; None without scores, without flagged members, or where records can be confirmed."""
    attack, scores = strongest(report), report.scores
    if attack is None or scores is None or has_trials(report):
        return None
    if any(each.vulnerability is not None for each in report.attacks):
        return None
    found = [each for each in flagged_members(report, _NUM_SHOWN) if each.attack == attack.name]
    if not found:
        return None
    is_flagged = (scores.attack == attack.name) & scores.is_member & scores.is_flagged
    last = found[-1].score
    num_shown = sum(each.score == last for each in found)
    return HighestScores(
        attack=attack,
        members=found,
        num_flagged=int(is_flagged.sum()),
        num_equal=int(np.sum(scores.score[is_flagged] == last)) - num_shown,
        pictures=_addresses(report, found),
        is_chance=bool(is_at_chance(attack.overall, attack.num_targets)),
    )


def _most_exposed(found: Vulnerability) -> list[int]:
    """Rows of the records to name: the confirmed ones first, then by p-value, advantage and place."""
    order_M = np.lexsort((found.record_M, -found.counts.advantage_N, found.p_M, ~found.is_confirmed_M))
    return [int(m) for m in order_M[:_NUM_SHOWN]]


def _exposed(found: Vulnerability, m: int, population: Population) -> ExposedRecord:
    record = int(found.record_M[m])
    columns = {name: column[m].item() for name, column in _figures(found).items()}
    shown = {name: columns[name] for name in ExposedRecord.model_fields if name in columns}
    return ExposedRecord(
        record=record,
        record_name=population.record_names[record] if population.record_names else None,
        class_name=population.strata.name_of(record),
        **shown,
    )


def _columns(found: Vulnerability, population: Population) -> Columns:
    """The columns of one attack, by name."""
    label_M = population.strata.number_N.numpy()[found.record_M]
    return {"record": found.record_M, "label": label_M, **_figures(found)}


def _figures(found: Vulnerability) -> Columns:
    counts = found.counts
    return {
        "num_in": counts.num_in_N,
        "flagged_in": counts.flagged_in_N,
        "share_in": counts.flagged_in_N / counts.num_in_N,
        "share_in_low": found.limits_in.low,
        "share_in_high": found.limits_in.high,
        "num_out": counts.num_out_N,
        "flagged_out": counts.flagged_out_N,
        "share_out": counts.flagged_out_N / counts.num_out_N,
        "share_out_low": found.limits_out.low,
        "share_out_high": found.limits_out.high,
        "advantage": counts.advantage_N,
        "p_value": found.p_M,
        "p_adjusted": found.p_adjusted_M,
        "is_candidate": found.is_candidate_M,
        "p_confirmation": found.p_confirmation_M,
        "is_confirmed": found.is_confirmed_M,
    }


def _addresses(report: AuditReport, found: Sequence[FlaggedMember]) -> dict[int, str]:
    from PIL import Image

    held = report.pictures or {}
    addresses = {}
    for record in {each.record for each in found} & set(held):
        image = Image.fromarray(held[record])
        image.thumbnail((_LARGEST, _LARGEST))
        content = io.BytesIO()
        image.save(content, format="PNG")
        addresses[record] = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return addresses
