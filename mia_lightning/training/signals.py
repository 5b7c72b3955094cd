"""The observations of models on records: the one array that all attacks read."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from mia_lightning.tasks import Classification, Task
from mia_lightning.tasks.classification import SMALLEST_PROBABILITY as SMALLEST_PROBABILITY
from mia_lightning.training.plan.room import Room

HIDDEN_PROBABILITY = 1e-7
"""What stands for a probability that an answer hides.

Attacks need finite numbers, and hidden probabilities must tie. The value is about the step of float32 at 1, so it
claims no more than a service's probabilities could have shown, and its logarithm, -16.1, is no outlier among those of
networks.
"""


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """How a served model shows its answers: all of them or the `k` largest, with all or so many `digits`.

    Attributes:
        kind: `full` is a probability for each class, `top_k` for the `k` most probable ones, `labels` the class alone.
        k: of `top_k`; None otherwise.
        digits: after the decimal point, to which all answers are rounded; None where they are not.
    """

    kind: Literal["full", "top_k", "labels"] = "full"
    k: int | None = None
    digits: int | None = None

    def describe(self) -> str:
        """In the words of the output defences that make such answers (`Signals.channel`)."""
        words = []
        if self.kind == "labels":
            words.append("labels only")
        if self.k is not None:
            words.append(f"top {self.k} {'class' if self.k == 1 else 'classes'}")
        if self.digits is not None:
            words.append(f"rounded to {self.digits} {'digit' if self.digits == 1 else 'digits'}")
        return ", ".join(words) or "full"


@dataclass(frozen=True, eq=False, kw_only=True)
class ViewSignals:
    """The answers of K models for A changed copies of N records, reduced to what attacks read of them.

    Memory would not hold whole probability vectors of many views.

    Attributes:
        names: of the A views, in order (`mia_lightning.attacks.views.View.name`).
        scaled_logit_KAN: float32, in nats; φ = log p_y − log Σ_{y′≠y} p_{y′} of the record's own class y.
        is_correct_KAN: bool; whether the predicted class, of tied ones that of lowest index, is y; or all labels are.
    """

    names: tuple[str, ...]
    scaled_logit_KAN: Tensor
    is_correct_KAN: Tensor

    @property
    def queries(self) -> int:
        """How often each model was asked about each record."""
        return len(self.names)

    def select(self, kept_K: Tensor) -> "ViewSignals":
        """The observations of the models where the bool mask is True."""
        kept_K = kept_K.to(self.is_correct_KAN.device)
        return replace(self, scaled_logit_KAN=self.scaled_logit_KAN[kept_K], is_correct_KAN=self.is_correct_KAN[kept_K])

    def to(self, device: torch.device | str) -> "ViewSignals":
        """On the device; these themselves where they are there."""
        return replace(
            self, scaled_logit_KAN=self.scaled_logit_KAN.to(device), is_correct_KAN=self.is_correct_KAN.to(device)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Signals:
    """Observations of K models on N records.

    Attributes:
        log_probability_KANC: float32; view a of record n under model k: in nats, the log probability of each class, or
            of each label that it is on; of a regression, the predicted numbers. NaN, or equal for all classes, where
            model k was not asked about record n.
        channel: how they were observed; `full` is the whole probability vector, unrounded.
        form: how the models themselves show their answers, before any output defence.
        views: answers for changed copies of the records, through the same channel; None where no attack needs any.
        room: where arrays of this size lie that are made from these.
        atoms: into how many equal steps the votes of an estimator divide a probability; None where it is no share of
            votes.
        task: what the answers and the labels of the records are.
        unit_D: float64, that of each predicted number (`Evidence.in_units_of`); None for answers without a unit, and
            before it is known.
    """

    log_probability_KANC: Tensor
    channel: str = "full"
    form: AnswerForm = field(default_factory=AnswerForm)
    views: ViewSignals | None = None
    room: Room = field(default_factory=Room)
    atoms: int | None = None
    task: Task = field(default_factory=Classification)
    unit_D: Tensor | None = None

    def select(self, kept_K: Tensor) -> "Signals":
        """The observations of the models where the bool mask is True; a view where these stand side by side."""
        kept_K = kept_K.to(self.log_probability_KANC.device)
        views = None if self.views is None else self.views.select(kept_K)
        return replace(self, log_probability_KANC=_chosen(self.log_probability_KANC, kept_K, self.room), views=views)

    def to(self, device: torch.device | str) -> "Signals":
        """On the device; these themselves where they are there."""
        views = None if self.views is None else self.views.to(device)
        return replace(self, log_probability_KANC=self.log_probability_KANC.to(device), views=views)


def rounded(log_probability: Tensor, digits: int) -> Tensor:
    """Log-probabilities, float32, of probabilities that are rounded to so many decimal digits, halves to even.

    A probability that is rounded to zero is observed as half of the last digit, the most that it can have been.
    """
    scale = 10.0**digits
    probability = log_probability.double().exp().mul_(scale).round_().div_(scale)
    # The float32 next below half of the last digit: the nearest one may lie above it, and so round up.
    half = torch.tensor(math.log(0.5) - digits * math.log(10.0), dtype=torch.float32)
    return probability.log_().float().clamp_(min=float(torch.nextafter(half, torch.tensor(-torch.inf))))


def on_one_device(first: Signals, second: Signals) -> tuple[Signals, Signals]:
    """Both as they are, or on the CPU where only one of them fitted on their device."""
    if first.log_probability_KANC.device == second.log_probability_KANC.device:
        return first, second
    return first.to("cpu"), second.to("cpu")


def _chosen(value_KANC: Tensor, kept_K: Tensor, room: Room) -> Tensor:
    """A view where the models stand side by side; else they are copied one by one, which takes no further memory."""
    place_k = kept_K.nonzero().squeeze(1).tolist()
    if place_k and place_k[-1] - place_k[0] == len(place_k) - 1:
        return value_KANC[place_k[0] : place_k[-1] + 1]
    chosen_kANC = room.empty((len(place_k), *value_KANC.shape[1:]), dtype=value_KANC.dtype, device=value_KANC.device)
    for chosen_ANC, k in zip(chosen_kANC, place_k, strict=True):
        chosen_ANC.copy_(value_KANC[k])
    return chosen_kANC
