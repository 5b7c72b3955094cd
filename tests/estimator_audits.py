"""Small audits of estimators."""

from typing import Any

import numpy as np

import mia_lightning as mia


def noise(N: int = 240, C: int = 2, F: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Records whose labels can only be learnt by heart."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(N, F)).astype(np.float32), draw.integers(0, C, N)


def settings(**changed: Any) -> dict[str, Any]:
    return {
        "membership": mia.Halves(),
        "shadow": mia.Real(count=8),
        "attacks": [mia.Loss(), mia.Lira()],
        **changed,
    }


def of(make: Any, **how: Any) -> mia.Estimator:
    return mia.Estimator(make, **{"processes": 1, **how})


def areas(report: mia.AuditReport) -> dict[str, float]:
    return {attack.name: attack.overall.auc.value or 0.0 for attack in report.attacks}
