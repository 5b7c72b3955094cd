"""Trained models, and the observation of their answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mia_lightning.datasets.form import Records
from mia_lightning.datasets.population import Population
from mia_lightning.store.identity import Identity, digest_of_tensor, identity
from mia_lightning.tasks.interface import OutputForm
from mia_lightning.training.kept_answers import InStore, KeptAnswers
from mia_lightning.training.models import Models
from mia_lightning.training.plan.room import Room
from mia_lightning.training.precision import float32_products
from mia_lightning.training.signals import Signals
from mia_lightning.training.stack.architecture import Architecture
from mia_lightning.training.stack.looped import all_logits
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.module import StackModule

# Numbers in one batch of activations or inputs over all models: bounds memory, not results.
_BATCH_NUMBERS = 2**24
_STATE = "state."


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedStack(Models):
    """Trained models, in eval mode, with how their training went.

    Attributes:
        stack: K models, on the device they were trained on.
        architecture: what they are.
        execution: by which they were trained, `stack` or `loop`.
        failed_epoch_K: int64, the epoch (from 0) at which a model's loss was first not finite; -1 for none.
        stopped_epoch_K: int64, the epoch after which a model was stopped early; -1 for none.
        train_loss_EK, validation_loss_EK: float64 on the CPU; NaN after a model stopped.
        kept: where the models are in a store; None for nowhere.
    """

    stack: Stack
    architecture: Architecture
    execution: str
    failed_epoch_K: Tensor
    stopped_epoch_K: Tensor
    train_loss_EK: Tensor
    validation_loss_EK: Tensor | None
    kept: InStore | None = None
    is_local: ClassVar[bool] = True

    @classmethod
    def of_module(cls, module: StackModule, architecture: Architecture) -> "TrainedStack":
        """The models that a module has trained; its stack is taken over."""

        def losses(loss_EK: list[Tensor]) -> Tensor:
            return torch.stack(loss_EK).cpu()

        return cls(
            stack=module.stack.eval(),
            architecture=architecture,
            execution=module.execution,
            failed_epoch_K=module.progress["failed_epoch_K"].cpu(),
            stopped_epoch_K=module.progress["stopped_epoch_K"].cpu(),
            train_loss_EK=losses(module.train_loss_EK),
            validation_loss_EK=losses(module.validation_loss_EK) if module.validation_loss_EK else None,
        )

    @classmethod
    def of_weights(
        cls,
        one: Stack,
        weights_K: Sequence[Mapping[str, Tensor]],
        architecture: Architecture,
        execution: str,
        *,
        channels_last: bool,
    ) -> "TrainedStack":
        """Models from what `weights` gave of each.

        Args:
            one: a stack of one such network, on the device for the models; it is taken over.
            channels_last: whether convolutions are laid out so, as where the models trained.
        """
        stack = Stack.concatenate([one], order=torch.zeros(len(weights_K), dtype=torch.int64))
        for name, tensor in stack.state().items():
            joined = torch.stack([weights[_STATE + name] for weights in weights_K])
            tensor.data = joined.to(one.device)  # precision 64 changes the type, too
        if channels_last:
            stack.use_channels_last()
        failed_epoch_K, stopped_epoch_K = (
            torch.stack([weights[name] for weights in weights_K]) for name in ("failed_epoch", "stopped_epoch")
        )
        has_validation = "validation_loss_E" in weights_K[0]
        return cls(
            stack=stack.eval(),
            architecture=architecture,
            execution=execution,
            failed_epoch_K=failed_epoch_K,
            stopped_epoch_K=stopped_epoch_K,
            train_loss_EK=_side_by_side([weights["train_loss_E"][:, None] for weights in weights_K]),
            validation_loss_EK=_side_by_side([weights["validation_loss_E"][:, None] for weights in weights_K])
            if has_validation
            else None,
        )

    @classmethod
    def joined(cls, parts: Sequence["TrainedStack"], order: Tensor) -> "TrainedStack":
        """The models of all parts, taken in `order` (int64); the first part is taken over."""
        first = parts[0]
        if len(parts) == 1 and torch.equal(order, torch.arange(first.num_models)):
            return first
        has_validation = first.validation_loss_EK is not None
        validation = [part.validation_loss_EK for part in parts if part.validation_loss_EK is not None]
        return cls(
            stack=Stack.concatenate([part.stack for part in parts], order=order).eval(),
            architecture=first.architecture,
            execution=first.execution,
            failed_epoch_K=torch.cat([part.failed_epoch_K for part in parts])[order],
            stopped_epoch_K=torch.cat([part.stopped_epoch_K for part in parts])[order],
            train_loss_EK=_side_by_side([part.train_loss_EK for part in parts])[:, order],
            validation_loss_EK=_side_by_side(validation)[:, order] if has_validation else None,
        )

    def weights(self, k: int) -> dict[str, Tensor]:
        """Everything of model k, on the CPU: parameters and buffers as `state.<name>`, losses, epochs."""
        named = {_STATE + name: tensor.detach() for name, tensor in self.stack.state_of(k).items()}
        named |= {"failed_epoch": self.failed_epoch_K[k], "stopped_epoch": self.stopped_epoch_K[k]}
        named["train_loss_E"] = self.train_loss_EK[:, k]
        if self.validation_loss_EK is not None:
            named["validation_loss_E"] = self.validation_loss_EK[:, k]
        return {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}

    @property
    def num_models(self) -> int:
        return self.stack.num_models

    @property
    def trained_by(self) -> Literal["run", "unknown"]:
        return "run" if len(self.train_loss_EK) else "unknown"

    @property
    def architecture_name(self) -> str:
        return self.architecture.name

    @property
    def num_parameters(self) -> int:
        return self.architecture.num_parameters

    def _observed(
        self, population: Population, wanted_KN: Tensor, room: Room, answered: Callable[[int], object]
    ) -> Signals:
        """The full log-probability vectors of the models for records, in eval mode, one view.

        Targets and shadow models are both observed through this function: one channel. Answers that a store keeps are
        computed once.

        The answers for records that are not wanted are NaN.
        """
        stack = self.stack.eval()
        population = population.near(stack.device)
        shape = (stack.num_models, 1, len(population), population.num_classes)
        log_probability_KANC = room.empty(shape, device=stack.device)
        if not bool(wanted_KN.all()):
            log_probability_KANC.fill_(torch.nan)
        signals = Signals(log_probability_KANC=log_probability_KANC, room=room, task=population.task)
        answers = KeptAnswers.of(self.kept, population, wanted_KN)
        if answers is not None and answers.read(log_probability_KANC):
            return signals
        ask = self._ask_alike if bool((wanted_KN == wanted_KN[0]).all()) else self._ask_each
        with float32_products(tf32=False):
            ask(population, wanted_KN, log_probability_KANC[:, 0], answered)
        if answers is not None:
            answers.keep(log_probability_KANC)
        return signals

    def _batch_size(self, population: Population) -> int:
        numbers = self.stack.num_models * max(128, population.num_classes, population.x_N[0].numel())
        return max(1, _BATCH_NUMBERS // numbers)

    def _ask_alike(
        self, population: Population, wanted_KN: Tensor, log_KNC: Tensor, answered: Callable[[int], object]
    ) -> None:
        """All models about the same records."""
        index_M = wanted_KN[0].nonzero().squeeze(1).to(self.stack.device)
        for index_B in index_M.split(self._batch_size(population)):
            log_KBC = self.log_probability(population.records(index_B, self.stack.dtype))
            log_KNC[:, index_B.to(log_KNC.device)] = log_KBC.to(log_KNC)
            answered(index_B.numel() * self.num_models)

    @torch.inference_mode()
    def _ask_each(
        self, population: Population, wanted_KN: Tensor, log_KNC: Tensor, answered: Callable[[int], object]
    ) -> None:
        """Each model about its own records."""
        stack, size = self.stack, self._batch_size(population)
        if self.execution == "loop":
            for wanted_N, log_NC, state in zip(wanted_KN, log_KNC, stack.states(), strict=True):
                index_M = wanted_N.nonzero().squeeze(1).to(stack.device)
                for index_B in index_M.split(size * self.num_models):
                    logits_BC = stack.call_one(state, population.records(index_B, stack.dtype))
                    log_NC[index_B.to(log_NC.device)] = self._normalised(logits_BC).to(log_NC)
                    answered(index_B.numel())
            return
        # Lists of one length: the numbers of the wanted records first, in order.
        count_K1 = wanted_KN.sum(1, keepdim=True)
        most = int(count_K1.max())
        index_KM = wanted_KN.to(stack.device).byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        for place_B in torch.arange(most).split(size):
            index_KB = index_KM[:, int(place_B[0]) : int(place_B[-1]) + 1]
            log_KBC = self._normalised(stack(population.records(index_KB, stack.dtype)))
            chosen = (place_B < count_K1).flatten().nonzero().squeeze(1).to(stack.device)
            k, b = chosen // len(place_B), chosen % len(place_B)
            place = [each.to(log_KNC.device) for each in (k, index_KB[k, b])]
            log_KNC[place[0], place[1]] = log_KBC[k, b].to(log_KNC)
            answered(chosen.numel())

    @torch.inference_mode()
    def log_probability(self, x_B: Records) -> Tensor:
        """`[K, B, C]` float32 in nats of all models, in eval mode, for the same normalised records `[B, *features]`."""
        return self._normalised(all_logits(self.stack.eval(), x_B, self.execution))

    def _normalised(self, output: Tensor) -> Tensor:
        """The answers, float32, that outputs `[..., C]` stand for: of classes and labels, log probabilities."""
        is_log = self.architecture.gives_log_probabilities
        form: OutputForm = "log_probabilities" if is_log else "logits"
        return self.architecture.task.answers(
            output, "probabilities" if self.architecture.gives_probabilities else form
        )

    def identity(self) -> Identity:
        """The network's code, and the first model's weights."""
        weights = {name: digest_of_tensor(tensor) for name, tensor in self.stack.state_of(0).items()}
        return [identity(self.stack.make_network), weights]

    def save(self, path: Path) -> None:
        """Write the weights as safetensors."""
        self.stack.save(path)

    def select(self, kept_K: Tensor) -> "TrainedStack":
        """The models where the bool mask is True; their stack is taken over, so this object is not to be used again."""
        chosen = TrainedStack.joined([self], kept_K.nonzero().squeeze(1))
        return replace(chosen, kept=None if self.kept is None else self.kept.select(kept_K))


def _side_by_side(loss_EK: Sequence[Tensor]) -> Tensor:
    """The losses of all models; NaN after the last epoch of models that took fewer epochs."""
    epochs = max(len(each) for each in loss_EK)
    padded = [torch.nn.functional.pad(each, (0, 0, 0, epochs - len(each)), value=torch.nan) for each in loss_EK]
    return torch.cat(padded, dim=1)
