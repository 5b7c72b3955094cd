"""Jobs, and their training, in a line."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack


def job_of(
    engine: Engine,
    make_network: MakeNetwork,
    population: Population,
    records_K: Sequence[Tensor],
    recipe: Recipe,
    **others: Any,
) -> TrainingJob:
    """A job with the engine's seed; `others` are its other fields."""
    return TrainingJob(
        seed=engine.seed,
        make_network=make_network,
        population=population,
        records_K=records_K,
        recipe=recipe,
        **others,
    )


def train_with(
    engine: Engine,
    make_network: MakeNetwork,
    population: Population,
    records_K: Sequence[Tensor],
    recipe: Recipe,
    **others: Any,
) -> TrainedStack:
    """What the engine makes of such a job."""
    return engine.run(job_of(engine, make_network, population, records_K, recipe, **others))
