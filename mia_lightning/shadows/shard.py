"""One of several jobs that train the shadow models of one audit. No torch."""

from typing import Annotated

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, Place, Shards


@settings("shadow")
class Shard:
    """One of the jobs of a sweep among which the shadow models of an audit are divided (`mia_lightning.train_shard`).

    It is a range of numbers, which follows from its own number and the count of jobs: the jobs run at different times,
    and none knows what the others trained. A device of `trainer.devices` trains a `LocalShard`
    (`mia_lightning.training.devices.local_shard`), which is cut by the steps that each model takes.

    Attributes:
        number: of this one, from 0.
        count: of all.
    """

    number: Annotated[AtLeast0, Place("shadow.shard")]
    count: Annotated[Shards, Place("shadow.shards")]

    def __post_init__(self) -> None:
        if self.number >= self.count:
            raise InputError(
                f"`shadow.shard` is {self.number}, but with shadow.shards={self.count} shards go from 0 to "
                f"{self.count - 1}; leave it to a sweep, which sets it by itself."
            )

    def of(self, num_models: int) -> range:
        """The places of its models among so many."""
        return range(num_models * self.number // self.count, num_models * (self.number + 1) // self.count)
