"""What a comparison of runs by their differences says; `mia-compare --json` prints it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Literal["mia_lightning.differences/1"] = "mia_lightning.differences/1"
Judgement = Literal["more", "less", "no larger", "undecided", "not judged"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FigureDifference(_Section):
    """One figure of the first run less that of the second.

    Attributes:
        figure: its name in a report; `title` as it is shown.
        first, second: the two values; of several attacks the largest.
        value, low, high: the difference with its 95 % interval; null where there is none.
        low_at_once, high_at_once: limits that hold for all differences of the family at once.
        method: how the limits were found, or "none: " and why there are none.
        p: two-sided, of no difference; `p_adjusted` by Holm over the family.
        verdict: more, less: the first leaks more, less; no larger: than `margin`; undecided; not judged: no limits, or
            figures that are no evidence.
        settled_by: what would decide it; null where it is decided, or nothing within reason would.
    """

    figure: str
    title: str
    first: float | None
    second: float | None
    value: float | None
    low: float | None
    high: float | None
    low_at_once: float | None = None
    high_at_once: float | None = None
    method: str
    p: float | None = None
    p_adjusted: float | None = None
    verdict: Judgement
    settled_by: str | None = None


class PairDifference(_Section):
    """One run against another.

    Attributes:
        first, second: names of the runs.
        attack: its name, or `worst` for the largest figure over the attacks.
        estimand: `models`, these trained models on other records; `recipes`, other trainings on other records.
        num_targets: of either.
        num_shared: records that are evidence about both.
        pairing: what the intervals use, in words.
        sentence: the verdict in words.
        differences: of the figures of leakage, which are the family of the verdicts.
        utility: of the targets themselves, beside the family.
        notes: what else differs, and what cannot be told.
    """

    first: str
    second: str
    attack: str
    estimand: Literal["models", "recipes"]
    num_targets: tuple[int, int]
    num_shared: int
    pairing: str
    sentence: str
    differences: tuple[FigureDifference, ...]
    utility: tuple[FigureDifference, ...]
    notes: tuple[str, ...] = ()


class UtilityPoint(_Section):
    """The AUC of both recipes, means over targets, at one utility."""

    utility: float
    first: float
    second: float


class EqualUtilityReport(_Section):
    """Two recipes at equal utility, where their curves overlap.

    Attributes:
        first, second: what the recipes are called.
        attack: its name.
        strengths: of either, the names of the runs in the order of their utility.
        num_targets: of either recipe at each strength.
        points: where the curves were read; empty where they do not overlap.
        value, low, high: the AUC of the first less that of the second, the mean over these points.
        sentence: the answer in words.
    """

    schema_: Literal["mia_lightning.equal_utility/1"] = Field(default="mia_lightning.equal_utility/1", alias="schema")
    first: str
    second: str
    attack: str
    strengths: tuple[tuple[str, ...], tuple[str, ...]]
    num_targets: int
    points: tuple[UtilityPoint, ...]
    value: float | None
    low: float | None
    high: float | None
    sentence: str

    def __repr__(self) -> str:
        """The sentence; the fields hold the rest."""
        return self.sentence

    __str__ = __repr__


class DifferenceReport(_Section):
    """Runs side by side: the first against each of the others.

    Attributes:
        margin: what counts as no difference.
        family: over which verdicts hold together with 95 % confidence, in words.
    """

    schema_: Literal["mia_lightning.differences/1"] = Field(default=SCHEMA, alias="schema")
    margin: float
    family: str
    pairs: tuple[PairDifference, ...]

    def __repr__(self) -> str:
        """A line for each pair; the fields hold the rest."""
        return "\n".join(pair.sentence for pair in self.pairs)

    __str__ = __repr__
