"""An audit of what somebody's own Trainer has fitted: its module, its data, and shadow models of the same kind."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic_core import ArgsKwargs

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.given_trainer import is_trainer


def of_fit(given: ArgsKwargs) -> ArgsKwargs:
    """The fields of an audit, with those that a Trainer which has fitted fills in where they are left out.

    With `trainer`, without `model`, the target is the module that was fitted, the model its class with its
    hyper-parameters, and the data those that it was fitted on. `datamodule` is another name for the data.

    Raises:
        InputError: the Trainer has fitted nothing, or what was fitted does not say how it is made.
    """
    fields: dict[str, Any] = dict(given.kwargs or {})
    args = given.args
    if "datamodule" in fields:
        if args or "data" in fields:
            raise InputError("`datamodule` and `data` are both given, and both are the records; give one of them.")
        fields["data"] = fields.pop("datamodule")
    trainer: Any = fields.get("trainer")
    module = getattr(trainer, "lightning_module", None)
    if "model" in fields or not is_trainer(trainer):
        return ArgsKwargs(args, fields)
    if module is None or not trainer.state.finished:
        raise InputError(
            "`model` is left out, and `trainer` has fitted nothing whose model could be taken; call trainer.fit first, "
            "or give `model`."
        )
    if not args and "data" not in fields:
        fields["data"] = _data_of(trainer)
    fields["model"] = _model_of(module)
    fields.setdefault("target", module)
    return ArgsKwargs(args, fields)


def _data_of(trainer: Any) -> Any:
    if trainer.datamodule is not None:
        return trainer.datamodule
    held_out = trainer.val_dataloaders
    if held_out is None:
        raise InputError(
            "`trainer` has fitted without held-out data, and without non-members no attack can be measured; give the "
            "data, such as mia_lightning.Population.of(train_loader, nonmembers=held_out_records)."
        )
    return Population.of(trainer.train_dataloader, nonmembers=held_out)


def _model_of(module: Any) -> Any:
    """The module's class with its hyper-parameters, as a checkpoint would make it.

    Raises:
        InputError: it needs arguments that it did not save.
    """
    kind: Any = type(module)
    saved: Mapping[str, Any] = dict(module.hparams)
    parameters = inspect.signature(kind).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    own = {name: value for name, value in saved.items() if takes_all or name in parameters}
    lacking = [
        name
        for name, each in parameters.items()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL) and name not in own
    ]
    if lacking:
        raise InputError(
            f"{kind.__name__} is made with `{'`, `'.join(lacking)}`, which it did not keep; call "
            "self.save_hyperparameters() in its __init__, or give `model`, a function that makes an untrained one."
        )
    return partial(kind, **own)
