"""Settings of an audit that ends at once."""

from collections.abc import Collection
from functools import partial
from typing import Any

import pytest
import torch

import mia_lightning as mia
from mia_lightning.models.mlp import MLP

QUICK_SHOKRI = mia.Shokri(
    training=mia.Recipe(epochs=2, batches_per_epoch=5, optimizer=partial(torch.optim.Adam, lr=0.02))
)


def slow_but(quick: Collection[Any], cases: Collection[Any]) -> list[Any]:
    """The cases as parameters of a test: plain pytest runs the quick ones, `pytest -m slow` the others."""
    assert all(case in cases for case in quick)
    return [
        case if case in quick else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]


def quick_audit(**options: object) -> dict[str, object]:
    """Arguments of `mia.audit`: small networks, few epochs, the loss attack."""
    return {
        "model": partial(MLP, hidden=[8]),
        "attacks": [mia.Loss()],
        "training": mia.Recipe(epochs=4, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.02)),
        "trainer": mia.TrainerSettings(accelerator="cpu"),
        **options,
    }
