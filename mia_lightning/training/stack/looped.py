"""Gradients of a stack, model by model: where vmap refuses a network, and where it would be slower."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from mia_lightning.datasets.form import Records
from mia_lightning.training.stack.stack import Stack

Within = Callable[[int, Mapping[str, Tensor]], AbstractContextManager[object]]
LossOf = Callable[[int, Mapping[str, Tensor]], tuple[Tensor, Tensor]]
Take = Callable[[int, Mapping[str, Tensor]], tuple[Tensor, Sequence[Tensor | None]]]


class Streams(Protocol):
    """Where a device does the work of each model of a step."""

    def forked(self) -> AbstractContextManager[object]:
        """Within the context, all work on models comes after what was queued before it, and before what follows it."""
        ...

    def beside(self, k: int) -> AbstractContextManager[object]:
        """Within the context, which lies within that of `forked`, work on model k is queued beside that on others."""
        ...


class OneStream:
    """All work one after another."""

    def forked(self) -> AbstractContextManager[object]:
        return nullcontext()

    def beside(self, k: int) -> AbstractContextManager[object]:
        return nullcontext()


class LoopedGradients:
    """Takes the gradients of the models of a stack one after another, with the memory of one model's activations.

    The gradients of all models stay in the same memory from step to step. Memory that is freed and allocated anew would
    come from the operating system page by page, which takes a twentieth of a step.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.streams: Streams = OneStream()
        self._gradient: dict[str, Tensor] = {}  # [K, ...], by parameter
        self._latest: tuple[Tensor | None, ...] = ()
        self.used_by_some: list[str] = []
        """The parameters that some models used in the latest step, and others did not."""

    def __call__(self, loss_of: LossOf, within: Within | None = None) -> Tensor:
        """Add the gradients to the `grad` of the stack's trainable parameters.

        Args:
            loss_of: from k and the state of model k, the quantity that a step lowers and the loss, both scalars.
            within: from k and the state, a context for the loss and its gradient, which may compute parts of it again.

        Returns:
            The losses, `[K]`. A parameter that no model uses has no gradient.
        """
        names = list(self.stack.trainable())

        def take(k: int, state: Mapping[str, Tensor]) -> tuple[Tensor, Sequence[Tensor | None]]:
            leaves = [state[name].requires_grad_() for name in names]
            with nullcontext() if within is None else within(k, state):
                lowered, loss = loss_of(k, state)
                # The gradients of the model before are freed only now, when its activations are freed and the next ones
                # are not made yet: so the heap keeps the memory of both. What is freed at the end of the heap goes back
                # to the operating system.
                self._latest = ()
                self._latest = torch.autograd.grad(lowered, leaves, allow_unused=True)
            return loss.detach(), self._latest

        return self.put(take)

    def put(self, take: Take) -> Tensor:
        """Add gradients, which somebody else takes, to the `grad` of the stack's trainable parameters.

        Args:
            take: from k and the state of model k, the loss and the gradients of the trainable parameters, in order;
                None for a parameter that the model does not use.

        Returns:
            The losses, `[K]`. A parameter that no model uses has no gradient.
        """
        trainable = self.stack.trainable()
        is_first = {name: parameter.grad is None for name, parameter in trainable.items()}
        for name, parameter in trainable.items():
            if parameter.grad is None:
                parameter.grad = self._kept(name, parameter)
        loss_K: list[Tensor] = []
        uses = dict.fromkeys(trainable, 0)
        places_K = zip(*(p.grad.unbind() for p in trainable.values() if p.grad is not None), strict=True)
        with self.streams.forked():
            for k, (state, places) in enumerate(zip(self.stack.states(), places_K, strict=True)):
                with self.streams.beside(k):
                    loss, gradients = take(k, state)
                    _put(places, gradients, list(is_first.values()))
                for name, gradient in zip(trainable, gradients, strict=True):
                    uses[name] += gradient is not None
                loss_K.append(loss)
        for name, parameter in trainable.items():
            if is_first[name] and not uses[name]:
                parameter.grad = None
        self.used_by_some = [name for name, count in uses.items() if 0 < count < len(loss_K)]
        return torch.stack(loss_K)

    def clear(self) -> None:
        """Free the memory that is kept between steps."""
        self._gradient, self._latest = {}, ()

    def _kept(self, name: str, parameter: Tensor) -> Tensor:
        kept = self._gradient.get(name)
        if kept is None or kept.device != parameter.device or kept.stride() != parameter.stride():
            kept = self._gradient[name] = torch.empty_like(parameter)
        return kept


def _put(places: Sequence[Tensor], gradients: Sequence[Tensor | None], is_first: Sequence[bool]) -> None:
    """Copy each gradient to its place or, where it is not the first, add it; all at once, which takes half the time."""
    copied: list[tuple[Tensor, Tensor]] = []
    added: list[tuple[Tensor, Tensor]] = []
    for place, gradient, is_copied in zip(places, gradients, is_first, strict=True):
        if gradient is not None:
            (copied if is_copied else added).append((place, gradient))
        elif is_copied:  # a parameter that this model does not use, though its neighbours may
            place.zero_()
    if copied:
        torch._foreach_copy_([place for place, _ in copied], [gradient for _, gradient in copied])
    if added:
        torch._foreach_add_([place for place, _ in added], [gradient for _, gradient in added])


def all_logits(stack: Stack, x_B: Records, execution: str) -> Tensor:
    """Logits `[K, B, C]` of every model on the same records, by vmap or model by model."""
    if execution == "stack":
        logits_KBC: Tensor = stack(x_B, shared=True)
        return logits_KBC
    return torch.stack([stack.call_one(state, x_B) for state in stack.states()])
