"""What is observed of models on records: the one array that all attacks read."""

from dataclasses import dataclass, replace

from torch import Tensor


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Signals:
    """Observations of K models on N records.

    Attributes:
        log_probability_KANC: float32, in nats; view a of record n under model k.
        channel: how they were observed; `full` is the whole probability vector, unrounded.
        views: answers for changed copies of the records, through the same channel; None where no attack asked for any.
    """

    log_probability_KANC: Tensor
    channel: str = "full"
    views: ViewSignals | None = None

    def select(self, kept_K: Tensor) -> "Signals":
        """The observations of the models where the bool mask is True."""
        kept_K = kept_K.to(self.log_probability_KANC.device)
        views = None if self.views is None else self.views.select(kept_K)
        return replace(self, log_probability_KANC=self.log_probability_KANC[kept_K], views=views)
