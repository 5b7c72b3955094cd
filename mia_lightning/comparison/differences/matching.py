"""The records of several sides on one axis, so that those they share stand at one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mia_lightning.comparison.differences.sides import KeptRun, Side
from mia_lightning.metrics.intervals.influence import Observed

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Axis:
    """Where the records of each run stand.

    Attributes:
        place_of: by the number of the run, then by the record's place in its data.
        length: N.
        by: what records are matched by, in words; "" where they cannot be.
    """

    place_of: Sequence[Mapping[int, int]]
    length: int
    by: str

    @classmethod
    def of(cls, runs: Sequence[KeptRun]) -> "Axis":
        """By their places in one data set, else by their names, else not at all."""
        records = [np.unique(run.scores.record).tolist() for run in runs]
        prints = [run.report.dataset.fingerprint for run in runs]
        if len(set(prints)) == 1:
            return cls._by("their places in the data", [{each: each for each in of} for of in records])
        if all(_name_all(run.record_names, of) for run, of in zip(runs, records, strict=True)):
            named = [{each: run.record_names[each] for each in of} for run, of in zip(runs, records, strict=True)]
            return cls._by("their names", named)
        return cls._by("", [{each: (print_, each) for each in of} for print_, of in zip(prints, records, strict=True)])

    @classmethod
    def _by(cls, by: str, keys: Sequence[Mapping[int, Any]]) -> "Axis":
        places: dict[Any, int] = {}
        place_of = [{record: places.setdefault(key, len(places)) for record, key in of_run.items()} for of_run in keys]
        return cls(place_of=place_of, length=len(places), by=by)


def observed(side: Side, attacks: Mapping[int, str], axis: Axis, first: int) -> Observed:
    """What an attack says of all targets of a side, on the axis.

    Args:
        attacks: the name of the attack by the number of the run within the side.
        first: the number of the side's first run on the axis.
    """
    rows = []
    for number, run in enumerate(side.runs):
        scores = run.scores
        of_attack = scores.attack == attacks[number]
        place_of = axis.place_of[first + number]
        place_M = np.array([place_of[each] for each in scores.record[of_attack].tolist()], dtype=np.int64)
        target_M = np.unique(scores.target[of_attack], return_inverse=True)[1]
        columns = (scores.score, scores.is_flagged, scores.is_member)
        shape = (int(target_M.max()) + 1, axis.length)
        made = [torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)]
        made += [torch.zeros(shape, dtype=torch.bool) for _ in range(2)]
        for matrix_TN, column in zip(made, columns, strict=False):
            matrix_TN[target_M, place_M] = torch.from_numpy(column[of_attack].copy())
        made[3][target_M, place_M] = True
        rows.append(made)
    return Observed(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def same_targets(first: Observed, second: Observed) -> bool:
    """Whether target t of either side has the same members and non-members, each t."""
    if first.member_TN.shape != second.member_TN.shape:
        return False
    return bool((first.scored_TN == second.scored_TN).all()) and bool((first.inside_TN == second.inside_TN).all())


def _name_all(names: Mapping[int, str], records: Sequence[int]) -> bool:
    own = [names.get(each) for each in records]
    return None not in own and len(set(own)) == len(own)
