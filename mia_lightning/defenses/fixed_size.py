"""Training whose steps do not depend on the exact number of records: one record more changes nothing else."""

from collections.abc import Sequence
from dataclasses import replace

from mia_lightning.defenses.interface import PrivateTraining, TrainingDefense
from mia_lightning.training.step.recipe import Recipe


def of_fixed_size(
    trainings: Sequence[TrainingDefense], recipe: Recipe, num_records: int
) -> tuple[tuple[TrainingDefense, ...], Recipe]:
    """Defences and recipe that take as many steps, at the same sampling rate, as on `num_records` records.

    Without this, one record more could add a batch to every epoch, and would be found by that. Private training that
    was given a number of records keeps it.
    """
    if any(isinstance(each, PrivateTraining) for each in trainings):
        fixed = (
            each.with_num_records(num_records) if isinstance(each, PrivateTraining) else each for each in trainings
        )
        return tuple(fixed), recipe
    steps = recipe.steps_per_epoch(num_records)
    return tuple(trainings), replace(recipe, batch_size=None, batches_per_epoch=steps)
