"""Whether a LightningModule's own schedules last as long as its training."""

import warnings
from collections.abc import Iterable

from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated
from mia_lightning.training.own.lightning import lightning_module
from mia_lightning.training.own.optimization import optimization_of
from mia_lightning.training.own.stand_in import StandInTrainer, attached
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.recipe import Recipe

_MOST = 50_000  # steps that are taken, in about 0.3 s


def stand_in_of(recipe: Recipe, num_batches: int) -> StandInTrainer:
    """The Trainer that LightningModules find in a training by the recipe."""
    return StandInTrainer(
        max_epochs=recipe.epochs,
        num_training_batches=num_batches,
        accumulate_grad_batches=recipe.accumulate_batches,
    )


def check_schedules(make_network: MakeNetwork, recipe: Recipe, role: str, num_records_K: Iterable[int]) -> None:
    """Refuse schedules that end before the training of models with so many records.

    Raises:
        InputError: naming the step at which they end; `configure_optimizers` cannot be used; an epoch has no batch.
    """
    for num_batches in sorted({recipe.steps_per_epoch(num_records) for num_records in num_records_K}):
        if num_batches == 0:
            continue  # which the batches refuse
        trainer = stand_in_of(recipe, num_batches)
        with isolated(0, "schedules"):
            network = make_network()
            optimization = optimization_of(network, trainer)
        if not optimization.schedules:
            continue
        trainer.optimizers, trainer.lr_scheduler_configs = [optimization.optimizer], list(optimization.schedules)
        module = lightning_module(network)
        assert module is not None
        taken = 0
        with attached(network, trainer), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for epoch in range(recipe.epochs):
                for batch in range(num_batches):
                    trainer.at(epoch, batch)
                    is_step = (batch + 1) % recipe.accumulate_batches == 0 or batch + 1 == num_batches
                    taken += is_step
                    try:
                        if is_step:
                            optimization.advance(module, "step", batch + 1)
                        if batch + 1 == num_batches:
                            optimization.advance(module, "epoch", epoch + 1)
                    except Exception as error:  # somebody else's class may raise anything
                        raise InputError(
                            f"A schedule that configure_optimizers of {type(module).__name__} gives ends at step "
                            f"{taken}, but the models of {role} take {recipe.epochs} epochs of "
                            f"{trainer.steps_per_epoch} steps ({first_line(error)}); let it count "
                            "trainer.estimated_stepping_batches, or set training.epochs."
                        ) from error
                if taken >= _MOST:
                    break
