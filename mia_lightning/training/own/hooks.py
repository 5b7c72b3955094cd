"""Hooks of a LightningModule, called before anything is trained to see whether a stack can follow them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mia_lightning.datasets.form import Records
from mia_lightning.errors import InputError
from mia_lightning.seeds import generator
from mia_lightning.training.own.attributes import Held, held_by, numbers_of, reads
from mia_lightning.training.own.lightning import has_own
from mia_lightning.training.own.optimization import Optimization
from mia_lightning.training.own.refusals import AROUND, MEND, is_equal
from mia_lightning.training.own.step import OwnStep, SkippedError, global_states, settings_of

_ON_TENSORS = {
    "_backward_hooks": "register_hook",
    "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook",
}
_ON_OPTIMIZERS = {
    "_optimizer_step_pre_hooks": "register_step_pre_hook",
    "_optimizer_step_post_hooks": "register_step_post_hook",
}
_FACTORS = (1e8, 1e-8, torch.nan)
"""By which gradients are multiplied, beside 1, where such a hook is tried."""
_AS_MADE, _TRAINED, _LARGE = 0.0, 1.0, 1e4
"""How large weights are where a hook is tried: as they were made, or away from these. A copy or an average of fresh
weights is equal to them, and a limit holds, so that a hook which keeps either changes nothing."""
_TRIED = 32  # epochs, and batches of the first one


class _Held:
    """Gradients and weights as they are now.

    Args:
        optimization: of a hook that a stack leaves out: its settings, what may be trained, and the attributes that
            training reads may not change either.
    """

    def __init__(self, step: OwnStep, optimization: Optimization | None = None) -> None:
        self.step, self.optimization = step, optimization
        self._tensors = {name: None if each is None else each.clone() for name, each in self._now().items()}
        self._settings, self._trained = self._settings_now(), self._trained_now()
        self._attributes: Held = {} if optimization is None else held_by(step.network)

    def changed(self) -> str | None:
        """What is no longer as it was; None for nothing."""
        for name, value in self._now().items():
            other = self._tensors.get(name)
            if (value is None) != (other is None) or (
                value is not None and other is not None and not is_equal(value, other)
            ):
                return name
        if self.optimization is None:
            return None
        if self._settings_now() != self._settings:
            return "the optimiser's settings"
        changed = [name for name, value in self._trained_now().items() if self._trained.get(name) != value]
        return f"requires_grad of {changed[0]}" if changed else self._changed_attribute()

    def _changed_attribute(self) -> str | None:
        """The first attribute that is another and that training may read, as it does those of layers of a library."""
        for name in sorted(self.step.kept_since(self._attributes)):
            path, _, attribute = name.rpartition(".")
            is_users = path in self.step.user_modules and attribute != "training"
            if not is_users or reads(self.step.network, attribute):
                return f"`{name}`"
        return None

    def _now(self) -> dict[str, Tensor | None]:
        named = dict((*self.step.network.named_parameters(), *self.step.network.named_buffers()))
        gradients = {f"the gradient of `{name}`": tensor.grad for name, tensor in named.items()}
        return {**{f"`{name}`": tensor.detach() for name, tensor in named.items()}, **gradients}

    def _settings_now(self) -> list[dict[str, Any]]:
        return [] if self.optimization is None else settings_of([self.optimization.optimizer])

    def _trained_now(self) -> dict[str, bool]:
        return {f"`{name}`": p.requires_grad for name, p in self.step.network.named_parameters()}


def check_start(step: OwnStep) -> None:
    """Call the hooks at the start of a fit and an epoch, which a stack calls once for all models.

    Raises:
        InputError: a hook fails, changes weights, or draws random numbers.
    """
    for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
        call_once(step, hook)


def call_once(step: OwnStep, hook: str) -> None:
    """Call a hook for all models of a stack, or for one, where the module has one of its own.

    Raises:
        InputError: it fails, changes weights, or draws random numbers.
    """
    _refuse_once(step, hook, _done_by(step, hook))


def _refuse_once(step: OwnStep, hook: str, done: str | None) -> None:
    if done is not None:
        raise InputError(
            f"{hook} of {step.name} {done} in epoch {step.trainer.current_epoch}, but a stack calls it once for all "
            "its models; do that in __init__ or setup, or give the network inside as `model`."
        )


def _done_by(step: OwnStep, hook: str) -> str | None:
    """What a hook does that it must not do once for all models; None for nothing."""
    if not has_own(step.module, hook):
        return None
    before, held = global_states()[0], _Held(step)  # of other generators, as Python's, other threads may draw
    step.hook(hook)
    changed = held.changed()
    if changed is not None:
        return f"changes {changed}"
    return None if global_states()[0] == before else "draws random numbers"


def check_tensor_hooks(step: OwnStep, optimization: Optimization) -> None:
    """Refuse hooks of parameters, which stacked ones do not have, and of the optimiser.

    Raises:
        InputError: naming the parameter or the optimiser.
    """
    hooked = [
        f"`{name}` by {by}"
        for name, parameter in step.network.named_parameters()
        for held, by in _ON_TENSORS.items()
        if getattr(parameter, held, None)
    ]
    optimizer: Any = optimization.optimizer
    kind = type(optimizer).__name__
    hooked += [f"{kind} by {by}" for held, by in _ON_OPTIMIZERS.items() if getattr(optimizer, held, None)]
    if hooked:
        raise InputError(
            f"{step.name} acts on {hooked[0]}, which a stack cannot do for each of its models; do that in "
            "training_step, or give the network inside as `model`."
        )


def check_around(step: OwnStep, optimization: Optimization, loss: Tensor) -> None:
    """Call the hooks around backward and the optimiser's step: a stack leaves out those that only look.

    Args:
        loss: of a step whose gradients are there.

    Raises:
        InputError: a hook fails, or changes gradients, large and undefined ones among them, or weights.
    """
    arguments: dict[str, tuple[object, ...]] = {
        "on_before_backward": (loss,),
        "on_before_optimizer_step": (optimization.optimizer,),
        "on_before_zero_grad": (optimization.optimizer,),
    }
    parameters = [p for p in step.network.parameters() if p.grad is not None]
    gradients = [p.grad.clone() for p in parameters if p.grad is not None]
    moments = _moments(step)
    tries = [(1.0, _AS_MADE), *((factor, _AS_MADE) for factor in _FACTORS), (1.0, _TRAINED), (1.0, _LARGE)]
    for hook in (each for each in AROUND if has_own(step.module, each)):
        for factor, size in tries:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient * factor
            tried = moments if factor == 1 and size != _LARGE else moments[:1]
            changed = _changed_by(hook, step, optimization, arguments.get(hook, ()), at_each=tried, size=size)
            if changed is not None:
                raise InputError(
                    f"{hook} of {step.name} changes {changed}, which a stack cannot do for each of its models; {MEND}."
                )
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def check_end(step: OwnStep, optimization: Optimization, outputs: object, batch: Any) -> None:
    """Call the hooks at the end of a batch, an epoch and a fit: a stack leaves them out, so they may only report.

    Raises:
        InputError: a hook fails, or changes weights or the optimiser.
    """
    moments = _moments(step)
    hooks = {"on_train_batch_end": moments, "on_train_epoch_end": moments, "on_train_end": moments[-1:]}
    for hook, tried in {**hooks, "on_fit_end": moments[-1:]}.items():
        if not has_own(step.module, hook):
            continue
        arguments = (outputs, batch) if hook == "on_train_batch_end" else ()
        for size, at_each in ((_AS_MADE, tried), (_TRAINED, tried), (_LARGE, tried[:1])):
            changed = _changed_by(hook, step, optimization, arguments, at_each=at_each, size=size)
            if changed is not None:
                raise InputError(
                    f"{hook} of {step.name} changes {changed}, and a stack does not call it; do that in training_step, "
                    "by a schedule or, where it is no weight, in on_train_epoch_start, or give the network inside as "
                    "`model`."
                )


def check_epochs(step: OwnStep) -> None:
    """Call the hook at the start of later epochs, where what fails for want of a training before it is no matter.

    Raises:
        InputError: it changes weights, or draws random numbers.
    """
    for epoch in sorted({epoch for epoch, _ in _moments(step)}):
        step.trainer.at(epoch, 0)
        try:
            with step.as_before(also_plain=False), _weights_of(step, _TRAINED if epoch else _AS_MADE):
                done = _done_by(step, "on_train_epoch_start")
        except InputError as error:  # it is raised again where the epoch comes
            if isinstance(error.__cause__, InputError):
                raise
            return
        _refuse_once(step, "on_train_epoch_start", done)
    step.trainer.at(0, 0)


def _moments(step: OwnStep) -> list[tuple[int, int]]:
    """Epochs and batches at which a hook is tried: first batches, the ends of up to `_TRIED` epochs, and the named."""
    epochs, last = step.trainer.max_epochs, step.trainer.num_training_batches - 1
    few = {*range(min(8, epochs)), *torch.linspace(0, epochs - 1, min(_TRIED, epochs)).round().int().tolist()}
    first = {(0, at) for at in range(min(_TRIED, last + 1))}
    return sorted(first | {(epoch, at) for epoch in few for at in (0, last)} | _named_moments(step))


def _named_moments(step: OwnStep) -> set[tuple[int, int]]:
    """Those about the numbers of epochs, batches and steps that the module's code and attributes name."""
    trainer = step.trainer
    epochs, last = trainer.max_epochs, trainer.num_training_batches - 1
    named = {number + beside for number in numbers_of(step.module) for beside in (-1, 0, 1)}
    steps = [divmod(at, trainer.steps_per_epoch) for at in named if 0 <= at < trainer.estimated_stepping_batches]
    moments = {(epoch, min(last, at * trainer.accumulate_grad_batches)) for epoch, at in steps}
    moments |= {(0, at) for at in named if 0 <= at <= last}
    return moments | {(epoch, at) for epoch in named if 0 <= epoch < epochs for at in (0, last)}


def check_skips(step: OwnStep, batch: Callable[[], tuple[Records, Tensor]]) -> None:
    """Take the step at some later epochs and batches, where other failures are no matter: they are raised if they come.

    Args:
        batch: gives records and labels of one model.

    Raises:
        SkippedError: it skips one of these batches.
    """
    last = step.trainer.num_training_batches - 1
    ends = [(0, last), (step.trainer.max_epochs - 1, last)]
    for at in dict.fromkeys((*ends, *sorted(_named_moments(step))[:_TRIED])):
        step.trainer.at(*at)
        try:
            with step.as_before(also_plain=True):
                step.loss(*batch(), at[1])
        except SkippedError:
            raise
        except Exception:  # the user's own code
            break
    step.trainer.at(0, 0)


def _changed_by(
    hook: str,
    step: OwnStep,
    optimization: Optimization,
    arguments: tuple[object, ...],
    *,
    at_each: list[tuple[int, int]],
    size: float,
) -> str | None:
    """What a hook changes at the first of these epochs and batches where it changes anything, with such weights."""
    with _weights_of(step, size):
        held = _Held(step, optimization)
        for at in at_each:
            given = (*arguments, at[1]) if hook == "on_train_batch_end" else arguments
            must_run = size == _AS_MADE and at == at_each[0]
            changed = _changed_at(at, held, hook, given, must_run=must_run)
            if changed is not None:
                return changed
    return None


@contextmanager
def _weights_of(step: OwnStep, size: float) -> Iterator[None]:
    """Within the context each weight lies away from where it was made, by a draw of its own, and is `size` as large."""
    parameters = [p for p in step.network.parameters() if p.is_floating_point() and size != _AS_MADE]
    before = [p.detach().clone() for p in parameters]
    draws = generator(0, "weights of a trial")
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.rand(p.shape, generator=draws).to(p).mul_(0.1)).mul_(size)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, values in zip(parameters, before, strict=True):
                p.copy_(values)


def _changed_at(
    at: tuple[int, int], held: _Held, hook: str, arguments: tuple[object, ...], *, must_run: bool
) -> str | None:
    """What a hook changes at this epoch and batch; lists that it empties are as before it, but its counters go on.

    Args:
        must_run: whether it is refused where it fails, as it may at a later batch for want of a training before it.
    """
    held.step.trainer.at(*at)
    try:
        with held.step.as_before(also_plain=False):
            held.step.hook(hook, *arguments)
            return held.changed()
    except InputError as error:
        if must_run or isinstance(error.__cause__, InputError):  # of the Trainer, which refuses to stop
            raise
        return held.changed()
    finally:
        held.step.trainer.at(0, 0)
