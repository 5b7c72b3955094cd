"""Records without anything to tell them by, in two classes."""

import torch

from mia_lightning.datasets.population import Population


def population_of(num_records: int) -> Population:
    return Population(
        name="plain",
        x_N=torch.zeros(num_records, 1),
        label_N=torch.arange(num_records) % 2,
        class_names=("a", "b"),
    )
