"""Optimisers and schedules of somebody else's classes: how they are made, which are refused, and what they need."""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mia_lightning.errors import InputError, SettingError, first_line
from mia_lightning.seeds import generator
from mia_lightning.settings.checking import shown
from mia_lightning.settings.free_nodes import about_call

MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]

_STEPS_ONE_BY_ONE = 50_000  # of a schedule, about 0.3 s


def fused_where_possible(make_optimizer: MakeOptimizer) -> MakeOptimizer:
    """The same optimiser with torch's fused implementation, unless the caller chose another."""
    kind = make_optimizer.func if isinstance(make_optimizer, partial) else make_optimizer
    chosen = getattr(make_optimizer, "keywords", {})
    if kind not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) or any(
        chosen.get(name) is not None for name in ("fused", "foreach", "differentiable")
    ):
        return make_optimizer
    return partial(make_optimizer, fused=True)  # type: ignore[call-arg]


def check_optimizer(make_optimizer: MakeOptimizer) -> None:
    """Refuse an optimiser under which two models in a stack move otherwise than each alone.

    Raises:
        InputError: it cannot be made or step, is no optimiser, or couples the elements of a parameter.
    """
    _check_numbers(make_optimizer, "optimizer")
    numbers = generator(0, "elementwise check")
    start_K = torch.randn(2, 3, 4, generator=numbers, dtype=torch.float64)
    gradient_SK = torch.randn(3, 2, 3, 4, generator=numbers, dtype=torch.float64)
    # Scales far apart, so that any norm or statistic taken over both models shows.
    gradient_SK[:, 1] *= 1e3

    def moved(start: Tensor, gradient_S: Tensor) -> Tensor:
        parameter = nn.Parameter(start.clone())
        optimizer: object = fused_where_possible(make_optimizer)([parameter])
        if not isinstance(optimizer, Optimizer):
            rest = f"makes {shown(optimizer)}, which is no torch.optim.Optimizer; set its `_target_` to one."
            raise SettingError("training", "optimizer", rest)
        for gradient in gradient_S:
            parameter.grad = gradient.clone()
            optimizer.step()
        return parameter.detach() - start

    try:
        together = moved(start_K, gradient_SK)
        alone = torch.stack([moved(start_K[k], gradient_SK[:, k]) for k in range(2)])
    except SettingError:
        raise
    except Exception as error:  # somebody else's class may raise anything
        raise about_call(error, make_optimizer, "training.optimizer", filled=("params",)) from error
    # Displacements, in float64, so that a small learning rate hides nothing.
    if not torch.allclose(together, alone, rtol=1e-6, atol=1e-6 * float(alone.abs().max())):
        raise SettingError(
            "training",
            "optimizer",
            f"is {_name(make_optimizer)}, which does not act element by element, so that the models of a stack would "
            "move each other; use SGD, Adam, AdamW, RMSprop or another element-wise optimiser.",
        )


def check_scheduler(make_scheduler: MakeScheduler, optimizer: Optimizer) -> None:
    """Refuse a schedule that cannot be made or take its first step, or that follows a metric.

    Args:
        optimizer: of a parameter with a gradient, made for this check.

    Raises:
        InputError: it is refused.
    """
    _check_numbers(make_scheduler, "scheduler")
    try:
        scheduler: object = make_scheduler(optimizer)
        if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
            optimizer.step()  # torch warns of a schedule that steps before its optimiser
            scheduler.step()
    except Exception as error:  # somebody else's class may raise anything
        raise about_call(error, make_scheduler, "training.scheduler", filled=("optimizer",)) from error
    if isinstance(scheduler, ReduceLROnPlateau):
        raise SettingError(
            "training",
            "scheduler",
            "is ReduceLROnPlateau, which would let one model's loss set the learning rate of all; use a schedule that "
            "is fixed beforehand, such as CosineAnnealingLR.",
        )
    if not isinstance(scheduler, LRScheduler):
        rest = f"makes {shown(scheduler)}, which is no torch LRScheduler; set its `_target_` to one."
        raise SettingError("training", "scheduler", rest)


def steps_of(make_scheduler: MakeScheduler, make_optimizer: MakeOptimizer, wanted: int) -> int:
    """How many of the wanted steps the schedule takes before it fails: step by step, far ahead by leaps."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = fused_where_possible(make_optimizer)([parameter])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule: Any = make_scheduler(optimizer)
        optimizer.step()

        def fails() -> bool:
            try:
                schedule.step()
            except Exception:  # somebody else's class may raise anything
                return True
            return False

        for step in range(min(wanted, _STEPS_ONE_BY_ONE)):
            if fails():
                return step
        low, high = min(wanted, _STEPS_ONE_BY_ONE), wanted
        while low < high:  # it takes `low` steps; more than `high` are not wanted
            middle = (low + high + 1) // 2
            schedule.last_epoch = middle - 1
            low, high = (low, middle - 1) if fails() else (middle, high)
        return low


def advance(schedule: Any, role: str, epoch: int) -> None:
    """The next step of a schedule, which is None where there is none.

    Raises:
        InputError: it has none.
    """
    if schedule is None:
        return
    try:
        schedule.step()  # one schedule, and none that follows a metric
    except Exception as error:  # of somebody else's class, where `Recipe.check_schedule` leapt over its failure
        raise InputError(
            f"`training.scheduler` has no further step at epoch {epoch} of {role} ({first_line(error)}); give it a "
            "step for each `training.scheduler_interval`."
        ) from error


def clip_each_model(gradients: list[Tensor], max_norm: float) -> None:
    """Scale, in place, each model's gradient (over all `[K, ...]` tensors) down to a 2-norm of `max_norm`."""
    norm_K = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients]).norm(dim=0)
    factor_K = (max_norm / (norm_K + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(factor_K.view(-1, *(1 for _ in g.shape[1:])))


def complete_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every parameter of an optimiser a gradient, laid out as the parameter is."""
    for parameter in parameters:
        if parameter.grad is None:
            # An optimiser skips a parameter without a gradient, but it would not beside a model that uses it.
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.stride() != parameter.stride():  # of a rule; fused optimisers do not check this
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)


def match_layout(optimizer: Any) -> None:
    """Give the state of an optimiser the layout of its parameters, which fused optimisers assume."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _check_numbers(make: Callable[..., object], name: str) -> None:
    """Refuse infinity and what is no number, which somebody else's class may take and train nothing with."""
    for setting, value in getattr(make, "keywords", {}).items():
        if any(isinstance(each, float) and not math.isfinite(each) for each in _each(value)):
            raise SettingError(f"training.{name}", setting, f"is {shown(value)}; give a finite number.")


def _each(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else [value]


def _name(factory: object) -> str:
    while isinstance(factory, partial):
        factory = factory.func
    return getattr(factory, "__name__", repr(factory))
