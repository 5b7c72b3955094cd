"""The attack of Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), section V."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.utils.rnn import pad_sequence

from mia_lightning.attacks.decisions import NETWORKS, LearntThreshold
from mia_lightning.attacks.description import DescribedByTask
from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.vectors import balanced, scales, vectors_of, without_unscored
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.models.shapes import Activation
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast2, AttackName, Widths
from mia_lightning.tasks import Task
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.signals import Signals
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack

# Numbers of prediction vectors that are scored at once: bounds memory.
_SCORED_NUMBERS = 2**26
UNKNOWN = math.nextafter(0.5, 0.0)  # nothing speaks for a member, and a record is flagged from 0.5 on


def default_training() -> Recipe:
    """How attack networks are trained unless the configuration says otherwise."""
    return Recipe(epochs=30, batches_per_epoch=20, optimizer=partial(torch.optim.Adam, lr=3e-3, weight_decay=1e-4))


@settings("attack.{name}")
class Shokri(DescribedByTask):
    """Score: the probability of membership in [0, 1], from a network for the record's true class.

    The network of a class is trained on the prediction vectors of the shadow models for records of that class, members
    of a model against non-members. From 0.5 on a record is flagged. Where records have no class, one network is given
    what the task says (`Task.vectors`): predictions with residuals, or the probabilities of labels with those of what
    each label is.

    Attributes:
        input: `log_probabilities`, or `probabilities` as in the paper; predicted numbers are taken as they are.
        hidden, activation: of the attack networks (`mia_lightning.models.mlp.MLP`).
        max_vectors: at most so many prediction vectors of its class train a network, half of them of members, drawn at
            random over all shadow models; None for all.
        training: of the attack networks; a fixed number of batches an epoch, so that all classes step together.
    """

    name: AttackName = "shokri"
    input: Literal["log_probabilities", "probabilities"] = "log_probabilities"
    hidden: Widths = (64,)
    activation: Activation = "relu"
    max_vectors: AtLeast2 | None = 320_000
    training: Recipe = field(default_factory=default_training)

    def __post_init__(self) -> None:
        if self.training.early_stopping is not None:
            raise InputError(
                f"`attack.{self.name}.training.early_stopping` is set, but attack networks have no held-out records; "
                "leave it null and set the number of epochs."
            )
        if self.training.augment:
            raise InputError(
                f"`attack.{self.name}.training.augment` is set, but attack networks see no images; leave it []."
            )
        if self.training.batches_per_epoch is None:
            raise InputError(
                f"`attack.{self.name}.training.batches_per_epoch` is null; set it (and batch_size to null), so that "
                "the networks of all classes take the same number of steps."
            )

    @property
    def takes_probabilities(self) -> bool:
        """Whether networks see exponentials of what was observed."""
        return self.input == "probabilities"

    @property
    def needs(self) -> Needs:
        return Needs()

    def described(self, task: Task) -> str:
        return (
            f"One network ({'-'.join(map(str, self.hidden)) or 'no'} hidden units)"
            f"{task.wording.networks.format(values=self.input.replace('_', ' '))}, trained on shadow models; flags at "
            "a membership probability of 0.5."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedShokri":
        """Train the networks of all classes as one stack.

        Raises:
            InputError: no class has both in and out records among the shadows.
        """
        (fitted,) = self.fit_folds(shadows, torch.zeros(1, shadows.num_models, dtype=torch.bool), engine)
        return fitted

    def fit_folds(self, shadows: Evidence, held_out_FK: Tensor, engine: Engine) -> "list[FittedShokri]":
        """Train the networks of all folds and classes as one stack; each fold's are those of `fit` without its models.

        Raises:
            InputError: no class has both in and out records among the shadows of a fold.
        """
        x_KNC = without_unscored(
            vectors_of(shadows.signals, self.input, shadows.label_N), shadows.scored_KN, shadows.signals.room
        )
        device = x_KNC.device  # the host's, where they fitted nowhere else
        task = shadows.signals.task
        takes_exponentials = self.takes_probabilities and task.outputs != "numbers"
        member_KN, scored_KN, network_N = (
            each.to(device) for each in (shadows.member_KN, shadows.scored_KN, task.network_of(shadows.label_N))
        )
        vectors = Population(  # vector n of model k is record k N + n
            name=f"{self.name} prediction vectors",
            x_N=x_KNC.flatten(0, 1),
            label_N=member_KN.flatten().long(),
            class_names=("out", "in"),
        )
        held_out_FK = held_out_FK.to(device)
        mean_FC, std_FC = scales(x_KNC, scored_KN, ~held_out_FK, is_log=takes_exponentials)
        num_networks = task.num_networks(shadows.num_classes)
        folds = [
            self._drawn(member_KN, scored_KN & ~held_out_K[:, None], network_N, num_networks, engine.seed)
            for held_out_K in held_out_FK
        ]
        fold_K = [f for f, fold in enumerate(folds) for _ in fold.records]
        network: dict[str, Any] = {
            "exponential": takes_exponentials,
            "hidden": self.hidden,
            "activation": self.activation,
        }
        networks = engine.run(
            TrainingJob(
                seed=engine.seed,
                role=f"attack/{self.name}",
                make_network=partial(ScaledMLP, vectors.input_shape, 2, **network),
                population=vectors,
                records_K=[record_M for fold in folds for record_M in fold.records.values()],
                recipe=self.training,
                models=[c for fold in folds for c in fold.records],  # seeded by class, whichever others have a network
                buffers={"mean": mean_FC[fold_K], "std": std_FC[fold_K]},
            )
        )
        firsts = accumulate((len(fold.records) for fold in folds[:-1]), initial=0)
        fitted_F = [
            FittedShokri(
                input=self.input,
                networks=networks,
                first=first,
                classes=tuple(fold.records),
                num_classes=num_networks,
                num_used=sum(map(len, fold.records.values())),
                num_available=fold.available,
            )
            for first, fold in zip(firsts, folds, strict=True)
        ]
        for fitted in fitted_F:
            if bool(fitted.has_failed_J.all()):
                raise InputError(
                    f"The loss of all {len(fitted.classes)} attack networks of attack={self.name} was no longer "
                    f"finite; lower `attack.{self.name}.training.optimizer.lr`."
                )
        return fitted_F

    def _drawn(self, member_KN: Tensor, usable_KN: Tensor, network_N: Tensor, num_networks: int, seed: int) -> "_Fold":
        drawn = [
            balanced(member_KN, usable_KN, network_N == c, self.max_vectors, seed, self.name, c)
            for c in range(num_networks)
        ]
        records = {c: record_M for c, (record_M, _) in enumerate(drawn) if len(record_M)}
        if not records:
            raise InputError(
                "No class has both members and non-members of shadow models, so attack=shokri has nothing to "
                "learn from; raise `shadow.count` or `dataset.train_size`."
            )
        return _Fold(records, sum(available for _, available in drawn))


class _Fold(NamedTuple):
    """The vectors that each network of a fold learns from, and how many there were to draw from."""

    records: dict[int, Tensor]
    available: int


class ScaledMLP(MLP):
    """An MLP that scales its inputs by buffers of its own, `mean` and `std` (of the form of one record).

    Args:
        exponential: whether it takes the exponentials of its inputs first, which need then be held nowhere.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, input_shape: Sequence[int], num_classes: int, *, exponential: bool = False, **settings: Any
    ) -> None:
        super().__init__(input_shape, num_classes, **settings)
        self.exponential = exponential
        self.register_buffer("mean", torch.zeros(*input_shape))
        self.register_buffer("std", torch.ones(*input_shape))

    def forward(self, x: Tensor) -> Tensor:
        x = x.exp() if self.exponential else x
        logits: Tensor = super().forward((x - self.mean) / self.std)
        return logits


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedShokri:
    """Trained networks, among those of other folds: `classes[j]` is the class of network `first` + j.

    Attributes:
        num_used, num_available: prediction vectors that trained them, and those that could have.
    """

    input: str
    networks: TrainedStack
    classes: tuple[int, ...]
    num_classes: int
    num_used: int
    num_available: int
    first: int = 0
    threshold: float = LearntThreshold(0.5, NETWORKS)

    @property
    def own(self) -> slice:
        """Where these networks stand in the stack."""
        return slice(self.first, self.first + len(self.classes))

    @property
    def has_failed_J(self) -> Tensor:
        """Whose loss was not finite, bool, one for each of `classes`."""
        return self.networks.failed_epoch_K[self.own] >= 0

    @property
    def remarks(self) -> tuple[str, ...]:
        missing = sorted(set(range(self.num_classes)) - set(self.classes))
        failed = [self.classes[j] for j in self.has_failed_J.nonzero().flatten().tolist()]
        remarks = []
        if self.num_used < self.num_available:
            remarks.append(
                f"The attack networks learnt from {self.num_used} of {self.num_available} prediction vectors, drawn at "
                "random (`max_vectors` for each class)."
            )
        if missing:
            remarks.append(
                f"No shadow model has both members and non-members of the classes {missing}: scored 0.5, not flagged."
            )
        if failed:
            remarks.append(
                f"The loss of the attack networks of the classes {failed} was not finite: scored 0.5, not flagged."
            )
        return tuple(remarks)

    @torch.inference_mode()
    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Membership probability `[T, N]` in [0, 1], float64; the number next below 0.5, hence no flag, where the class
        has no network."""
        x_TNC = vectors_of(signals, self.input, label_N)
        network_N = signals.task.network_of(label_N)
        width = max(1, _SCORED_NUMBERS // x_TNC[0].numel())
        return torch.cat([self._score(x_tNC, network_N) for x_tNC in x_TNC.split(width)])

    def _score(self, x_TNC: Tensor, network_N: Tensor) -> Tensor:
        T, N, _ = x_TNC.shape
        device = x_TNC.device
        x = x_TNC.flatten(0, 1)
        class_M = network_N.to(device).repeat(T)
        score_M = torch.full((T * N,), UNKNOWN, dtype=torch.float64, device=device)
        rows_J = [(class_M == c).nonzero().squeeze(1) for c in self.classes]
        row_JB = pad_sequence(rows_J, batch_first=True, padding_value=-1)
        if row_JB.numel():
            stack = self.networks.stack
            state = {name: tensor[self.own] for name, tensor in stack.state().items()}
            logits_JB2 = vmap(stack.call_one)(state, x[row_JB.clamp(min=0)].to(stack.device, stack.dtype))
            probability_JB = logits_JB2.double().softmax(-1)[..., 1].to(device)
            usable_JB = (row_JB >= 0) & ~self.has_failed_J.to(device)[:, None]
            score_M[row_JB[usable_JB]] = probability_JB[usable_JB]
        return score_M.view(T, N)
