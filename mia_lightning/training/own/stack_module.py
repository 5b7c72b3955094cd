"""Trains a stack of LightningModules by their own `training_step` and `configure_optimizers`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from mia_lightning.datasets.form import Records, each_of
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated
from mia_lightning.training.own.hooks import call_once
from mia_lightning.training.own.lightning import base_of
from mia_lightning.training.own.optimization import Optimization, optimization_of
from mia_lightning.training.own.schedules import stand_in_of
from mia_lightning.training.own.stand_in import StandInTrainer, detach
from mia_lightning.training.own.step import OwnStep, SkippedError, global_states
from mia_lightning.training.plan.memory import is_out_of_memory
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.losses import Truth
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.optimizers import clip_each_model

LossOfBatch = Callable[[Records, Tensor], Tensor]
"""The loss of a batch `[1, B, *features]` and its labels or responses `[1, B]`, a scalar."""
OfFirst = Callable[[], AbstractContextManager[LossOfBatch]]

_KEPT = (int, float, bool, str, type(None))
_PLACE = "own_training"


class OwnStackModule(StackModule):
    """As `StackModule`, but loss, optimiser and schedule are those of the LightningModule in each network.

    The module finds a stand-in for its Trainer. Its hooks at the start of the fit and of epochs run once for all
    models; `OwnStep` calls the others. There is no padding: all models have equal numbers of records.

    Args:
        draws: whether the step draws from the global generators, which are then seeded for each model and step.
    """

    def __init__(self, *args: Any, draws: bool, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.draws = draws or self.recipe.execution == "loop"

    def configure_optimizers(self) -> Any:
        if self.channels_last and self.execution == "loop":
            self.stack.use_channels_last()
        self.stand_in = stand_in_of(self.recipe, len(self.batches))
        self.own = OwnStep(self.stack.networks, self.stand_in)
        self.optimization = moved_to_stack(self.stack, self.stand_in)
        return self.optimization.optimizer

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.own.hook("on_fit_start")

    def on_train_start(self) -> None:
        super().on_train_start()
        self.own.hook("on_train_start")
        if self._restored is not None:
            self._take_up(self._restored)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.stand_in.at(self.current_epoch, 0)
        call_once(self.own, "on_train_epoch_start")

    def _share(self, batch_index: int) -> float:
        return 1.0 / self.recipe.accumulate_batches  # Lightning's, in a last group that is smaller, too

    def _backward_stacked(
        self, x: Records, truth: Truth, is_real_KB: Tensor | None, step: int | Tensor, share: float
    ) -> Tensor:
        assert isinstance(step, int)
        with self._at(step) as batch_index:
            loss_K = self.own.mapped(self.stack, x, truth.label_KB, step=step, batch_index=batch_index)
            self.manual_backward(loss_K.sum() * share)
        return loss_K.detach()

    def _backward_looped(
        self, x: Records, truth: Truth, is_real_KB: Tensor | None, step: int | Tensor, share: float
    ) -> Tensor:
        assert isinstance(step, int)
        with self._at(step, draws=self.draws) as batch_index:
            loss_K = self.own.looped(
                self.stack,
                self.looped_gradients,
                x,
                truth.label_KB,
                step=step,
                batch_index=batch_index,
                share=share,
                key_K=self.batches.key_K if self.draws else None,
            )
        if self.looped_gradients.used_by_some:
            raise InputError(
                f"The training_step of {self.own.name} uses `{self.looped_gradients.used_by_some[0]}` in some steps "
                "and leaves it out in others, which one optimiser for all models cannot follow; let it be multiplied "
                "by 0 where it is left out, or give the network inside as `model`."
            )
        return loss_K

    @contextmanager
    def _at(self, step: int, *, draws: bool = False) -> Iterator[int]:
        """The batch's place in its epoch; what the user's step does wrong from here on is one sentence.

        Args:
            draws: whether the step may draw from the global generators.
        """
        epoch, batch_index = divmod(step, len(self.batches))
        self.stand_in.at(epoch, batch_index)
        before = None if draws else global_states()[0]  # other threads may draw from Python's
        try:
            yield batch_index
        except SkippedError as error:
            raise InputError(
                f"The models of {self.own.name} cannot go on at batch {batch_index} of epoch {epoch}: {error}; let it "
                "give a loss for each batch, or give the network inside as `model`."
            ) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            mend = "set training.execution=loop, or " if self.execution == "stack" else ""
            raise InputError(
                f"The training_step of {self.own.name} cannot go on at batch {batch_index} of epoch {epoch} "
                f"({type(error).__name__}: {first_line(error)}); {mend}give the network inside as `model`."
            ) from error
        if before is not None and global_states()[0] != before:
            raise InputError(
                f"The training_step of {self.own.name} draws random numbers at batch {batch_index} of epoch {epoch}, "
                "though it drew none at first, so that its models would share them; set training.execution=loop, where "
                "each model has its own."
            )

    def _optimizer_step(self, optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            if parameter.grad.stride() != parameter.stride():  # fused optimisers do not check this
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        if self.recipe.gradient_clip_norm is not None and parameters:
            clip_each_model([parameter.grad for parameter in parameters], self.recipe.gradient_clip_norm)
        assert self.recipe.own is not None
        if self.recipe.own.l2:
            for parameter in parameters:
                parameter.grad.add_(parameter.detach(), alpha=2 * self.recipe.own.l2)
        optimizer.step()
        self.stack.zero_grad(set_to_none=True)

    def _after_step(self, batch_index: int) -> None:
        self._advance("step", batch_index + 1)

    def _advance_schedule(self) -> None:
        self._advance("epoch", self.current_epoch + 1)

    def _advance(self, interval: str, count: int) -> None:
        with self.own.explained(f"A schedule that configure_optimizers of {self.own.name} gives"):
            self.optimization.advance(self.own.module, interval, count)

    def on_train_end(self) -> None:
        super().on_train_end()
        detach(self.stack.networks)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        attributes = {
            path: {name: value for name, value in vars(module).items() if type(value) in _KEPT and name != "training"}
            for path, module in self.own.user_modules.items()
        }
        checkpoint[_PLACE] = {
            "schedules": self.optimization.state_dict(),
            "trainable": {name: p.requires_grad for name, p in self.stack.networks.named_parameters()},
            "attributes": attributes,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._restored = checkpoint[_PLACE]  # Lightning makes the optimiser only now

    _restored: Mapping[str, Any] | None = None

    def _take_up(self, restored: Mapping[str, Any]) -> None:
        self.optimization.load_state_dict(restored["schedules"])
        for name, parameter in self.stack.networks.named_parameters():
            parameter.requires_grad_(restored["trainable"][name])
        for path, attributes in restored["attributes"].items():
            vars(self.own.user_modules[path]).update(attributes)


def first_loss(stack: Stack, trainer: StandInTrainer) -> OfFirst:
    """A context that gives the loss of the first model of a stack; within it the gradient can be taken, too."""
    step = OwnStep(stack.networks, trainer)
    moved_to_stack(stack, trainer)
    with isolated(0, "the start of a fit"):
        for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
            step.hook(hook)

    @contextmanager
    def of_first() -> Iterator[LossOfBatch]:
        with step.as_before(also_plain=True), stack.as_one(stack.state_of(0), stack.device):
            yield lambda x, label_KB: step.loss(
                each_of(x, lambda t: t[0].clone()), label_KB[0].clone(), 0
            )  # may change

    return of_first


def moved_to_stack(stack: Stack, trainer: StandInTrainer) -> Optimization:
    """The optimiser and schedules of a plain network, acting on the parameters of a stack.

    Raises:
        InputError: as `optimization_of`.
    """
    with isolated(0, "a network whose parameters are named"):
        plain = stack.make_network().to(stack.device, stack.dtype)
        optimization = optimization_of(plain, trainer)
    for module in stack.networks.modules():
        if base_of(module) is not None:  # whose `device` and `dtype` do not follow a cast of the stack
            module._device, module._dtype = stack.device, stack.dtype  # type: ignore[assignment]
    stacked = dict(stack.networks.named_parameters())
    optimizer = optimization.move({id(p): stacked[name] for name, p in plain.named_parameters()})
    trainer.optimizers, trainer.lr_scheduler_configs = [optimizer], list(optimization.schedules)
    return optimization
