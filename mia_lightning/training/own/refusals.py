"""What of a LightningModule a stack cannot follow, refused before anything is trained."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mia_lightning.errors import InputError, first_line
from mia_lightning.training.own.lightning import has_own
from mia_lightning.training.own.optimization import Optimization
from mia_lightning.training.own.stand_in import StandInTrainer
from mia_lightning.training.own.step import OwnStep, global_states

_OF_BATCHES = ("on_before_batch_transfer", "on_after_batch_transfer")
"""Hooks that change batches in training, through which records are not taken where a model is asked for its outputs."""
_MOVES = "transfer_batch_to_device"
_NEVER = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping")
"""Hooks that take over a part of the step that is done here for all models at once."""
_AROUND = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
"""Hooks that may only look: gradients, parameters and buffers stay as they are."""
_ON_TENSORS = {
    "_backward_hooks": "register_hook",
    "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook",
}
_ON_OPTIMIZERS = {
    "_optimizer_step_pre_hooks": "register_step_pre_hook",
    "_optimizer_step_post_hooks": "register_step_post_hook",
}
_SHOW = {"Checkpoint", "ModelSummary", "ProgressBar"}
_FACTORS = (1e8, 1e-8, torch.nan)
"""By which gradients are multiplied, beside 1, where such a hook is tried."""
_TRIED = 32  # epochs, and batches of the first one
_CHANGING = (
    *("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging", "BaseFinetuning", "ModelPruning"),
    *("GradientAccumulationScheduler", "BatchSizeFinder", "LearningRateFinder"),
)
_MEND = "leave it out, or give the network inside as `model`, to be trained by `training`"


def check_methods(module: nn.Module) -> None:
    """Refuse what can be told from the class.

    Raises:
        InputError: naming the method.
    """
    name = type(module).__name__
    for method in ("training_step", "configure_optimizers"):
        if not has_own(module, method):
            raise InputError(
                f"`model` makes the LightningModule {name}, which has no {method}, by which its models would be "
                "trained; write it, or give the network inside as `model`, to be trained by `training`."
            )
    if not module.automatic_optimization:
        raise InputError(
            f"{name} optimises by hand (automatic_optimization = False), and a stack takes the optimiser's steps of "
            "all models together; return the loss from training_step, or give the network inside as `model`."
        )
    for method in _NEVER:
        if has_own(module, method):
            raise InputError(f"{name} has its own {method}, which a stack cannot call for each of its models; {_MEND}.")
    check_batches(module, f"The LightningModule {name}")
    taken = inspect.signature(module.training_step).parameters  # type: ignore[arg-type]
    odd = [each for each in ("optimizer_idx", "hiddens", "dataloader_iter") if each in taken]
    if odd:
        raise InputError(
            f"The training_step of {name} takes `{odd[0]}`, which a stack does not give; let it take batch and "
            "batch_idx."
        )
    check_callbacks(callbacks_of(module), f"configure_callbacks of {name} gives")


def callbacks_of(module: nn.Module) -> list[object]:
    """What its configure_callbacks gives.

    Raises:
        InputError: it fails.
    """
    if not has_own(module, "configure_callbacks"):
        return []
    try:
        given: Any = module.configure_callbacks()  # type: ignore[operator]
        return list(given) if isinstance(given, Iterable) else [given]
    except Exception as error:  # the user's own code
        raise InputError(
            f"configure_callbacks of {type(module).__name__} fails ({type(error).__name__}: {first_line(error)}); "
            f"{_MEND}."
        ) from error


def left_out(callbacks: Iterable[object]) -> tuple[str, ...]:
    """The classes of callbacks that take no part in a stack, and do more than show or save."""
    kinds = [type(each) for each in callbacks]
    return tuple(dict.fromkeys(each.__name__ for each in kinds if not {base.__name__ for base in each.__mro__} & _SHOW))


def check_batches(module: nn.Module, what: str, x_B: Tensor | None = None) -> None:
    """Refuse hooks that change batches: the model would be trained on other records than it is asked about.

    Args:
        what: the module, as a sentence begins.
        x_B: a few records, by which it is seen whether the module changes them where it moves them to a device.

    Raises:
        InputError: naming the hook.
    """
    own = next((each for each in _OF_BATCHES if has_own(module, each)), None)
    if own is None and x_B is not None and has_own(module, _MOVES) and _moves_otherwise(module, x_B):
        own = _MOVES
    if own is not None:
        raise InputError(
            f"{what} changes batches in `{own}`, through which records are not taken where it is asked for its "
            "outputs; move what it does into its `forward`, or into the transform of the dataset."
        )


def _moves_otherwise(module: Any, x_B: Tensor) -> bool:
    """Whether the records are none of the tensors in the batch after its own way of moving it to their device."""
    batch = [x_B.clone(), torch.zeros(len(x_B), dtype=torch.int64, device=x_B.device)]
    try:
        moved = module.transfer_batch_to_device(batch, x_B.device, 0)
    except Exception:  # the user's own code: where the step needs it, it is raised again
        return False
    parts = moved.values() if isinstance(moved, Mapping) else moved if isinstance(moved, Iterable) else [moved]
    return not any(isinstance(each, Tensor) and _equal(each, x_B) for each in parts)


def check_callbacks(callbacks: Iterable[object], place: str) -> None:
    """Refuse Lightning callbacks that change gradients or weights.

    Raises:
        InputError: naming the callback.
    """
    for callback in callbacks:
        kinds = {each.__name__ for each in type(callback).__mro__}
        base = next((each for each in type(callback).__mro__ if each.__name__ == "Callback"), None)
        hooks = [
            each for each in _AROUND if base is not None and getattr(type(callback), each) is not getattr(base, each)
        ]
        if kinds & set(_CHANGING) or hooks:
            why = f" (by {hooks[0]})" if hooks else ""
            raise InputError(
                f"{place} {type(callback).__name__}, which may change gradients or weights{why} of all models of a "
                "stack as if they were one; leave it out."
            )


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
    before = global_states()[0]  # other threads may draw from Python's
    changed = _changed(step, partial(step.hook, hook))
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
    moments = _moments(step.trainer)
    for hook in (each for each in _AROUND if has_own(step.module, each)):
        for factor, (epoch, batch) in (*((1.0, at) for at in moments), *((each, (0, 0)) for each in _FACTORS)):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient * factor
            at = (epoch, batch)
            changed = _changed_at(at, step, hook, arguments.get(hook, ()), optimization, must_run=at == (0, 0))
            if changed is not None:
                raise InputError(
                    f"{hook} of {step.name} changes {changed}, which a stack cannot do for each of its models; {_MEND}."
                )
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def check_end(step: OwnStep, optimization: Optimization, outputs: object, batch: list[Tensor]) -> None:
    """Call the hooks at the end of a batch, an epoch and a fit: a stack leaves them out, so they may only report.

    Raises:
        InputError: a hook fails, or changes weights or the optimiser.
    """
    moments = _moments(step.trainer)
    hooks = {"on_train_batch_end": moments, "on_train_epoch_end": moments, "on_train_end": moments[-1:]}
    for hook, tried in {**hooks, "on_fit_end": moments[-1:]}.items():
        for at in tried if has_own(step.module, hook) else ():
            arguments = (outputs, batch, at[1]) if hook == "on_train_batch_end" else ()
            changed = _changed_at(at, step, hook, arguments, optimization, must_run=at == tried[0])
            if changed is not None:
                raise InputError(
                    f"{hook} of {step.name} changes {changed}, and a stack does not call it; do that in training_step "
                    "or by a schedule, or give the network inside as `model`."
                )


def check_epochs(step: OwnStep) -> None:
    """Call the hook at the start of later epochs, where what fails for want of a training before it is no matter.

    Raises:
        InputError: it changes weights, or draws random numbers.
    """
    for epoch in sorted({epoch for epoch, _ in _moments(step.trainer)}):
        step.trainer.at(epoch, 0)
        try:
            with step.as_before(also_plain=False):
                done = _done_by(step, "on_train_epoch_start")
        except InputError:  # it is raised again where the epoch comes
            return
        _refuse_once(step, "on_train_epoch_start", done)
    step.trainer.at(0, 0)


def _moments(trainer: StandInTrainer) -> list[tuple[int, int]]:
    """Epochs and batches at which a hook is tried: the first batches of all, and the ends of up to `_TRIED` epochs."""
    epochs, last = trainer.max_epochs, trainer.num_training_batches - 1
    few = {*range(min(8, epochs)), *torch.linspace(0, epochs - 1, min(_TRIED, epochs)).round().int().tolist()}
    return sorted({(0, at) for at in range(min(_TRIED, last + 1))} | {(epoch, at) for epoch in few for at in (0, last)})


def _changed_at(
    at: tuple[int, int],
    step: OwnStep,
    hook: str,
    arguments: tuple[object, ...],
    optimization: Optimization,
    *,
    must_run: bool,
) -> str | None:
    """What a hook changes at this epoch and batch; lists that it empties are as before it, but its counters go on.

    Args:
        must_run: whether it is refused where it fails, as it may at a later batch for want of a training before it.
    """
    step.trainer.at(*at)
    try:
        with step.as_before(also_plain=False):
            return _changed(step, partial(step.hook, hook, *arguments), optimization)
    except InputError:
        if must_run:
            raise
        return None
    finally:
        step.trainer.at(0, 0)


def _changed(step: OwnStep, call: Callable[[], object], optimization: Optimization | None = None) -> str | None:
    """What of gradients, weights and the optimiser's settings a call changes; None for nothing."""

    def held() -> dict[str, Any]:
        both = (*step.network.named_parameters(), *step.network.named_buffers())
        named: dict[str, Any] = {f"`{name}`": tensor for name, tensor in both}
        gradients = {f"the gradient of {name}": tensor.grad for name, tensor in named.items()}
        return {**named, **gradients}

    def settings() -> list[dict[str, object]]:
        if optimization is None:
            return []
        groups = optimization.optimizer.param_groups
        return [{name: value for name, value in group.items() if name != "params"} for group in groups]

    before = {name: None if value is None else value.detach().clone() for name, value in held().items()}
    had = settings()
    call()
    after = held()
    for name, value in after.items():
        other = before.get(name)
        if (value is None) != (other is None) or (
            value is not None and other is not None and not _equal(value.detach(), other)
        ):
            return name
    return "the optimiser's settings" if settings() != had else None


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
