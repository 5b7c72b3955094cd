"""Small trainings of models with different numbers of records, by which ways to take the same steps are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from training_jobs import job_of

from mia_lightning.datasets.augmentation import Crop, Flip
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.models.vit import VisionTransformer
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

CPU = TrainerSettings(accelerator="cpu")
HOST = torch.device("cpu")
DENSE = partial(MLP, hidden=[5])
CONVOLUTIONS = partial(CNN, channels=[3], hidden=4, kernel_size=3, batch_norm=True)


def ragged(num_models: int = 3) -> list[Tensor]:
    """Records of each model; rows are padded, and batches have several shapes."""
    return [torch.arange(k, 22 + 4 * k) for k in range(num_models)]


def ragged_job(
    population: Population, make: Callable[..., nn.Module], recipe: Recipe, *, num_models: int = 3, **others: Any
) -> TrainingJob:
    """A job of `Engine(seed=0)`; `others` are its other fields."""
    network = bind_shapes(make, population.input_shape, population.num_classes)
    return job_of(Engine(seed=0), network, population, ragged(num_models), recipe, role="shadow", **others)


def trained(
    population: Population, make: Callable[..., nn.Module], recipe: Recipe, engine: Engine | None = None, **others: Any
) -> TrainedStack:
    """What the engine, which has the seed 0, makes of such a job."""
    engine = Engine(seed=0, settings=CPU) if engine is None else engine
    return engine.run(ragged_job(population, make, recipe, **others))


@dataclass(frozen=True, kw_only=True)
class Case:
    """What trains how: a network for blobs, or for pictures."""

    recipe: Recipe
    make: Callable[..., nn.Module] = DENSE
    of_pictures: bool = False
    precision: str = "32"
    others: Mapping[str, Any] = field(default_factory=dict)

    def job(self, blobs: Population, pictures: Population) -> TrainingJob:
        return ragged_job(pictures if self.of_pictures else blobs, self.make, self.recipe, **self.others)


def usual_cases(recipe: Recipe) -> dict[str, Case]:
    """What every way to take steps has to get right."""
    of_pictures = partial(Case, of_pictures=True)
    return {
        "dense": Case(recipe=recipe),
        "dropout": Case(make=partial(MLP, hidden=[5], dropout=0.3), recipe=recipe),
        "bf16": Case(precision="bf16", recipe=recipe),
        "vision transformer": of_pictures(
            make=partial(VisionTransformer, patch_size=3, width=8, depth=1, heads=2, dropout=0.1), recipe=recipe
        ),
        "augmented": of_pictures(
            make=CONVOLUTIONS, recipe=replace(recipe, augment=[Crop(padding=1, fill=0.25), Flip()])
        ),
        "mixed": Case(recipe=Mixup(alpha=0.5).adapt(recipe)),
        "weighted": Case(recipe=replace(recipe, class_weights=[1.0, 2.0, 0.5])),
    }


def equal(first: TrainedStack, second: TrainedStack) -> None:
    """To the bit."""
    close(first, second, tolerance=0.0)


def close(first: TrainedStack, second: TrainedStack, tolerance: float = 1e-5) -> None:
    """By default up to the order of sums, over a few steps of numbers of about 1 in float32."""
    torch.testing.assert_close(
        dict(second.stack.state_dict()), dict(first.stack.state_dict()), rtol=tolerance, atol=tolerance
    )
    torch.testing.assert_close(
        first.train_loss_EK, second.train_loss_EK, rtol=tolerance, atol=tolerance, equal_nan=True
    )
