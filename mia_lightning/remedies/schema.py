"""`remedies.json`: what each remedy does to leakage and utility, against doing nothing; typed and versioned."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Literal["mia_lightning.remedies/1"] = "mia_lightning.remedies/1"
Verdict = Literal["leaks less", "leaks more", "no difference shown"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Difference(_Section):
    """A figure with a remedy less that without one, with the limits of its paired 95 % interval."""

    value: float
    low: float | None = None  # null where there is no interval, with the reason
    high: float | None = None
    reason: str | None = None


class Leakage(_Section):
    """A figure of the strongest attack, and what the remedy does to it; null values with the reason."""

    value: float | None
    attack: str | None = None  # that is strongest
    difference: Difference | None = None
    reason: str | None = None


class Strength(_Section):
    """A remedy at one strength; figures are means over targets."""

    description: str  # such as "L2 penalty 0.001"
    settings: tuple[str, ...]  # to be typed for it
    skipped: str | None = None  # why it was not measured; the figures are null then
    utility: float | None = None  # on records that the models were not trained on
    train_utility: float | None = None
    utility_difference: Difference | None = None
    auc: Leakage | None = None
    tpr_at_fpr: dict[str, Leakage] = Field(default_factory=dict)  # by false-positive rate
    p_adjusted: float | None = None  # of no difference in AUC, adjusted for all strengths of all remedies (Holm)
    verdict: Verdict | None = None


class EqualUtility(_Section):
    """The least AUC along the curve of a remedy, from doing nothing over its strengths, at a given utility or above."""

    auc: float
    difference: Difference  # to doing nothing
    strength: str  # that has it; of a point between two strengths the stronger one
    is_between: bool  # interpolated between two strengths, or doing nothing and the first


class RemedyResult(_Section):
    """One remedy."""

    name: str  # as of `defense=`
    trains: bool  # changes the training; others change the answers alone
    skipped: str | None = None  # why it does not apply
    strengths: tuple[Strength, ...] = ()
    at_equal_utility: EqualUtility | None = None
    best: int | None = None  # of its strengths, the one of least AUC whose utility is not too low, else the weakest


class RemedyReport(_Section):
    """The content of `remedies.json`; remedies in the order of their AUC at equal utility."""

    schema_: Literal["mia_lightning.remedies/1"] = Field(default=SCHEMA, alias="schema")
    created: str  # ISO 8601, UTC
    seconds: float
    command: str | None = None  # null from Python
    versions: dict[str, str]
    seed: int
    dataset: str
    architecture: str
    epochs: int
    utility: str  # what the utility is, such as accuracy
    num_models: int  # for each way of training; each is a target once
    num_members: int  # of each target
    num_nonmembers: int
    num_validation: int
    attacks: tuple[str, ...]
    give_up: float  # of utility, at which curves are read
    estimand: str
    nothing: Strength  # without a remedy
    remedies: tuple[RemedyResult, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()  # those of the warnings after which low figures are no evidence

    def __repr__(self) -> str:
        """One line for each remedy that was measured."""
        rows = [f"RemedyReport: {len(self.remedies)} remedies, {self.dataset}, {self.num_models} models each"]
        for each in self.remedies:
            at = each.at_equal_utility
            rows.append(f"  {each.name}: " + (each.skipped or "not measured" if at is None else f"AUC {at.auc:.3f}"))
        return "\n".join(rows)

    __str__ = __repr__
