"""One audit over many jobs: each trains a range of its shadow models into the store, where the audit finds them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from torch import nn

from mia_lightning.attacks.interface import Attack
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.population import Array, Population
from mia_lightning.defenses.interface import Defense
from mia_lightning.errors import InputError
from mia_lightning.ingredients import attacks_of, ingredients_of
from mia_lightning.membership import Plan
from mia_lightning.observation import observe_models
from mia_lightning.preparation import engine_of
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.real import Real
from mia_lightning.store import Store
from mia_lightning.targets.interface import Target
from mia_lightning.training.fit import Engine
from mia_lightning.training.progress import Stages
from mia_lightning.training.recipe import Recipe
from mia_lightning.training.task import Task
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

_ROLE = "shadow"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of the jobs among which a run's shadow models are divided.

    Attributes:
        number: of this one, from 0.
        count: of all.

    Raises:
        InputError: there is no such one.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        for name, value, least in (("shards", self.count, 1), ("shard", self.number, 0)):
            if type(value) is not int or value < least:
                raise InputError(f"`shadow.{name}` is {value!r}; it must be a whole number of at least {least}.")
        if self.number >= self.count:
            raise InputError(
                f"`shadow.shard` is {self.number}, and with shadow.shards={self.count} they go from 0 to "
                f"{self.count - 1}; a sweep sets it by itself."
            )

    def of(self, num_models: int) -> range:
        """The places of its models."""
        return range(num_models * self.number // self.count, num_models * (self.number + 1) // self.count)


@dataclass(frozen=True, kw_only=True)
class ShardEngine(Engine):
    """Trains targets as any other, of the shadow models those of a shard, and stops there."""

    shard: Shard

    def run(self, task: Task) -> TrainedStack:
        """Raise `ShardTrained` in the place of the shadow models: whoever asked for all of them goes no further."""
        return super().run(task) if task.role != _ROLE else self._train(task)

    def _train(self, task: Task) -> NoReturn:
        places = self.shard.of(task.num_models)
        if places:
            super().run(task.part(places))
        raise ShardTrained(self.shard, len(places))


class ShardTrained(Exception):  # noqa: N818 (it is no error)
    """The models of a shard are in the store."""

    def __init__(self, shard: Shard, num_models: int) -> None:
        models = "1 shadow model" if num_models == 1 else f"{num_models} shadow models"
        super().__init__(f"Shard {shard.number} of {shard.count}: {models} in the store.")


def train_shard(
    data: Population | Array,
    label: Array | None = None,
    *,
    shard: Shard,
    model: Callable[..., nn.Module],
    store: Store,
    membership: Plan | None = None,
    target: Target | nn.Module | None = None,
    shadow: Real | Source | None = None,
    attacks: Sequence[Attack] | None = None,
    defenses: Sequence[Defense] = (),
    adaptive: bool = True,
    guess: Guess | None = None,
    skip_inapplicable: bool = False,
    canaries: Canaries | None = None,
    training: Recipe | None = None,
    trainer: TrainerSettings | None = None,
    seed: int = 0,
    output: Path | str | None = None,
    console: Console | None = None,
) -> str:
    """One of several jobs that train the shadow models of one `audit`: its range of them, into the store.

    The other arguments are those of `audit`, which then finds them there. The targets are trained where they are not
    there, by whichever job comes first.

    Returns:
        A sentence that says how many models it was.

    Raises:
        InputError: as `audit`; or the shadow models are not trained here.
    """
    ingredients = ingredients_of(
        data,
        label,
        model=model,
        membership=membership,
        target=target,
        shadow=shadow,
        attacks=attacks_of(attacks),
        defenses=defenses,
        adaptive=adaptive,
        guess=guess,
        skip_inapplicable=skip_inapplicable,
        canaries=canaries,
        training=training,
    )
    with Stages(console) as stages:
        engine = engine_of(
            seed=seed,
            trainer=trainer,
            store=store,
            stages=stages,
            folder=None if output is None else Path(output),
            make=partial(ShardEngine, shard=shard),
        )
        try:
            observe_models(engine, ingredients)
        except ShardTrained as done:
            return str(done)
    raise InputError(
        f"`shadow.shards` is {shard.count}, but the shadow models of this `target` are trained by its service, and are "
        "no models that jobs could share out; set shadow.shards=1."
    )
