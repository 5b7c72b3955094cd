"""What a run is made of: the arguments of `audit`, each of them checked by itself and with defaults filled in."""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from mia_lightning.attacks.interface import Attack, Needs, needs_of
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.population import Array, Population, make_population
from mia_lightning.defenses.interface import Defense, OutputDefense, TrainingDefense, split_defenses
from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint, Plan, plan_name
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.targets.existing import Existing
from mia_lightning.targets.interface import Target
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.targets.trained import Trained
from mia_lightning.training.recipe import Recipe, default_recipe


@dataclass(frozen=True, eq=False, kw_only=True)
class Ingredients:
    """What the models of a run, and their answers, depend on, but for the engine.

    Attributes:
        population: without the canaries.
        model, membership, target, shadow, defenses, adaptive, guess, canaries: as `audit` takes them.
        recipe: of the targets, without their defences.
        attacks: those that will be run, as far as they are known.
        skip_inapplicable: whether those that the plan cannot serve are left out later, or refused now.
        needs: what attacks will need together.

    Raises:
        InputError: one of them is of another kind, or two of them exclude each other.
    """

    population: Population
    model: Callable[..., nn.Module]
    membership: Plan
    target: Target
    shadow: Real | Source
    recipe: Recipe
    defenses: Sequence[Defense]
    adaptive: bool
    guess: Guess | None
    canaries: Canaries | None
    attacks: Sequence[Attack]
    skip_inapplicable: bool
    needs: Needs

    def __post_init__(self) -> None:
        check_kind("target", self.target, "obtain")
        check_kind("membership", self.membership, "fill")
        check_kind("shadow", self.shadow, "source")
        if isinstance(self.model, nn.Module) or not callable(self.model):
            raise InputError(
                f"`model` is a {type(self.model).__name__}; give the class or function that makes an untrained network "
                "(a trained one to be attacked goes to `target`)."
            )
        if self.target.is_trained_here:
            return
        if self.membership.draws_target:
            raise InputError(
                f"The target is trained already, but membership={plan_name(self.membership)} would draw its members "
                "at random; say what it was trained on by membership=given."
            )
        if self.canaries is not None:
            raise InputError(
                f"`canary.count` is {self.canaries.count}, but the target is trained already, and not on canaries; set "
                "it to 0, or train the target here."
            )

    @property
    def output_defenses(self) -> tuple[OutputDefense, ...]:
        return split_defenses(self.defenses)[0]

    @property
    def training_defenses(self) -> tuple[TrainingDefense, ...]:
        return split_defenses(self.defenses)[1]

    @property
    def refused_attacks(self) -> Sequence[Attack]:
        """The attacks of which each must be one that the plan can serve."""
        return () if self.skip_inapplicable else self.attacks

    @property
    def folds(self) -> int:
        """Into which attacks that learn divide the models where every model is a target once; else 0."""
        return self.target.folds if isinstance(self.target, LeaveOneOut) else 0


def ingredients_of(
    data: Population | Array,
    label: Array | None = None,
    *,
    model: Callable[..., nn.Module],
    membership: Plan | None = None,
    target: Target | nn.Module | None = None,
    shadow: Real | Source | None = None,
    attacks: Sequence[Attack] = (),
    defenses: Sequence[Defense] = (),
    adaptive: bool = True,
    guess: Guess | None = None,
    skip_inapplicable: bool = False,
    canaries: Canaries | None = None,
    training: Recipe | None = None,
    needs: Needs | None = None,
) -> Ingredients:
    """The arguments of `audit` with what stands for None.

    Args:
        needs: of the attacks; None where they are those of `attacks`.

    Raises:
        InputError: as `Ingredients`, and for records or labels that are missing or cannot be used.
    """
    return Ingredients(
        population=_as_population(data, label),
        model=model,
        membership=Disjoint() if membership is None else membership,
        target=_as_target(target),
        shadow=Real() if shadow is None else shadow,
        recipe=training or default_recipe(),
        defenses=defenses,
        adaptive=adaptive,
        guess=guess,
        canaries=canaries,
        attacks=attacks,
        skip_inapplicable=skip_inapplicable,
        needs=needs_of(attacks) if needs is None else needs,
    )


def attacks_of(attacks: Sequence[Attack] | None) -> Sequence[Attack]:
    """The attacks, by default the two of the study that this began with.

    Raises:
        InputError: there is none, or one of them is no attack or has no name of its own.
    """
    attacks = (Shokri(), Loss()) if attacks is None else attacks
    for attack in attacks:
        for needed in ("name", "description", "needs", "fit"):
            check_kind("attack", attack, needed)
    names = [attack.name for attack in attacks]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"An attack has the name {name!r}; give a word of letters, digits, dots and hyphens.")
    if not names:
        raise InputError("`attack` is empty; choose at least one, such as attack=[shokri,loss].")
    if len(set(names)) < len(names):
        raise InputError(f"`attack` has the names {names}; give each attack a `name` of its own.")
    return attacks


def check_kind(place: str, made: object, needed: str) -> None:
    """Refuse an object of another kind, as a mistyped `_target_` makes it.

    Raises:
        InputError: it has not what is needed.
    """
    if not hasattr(made, needed):
        raise InputError(
            f"`{place}` is a {type(made).__name__}, which has no `{needed}`; choose one of those in conf/{place}, or "
            "write one like them."
        )


def _as_population(data: Population | Array, label: Array | None) -> Population:
    if isinstance(data, Population):
        if label is not None:
            raise InputError("`label` is given beside a Population, which has labels of its own; leave it out.")
        return data
    if label is None:
        raise InputError("`label` is missing; give the class of each record, or a Population as the first argument.")
    return make_population(data, label)


def _as_target(target: Target | nn.Module | None) -> Target:
    if target is None:
        return Trained()
    return Existing(network=copy.deepcopy(target)) if isinstance(target, nn.Module) else target
