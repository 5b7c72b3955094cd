"""A screening of training records without shadow models, from the losses that a monitor has seen of each.

The score of a record is LT-IQR, the interquartile range of its losses over the looks. A record whose loss falls late is
one that others do not help to predict, so that the model had to memorise it; what is easy has a low loss all along, and
what is never learnt a high one.

Source: Pollock, Shilov, Dodd and de Montjoye, "Free record-level privacy risk evaluation through artifact-based
methods" (arXiv 2411.05743). Losses there are those of training; here they are taken after an epoch, in eval mode and
without augmentation.

A screening ranks; it proves nothing, and what it leaves out is not safe: `benchmarks/RESULTS.md` has how many of the
records that an attack with shadow models finds it misses.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mia_lightning.errors import InputError

FEWEST_LOOKS = 4  # quartiles of fewer are a mere difference of two losses


def lt_iqr(loss_LN: Tensor) -> Tensor:
    """The interquartile range of each record's losses over L looks, float64 `[N]`, in nats; larger: more exposed.

    Quartiles are interpolated linearly between the sorted losses.

    Args:
        loss_LN: at least 0; the losses of N records after each of L epochs.

    >>> lt_iqr(torch.tensor([[2.0, 2.0], [2.0, 0.1], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])).tolist()
    [2.0, 0.10000000149011612]
    """
    low_N, high_N = loss_LN.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0)
    score_N: Tensor = high_N - low_N
    return score_N


_SHOWN = 5  # records, in a line


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Screening:
    """Training records that were looked at, most exposed first.

    Attributes:
        record_N: int64, places in the training dataset.
        score_N: float64, LT-IQR in nats, descending.
        final_loss_N: float64, the loss at the last look, in nats.
        label_N: int64.
        num_looks: of the losses behind the scores.
    """

    record_N: Tensor
    score_N: Tensor
    final_loss_N: Tensor
    label_N: Tensor
    num_looks: int

    def __repr__(self) -> str:
        few = ", ".join(map(str, self.top(_SHOWN).tolist())) + (", ..." if len(self) > _SHOWN else "")
        return f"Screening({len(self):,} records, {self.num_looks} looks; most exposed first: {few})"

    def __len__(self) -> int:
        return len(self.record_N)

    def top(self, count: int) -> Tensor:
        """The `count` records of the largest scores, int64: places in the training dataset."""
        return self.record_N[:count]

    def rows(self, count: int | None = None) -> list[dict[str, Any]]:
        """A dictionary for each record, most exposed first, at most `count`."""
        names = ("record", "label", "lt_iqr", "final_loss")
        parts = [each[:count].tolist() for each in (self.record_N, self.label_N, self.score_N, self.final_loss_N)]
        return [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]


def screening(loss_LN: Tensor, record_N: Tensor, label_N: Tensor) -> Screening:
    """The records in falling order of LT-IQR; equal ones in their own order.

    Raises:
        InputError: losses of fewer than four looks.
    """
    if len(loss_LN) < FEWEST_LOOKS:
        raise InputError(
            f"The monitor has {len(loss_LN)} looks, and a screening needs the losses of at least {FEWEST_LOOKS}; train "
            "for more epochs, or set `monitor.every_n_epochs` to 1."
        )
    score_N = lt_iqr(loss_LN)
    order_N = score_N.argsort(descending=True, stable=True)
    return Screening(
        record_N=record_N[order_N],
        score_N=score_N[order_N],
        final_loss_N=loss_LN[-1].double()[order_N],
        label_N=label_N[order_N],
        num_looks=len(loss_LN),
    )
