"""Differences between the variants of an experiment, for its page, and what pairs its findings."""

from collections.abc import Sequence
from pathlib import Path

from mia_lightning.comparison.differences.assemble import compare_sides
from mia_lightning.comparison.differences.checks import check_sides
from mia_lightning.comparison.differences.matching import Axis, observed
from mia_lightning.comparison.differences.schema import PairDifference
from mia_lightning.comparison.differences.sides import KeptRun, Side
from mia_lightning.comparison.schema import Variant
from mia_lightning.errors import InputError
from mia_lightning.metrics.intervals.influence import correlation, influence


class KeptVariants:
    """The variants of an experiment with the scores that their runs have left; each is read once, when it is asked for.

    Args:
        folder: of the comparison, below which the variants have theirs.
    """

    def __init__(self, variants: Sequence[Variant], folder: Path) -> None:
        self._ran = [each for each in variants if each.folder is not None and each.attacks]
        self._folder = folder
        self._sides: dict[str, Side] = {}

    def differences(self) -> tuple[PairDifference, ...]:
        """The first variant that was run less each of the others, by the attack that it names first.

        Variants on other data, of another task, or without that attack have none.
        """
        found: list[PairDifference] = []
        if len(self._ran) < 2:
            return ()
        first, *others = map(self._side, self._ran)
        attack = next(iter(first.runs[0].attacks))
        for other in others:
            try:
                found += compare_sides([first, other], attack=attack).pairs
            except InputError:  # the two cannot be compared, as where data is what varies
                continue
        return tuple(found)

    def correlation(self, one: Variant, other: Variant, attack: str, figure: str) -> float:
        """Of a figure of two variants over the records that are evidence about both; 0 where none is known to be.

        Args:
            attack: its name in the reports.
            figure: see `influence`.
        """
        sides = [self._side(each) for each in (one, other)]
        axis = Axis.of([side.runs[0] for side in sides])
        try:
            check_sides(sides)
        except InputError:
            return 0.0
        if not axis.by:
            return 0.0
        seen = (observed(side, {0: attack}, axis, place) for place, side in enumerate(sides))
        return correlation(*(influence(figure, each) for each in seen))

    def _side(self, variant: Variant) -> Side:
        if variant.name not in self._sides:
            run = KeptRun.read(self._folder / str(variant.folder))
            self._sides[variant.name] = Side(name=variant.name, runs=(run,))
        return self._sides[variant.name]
