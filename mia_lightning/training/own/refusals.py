"""What of a LightningModule a stack cannot follow, refused before anything is trained."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import Records, each_of, first_of, tensors_of
from mia_lightning.errors import InputError, first_line
from mia_lightning.training.own.lightning import batch_of, has_own

_OF_BATCHES = ("on_before_batch_transfer", "on_after_batch_transfer")
"""Hooks that change batches in training, through which records are not taken where a model is asked for its outputs."""
_MOVES = "transfer_batch_to_device"
_NEVER = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping")
"""Hooks that take over a part of the step that is done here for all models at once."""
AROUND = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
"""Hooks that may only look: gradients, parameters and buffers stay as they are."""
_SHOW = {"Checkpoint", "ModelSummary", "ProgressBar"}
_CHANGING = (
    *("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging", "BaseFinetuning", "ModelPruning"),
    *("GradientAccumulationScheduler", "BatchSizeFinder", "LearningRateFinder"),
)
_LIGHTNING = ("pytorch_lightning.", "lightning.", "mia_lightning.", "builtins")
_IN_TRAINING = ("on_train_", "on_fit_", "on_validation_", "on_before_", "on_after_", "setup", "teardown")
MEND = "leave it out, or give the network inside as `model`, to be trained by `training`"


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
            raise InputError(f"{name} has its own {method}, which a stack cannot call for each of its models; {MEND}.")
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
            f"{MEND}."
        ) from error


def left_out(callbacks: Iterable[object]) -> tuple[str, ...]:
    """The classes of callbacks that take no part in a stack, and do more than show or save."""
    kinds = [type(each) for each in callbacks]
    return tuple(dict.fromkeys(each.__name__ for each in kinds if not {base.__name__ for base in each.__mro__} & _SHOW))


def may_change(callbacks: Iterable[object]) -> str | None:
    """The user's own callbacks with hooks that training calls, each with these; None where there are none.

    Lightning's own, beside those that `check_callbacks` refuses, only watch, stop or save.
    """
    hooks_of = {type(each).__name__: _hooks_of(each) for each in callbacks}
    return ", ".join(f"{name} ({', '.join(hooks)})" for name, hooks in hooks_of.items() if hooks) or None


def warning_of(callbacks: str | None, whose: str) -> str | None:
    """That such callbacks take no part.

    Args:
        whose: as a sentence begins, with its verb.
    """
    if callbacks is None:
        return None
    return (
        f"{whose} callbacks of your own, {callbacks}, which are not called for the models that are trained here: if "
        "they change weights, batches, learning rates or what the module computes, these models are not the ones that "
        "your Trainer makes."
    )


def _hooks_of(callback: object) -> list[str]:
    """Hooks of training and of its validation that are written by the user, in a class or on the object."""
    kinds = [each for each in type(callback).__mro__ if not each.__module__.startswith(_LIGHTNING)]
    named = [name for held in (*map(vars, kinds), vars(callback)) for name, value in held.items() if callable(value)]
    return list(dict.fromkeys(each for each in named if each.startswith(_IN_TRAINING)))


def check_batches(module: nn.Module, what: str, x_B: Records | None = None) -> None:
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


def _moves_otherwise(module: Any, x_B: Records) -> bool:
    """Whether the records are none of the tensors in the batch after its own way of moving it to their device."""
    first = first_of(x_B)
    batch = batch_of(each_of(x_B, Tensor.clone), torch.zeros(len(first), dtype=torch.int64, device=first.device))
    try:
        moved = module.transfer_batch_to_device(batch, first.device, 0)
    except Exception:  # the user's own code: where the step needs it, it is raised again
        return False
    parts = moved.values() if isinstance(moved, Mapping) else moved if isinstance(moved, Iterable) else [moved]
    found = [each for each in parts if isinstance(each, Tensor)]
    return not all(any(is_equal(each, x) for each in found) for x in tensors_of(x_B))


def check_callbacks(callbacks: Iterable[object], place: str) -> None:
    """Refuse Lightning callbacks that change gradients or weights.

    Raises:
        InputError: naming the callback.
    """
    for callback in callbacks:
        kinds = {each.__name__ for each in type(callback).__mro__}
        base = next((each for each in type(callback).__mro__ if each.__name__ == "Callback"), None)
        hooks = [
            each
            for each in AROUND
            if each in vars(callback) or (base is not None and getattr(type(callback), each) is not getattr(base, each))
        ]
        if kinds & set(_CHANGING) or hooks:
            why = f" (by {hooks[0]})" if hooks else ""
            raise InputError(
                f"{place} {type(callback).__name__}, which may change gradients or weights{why} of all models of a "
                "stack as if they were one; leave it out."
            )


def is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same numbers, NaN included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
