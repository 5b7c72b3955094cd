"""One training step of the LightningModule in a network, of one model or, under `vmap`, of all in a stack."""

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from mia_lightning.datasets.form import Records, of_model
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated
from mia_lightning.training.own.attributes import Held, held_by
from mia_lightning.training.own.lightning import batch_of, has_own, lightning_module
from mia_lightning.training.own.nothing import Nothing
from mia_lightning.training.own.stand_in import StandInTrainer, attach
from mia_lightning.training.plan.memory import is_out_of_memory
from mia_lightning.training.stack.looped import LoopedGradients
from mia_lightning.training.stack.stack import Stack

_LIBRARIES = ("torch.", "mia_lightning.")  # whose layers keep nothing from step to step but in buffers
_PLAIN = (int, float, bool, str, type(None))
_REGISTRIES = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class SkippedError(InputError):
    """A step that skips its batch, or ends its epoch."""


class OwnStep:
    """Calls the module's hooks and its `training_step`, as Lightning would, with records and labels of one model.

    Args:
        network: with a LightningModule inside; it is given the stand-in as its Trainer.
        trainer: the stand-in.

    Attributes:
        user_modules: of the network by path, which may keep attributes from step to step.
    """

    def __init__(self, network: nn.Module, trainer: StandInTrainer) -> None:
        found = lightning_module(network)
        assert found is not None
        self.module: Any = found
        self.name = type(found).__name__
        self.network, self.trainer = network, trainer
        self.user_modules = {
            path: each for path, each in network.named_modules() if not type(each).__module__.startswith(_LIBRARIES)
        }
        self._hooked = [each for each in dict.fromkeys((network, found)) if any(map(_is_ours, _hooks_of(each)))]
        self._takes = _arguments(found)
        self._has = frozenset(
            name for name in ("transfer_batch_to_device", "on_train_batch_start") if has_own(found, name)
        )
        attach(network, trainer)

    def hook(self, name: str, *arguments: object) -> None:
        """Call a hook of the module, where it has one of its own.

        Raises:
            InputError: it fails.
        """
        if has_own(self.module, name):
            with self.explained(f"{name} of {self.name}"):
                getattr(self.module, name)(*arguments)

    def loss(self, x_B: Records, label_B: Tensor, batch_index: int) -> Tensor:
        """The loss, a scalar, of records `[B, *features]` and labels `[B]`.

        The step is given (records, labels) or, where records are named tensors, one dict of them and `labels`.

        Raises:
            InputError: the step gives no loss, or wants an epoch to end.
        """
        x_B = self._as_it_takes(x_B)
        batch = batch_of(x_B, label_B)
        with self._without_our_hooks():
            if "transfer_batch_to_device" in self._has:
                batch = self.module.transfer_batch_to_device(batch, label_B.device, 0)
            if "on_train_batch_start" in self._has and self.module.on_train_batch_start(batch, batch_index) == -1:
                raise SkippedError("its on_train_batch_start ends an epoch early, which would end it for all models")
            output = self.module.training_step(*(batch, batch_index)[: self._takes])
        return _loss_of(output)

    def mapped(self, stack: Stack, x: Records, label_KB: Tensor, *, step: int, batch_index: int) -> Tensor:
        """The losses `[K]` of the models of the stack that holds this network, by `vmap`.

        Args:
            x: `[K, B, *features]`.
            step: what the draws of dropout depend on beside their keys.
        """

        def one(state: dict[str, Tensor], x_B: Records, label_B: Tensor) -> Tensor:
            with stack.as_one(state, label_B.device, step=step):
                return self.loss(x_B, label_B, batch_index)

        with self.as_before(also_plain=False):
            loss_K: Tensor = vmap(one, randomness="error")(stack.state(), x, label_KB)
        return loss_K

    def looped(
        self,
        stack: Stack,
        gradients: LoopedGradients,
        x: Records,
        label_KB: Tensor,
        *,
        step: int,
        batch_index: int,
        share: float = 1.0,
        key_K: Tensor | None = None,
    ) -> Tensor:
        """The losses `[K]`, with their gradients added to those of the stack, model by model.

        Args:
            share: of the loss whose gradient is taken.
            key_K: int64, by which with `step` the global generators are seeded for each model; None leaves them alone.
        """
        last, device = stack.num_models - 1, label_KB.device

        @contextmanager
        def within(k: int, state: Mapping[str, Tensor]) -> Iterator[None]:
            draws = nullcontext() if key_K is None else drawing(int(key_K[k]), step, device)
            with draws, self.as_before(also_plain=k < last), stack.as_one(state, device, step=step):
                yield
                left.append(settings_of(self.trainer.optimizers))

        left: list[list[dict[str, Any]]] = []

        def loss_of(k: int, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            loss = self.loss(of_model(x, k), label_KB[k], batch_index)
            return loss * share, loss

        loss_K = gradients(loss_of, within)
        if any(each != left[0] for each in left):
            raise InputError(
                "it sets learning rates or other settings of the optimiser otherwise for each model, though one "
                "optimiser steps for all; set them by a schedule, or by the epoch and the step alone"
            )
        return loss_K

    @contextmanager
    def as_before(self, *, also_plain: bool) -> Iterator[None]:
        """After the context, attributes of the user's modules that are no parameters or buffers are as before it.

        So a list to which a step appends stays short, and no model sees what another one left.

        Args:
            also_plain: numbers, texts and the optimiser's settings, too; else they stay what the step made them, as a
                counter of steps.
        """
        before = [_Attributes(vars(module)) for module in self.user_modules.values()]
        settings = settings_of(self.trainer.optimizers) if also_plain else []
        try:
            yield
        finally:
            for each in before:
                each.restore(also_plain)
            for group, values in zip(_groups_of(self.trainer.optimizers), settings, strict=False):
                group.update(values)

    def kept_since(self, before: Held) -> set[str]:
        """The attributes that hold something else than before, as paths from the network."""
        after, path_of = held_by(self.network), {module: path for path, module in self.network.named_modules()}
        changed = {each for each in {**before, **after} if before.get(each, self) != after.get(each, self)}
        return {f"{path_of[module]}.{name}".removeprefix(".") for module, name in changed if module in path_of}

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Within the context, an error of the user's own code is one sentence."""
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"{what} cannot be used in a stack: {_short(reason)}.") from error

    def _as_it_takes(self, x_B: Records) -> Records:
        """The records as the network's forward would be given them: flattened images as images."""
        for each in self._hooked:
            for hook in each._forward_pre_hooks.values():
                if _is_ours(hook):  # of flattened images
                    (x_B,) = hook(each, (x_B,))
        return x_B

    @contextmanager
    def _without_our_hooks(self) -> Iterator[None]:
        """Within the context, the network's forward is its own, without what this package adds to it."""
        before = [(each, {name: vars(each)[name] for name in _HOOKS}) for each in self._hooked]
        for each, hooks in before:
            for name, held in hooks.items():
                vars(each)[name] = type(held)((key, hook) for key, hook in held.items() if not _is_ours(hook))
        try:
            yield
        finally:
            for each, hooks in before:
                vars(each).update(hooks)


class _Attributes:
    """The attributes of a module at one moment, beside its parameters, buffers and layers."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self._now = attributes
        self._values = {name: value for name, value in attributes.items() if name not in _REGISTRIES}
        self._held = [
            (value, _copied(value)) for value in self._values.values() if isinstance(value, list | dict | set)
        ]

    def restore(self, also_plain: bool) -> None:
        for name in self._now.keys() - self._values.keys() - _REGISTRIES:
            if also_plain or not isinstance(self._now[name], _PLAIN):
                del self._now[name]
        for name, value in self._values.items():
            if name not in self._now or (
                self._now[name] is not value and (also_plain or not isinstance(self._now[name], _PLAIN))
            ):
                self._now[name] = value
        for value, held in self._held:
            if isinstance(value, list):
                value[:] = held
            elif len(value) != len(held) or value != held if isinstance(value, set) else _differs(value, held):
                value.clear()
                value.update(held)


def settings_of(optimizers: Iterable[Any]) -> list[dict[str, Any]]:
    """The settings of all groups of parameters, as learning rates, without the parameters."""
    return [{name: _kept(each) for name, each in group.items() if name != "params"} for group in _groups_of(optimizers)]


def _groups_of(optimizers: Iterable[Any]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else set(value)


def _differs(value: dict[Any, Any], held: dict[Any, Any]) -> bool:
    return value.keys() != held.keys() or any(value[key] is not held[key] for key in held)


@contextmanager
def drawing(key: int, step: int, device: torch.device) -> Iterator[None]:
    """Within the context, the global generators of torch, numpy and Python are seeded for a model and a step."""
    with isolated(key, "step", step):
        if device.type == "cpu":
            yield
            return
        with torch.random.fork_rng(devices=[device], device_type=device.type):
            torch.manual_seed(torch.initial_seed())
            yield


def global_states() -> tuple[object, object]:
    """The states of torch's and numpy's global generators, and of Python's, from which other threads may draw."""
    _, numbers, *rest = np.random.get_state(legacy=True)
    return (torch.get_rng_state().numpy().tobytes(), np.asarray(numbers).tobytes(), *rest), random.getstate()


def _arguments(module: nn.Module) -> int:
    """How many of batch and batch index the training step takes."""
    parameters = inspect.signature(module.training_step).parameters.values()  # type: ignore[arg-type]
    is_open = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    return 2 if is_open else min(2, len(parameters))


def _loss_of(output: object) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if isinstance(loss, Nothing):
        raise InputError("its loss depends on what a torchmetrics object or the logger gives, which do nothing here")
    if output is None:
        raise SkippedError("its training_step gives None, which skips a batch, instead of a loss, for all models alike")
    if not isinstance(loss, Tensor):
        raise InputError(
            f"its training_step gives {type(output).__name__} without a loss; return the loss, or a dict with `loss`"
        )
    if loss.numel() != 1:
        raise InputError(f"its training_step gives a loss of shape {list(loss.shape)}; return its mean, one number")
    return loss.reshape(())


def _hooks_of(module: nn.Module) -> Iterator[Callable[..., object]]:
    for name in _HOOKS:
        yield from vars(module)[name].values()


def _is_ours(hook: Any) -> bool:
    function = getattr(hook, "func", hook)  # of a partial
    return str(getattr(function, "__module__", "")).startswith("mia_lightning.")


def _short(reason: str) -> str:
    reason = reason.removesuffix(".")
    return reason if len(reason) <= 300 else f"{reason[:297]}..."
