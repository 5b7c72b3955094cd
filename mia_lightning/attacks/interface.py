"""What an attack is: it learns from shadow models how members differ, and scores the records of a target.

To add one, write `mia_lightning/attacks/<name>.py` with a class that has `name`, `description`, `needs` and `fit`, its
fields checked by `@settings("attack.{name}")`, and `conf/attack/<name>.yaml` with its `_target_` and all its fields.
Attacks never query a model: they read what was observed.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from mia_lightning.attacks.views import View
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


class DoesNotApplyError(InputError):
    """An attack that these shadow models, or this plan, cannot serve; `attack=all` leaves it out and says so."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an attack must be given beside the signals of the target.

    Attributes:
        shadows: shadow models of known membership, if only for the threshold; an attack that needs none may be given
            evidence without any.
        population: records of the same distribution that are evidence about no model (`Evidence.population_N`).
        out_models: for each record that is evidence about a target, the fewest shadow models that did not train on
            it. With 0 here and in `in_models`, each shadow model is asked about its own records alone.
        in_models: likewise, the fewest that did.
        compares_shadows: whether the threshold is learnt from shadow models that are each compared with those outside
            their block, of which there must then be as many as that.
        classes: whether it reads class probabilities, which not every task has.
        right: whether it reads if answers are right, which a number is not (`Task.can_be_right`).
        views: changed copies of the records that target and shadow models are asked about too (`Signals.views`), once
            for all attacks of a run.
    """

    shadows: bool = True
    population: bool = False
    out_models: int = 0
    in_models: int = 0
    compares_shadows: bool = False
    classes: bool = False
    right: bool = False
    views: tuple[View, ...] = ()

    @property
    def queries(self) -> int:
        """Queries for each record of the target."""
        return 1 + len(self.views)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """Shadow models observed on records, their membership known.

    The record axis begins with the records that the targets are observed on, so that column n here and column n of a
    target's signals are one record; synthetic shadow records, if any, follow.

    Attributes:
        signals: of K shadow models on N records.
        member_KN, scored_KN: bool; model k trained on record i; record i is evidence about model k. A model that did
            not train on a record is an out-model of it whether scored or not.
        block_K: int64; models of one block (complementary pairs) are left out together.
        label_N: the true classes, int64, or what the task of the signals says.
        num_classes: C.
        target_scored_N: bool; the records that are evidence about a target (whether they are its members is unknown).
        population_N: bool; records of which no target and no shadow model is a member, reserved for attacks; all False
            where no attack asked for them.
        population: the records themselves, N of them.
        plan_name: of the membership plan, for messages.
    """

    signals: Signals
    member_KN: Tensor
    scored_KN: Tensor
    block_K: Tensor
    label_N: Tensor
    num_classes: int
    target_scored_N: Tensor
    population_N: Tensor
    population: Population
    plan_name: str = "disjoint"

    @property
    def num_models(self) -> int:
        return self.member_KN.shape[0]

    def select(self, kept_K: Tensor) -> "Evidence":
        """The evidence of the models where the bool mask is True."""
        return replace(
            self,
            signals=self.signals.select(kept_K),
            member_KN=self.member_KN[kept_K],
            scored_KN=self.scored_KN[kept_K],
            block_K=self.block_K[kept_K],
        )

    def in_units_of(self, kept_K: Tensor | None = None) -> "Evidence":
        """The evidence with predicted numbers in units of their residuals on records that a model did not train on.

        Args:
            kept_K: bool, the models whose residuals these are; None for all.
        """
        signals, out_KN = self.signals, self.scored_KN & ~self.member_KN
        out_KN = (out_KN if kept_K is None else out_KN & kept_K[:, None]).to(signals.log_probability_KANC.device)
        label_NX = self.label_N.to(out_KN.device).reshape(len(self.label_N), -1)
        unit_D = signals.task.unit(signals.log_probability_KANC[:, 0], label_NX, out_KN)
        return self if unit_D is None else replace(self, signals=replace(signals, unit_D=unit_D))


class FittedAttack(Protocol):
    """An attack that has learnt all it needs, and never looks at the target's membership.

    Attributes:
        threshold: records that score at least this are flagged as members; never chosen on a target.
        remarks: sentences for the report on what could not be learnt.
    """

    @property
    def threshold(self) -> float: ...

    @property
    def remarks(self) -> tuple[str, ...]: ...

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """`score_TN`, float64, for the signals of T targets; higher means more likely a member."""
        ...


@runtime_checkable
class FittedReference(FittedAttack, Protocol):
    """A fitted attack that compares a target with shadow models record by record, in closed form.

    So any shadow model can be the target, with the others as its shadow models.

    Attributes:
        constants: all that `score_left_out` takes from `fit`; where these are equal, so are the scores.
    """

    @property
    def constants(self) -> Hashable: ...

    def score_left_out(self, shadows: Evidence, row_T: Tensor, signals: Signals | None = None) -> Tensor:
        """`score_TN`, float64, of the shadow models `row_T` (int64), each compared with all models but its own block.

        Args:
            signals: what those T models show as targets, where it is other than what they show as shadow models.

        What `fit` has learnt, such as constants, is kept. So the attack must have been fitted without the models
        `row_T` and their blocks, unless the scores serve for nothing but a threshold.
        """
        ...


class Attack(Protocol):
    """How an attack is set up.

    Attributes:
        name: what reports and folders call it.
        description: one sentence on what it looks at and how it decides; one for each task has a `DescribedByTask`.
        needs: what must be there for it.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def needs(self) -> Needs: ...

    def fit(self, shadows: Evidence, engine: Engine) -> FittedAttack:
        """Learn from the shadow models.

        Raises:
            DoesNotApplyError: the evidence cannot serve this attack; the sentence names the mend.
        """
        ...


@runtime_checkable
class FitsFolds(Attack, Protocol):
    """An attack that trains networks, and those of all folds of the shadow models as one stack."""

    def fit_folds(self, shadows: Evidence, held_out_FK: Tensor, engine: Engine) -> Sequence[FittedAttack]:
        """What `fit` would learn F times, from the shadow models where `held_out_FK` (bool) is False.

        Raises:
            DoesNotApplyError: as `fit`, of any fold.
        """
        ...


def needs_of(attacks: Sequence[Attack]) -> Needs:
    """What these attacks need together."""
    needs = [each.needs for each in attacks]
    return Needs(
        shadows=any(each.shadows for each in needs),
        population=any(each.population for each in needs),
        out_models=max((each.out_models for each in needs), default=0),
        in_models=max((each.in_models for each in needs), default=0),
        compares_shadows=any(each.compares_shadows for each in needs),
        classes=any(each.classes for each in needs),
        right=any(each.right for each in needs),
        views=tuple(dict.fromkeys(view for each in needs for view in each.views)),
    )
