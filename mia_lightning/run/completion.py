"""What a trained target says of its own making, filled in where the audit leaves it open."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mia_lightning.errors import InputError
from mia_lightning.run.definition import Audit
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.step.recipe import Recipe

_MOST_EPOCHS = 1_000_000  # that a file sets, which may be damaged


def completed(audit: Audit, stages: Stages) -> Audit:
    """The audit with the architecture and the epochs of its target, as far as the target says them; it is remarked.

    Raises:
        InputError: the target cannot be read, contradicts the records, or says that it was trained for ever.
    """
    model, remarks = audit.attacked.completed(audit.model, audit.population)
    training, guess, epochs = audit.training, audit.guess, audit.attacked.trained_epochs
    for kind, sentence in remarks:
        stages.remark(sentence, kind=kind)
    if training.leaves_epochs_open and epochs is not None and audit.trainer.fit is None:  # a Trainer says how many
        training = _as_long(training, epochs)
        stages.remark(
            f"`training.epochs` is {epochs}: for so many the target was trained, as its checkpoint says.", kind="note"
        )
    if guess is not None and guess.training is not None:
        guess = replace(guess, training=_as_long(guess.training, epochs))
    config = dict(config_of(audit))
    if model is not audit.model and isinstance(config.get("model"), Mapping):
        added = {name: value for name, value in getattr(model, "keywords", {}).items() if _is_plain(value)}
        config["model"] = {**config["model"], **added}
    return replace(audit, model=model, training=training, guess=guess, config=config)


def config_of(audit: Audit) -> Mapping[str, Any]:
    """The configuration as a report and a log repeat it: with the epochs that the models are trained for."""
    training = audit.config.get("training")
    if not isinstance(training, Mapping) or training.get("epochs", 0) is not None:
        return audit.config
    epochs = audit.training.trained_for(audit.attacked.trained_epochs).epochs
    return {**audit.config, "training": {**training, "epochs": int(epochs)}}


def _as_long(recipe: Recipe, epochs: int | None) -> Recipe:
    """The recipe with the epochs of the target, where it leaves them open."""
    if recipe.leaves_epochs_open and epochs is not None and epochs > _MOST_EPOCHS:
        raise InputError(
            f"`training.epochs` is not set, and the checkpoint of the target says that it was trained for {epochs} "
            f"epochs, more than {_MOST_EPOCHS}; set `training.epochs`."
        )
    return recipe.trained_for(epochs)


def _is_plain(value: object) -> bool:
    """Whether a configuration can hold it."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    return isinstance(value, str | int | float | bool | None)
