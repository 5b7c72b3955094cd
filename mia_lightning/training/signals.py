"""What is observed of models on records: the one array that all attacks read."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Signals:
    """Observations of K models on N records.

    Attributes:
        log_probability_KANC: float32, in nats; view a of record n under model k.
        channel: how they were observed; `full` is the whole probability vector, unrounded.
    """

    log_probability_KANC: Tensor
    channel: str = "full"

    def select(self, kept_K: Tensor) -> "Signals":
        """The observations of the models where the bool mask is True."""
        kept_K = kept_K.to(self.log_probability_KANC.device)
        return replace(self, log_probability_KANC=self.log_probability_KANC[kept_K])
