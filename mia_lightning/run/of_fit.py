"""An audit of what somebody's own Trainer has fitted: its module, its data, and shadow models of the same kind."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic_core import ArgsKwargs
from torch import nn

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.given_trainer import is_trainer


def of_fit(given: ArgsKwargs) -> ArgsKwargs:
    """The fields of an audit, with those that a Trainer which has fitted fills in where they are left out.

    The target is the module that was fitted, the model its class with its hyper-parameters, and the data those that it
    was fitted on. `datamodule` is another name for the data.

    Raises:
        InputError: the Trainer has fitted nothing and `model` is left out, or what was fitted does not say how it is
            made.
    """
    fields: dict[str, Any] = dict(given.kwargs or {})
    args = given.args
    if "datamodule" in fields:
        if args or "data" in fields:
            raise InputError("`datamodule` and `data` are both given, and both are the records; give one of them.")
        fields["data"] = fields.pop("datamodule")
    trainer: Any = fields.get("trainer")
    if not is_trainer(trainer):
        return ArgsKwargs(args, fields)
    if not trainer.fit_loop.epoch_progress.current.completed:
        if "model" in fields:
            return ArgsKwargs(args, fields)
        raise InputError(
            "`model` is left out, and `trainer` has fitted nothing whose model could be taken; call trainer.fit first, "
            "or give `model`."
        )
    if not args and "data" not in fields:
        fields["data"] = _data_of(trainer, fields.get("task"))
    if "model" not in fields:
        fields["model"] = _model_of(trainer.lightning_module)
    fields.setdefault("target", trainer.lightning_module)
    return ArgsKwargs(args, fields)


def _data_of(trainer: Any, task: Any) -> Any:
    if trainer.datamodule is not None:
        return trainer.datamodule
    training, held_out = trainer.train_dataloader, trainer.val_dataloaders
    if training is None or held_out is None:
        raise InputError(
            "`trainer` holds no training and held-out records: it has fitted without these, or has validated or tested "
            "since; give the data, such as mia_lightning.Population.of(train_loader, nonmembers=held_out_records)."
        )
    return Population.of(training, nonmembers=held_out, task=task)


def _model_of(module: Any) -> Any:
    """The module's class with its hyper-parameters, as a checkpoint would make it.

    Raises:
        InputError: it was made with arguments that it did not keep, or with a network, and is frozen.
    """
    kind: Any = type(module)
    kept: Mapping[str, Any] = module.hparams
    parameters = {
        name: each
        for name, each in inspect.signature(kind).parameters.items()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }
    whole = getattr(module, "_hparams_name", None)  # of an argument that holds all of them
    if whole in parameters and whole not in kept:
        return partial(kind, **{whole: kept})
    lacking = [name for name in parameters if name not in kept]
    if lacking:
        raise InputError(
            f"{kind.__name__} was made with `{'`, `'.join(lacking)}`, which it did not keep; call "
            "self.save_hyperparameters() in its __init__, or give `model`, a class or function that makes an untrained "
            "one."
        )
    part = next((name for name, each in kept.items() if isinstance(each, nn.Module)), None)
    if part is not None and not any(p.requires_grad for p in module.parameters()):
        raise InputError(
            f"All of {kind.__name__} is frozen, and so is `{part}`, the network that it was made with, which shadow "
            "models would be given as it is; call unfreeze() of the module, or give `model`, a class or function that "
            "makes an untrained one."
        )
    takes_all = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(kind).parameters.values())
    return partial(kind, **{name: value for name, value in kept.items() if takes_all or name in parameters})
