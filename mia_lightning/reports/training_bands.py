"""Training curves of a stack as quantile bands over its models."""

from dataclasses import dataclass

import numpy as np

from mia_lightning.reports.curves import Array
from mia_lightning.reports.schema import TrainingCurves

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, eq=False, kw_only=True)
class Band:
    """Quantiles over the models still training, `[E]`, epochs counted from 0; an epoch without any is left out."""

    epoch: Array
    low: Array
    median: Array
    high: Array


def bands(curves: TrainingCurves) -> dict[str, Band]:
    """`train_loss` and, where something was held out, `validation_loss`, each as a band; none without a finite loss."""
    named = {"train_loss": curves.train_loss_EK, "validation_loss": curves.validation_loss_EK}
    return {
        name: _band(loss_EK) for name, loss_EK in named.items() if loss_EK is not None and np.isfinite(loss_EK).any()
    }


def _band(loss_EK: Array) -> Band:
    finite_EK = np.where(np.isfinite(loss_EK), loss_EK, np.nan)
    epoch = np.flatnonzero(np.isfinite(finite_EK).any(axis=1))
    low, median, high = np.nanquantile(finite_EK[epoch], QUANTILES, axis=1)
    return Band(epoch=epoch.astype(np.float64), low=low, median=median, high=high)
