"""The gradients of a batch by compiled programs, in the place of one operation after another.

Forward pass, loss and backward pass are run once on tensors without numbers, which writes down every operation that
they take, and the compiler fuses these. So a program computes what the step does, whatever the network's own code does
in Python, stopped gradients and backward passes of its own included. It holds for batches of one shape, and for all
chunks of a job.
"""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from mia_lightning.datasets.form import Records, first_of, of_model
from mia_lightning.errors import first_line
from mia_lightning.training.plan.memory import is_out_of_memory
from mia_lightning.training.stack.layers import MaskedBatchNorm
from mia_lightning.training.stack.looped import LoopedGradients
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.computed_once import ComputedOnce
from mia_lightning.training.step.graphs import every_cast, sees_gradients
from mia_lightning.training.step.losses import Losses, Truth
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

DEVICES = {"cuda"}
"""The types of devices where compiled steps are tried without being asked for."""

_MOST = 8  # programs of a job; batches of further shapes are never compiled

Run = Callable[..., Sequence[Tensor]]
Work = Callable[[list[Tensor]], list[Tensor | None]]


def by_inductor(graph: GraphModule, given: list[Tensor]) -> Run:
    """The operations of `graph`, fused; it needs a C++ compiler for a CPU, and Triton for a GPU."""
    import torch._inductor

    run: Run = torch._inductor.compile(graph, [*given])  # a list of what may be more than tensors
    return run


BACKEND: Callable[[GraphModule, list[Tensor]], Run] = by_inductor


def refusal(recipe: Recipe, settings: TrainerSettings, device: torch.device) -> str | None:
    """Why steps are not compiled, in a clause; None where they can be."""
    if recipe.compile is False:
        return "`training.compile` is false"
    if recipe.compile == "auto" and device.type not in DEVICES:
        return f"the device is {device.type}"
    reasons = {
        "a LightningModule trains itself": recipe.own is not None,
        "a defence makes the gradients": recipe.gradient_rule is not None,
        "the loss of a batch depends on the epoch": recipe.batch_objective is not None,
        "a callback sees the gradients": any(map(sees_gradients, settings.callbacks)),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """What was compiled.

    Attributes:
        run: gives the outputs that there are.
        is_there: for each output, whether there is one; a parameter that is not used has no gradient.
        device_type: of the tensors.
    """

    run: Run
    is_there: Sequence[bool]
    device_type: str

    def __call__(self, given: Sequence[Tensor]) -> list[Any]:
        """The outputs for tensors of the same forms; None in the place of those that there are not."""
        with torch.no_grad(), torch.autocast(self.device_type, enabled=False):  # the casts are part of the program
            found = iter(self.run(*given))
        return [next(found) if is_there else None for is_there in self.is_there]


class Compiler:
    """Makes the programs of a job, one for each form of what they are given, and keeps them.

    Attributes:
        failure: why nothing is compiled any more, in a clause; None where it is.
        num_programs: how many were made.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._programs: dict[Hashable, Program] = {}

    @property
    def num_programs(self) -> int:
        return len(self._programs)

    def program(self, name: Hashable, work: Work, given: Sequence[Tensor], written: Sequence[Tensor]) -> Program | None:
        """The program of some work; None where there is none, since it cannot be compiled or there are too many.

        Args:
            name: what the work depends on beside the forms of `given`, with the numbers of Python that it reads.
            work: from tensors to tensors, of which some may be missing.
            given: tensors without gradients, such as those that the program will be given.
            written: those of them that the work writes to. A new program is tried once, and what it wrote is put back.
        """
        device = given[0].device.type
        casts = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        key = (name, casts, *((t.device, t.dtype, tuple(t.shape), t.stride()) for t in given))
        if self.failure is None and key not in self._programs and len(self._programs) < _MOST:
            made = self._made(work, given, written)
            if made is not None:
                self._programs[key] = made
        return None if self.failure is not None else self._programs.get(key)

    def _made(self, work: Work, given: Sequence[Tensor], written: Sequence[Tensor]) -> Program | None:
        before = [tensor.clone() for tensor in written]
        try:
            program = _compiled(work, given)
            program(given)
        except Exception as error:  # of the network's own code, or of compilers
            if is_out_of_memory(error):
                raise
            self.failure = first_line(error)
            return None
        finally:
            for tensor, kept in zip(written, before, strict=True):
                tensor.copy_(kept)
        return program


def _compiled(work: Work, given: Sequence[Tensor]) -> Program:
    from torch.fx.experimental.proxy_tensor import make_fx

    is_there: list[bool] = []

    def present(*tensors: Tensor) -> list[Tensor]:
        found = work(list(tensors))
        is_there[:] = [each is not None for each in found]
        return [each for each in found if each is not None]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what compilers advise is not for the user of this package
        with torch.enable_grad(), every_cast():
            graph = make_fx(present, tracing_mode="fake")(*given)
        with torch.no_grad(), torch.autocast(given[0].device.type, enabled=False):
            run = BACKEND(graph, list(given))
    return Program(run=run, is_there=tuple(is_there), device_type=given[0].device.type)


class CompiledGradients:
    """Takes the gradients of a stack by programs: of all models at once, or of one model after another.

    Args:
        losses: of the networks' outputs.
        stack: the networks.
        looped: where models are stepped one by one; None for all at once.
        compiler: makes the programs.
        once: what computes a first layer beforehand; None where the network itself does.
    """

    def __init__(
        self,
        losses: Losses,
        stack: Stack,
        looped: LoopedGradients | None,
        compiler: Compiler,
        once: ComputedOnce | None,
    ) -> None:
        self._stack, self._losses, self._looped = stack, losses, looped
        self._compiler, self._name = compiler, (looped is None, once is None)
        self._has_batch_norm = any(isinstance(layer, MaskedBatchNorm) for layer in stack.networks.modules())

    def __call__(
        self, x: Records, truth: Truth, is_real_KB: Tensor | None, step: int | Tensor, share: float
    ) -> tuple[Tensor, Tensor] | None:
        """Add the gradients of a batch to the `grad` of the stack's trainable parameters.

        Args:
            share: of the batch in the gradient.

        Returns:
            The losses `[K]` and the outputs `[K, B, C]`; None where there is no program, and nothing was done.
        """
        if not isinstance(step, Tensor):
            step = torch.full((), step, dtype=torch.int64, device=self._stack.device)
        if self._looped is None:
            return self._of_all(_named(x, truth, is_real_KB, step), share)
        return self._of_each(self._looped, x, truth, is_real_KB, step, share)

    def _of_all(self, batch: Mapping[str, Tensor], share: float) -> tuple[Tensor, Tensor] | None:
        stack = self._stack

        def outputs(state: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Truth, Tensor | None]:
            x, truth, is_real_KB, step = _batch(batch)
            with stack.holding(state):
                return stack(x, step=step, is_real_KB=self._rows(is_real_KB, x, 2)), truth, is_real_KB

        state = {name: tensor.detach() for name, tensor in stack.state().items()}
        program = self._program(outputs, state, batch, share)
        if program is None:
            return None
        loss_K, logits_KBC, *gradients = program([*state.values(), *batch.values()])
        for parameter, gradient in zip(self._trainable().values(), gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return loss_K, logits_KBC

    def _of_each(
        self,
        looped: LoopedGradients,
        x: Records,
        truth: Truth,
        is_real_KB: Tensor | None,
        step: Tensor,
        share: float,
    ) -> tuple[Tensor, Tensor] | None:
        stack = self._stack

        def batch_of(k: int) -> dict[str, Tensor]:
            return _named(of_model(x, k), truth.of_model(k), None if is_real_KB is None else is_real_KB[k], step)

        def outputs(state: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Truth, Tensor | None]:
            x_B, truth, is_real_B, step = _batch(batch)
            logits_BC = stack.call_one(state, x_B, step=step, is_real_B=self._rows(is_real_B, x_B, 1))
            return logits_BC[None], truth, None if is_real_B is None else is_real_B[None]

        first = {name: tensor.detach() for name, tensor in stack.state_of(0).items()}
        program = self._program(outputs, first, batch_of(0), share)
        if program is None:
            return None
        logits_K: list[Tensor] = []

        def take(k: int, state: Mapping[str, Tensor]) -> tuple[Tensor, Sequence[Tensor | None]]:
            loss_1, logits_1BC, *gradients = program([*state.values(), *batch_of(k).values()])
            logits_K.append(logits_1BC[0])
            return loss_1[0], gradients

        loss_K = looped.put(take)
        return loss_K, torch.stack(logits_K)

    def _program(
        self,
        outputs: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], tuple[Tensor, Truth, Tensor | None]],
        state: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        share: float,
    ) -> Program | None:
        trainable = list(self._trainable())

        def work(given: list[Tensor]) -> list[Tensor | None]:
            own = dict(zip(state, given, strict=False))
            own |= {name: own[name].detach().requires_grad_() for name in trainable}
            logits_KBC, truth, is_real_KB = outputs(own, dict(zip(batch, given[len(state) :], strict=True)))
            lowered_K, loss_K = self._losses(logits_KBC, truth, is_real_KB)
            leaves = [own[name] for name in trainable]
            gradients = torch.autograd.grad(lowered_K.sum() * share, leaves, allow_unused=True)
            return [loss_K.detach(), logits_KBC.detach(), *gradients]

        written = [tensor for name, tensor in state.items() if name not in trainable]
        name = (self._name, share, *trainable, *batch)
        return self._compiler.program(name, work, [*state.values(), *batch.values()], written)

    def _trainable(self) -> dict[str, Tensor]:
        return {name: p for name, p in self._stack.networks.named_parameters() if p.requires_grad}

    def _rows(self, is_real: Tensor | None, x: Records, axes: int) -> Tensor | None:
        """Which rows are real; all, for batch normalisation, whose own kernel cannot be written down as an operation
        that changes its statistics."""
        if is_real is not None or not self._has_batch_norm:
            return is_real
        first = first_of(x)
        return torch.ones(first.shape[:axes], dtype=torch.bool, device=first.device)


def _named(x: Records, truth: Truth, is_real: Tensor | None, step: Tensor) -> dict[str, Tensor]:
    """The tensors of a batch by name."""
    records = {"x": x} if isinstance(x, Tensor) else {f"x {name}": tensor for name, tensor in x.items()}
    others = {**truth._asdict(), "is_real": is_real, "step": step}
    return {**records, **{name: tensor for name, tensor in others.items() if tensor is not None}}


def _batch(named: Mapping[str, Tensor]) -> tuple[Records, Truth, Tensor | None, Tensor]:
    """The batch that `_named` has named."""
    fields = {name.removeprefix("x "): tensor for name, tensor in named.items() if name.startswith("x ")}
    truth = Truth(**{name: named.get(name) for name in Truth._fields})  # type: ignore[arg-type]
    return fields or named["x"], truth, named.get("is_real"), named["step"]
