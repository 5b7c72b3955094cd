"""Differences between the variants of an experiment, for its page."""

from collections.abc import Sequence
from pathlib import Path

from mia_lightning.comparison.differences.assemble import compare_sides
from mia_lightning.comparison.differences.schema import PairDifference
from mia_lightning.comparison.differences.sides import KeptRun, Side
from mia_lightning.comparison.schema import Variant
from mia_lightning.errors import InputError


def differences_of(variants: Sequence[Variant], folder: Path) -> tuple[PairDifference, ...]:
    """The first variant that was run less each of the others, by the attack that it names first.

    Variants on other data, of another task, or without that attack have none.

    Args:
        folder: of the comparison, below which the variants have theirs.
    """
    ran = [each for each in variants if each.folder is not None and each.attacks]
    found: list[PairDifference] = []
    if len(ran) < 2:
        return ()
    first, *others = (Side(name=each.name, runs=(KeptRun.read(folder / str(each.folder)),)) for each in ran)
    attack = next(iter(first.runs[0].attacks))
    for other in others:
        try:
            found += compare_sides([first, other], attack=attack).pairs
        except InputError:  # the two cannot be compared, as where data is what varies
            continue
    return tuple(found)
