"""One audit over many jobs: each trains a range of its shadow models into the store, where the audit finds them."""

from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from mia_lightning.errors import InputError
from mia_lightning.run.definition import Audit
from mia_lightning.run.observation import observe_models
from mia_lightning.run.preparation import engine_of
from mia_lightning.shadows.shard import Shard
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.trained import TrainedStack

_ROLE = "shadow"


@dataclass(frozen=True, kw_only=True)
class ShardEngine(Engine):
    """Trains targets as any other, of the shadow models those of a shard, and stops there."""

    shard: Shard

    def run(self, job: TrainingJob) -> TrainedStack:
        """Raise `ShardTrained` in the place of the shadow models: whoever asked for all of them goes no further."""
        return super().run(job) if job.role != _ROLE else self._train(job)

    def places(self, role: str, num_models: int) -> range:
        """Of the shadow models those of the shard."""
        return super().places(role, num_models) if role != _ROLE else self.shard.of(num_models)

    def made(self, role: str, num_models: int, *, is_kept: bool) -> None:
        """Raise `ShardTrained` once the shadow models of the shard are made.

        Raises:
            InputError: they are not in the store, where the audit is to find them.
        """
        if role != _ROLE:
            return
        if not is_kept:
            raise InputError(
                f"`shadow.shards` is {self.shard.count}, but the shadow models are estimators that the store cannot "
                "keep, so that jobs could not share them out; set shadow.shards=1."
            )
        raise ShardTrained(self.shard, len(self.shard.of(num_models)))

    def _train(self, job: TrainingJob) -> NoReturn:
        places = self.places(job.role, job.num_models)
        if places:
            super().run(job.part(places))
        raise ShardTrained(self.shard, len(places))


class ShardTrained(Exception):  # noqa: N818 (it is no error)
    """The models of a shard are in the store."""

    def __init__(self, shard: Shard, num_models: int) -> None:
        models = "1 shadow model" if num_models == 1 else f"{num_models} shadow models"
        super().__init__(f"Shard {shard.number} of {shard.count}: {models} in the store.")


def train_shadow_shard(audit: Audit) -> str:
    """Train the shadow models of `audit.shard` into the store; the targets, too, where they are not there.

    Returns:
        A sentence that says how many models it was.

    Raises:
        InputError: as an audit; no shard or no store is given; or the shadow models are not trained here.
    """
    if audit.shard is None:
        raise InputError(
            "`shard` is missing; give the part of the shadow models to be trained, Shard(number=, count=)."
        )
    if audit.store is None:
        raise InputError("`store` is missing; give the Store in which the audit is to find the models.")
    with Stages(audit.console) as stages:
        engine = engine_of(audit, stages, partial(ShardEngine, shard=audit.shard))
        try:
            observe_models(engine, audit)
        except ShardTrained as done:
            return str(done)
    raise InputError(
        f"`shadow.shards` is {audit.shard.count}, but the shadow models of this `target` are trained by its service, "
        "and are no models that jobs could share out; set shadow.shards=1."
    )
