"""What is observed of models on records: the one array that all attacks read."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mia_lightning.training.room import Room


@dataclass(frozen=True, eq=False, kw_only=True)
class ViewSignals:
    """What K models answer for A changed copies of N records, reduced: whole vectors of many views fit no memory.

    Attributes:
        names: of the A views, in order (`mia_lightning.attacks.views.View.name`).
        scaled_logit_KAN: float32, in nats; φ = log p_y − log Σ_{y′≠y} p_{y′} of the record's own class y.
        is_correct_KAN: bool; whether the predicted class, of tied ones that of lowest index, is y.
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
        log_probability_KANC: float32, in nats; view a of record n under model k.
        channel: how they were observed; `full` is the whole probability vector, unrounded.
        views: answers for changed copies of the records, through the same channel; None where no attack asked for any.
        room: where arrays of this size that are made of these lie.
    """

    log_probability_KANC: Tensor
    channel: str = "full"
    views: ViewSignals | None = None
    room: Room = field(default_factory=Room)

    def select(self, kept_K: Tensor) -> "Signals":
        """The observations of the models where the bool mask is True; neighbours share memory with all."""
        kept_K = kept_K.to(self.log_probability_KANC.device)
        views = None if self.views is None else self.views.select(kept_K)
        return replace(self, log_probability_KANC=_chosen(self.log_probability_KANC, kept_K, self.room), views=views)

    def to(self, device: torch.device | str) -> "Signals":
        """On the device; these themselves where they are there."""
        views = None if self.views is None else self.views.to(device)
        return replace(self, log_probability_KANC=self.log_probability_KANC.to(device), views=views)


def on_one_device(first: Signals, second: Signals) -> tuple[Signals, Signals]:
    """Both as they are, or on the CPU where only one of them fitted on their device."""
    if first.log_probability_KANC.device == second.log_probability_KANC.device:
        return first, second
    return first.to("cpu"), second.to("cpu")


def _chosen(value_KANC: Tensor, kept_K: Tensor, room: Room) -> Tensor:
    """A view of models that stand side by side; others are copied one by one, so that memory holds no second copy."""
    place_k = kept_K.nonzero().squeeze(1).tolist()
    if place_k and place_k[-1] - place_k[0] == len(place_k) - 1:
        return value_KANC[place_k[0] : place_k[-1] + 1]
    chosen_kANC = room.empty((len(place_k), *value_KANC.shape[1:]), dtype=value_KANC.dtype, device=value_KANC.device)
    for chosen_ANC, k in zip(chosen_kANC, place_k, strict=True):
        chosen_ANC.copy_(value_KANC[k])
    return chosen_kANC
