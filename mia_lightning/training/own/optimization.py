"""The optimiser and the schedules of a LightningModule, made by its `configure_optimizers` and moved to a stack."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.core.optimizer import _configure_optimizers, _configure_schedulers_automatic_opt
from torch import Tensor, nn
from torch.optim import Optimizer

from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import generator
from mia_lightning.training.own.lightning import has_own, lightning_module
from mia_lightning.training.own.stand_in import StandInTrainer, attached
from mia_lightning.training.trainer import quiet_lightning

_FUSED = (torch.optim.Adam, torch.optim.AdamW)  # that of SGD fails where some parameters begin to move later
_SIDES = (4, 3, 2, 2, 2)  # of the small parameters on which an optimiser is tried


@dataclass(frozen=True, eq=False)
class Optimization:
    """One optimiser with its schedules.

    Attributes:
        optimizer: as the module's own `configure_optimizers` made it.
        schedules: Lightning's description of each: `scheduler`, `interval`, `frequency`.
    """

    optimizer: Optimizer
    schedules: Sequence[Any] = field(default=())

    def move(self, new_of: Mapping[int, nn.Parameter]) -> Optimizer:
        """Let the optimiser act on other parameters, which take the places of its own in all groups.

        Args:
            new_of: by the `id` of each parameter, the one in its place: the same with a leading axis, or a stand-in of
                another size.
        """
        optimizer = self.optimizer
        state = dict(optimizer.state)
        optimizer.state.clear()
        for group in optimizer.param_groups:
            for old, new in zip(group["params"], (new_of[id(p)] for p in group["params"]), strict=True):
                if old in state:  # of an optimiser that begins with a state, as Adagrad does
                    optimizer.state[new] = {name: _like(value, old, new) for name, value in state[old].items()}
            group["params"] = [new_of[id(p)] for p in group["params"]]
            # torch's fused implementation, unless the user chose another.
            is_open = group.get("fused") is None and group.get("foreach") is None and not group.get("differentiable")
            if type(optimizer) in _FUSED and is_open:
                group["fused"] = True
        return optimizer

    def advance(self, module: nn.Module, interval: str, count: int) -> None:
        """Step the schedules of this interval, by Lightning's rule, through the module's own `lr_scheduler_step`.

        Args:
            interval: `step` or `epoch`.
            count: batches of this epoch, or epochs, that have ended.
        """
        for each in self.schedules:
            if each.interval == interval and count % each.frequency == 0:
                module.lr_scheduler_step(each.scheduler, None)  # type: ignore[operator]

    def state_dict(self) -> list[Any]:
        """Of the schedules."""
        return [each.scheduler.state_dict() for each in self.schedules]

    def load_state_dict(self, states: Sequence[Any]) -> None:
        """Of the schedules."""
        for each, state in zip(self.schedules, states, strict=True):
            each.scheduler.load_state_dict(state)


def _like(value: object, old: Tensor, new: Tensor) -> object:
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return copy.deepcopy(value)
    if new.shape[1:] == old.shape:
        return value.expand(new.shape).clone()
    return value.flatten()[0].expand(new.shape).clone()


def optimization_of(network: nn.Module, trainer: StandInTrainer) -> Optimization:
    """What `configure_optimizers` of the LightningModule in a plain network gives.

    Raises:
        InputError: it fails, gives several optimisers or a form that Lightning does not know, a schedule that follows a
            metric, or parameters that are none of the network's.
    """
    module = lightning_module(network)
    assert module is not None
    name = type(module).__name__
    with attached(network, trainer), quiet_lightning():
        try:
            given = module.configure_optimizers()  # type: ignore[operator]
            optimizers, schedulers, monitor = _configure_optimizers(given)
            schedules = _configure_schedulers_automatic_opt(schedulers, monitor)
        except InputError:
            raise
        except MisconfigurationException as error:
            raise InputError(
                f"configure_optimizers of {name} gives what Lightning refuses ({first_line(error)}); change it."
            ) from error
        except Exception as error:  # the user's own code
            raise InputError(
                f"configure_optimizers of {name} fails ({type(error).__name__}: {first_line(error)}); mend it, or give "
                "the network inside as `model`."
            ) from error
    if len(optimizers) != 1:
        count = f"{len(optimizers)} optimisers" if optimizers else "no optimiser"
        raise InputError(
            f"configure_optimizers of {name} gives {count}, and a stack trains its models with one; give all "
            "parameters to one optimiser, with groups of their own."
        )
    known = {id(p) for p in network.parameters()}
    if any(id(p) not in known for group in optimizers[0].param_groups for p in group["params"]):
        raise InputError(
            f"configure_optimizers of {name} gives its optimiser parameters that are none of the module's, which a "
            "stack cannot hold; register them in the module."
        )
    for each in schedules:
        scheduler: object = each.scheduler
        kind = type(scheduler).__name__
        if each.reduce_on_plateau:
            raise InputError(
                f"configure_optimizers of {name} gives {kind}, which would let one model's loss set the learning rate "
                "of all; use a schedule that is fixed beforehand, such as CosineAnnealingLR."
            )
        is_known = isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        if not is_known and not has_own(module, "lr_scheduler_step"):
            raise InputError(
                f"configure_optimizers of {name} gives the schedule {kind}, which is no torch LRScheduler; override "
                "lr_scheduler_step, as for Lightning, or use a schedule of torch."
            )
    return Optimization(optimizers[0], schedules)


def check_elementwise(make: Callable[[], Optimization], name: str) -> None:
    """Refuse an optimiser under which two models in a stack move otherwise than each alone.

    Args:
        make: gives the optimiser of one plain module, each time anew.
        name: of the module, for the sentence.

    Raises:
        InputError: it needs a closure, cannot step, or couples the elements of a parameter.
    """
    kind = type(make().optimizer).__name__
    try:
        together, alone = _moved(make, slice(None)), [_moved(make, k) for k in range(2)]
    except Exception as error:  # somebody else's class may raise anything
        if isinstance(error, TypeError) and "closure" in str(error):
            reason = "which calls the step several times itself (a closure)"
        else:
            reason = f"which fails in a step ({type(error).__name__}: {first_line(error)})"
        raise InputError(
            f"configure_optimizers of {name} gives {kind}, {reason}, and a stack has one gradient for each step; use "
            "SGD, Adam, AdamW or another optimiser that acts element by element."
        ) from error
    for moved, *own in zip(together, *alone, strict=True):
        expected = torch.stack(own)
        if not torch.allclose(moved, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())):
            raise InputError(
                f"configure_optimizers of {name} gives {kind}, which does not act element by element, so that the "
                "models of a stack would move each other; use SGD, Adam, AdamW, RMSprop or another element-wise "
                "optimiser."
            )


def _moved(make: Callable[[], Optimization], chosen: slice | int) -> list[Tensor]:
    """How far three steps move small parameters like those of each group, of two models or of one of them."""
    optimization = make()
    draws = generator(0, "elementwise check")
    starts: list[Tensor] = []
    gradients: list[Tensor] = []
    small: dict[int, nn.Parameter] = {}
    kept: list[nn.Parameter] = []
    for group in optimization.optimizer.param_groups:
        group["lr"] = float(group.get("initial_lr", group["lr"])) or 1e-3  # not that of a schedule's warm-up
        first_of: dict[int, nn.Parameter] = {}
        for parameter in group["params"]:
            if parameter.dim() not in first_of:
                first_of[parameter.dim()] = parameter
                shape = _SIDES[: parameter.dim()] + (1,) * (parameter.dim() - len(_SIDES))
                starts.append(torch.randn(2, *shape, generator=draws, dtype=torch.float64))
                gradient_S = torch.randn(3, 2, *shape, generator=draws, dtype=torch.float64)
                # Scales far apart, so that any norm or statistic taken over both models shows.
                gradient_S[:, 1] *= 1e3
                gradients.append(gradient_S[:, chosen])
                small[id(parameter)] = nn.Parameter(starts[-1][chosen].clone())
                kept.append(small[id(parameter)])
        group["params"] = list(first_of.values())
    optimizer = optimization.move(small)
    for step in range(3):
        for parameter, gradient_S in zip(kept, gradients, strict=True):
            parameter.grad = gradient_S[step].clone()
        optimizer.step()
    return [p.detach() - start[chosen] for p, start in zip(kept, starts, strict=True)]
