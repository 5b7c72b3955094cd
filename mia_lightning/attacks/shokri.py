"""The attack of Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), section V."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.utils.rnn import pad_sequence

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import ACTIVATIONS, MLP, check_widths
from mia_lightning.seeds import generator
from mia_lightning.training.fit import Engine
from mia_lightning.training.recipe import Recipe
from mia_lightning.training.signals import Signals
from mia_lightning.training.trained import TrainedStack

UNKNOWN = math.nextafter(0.5, 0.0)  # nothing speaks for a member, and a record is flagged from 0.5 on
INPUTS = ("log_probabilities", "probabilities")


def default_training() -> Recipe:
    """How attack networks are trained unless the configuration says otherwise."""
    return Recipe(epochs=30, batches_per_epoch=20, optimizer=partial(torch.optim.Adam, lr=3e-3, weight_decay=1e-4))


@dataclass(frozen=True, kw_only=True)
class Shokri:
    """One attack network for each true class, trained on the shadow models' prediction vectors, in against out.

    Attributes:
        input: `log_probabilities`, or `probabilities` as in the paper.
        hidden, activation: of the attack networks (`mia_lightning.models.mlp.MLP`).
        training: of the attack networks; a fixed number of batches an epoch, so that all classes step together.
    """

    name: str = "shokri"
    input: str = "log_probabilities"
    hidden: Sequence[int] = (64,)
    activation: str = "relu"
    training: Recipe = field(default_factory=default_training)

    def __post_init__(self) -> None:
        if self.input not in INPUTS:
            raise InputError(f"`attack.{self.name}.input` is {self.input!r}; it must be one of {', '.join(INPUTS)}.")
        check_widths(f"attack.{self.name}.hidden", self.hidden)
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"`attack.{self.name}.activation` is {self.activation!r}; it must be one of {', '.join(ACTIVATIONS)}."
            )
        if self.training.early_stopping is not None:
            raise InputError(
                f"`attack.{self.name}.training.early_stopping` is set, but attack networks have no held-out records; "
                "leave it null and set the number of epochs."
            )
        self.training.check()
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
    def needs(self) -> Needs:
        return Needs()

    @property
    def description(self) -> str:
        return (
            f"One network ({'-'.join(map(str, self.hidden)) or 'no'} hidden units) for each true class, on the vector "
            f"of {self.input.replace('_', ' ')}, trained on shadow models; flags at a membership probability of 0.5."
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
        model_M, record_M = shadows.scored_KN.nonzero(as_tuple=True)
        is_in_M, class_M = shadows.member_KN[model_M, record_M], shadows.label_N[record_M]
        vectors = Population(
            name=f"{self.name} prediction vectors",
            x_N=attack_input(shadows.signals, self.input)[model_M, record_M],
            label_N=is_in_M.long(),
            class_names=("out", "in"),
        )
        folds, scale_K = [], []
        for held_out_K in held_out_FK.to(model_M.device):
            kept_M = ~held_out_K[model_M]
            drawn = (
                _balanced(is_in_M, kept_M & (class_M == c), engine.seed, self.name, c)
                for c in range(shadows.num_classes)
            )
            fold = {c: balanced for c, balanced in enumerate(drawn) if len(balanced)}
            if not fold:
                raise InputError(
                    "No class has both members and non-members of shadow models, so attack=shokri has nothing to "
                    "learn from; raise `shadow.count` or `dataset.train_size`."
                )
            folds.append(fold)
            x_LC = vectors.x_N[kept_M]  # what is held out must not set the scale either
            scale_K += [torch.stack([x_LC.mean(0), x_LC.std(0, correction=0).clamp(min=1e-6)])] * len(fold)
        mean_KC, std_KC = torch.stack(scale_K).unbind(1)
        networks = engine.train(
            partial(ScaledMLP, vectors.input_shape, 2, hidden=self.hidden, activation=self.activation),
            vectors,
            [balanced for fold in folds for balanced in fold.values()],
            self.training,
            role=f"attack/{self.name}",
            models=[c for fold in folds for c in fold],  # seeded by class, whichever others have a network
            buffers={"mean": mean_KC, "std": std_KC},
        )
        firsts = accumulate((len(fold) for fold in folds[:-1]), initial=0)
        fitted_F = [
            FittedShokri(
                input=self.input, networks=networks, first=first, classes=tuple(fold), num_classes=shadows.num_classes
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


class ScaledMLP(MLP):
    """An MLP that scales its inputs by buffers of its own, `mean` and `std` (of the form of one record)."""

    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: Sequence[int], num_classes: int, **settings: Any) -> None:
        super().__init__(input_shape, num_classes, **settings)
        self.register_buffer("mean", torch.zeros(*input_shape))
        self.register_buffer("std", torch.ones(*input_shape))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward((x - self.mean) / self.std)
        return logits


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedShokri:
    """Trained networks, among those of other folds: `classes[j]` is the class of network `first` + j."""

    input: str
    networks: TrainedStack
    classes: tuple[int, ...]
    num_classes: int
    first: int = 0
    threshold: float = 0.5

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
        x_TNC = attack_input(signals, self.input)
        T, N, _ = x_TNC.shape
        device = x_TNC.device
        x = x_TNC.flatten(0, 1)
        class_M = label_N.to(device).repeat(T)
        score_M = torch.full((T * N,), UNKNOWN, dtype=torch.float64, device=device)
        rows_J = [(class_M == c).nonzero().squeeze(1) for c in self.classes]
        row_JB = pad_sequence(rows_J, batch_first=True, padding_value=-1)
        if row_JB.numel():
            stack = self.networks.stack
            state = {name: tensor[self.own] for name, tensor in stack.state().items()}
            logits_JB2 = vmap(stack.call_one)(state, x[row_JB.clamp(min=0)].to(stack.dtype))
            probability_JB = logits_JB2.double().softmax(-1)[..., 1]
            usable_JB = (row_JB >= 0) & ~self.has_failed_J.to(device)[:, None]
            score_M[row_JB[usable_JB]] = probability_JB[usable_JB]
        return score_M.view(T, N)


def attack_input(signals: Signals, kind: str) -> Tensor:
    """What the networks see, `[K, N, C]` float32: log probabilities or probabilities, the mean over views."""
    vector_KNC = signals.log_probability_KANC.mean(1)
    return vector_KNC if kind == "log_probabilities" else signals.log_probability_KANC.exp().mean(1)


def _balanced(is_in_M: Tensor, of_class_M: Tensor, seed: int, *name: str | int) -> Tensor:
    """Indices of equally many in- and out-observations of a class: the surplus of one side is left out at random."""
    sides = [(of_class_M & side).nonzero().squeeze(1) for side in (is_in_M, ~is_in_M)]
    size = min(len(side) for side in sides)
    drawn = [
        side[torch.randperm(len(side), generator=generator(seed, "attack", *name, "balance", j)).to(side.device)[:size]]
        for j, side in enumerate(sides)
    ]
    return torch.cat(drawn).sort().values
