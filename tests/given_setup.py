"""What a run hands to a target that exists already."""

from functools import partial

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.membership import Given, Wanted
from mia_lightning.models.mlp import MLP
from mia_lightning.training.engine import Engine
from mia_lightning.training.setup import Setup
from mia_lightning.training.stack.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings


def given_setup(population: Population, *, num_shadows: int = 2) -> Setup:
    """The first third of the records are the target's members."""
    make_network = bind_shapes(partial(MLP, hidden=[5]), population.input_shape, population.num_classes)
    member_N = torch.arange(len(population)) < len(population) // 3
    return Setup(
        engine=Engine(seed=3, settings=TrainerSettings(accelerator="cpu")),
        make_network=make_network,
        architecture=inspect_architecture(make_network, population),
        recipe=Recipe(epochs=2, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.1)),
        population=population,
        membership=Given(member_N=member_N).fill(population, Wanted(num_targets=1, num_shadows=num_shadows, seed=3)),
    )
