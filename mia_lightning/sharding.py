"""One audit over many jobs: each trains a range of its shadow models into the store, where the audit finds them."""

from dataclasses import dataclass
from typing import NoReturn

from mia_lightning.errors import InputError
from mia_lightning.training.fit import Engine
from mia_lightning.training.task import Task
from mia_lightning.training.trained import TrainedStack

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
