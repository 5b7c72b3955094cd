"""A fit that a monitor refuses, and the sentence that refuses it."""

from pathlib import Path
from typing import Any

import pytest
from lit_project import Lit, made, trainer
from torch import Tensor

import mia_lightning as mia


class NeverTrains(Lit):
    """Fails where it would train."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("nothing is to be trained")


class Unvalidated(Lit):
    validation_step = None


def refused(folder: Path, train: Any, held_out: Any, module: Any = None, **settings: Any) -> str:
    """The sentence with which a fit is refused before it trains."""
    callbacks = settings.pop("callbacks", ())
    monitor = mia.LeakageMonitor(**settings.pop("monitor", {}))
    with pytest.raises(mia.InputError) as caught:
        trainer(folder, monitor, *callbacks, **settings).fit(module or made(NeverTrains), train, held_out)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def plain(x: Tensor) -> Tensor:
    return x
