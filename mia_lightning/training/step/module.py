"""The LightningModule that trains a stack: one loop for targets, shadow models and attack networks."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mia_lightning.datasets.augmentation import augmented
from mia_lightning.datasets.form import Records, of_model
from mia_lightning.datasets.population import Population
from mia_lightning.training.signals import SMALLEST_PROBABILITY
from mia_lightning.training.stack.looped import LoopedGradients, all_logits
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.batches import Batch, RecordBatches
from mia_lightning.training.step.compiled import CompiledGradients, Compiler
from mia_lightning.training.step.computed_once import ComputedOnce
from mia_lightning.training.step.gathered import GatheredBatch, GatheredBatches
from mia_lightning.training.step.graphs import GraphedSteps, count_step, recorder_of
from mia_lightning.training.step.heap import keep_freed_memory
from mia_lightning.training.step.losses import Losses, Truth, mean_over_real, of_real
from mia_lightning.training.step.optimizers import advance, clip_each_model, complete_gradients, match_layout
from mia_lightning.training.step.packed import PackedBits
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.step.rules import Batches, Gradients, Step
from mia_lightning.training.step.streams import STREAMS
from mia_lightning.training.step.weights import Weights
from mia_lightning.training.trainer import check_trainer


class StackModule(pl.LightningModule):
    """Trains K networks as one; `pl.Trainer.fit(module)` needs nothing else.

    Args:
        stack: the networks.
        population: their records.
        batches: which records each model sees at each step.
        recipe: optimiser, schedule, clipping, early stopping.
        gradients: of the recipe's rule for these models; None for the gradient of the mean loss.
        execution: `stack` or `loop`.
        validation_N: int64 indices of the records for early stopping; None for none.
        role: prefix of logged metrics ("target", "shadow", ...).
        response_KN: floating point, what the objective is given of record n for model k in the place of its label.
        channels_last: whether a loop lays out the weights of convolutions so.
        gives_probabilities: whether the objective is given the logarithms of outputs at validation.
        weights: of the records in the training loss of a batch, Σ w l / Σ w; validation losses have none. None for the
            mean.
        compiler: of the gradients; None where they are not compiled.
        cuda_graphs: whether steps are recorded as graphs, where the device can.
        packed_bits: whether records, which are zeros and ones, are packed.
        streams: whether some models of a loop are stepped at the same time, where the device can.

    After training, `train_loss_EK` and `validation_loss_EK` hold the losses, and `progress["failed_epoch_K"]` is the
    epoch at which a model's loss was first not finite, or -1. If `counts_hits` is set before a step, `batch_accuracy_K`
    gives the accuracy on its batch.
    """

    def __init__(
        self,
        stack: Stack,
        population: Population,
        batches: Batches,
        recipe: Recipe,
        *,
        gradients: Gradients | None = None,
        execution: str = "stack",
        validation_N: Tensor | None = None,
        role: str = "stack",
        response_KN: Tensor | None = None,
        channels_last: bool = True,
        gives_probabilities: bool = False,
        weights: Weights | None = None,
        compiler: Compiler | None = None,
        cuda_graphs: bool = False,
        packed_bits: bool = False,
        streams: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # per-model clipping; looped gradients
        self.stack = stack
        self.looped_gradients = LoopedGradients(stack)
        self.population = population
        self.batches = batches
        self.recipe = recipe
        self.gradients = gradients
        self.execution = execution
        self.validation_N = validation_N
        self.role = role
        self.response_KN = response_KN
        self.channels_last = channels_last
        self.gives_probabilities = gives_probabilities
        self.weights = weights
        self.compiler = compiler
        self.losses = Losses(recipe.objective, recipe.batch_objective)
        self.cuda_graphs = cuda_graphs
        self.packed_bits = packed_bits
        self.streams = streams
        self.graphed: GraphedSteps | None = None
        self.compiled: CompiledGradients | None = None
        K = stack.num_models
        self.train_loss_EK: list[Tensor] = []
        self.validation_loss_EK: list[Tensor] = []
        self.progress = {
            "failed_epoch_K": torch.full((K,), -1),
            "stopped_epoch_K": torch.full((K,), -1),
            "best_loss_K": torch.full((K,), torch.inf, dtype=torch.float64),
            "best_epoch_K": torch.full((K,), -1),
        }
        self.stopped_state: dict[str, Tensor] = {}
        self.counts_hits = False
        self._accuracy_of_models: list[Tensor] = []

    def configure_callbacks(self) -> list[pl.Callback]:
        check_trainer(self.trainer)  # Lightning's first call: before its own, less helpful, refusals
        return []

    def configure_optimizers(self) -> Any:
        if self.channels_last and self.execution == "loop":
            self.stack.use_channels_last()  # before the optimiser, whose state takes the layout of its parameters
        optimizer = self.recipe.make_optimizer([p for p in self.stack.parameters() if p.requires_grad])
        scheduler = self.recipe.make_scheduler(optimizer)
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    def train_dataloader(self) -> Batches | GatheredBatches:
        if self.population.is_near(self.device):
            return self.batches
        return GatheredBatches(self.batches, self.population, self.device)

    def val_dataloader(self) -> RecordBatches | list[Tensor]:
        return [] if self.validation_N is None else RecordBatches(self.validation_N.to(self.device))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are made on their device, as a rule; Lightning would go through all that is in each, and move it."""
        first = batch if isinstance(batch, Tensor) else batch[0]
        return batch if first.device == device else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_fit_start(self) -> None:
        keep_freed_memory()
        self.population = self.population.near(self.device)
        self.normalised = self.population.normaliser(self.device)
        self.records = (PackedBits.of(self.population) if self.packed_bits else self.population).records
        self.computed_once = self._computed_once()
        self.label_N = self.population.task.truth(self.population.label_N).to(self.device)
        self.response_KN = None if self.response_KN is None else self.response_KN.to(self.device)
        self.weights = None if self.weights is None else self.weights.to(self.device)
        self.progress = {name: value.to(self.device) for name, value in self.progress.items()}
        self.stopped_state = {name: value.to(self.device) for name, value in self.stopped_state.items()}
        self.train_loss_EK = [loss_K.to(self.device) for loss_K in self.train_loss_EK]
        self.validation_loss_EK = [loss_K.to(self.device) for loss_K in self.validation_loss_EK]

    def on_train_start(self) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        match_layout(optimizer)  # a checkpoint may come from another execution or device
        self.loss_sum_K = torch.zeros(self.stack.num_models, dtype=torch.float64, device=self.device)
        self.weight_sum_K = torch.zeros_like(self.loss_sum_K)
        if self.streams and self.device.type in STREAMS:
            self.looped_gradients.streams = STREAMS[self.device.type](self.device)
        if self.compiler is not None:
            looped = self.looped_gradients if self.execution == "loop" else None
            self.compiled = CompiledGradients(self.losses, self.stack, looped, self.compiler, self.computed_once)
        recorder = recorder_of(self.device) if self.cuda_graphs else None
        if recorder is not None:
            self.graphed = GraphedSteps(partial(self._whole_step, optimizer), optimizer, recorder)

    def on_train_epoch_start(self) -> None:
        self.loss_sum_K.zero_()  # in the same memory in all epochs, as a graph needs it
        self.weight_sum_K.zero_()

    def training_step(self, batch: Batch | GatheredBatch, batch_index: int) -> None:
        step = self.current_epoch * len(self.batches) + batch_index
        if self.graphed is not None and not self.counts_hits:
            self.graphed(batch[:2], step)
            count_step(self.trainer)
        else:
            self._gradient_step(batch, step, batch_index)
            if (batch_index + 1) % self.recipe.accumulate_batches and batch_index + 1 < len(self.batches):
                return
            self._optimizer_step(self.optimizers())
        self._after_step(batch_index)

    def _whole_step(self, optimizer: Any, batch: Batch, step: int | Tensor) -> None:
        """A step without what Lightning does beside it; where it is recorded, `step` is a tensor."""
        self._gradient_step(batch, step, batch_index=0)
        self._optimizer_step(optimizer)

    def _gradient_step(self, batch: Batch | GatheredBatch, step: int | Tensor, batch_index: int) -> None:
        index_KB, is_real_KB, *gathered = batch
        if gathered:
            x = self.normalised(gathered[0], self.stack.dtype)
        elif self.computed_once is not None:
            x = self.computed_once(index_KB)
        else:
            x = self.records(index_KB, self.stack.dtype)
        label_KB = self._truth(index_KB)
        weight_KB = None if self.weights is None else self.weights.of(index_KB, self._labels(index_KB))
        truth = Truth(label_KB, weight_KB=weight_KB)
        if self.recipe.augment:
            assert isinstance(x, Tensor)  # `Recipe.check_records`
            x = augmented(x, self.recipe.augment, key_K=self.batches.key_K, step=step, index_KB=index_KB)
        if self.recipe.mix is not None:
            assert isinstance(x, Tensor)
            x, second_KB, share_KB = self.recipe.mix(x, label_KB, self.batches.key_K, step, is_real_KB)
            truth = Truth(label_KB, second_KB, share_KB)
        if self.gradients is not None:
            assert isinstance(step, int)
            loss_K = self.gradients(
                self.stack,
                Step(
                    number=step,
                    x=x,
                    label_KB=label_KB,
                    index_KB=index_KB,
                    is_real_KB=is_real_KB,
                    execution=self.execution,
                ),
            )
        else:
            with nullcontext() if self.computed_once is None else self.computed_once.passed():
                loss_K = self._backward(x, truth, is_real_KB, step, self._share(batch_index))
        count_K = index_KB.shape[1] if is_real_KB is None else is_real_KB.sum(1)
        if weight_KB is not None:
            count_K = of_real(weight_KB, is_real_KB).double().sum(1)
        self.loss_sum_K += loss_K * count_K
        self.weight_sum_K += count_K

    def _computed_once(self) -> ComputedOnce | None:
        """The outputs of a fixed first layer; None where there is none, or where steps need the records themselves."""
        recipe = self.recipe
        needs_records = recipe.augment or recipe.mix is not None or recipe.own is not None or self.gradients is not None
        if needs_records or not self.population.is_near(self.device):
            return None
        return ComputedOnce.of(self.stack, self.population)

    def _share(self, batch_index: int) -> float:
        """Of a batch in the gradient of its optimiser step."""
        accumulate = self.recipe.accumulate_batches
        left = len(self.batches) - batch_index // accumulate * accumulate  # the last step may have fewer
        return 1.0 / min(accumulate, left)

    def _truth(self, index_KB: Tensor) -> Tensor:
        """What the objective compares each model's outputs with: labels, or the model's responses."""
        if self.response_KN is None:
            return self._labels(index_KB)
        if self.response_KN.ndim == 2:
            return self.response_KN.gather(1, index_KB)
        return self.response_KN[torch.arange(len(index_KB), device=self.device)[:, None], index_KB]

    def _labels(self, index_KB: Tensor) -> Tensor:
        # Several times as fast as label_N[index_KB] where there are many records.
        return self.label_N.index_select(0, index_KB.flatten()).view(*index_KB.shape, *self.label_N.shape[1:])

    def _optimizer_step(self, optimizer: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        complete_gradients(parameters)
        if self.recipe.gradient_clip_norm is not None:
            clip_each_model([parameter.grad for parameter in parameters], self.recipe.gradient_clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _after_step(self, batch_index: int) -> None:
        if self.recipe.scheduler_interval == "step":
            self._advance_schedule()

    def _advance_schedule(self) -> None:
        advance(self.lr_schedulers(), self.role, self.current_epoch)

    def _backward(
        self, x: Records, truth: Truth, is_real_KB: Tensor | None, step: int | Tensor, share: float
    ) -> Tensor:
        found = None if self.compiled is None else self.compiled(x, truth, is_real_KB, step, share)
        if found is not None:
            self._count_hits(found[1], truth, is_real_KB)
            return found[0]
        way = self._backward_stacked if self.execution == "stack" else self._backward_looped
        return way(x, truth, is_real_KB, step, share)

    def _backward_stacked(
        self, x: Records, truth: Truth, is_real_KB: Tensor | None, step: int | Tensor, share: float
    ) -> Tensor:
        logits_KBC = self.stack(x, step=step, is_real_KB=is_real_KB)
        lowered_K, loss_K = self._losses(logits_KBC, truth, is_real_KB)
        self.manual_backward(lowered_K.sum() * share)
        return loss_K.detach()

    def _backward_looped(
        self, x: Records, truth: Truth, is_real_KB: Tensor | None, step: int | Tensor, share: float
    ) -> Tensor:
        """The same gradients, model by model, with the memory of one model's activations."""

        def loss_of(k: int, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            is_real_B = None if is_real_KB is None else is_real_KB[k]
            logits_BC = self.stack.call_one(state, of_model(x, k), step=step, is_real_B=is_real_B)
            is_real_1B = None if is_real_B is None else is_real_B[None]
            lowered_K, own_K = self._losses(logits_BC[None], truth.of_model(k), is_real_1B)
            return lowered_K[0] if share == 1.0 else lowered_K[0] * share, own_K[0]

        return self.looped_gradients(loss_of)

    def _losses(self, logits_KBC: Tensor, truth: Truth, is_real_KB: Tensor | None) -> tuple[Tensor, Tensor]:
        self._count_hits(logits_KBC, truth, is_real_KB)
        return self.losses(logits_KBC, truth, is_real_KB, self.current_epoch)

    def _count_hits(self, logits_KBC: Tensor, truth: Truth, is_real_KB: Tensor | None) -> None:
        if self.counts_hits and truth.second_KB is None and not truth.label_KB.is_floating_point():
            hit_KB = logits_KBC.detach().argmax(-1) == truth.label_KB
            self._accuracy_of_models.append(mean_over_real(hit_KB.double(), is_real_KB))

    def epoch_loss_K(self) -> Tensor:
        """Mean training loss of each model in the current epoch so far, `[K]`; NaN for a model that has stopped."""
        return self._while_running(self._mean_loss_K())

    def _mean_loss_K(self) -> Tensor:
        return self.loss_sum_K / self.weight_sum_K.where(self.weight_sum_K > 0, 1.0)

    def batch_accuracy_K(self) -> Tensor | None:
        """Training accuracy of each model on the batch with `counts_hits`, `[K]`; it is given once.

        NaN for a model that has stopped. None where records are mixed, where the objective compares with responses, and
        where a gradient rule computes the outputs.
        """
        found, self._accuracy_of_models = self._accuracy_of_models, []
        return self._while_running(torch.cat(found)) if found else None

    def on_train_epoch_end(self) -> None:
        if self.recipe.scheduler_interval == "epoch":
            self._advance_schedule()
        loss_K = self._mean_loss_K()
        self._note_failures(~loss_K.isfinite(), self.current_epoch)
        self.train_loss_EK.append(self._while_running(loss_K))
        self.log(f"{self.role}/train_loss/median", self.train_loss_EK[-1].nanmedian())
        if self.validation_loss_EK:
            self.log(f"{self.role}/validation_loss/median", self.validation_loss_EK[-1].nanmedian())
            self._stop_where_no_better()

    def on_validation_epoch_start(self) -> None:
        self.validation_sum_K = torch.zeros(self.stack.num_models, dtype=torch.float64, device=self.device)

    def validation_step(self, index_B: Tensor, batch_index: int) -> None:
        x_B = self.population.records(index_B, self.stack.dtype)
        logits_KBC = all_logits(self.stack, x_B, self.execution)
        if self.gives_probabilities:
            logits_KBC = logits_KBC.clamp(min=SMALLEST_PROBABILITY).log()
        label_KB = self._truth(index_B.expand(self.stack.num_models, -1))
        self.validation_sum_K += self.recipe.objective(logits_KBC, label_KB).sum(1)

    def on_validation_epoch_end(self) -> None:
        assert self.validation_N is not None
        loss_K = self.validation_sum_K / len(self.validation_N)
        self.validation_loss_EK.append(self._while_running(loss_K))

    def _stop_where_no_better(self) -> None:
        stopping = self.recipe.early_stopping
        if stopping is None:
            return
        loss_K, epoch = self.validation_loss_EK[-1], self.current_epoch
        better_K = loss_K < self.progress["best_loss_K"] - stopping.min_delta
        self.progress["best_loss_K"] = torch.where(better_K, loss_K, self.progress["best_loss_K"])
        self.progress["best_epoch_K"] = self.progress["best_epoch_K"].masked_fill(better_K, epoch)
        running_K = self.progress["stopped_epoch_K"] < 0
        is_over_K = epoch - self.progress["best_epoch_K"] >= stopping.patience
        if stopping.max_gap is not None:
            is_over_K |= loss_K - self.train_loss_EK[-1] > stopping.max_gap
        stop_K = running_K & is_over_K
        if not bool(stop_K.any()):
            return
        self.progress["stopped_epoch_K"] = self.progress["stopped_epoch_K"].masked_fill(stop_K, epoch)
        for name, tensor in self.stack.state_dict().items():
            kept = self.stopped_state.get(name, tensor)
            self.stopped_state[name] = torch.where(
                stop_K.view(-1, *(1 for _ in tensor.shape[1:])), tensor, kept
            ).clone()
        if not bool((running_K & ~stop_K).any()):
            self.trainer.should_stop = True

    def _note_failures(self, failed_K: Tensor, epoch: int) -> None:
        # What a model does after it stopped is discarded, and is no failure.
        first_K = failed_K & (self.progress["failed_epoch_K"] < 0) & (self.progress["stopped_epoch_K"] < 0)
        self.progress["failed_epoch_K"] = self.progress["failed_epoch_K"].masked_fill(first_K, epoch)

    def _while_running(self, loss_K: Tensor) -> Tensor:
        return loss_K.masked_fill(self.progress["stopped_epoch_K"] >= 0, torch.nan)

    def on_train_end(self) -> None:
        """Give every model that stopped early the state that it had then; later updates are discarded."""
        self.looped_gradients.clear()
        if self.graphed is not None:
            self.graphed.clear()
        # The last update of all may have broken a model whose loss was finite until then.
        finite_PK = [p.detach().reshape(len(p), -1).isfinite().all(1) for p in self.stack.parameters()]
        self._note_failures(~torch.stack(finite_PK).all(0), len(self.train_loss_EK) - 1)
        if not self.stopped_state:
            return
        stopped_K = self.progress["stopped_epoch_K"] >= 0
        with torch.no_grad():
            for name, tensor in self.stack.state_dict().items():
                tensor[stopped_K] = self.stopped_state[name][stopped_K]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stack_module"] = {
            "progress": self.progress,
            "stopped_state": self.stopped_state,
            "train_loss_EK": self.train_loss_EK,
            "validation_loss_EK": self.validation_loss_EK,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint["stack_module"].items():
            setattr(self, name, value)
