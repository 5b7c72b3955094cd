"""Training that takes the number of records as public: models with one record more differ in that record alone."""

from collections.abc import Sequence
from dataclasses import replace

from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.interface import TrainingDefense
from mia_lightning.training.step.recipe import Recipe


def of_fixed_size(
    trainings: Sequence[TrainingDefense], recipe: Recipe, num_records: int
) -> tuple[tuple[TrainingDefense, ...], Recipe]:
    """Defences and recipe that take as many steps, at the same sampling rate, as on `num_records` records.

    Without this one record more could add a batch to every epoch, and would be found by that. DP-SGD that has a
    `num_records` of its own keeps it.
    """
    private = [each for each in trainings if isinstance(each, DPSGD)]
    if not private:
        steps = recipe.steps_per_epoch(num_records)
        return tuple(trainings), replace(recipe, batch_size=None, batches_per_epoch=steps)
    fixed = [
        replace(each, num_records=each.num_records or num_records) if isinstance(each, DPSGD) else each
        for each in trainings
    ]
    return tuple(fixed), recipe
