"""Two steps of two models, alone, in a loop and under `vmap`: what a module's own training step needs, and allows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import Records, each_of, moved, of_model
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated
from mia_lightning.training.own.attributes import held_by, set_by_validation
from mia_lightning.training.own.hooks import (
    check_around,
    check_end,
    check_epochs,
    check_skips,
    check_start,
    check_tensor_hooks,
)
from mia_lightning.training.own.lightning import batch_of, lightning_module
from mia_lightning.training.own.making import keeps_frozen
from mia_lightning.training.own.optimization import check_elementwise, optimization_of
from mia_lightning.training.own.refusals import (
    callbacks_of,
    check_batches,
    check_methods,
    is_equal,
    left_out,
    may_change,
)
from mia_lightning.training.own.schedules import stand_in_of
from mia_lightning.training.own.step import OwnStep, drawing, global_states
from mia_lightning.training.stack.layers import CounterDropout, make_stackable
from mia_lightning.training.stack.looped import LoopedGradients
from mia_lightning.training.stack.stack import MakeNetwork, Stack
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import quiet_lightning

_ROLE, _MODELS, _STEPS, _RECORDS = "own step", 2, 2, 4
_LONG = 12
"""Steps of a module that keeps anything from step to step outside of buffers, since it may use it only later."""
_CPU = torch.device("cpu")

Gradient = dict[str, Tensor]
"""Of one model or, with a first axis K, of several, by the names of the parameters."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of it.

    Attributes:
        draws: whether the step draws from global generators.
        refusal: why `vmap` cannot run it, one clause; None where it can.
        left_out: the classes of the module's own callbacks that take no part.
        may_change: those of them that may change the training, with their hooks; None for none.
        of_validation: attributes that training reads and a validation sets, each with the method that does.
    """

    draws: bool
    refusal: str | None
    left_out: tuple[str, ...]
    may_change: str | None = None
    of_validation: Mapping[str, str] = field(default_factory=dict)


def try_step(make_network: MakeNetwork, population: Population, recipe: Recipe, num_records: int) -> Tried:
    """Train two models for two steps, without changing their weights, each way that a stack may take.

    Args:
        num_records: of a model, by which the stand-in for the Trainer counts.

    Raises:
        InputError: the module cannot be trained in a stack, or one of its models would not be what it is alone.
    """
    trial = _Trial(make_network, population, recipe, num_records)
    with isolated(0, _ROLE), quiet_lightning():
        draws = trial.alone()
        trial.in_a_loop()
        refusal: str | None = (
            f"{trial.step_of} draws random numbers of its own, which vmap would draw once for all models"
        )
        refusal = refusal if draws else trial.under_vmap()
        return Tried(
            draws=draws,
            refusal=refusal,
            left_out=trial.left_out,
            may_change=trial.may_change,
            of_validation=trial.of_validation,
        )


class _Trial:
    def __init__(self, make_network: MakeNetwork, population: Population, recipe: Recipe, num_records: int) -> None:
        self.make_network, self.recipe = make_network, recipe
        self.num_batches = max(1, recipe.steps_per_epoch(num_records))
        with isolated(0, _ROLE, 0, "initialisation"):
            first = make_network()
        dtype = next((p.dtype for p in first.parameters() if p.is_floating_point()), torch.float32)
        index_SKB = torch.arange(_STEPS * _MODELS * _RECORDS).view(_STEPS, _MODELS, _RECORDS) % len(population)
        self.x_SKB = moved(population.records(index_SKB.to(population.device), dtype), "cpu")
        self.label_SKB = population.task.truth(population.label_N[index_SKB.to(population.device)]).cpu()
        module = lightning_module(first)
        assert module is not None
        self.name = type(module).__name__
        self.step_of = f"the training_step of {self.name}"
        check_methods(module)
        callbacks = callbacks_of(module)
        self.left_out, self.may_change = left_out(callbacks), may_change(callbacks)
        self.of_validation = set_by_validation(first)
        check_batches(module, f"The LightningModule {self.name}", each_of(self.x_SKB, lambda x: x[0, 0]))
        self.num_steps = _STEPS
        self.loss_SK = torch.zeros(_LONG, _MODELS)
        self.gradient_SK: list[list[Gradient]] = [[] for _ in range(_STEPS)]
        self.attributes: set[str] = set()

    def alone(self) -> bool:
        """Each model by itself, as under Lightning; returns whether its steps draw random numbers."""
        moved = False
        moved_python: list[bool] = []
        for k in range(_MODELS):
            with isolated(0, _ROLE, k, "initialisation"):
                network = make_stackable(self.make_network().cpu(), 0, _ROLE, k).train()
            trainer = self._trainer()
            optimization = optimization_of(network, trainer)
            if k == 0:
                check_elementwise(partial(optimization_of, network, self._trainer()), self.name)
            trainer.optimizers, trainer.lr_scheduler_configs = [optimization.optimizer], list(optimization.schedules)
            step = OwnStep(network, trainer)
            check_start(step)
            buffers = dict(network.named_buffers())
            before = held_by(step.network)
            still = {name: p.detach().clone() for name, p in network.named_parameters() if not p.requires_grad}
            s = -1
            while (s := s + 1) < self.num_steps:
                trainer.at(*self._moment(s))
                network.zero_grad()
                with drawing(k, s, _CPU):
                    at_first = global_states()
                    loss = self._loss_alone(step, network, s, k)
                    torch_and_numpy, python = (a != b for a, b in zip(at_first, global_states(), strict=True))
                    moved, moved_python = moved or torch_and_numpy, [*moved_python, python]
                self.loss_SK[s, k] = loss.detach()
                check_tensor_hooks(step, optimization)
                with step.explained(f"The loss of {self.step_of}"):
                    loss.backward()
                if s < _STEPS:
                    self.gradient_SK[s].append(_gradients(network))
                self.attributes |= step.kept_since(before)
                if self.attributes:
                    self.num_steps = max(_STEPS, min(_LONG, trainer.estimated_stepping_batches))
            self._check_buffers(network, buffers)
            self._check_frozen(network, still)
            if k == 0:
                check_around(step, optimization, loss.detach())
                check_end(step, optimization, {"loss": loss.detach()}, batch_of(*self._first_batch()))
                check_epochs(step)
                with step.explained(_capital(self.step_of)), drawing(k, s, _CPU):
                    check_skips(step, self._first_batch)
        return moved or all(moved_python)  # other threads draw from Python's, too

    def _trainer(self) -> Any:
        return stand_in_of(self.recipe, self.num_batches)

    def _batch(self, s: int) -> tuple[Records, Tensor]:
        """Records `[K, B, *features]` and labels `[K, B]` of a step, which may change them in place."""
        return each_of(self.x_SKB, lambda x: x[s % _STEPS].clone()), self.label_SKB[s % _STEPS].clone()

    def _first_batch(self) -> tuple[Records, Tensor]:
        x_KB, label_KB = self._batch(0)
        return of_model(x_KB, 0), label_KB[0]

    def _moment(self, s: int) -> tuple[int, int]:
        """Epoch and batch of a step; in a training of fewer steps, they all are of the last epoch."""
        epoch = min(s // self.num_batches, self.recipe.epochs - 1)
        return epoch, s - epoch * self.num_batches

    def _loss_alone(self, step: OwnStep, network: nn.Module, s: int, k: int) -> Tensor:
        _set_step(network, s)
        x_KB, label_KB = self._batch(s)
        x_B, label_B = of_model(x_KB, k), label_KB[k]
        try:
            loss = step.loss(x_B, label_B, self._moment(s)[1])
        except Exception as error:  # the user's own code may raise anything
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
            raise InputError(
                f"{_capital(self.step_of)} fails on a batch as a stack gives it, which is {_shown(x_B, label_B)}, "
                f"whatever form the items of the data set have: {reason.removesuffix('.')}."
            ) from error
        if not loss.requires_grad:
            raise InputError(
                f"{_capital(self.step_of)} gives a loss without a gradient, as under torch.no_grad or after detach; "
                "let it compute the loss from the parameters."
            )
        return loss

    def _check_buffers(self, network: nn.Module, buffers: Mapping[str, Tensor]) -> None:
        lost = [path for path, buffer in network.named_buffers() if buffer is not buffers.get(path)]
        if lost:
            raise InputError(
                f"{_capital(self.step_of)} assigns the buffer `{lost[0]}` anew, which a stack cannot keep; update it "
                "in place, as in self.buffer.copy_(value)."
            )

    def _check_frozen(self, network: nn.Module, still: Mapping[str, Tensor]) -> None:
        changed = [name for name, values in still.items() if not is_equal(network.get_parameter(name).detach(), values)]
        if changed and keeps_frozen(network):
            raise InputError(
                f"{_capital(self.step_of)} changes `{changed[0]}`, which is frozen and given to all networks, so that "
                "models that are trained here would begin with what it was given; give a class or function that makes "
                "a new one each time."
            )

    def in_a_loop(self) -> None:
        """Both models side by side.

        Raises:
            InputError: their losses or gradients are not those of the models alone.
        """
        stack, step = self._stack()
        gradients = LoopedGradients(stack)

        def losses(s: int) -> Tensor:
            key_K = torch.arange(_MODELS)
            return step.looped(stack, gradients, *self._batch(s), step=s, batch_index=self._moment(s)[1], key_K=key_K)

        with step.explained(_capital(self.step_of)):
            differs = self._differs(stack, step, losses, self.num_steps)
        if gradients.used_by_some:
            raise InputError(
                f"{_capital(self.step_of)} uses `{gradients.used_by_some[0]}` in some steps and leaves it out in "
                "others, which one optimiser for all models cannot follow; let it be multiplied by 0 where it is left "
                "out."
            )
        if differs == "gradients":
            raise InputError(
                f"{_capital(self.step_of)} has other gradients than backward() gives of its loss, as where it calls "
                "backward itself, which a stack cannot follow; let the loss alone make the gradients."
            )
        if differs:
            kept = f", as `{sorted(self.attributes)[0]}`" if self.attributes else ""
            raise InputError(
                f"{_capital(self.step_of)} keeps something from step to step outside of its parameters and "
                f"buffers{kept}, so that the models of a stack would share it; register it as a buffer and change it "
                "in place."
            )

    def under_vmap(self) -> str | None:
        """The refusal; None where it gives the losses of the models alone, and gradients."""
        try:
            stack, step = self._stack()

            def losses(s: int) -> Tensor:
                loss_K = step.mapped(stack, *self._batch(s), step=s, batch_index=self._moment(s)[1])
                loss_K.sum().backward()
                return loss_K.detach()

            differs = self._differs(stack, step, losses)
        except Exception as error:  # vmap raises errors of many types; the loop runs the step in any case
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
            return f"vmap cannot run {self.step_of} ({reason if len(reason) < 200 else reason[:197] + '...'})"
        return f"vmap gives other {differs} for {self.step_of} than it has alone" if differs else None

    def _stack(self) -> tuple[Stack, OwnStep]:
        stack = Stack.build(self.make_network, range(_MODELS), seed=0, role=_ROLE).cpu().train()
        trainer = self._trainer()
        step = OwnStep(stack.networks, trainer)
        with isolated(0, _ROLE):
            plain = stack.make_network()
            optimization = optimization_of(plain, trainer)
        trainer.optimizers, trainer.lr_scheduler_configs = [optimization.optimizer], list(optimization.schedules)
        for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
            step.hook(hook)
        return stack, step

    def _differs(
        self, stack: Stack, step: OwnStep, losses: Callable[[int], Tensor], num_steps: int = _STEPS
    ) -> str | None:
        """Which of `losses` and `gradients` are not those of the models alone; None for neither."""
        found: list[Tensor] = []
        same = True
        for s in range(num_steps):
            step.trainer.at(*self._moment(s))
            stack.zero_grad(set_to_none=True)
            found.append(losses(s).float())
            gradient_K = _gradients(stack.networks)
            for k, alone in enumerate(self.gradient_SK[s] if s < _STEPS else ()):
                same = same and _are_close({name: each[k] for name, each in gradient_K.items()}, alone)
        if not torch.allclose(torch.stack(found), self.loss_SK[: len(found)], rtol=1e-3, atol=1e-5, equal_nan=True):
            return "losses"
        return None if same else "gradients"


def _shown(x_B: Records, label_B: Tensor) -> str:
    """A batch, for a sentence."""

    def of(value: Tensor) -> str:
        return f"{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"

    if isinstance(x_B, Tensor):
        return f"the list [records {of(x_B)}, labels {of(label_B)}]"
    return f"the dict {{{', '.join(f'{name!r}: {of(value)}' for name, value in batch_of(x_B, label_B).items())}}}"


def _gradients(network: nn.Module) -> Gradient:
    return {name: p.grad.detach().clone() for name, p in network.named_parameters() if p.grad is not None}


def _are_close(found: Gradient, expected: Gradient) -> bool:
    """Whether the gradients of one model are the same but for rounding; none is as good as 0."""
    largest = max((float(each.abs().max()) for each in expected.values() if each.numel()), default=0.0)
    for name in found.keys() | expected.keys():
        some = found[name] if name in found else expected[name]
        one, other = (each.get(name, torch.zeros_like(some)) for each in (found, expected))
        scale = max(1e-3 * float(other.abs().max()), 1e-5 * largest) if other.numel() else 0.0
        if not torch.allclose(one, other, rtol=1e-3, atol=scale, equal_nan=True):
            return False
    return True


def _set_step(network: nn.Module, step: int) -> None:
    """What a stack tells the layers of dropout before each step."""
    for layer in network.modules():
        if isinstance(layer, CounterDropout):
            layer.calls = 0
            layer.step.fill_(step)


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
