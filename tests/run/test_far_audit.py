"""A whole audit on an accelerator: nothing meets what lies on the host, and the report is that of the host."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from far_device import FAR, FarDevice
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.training.trainer import TrainerSettings, check_trainer

pytestmark = pytest.mark.slow
ADAM = partial(torch.optim.Adam, lr=0.02)
SGD = partial(torch.optim.SGD, lr=0.05)  # a bias before a normalisation has a gradient of rounding errors alone


class FarAccelerator(CPUAccelerator):
    """Of the far device, for Lightning."""

    def setup_device(self, device: torch.device) -> None:
        assert device == FAR

    def teardown(self) -> None:
        pass


def on_far_device(
    self: TrainerSettings, *, epochs: int, callbacks: Sequence[pl.Callback] = (), folder: Path | None = None
) -> pl.Trainer:
    """In the place of `TrainerSettings.make`."""
    trainer = pl.Trainer(
        strategy=SingleDeviceStrategy(device=FAR, accelerator=FarAccelerator()),
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=any(isinstance(each, pl.callbacks.Checkpoint) for each in callbacks),
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        logger=False,
    )
    check_trainer(trainer)
    return trainer


def audited(population: Population, where: str, **options: Any) -> Any:
    return mia.audit(population, trainer=mia.TrainerSettings(accelerator=where, progress_bar=False), **options)


ATTACKS = [mia.Loss(), mia.Lira(), mia.Lira(online=False), mia.Rmia(), mia.AttackP(), mia.AttackR(), mia.Gap()]
RECIPE = mia.Recipe(epochs=3, batch_size=15, optimizer=ADAM, execution="stack")
CASES: dict[str, dict[str, Any]] = {
    "halves": {"membership": mia.Halves(), "shadow": mia.Real(count=8), "attacks": ATTACKS},
    "leave one out": {
        "membership": mia.Halves(),
        "shadow": mia.Real(count=8),
        "target": mia.LeaveOneOut(),
        "attacks": [mia.Loss(), mia.Lira(), mia.Rmia(), mia.AttackR()],
    },
    "networks": {
        "membership": mia.Disjoint(train_size=30),
        "shadow": mia.Real(count=4),
        "attacks": [
            mia.Shokri(training=replace(RECIPE, epochs=2, batch_size=None, batches_per_epoch=4)),
            mia.ClassEntropy(),
        ],
    },
    "looped": {
        "training": replace(RECIPE, execution="loop", optimizer=SGD),
        "membership": mia.Halves(),
        "shadow": mia.Real(count=4),
        "attacks": [mia.CalibratedLoss()],
    },
    "regression": {
        "task": mia.Regression(),
        "membership": mia.Halves(),
        "shadow": mia.Real(count=8),
        "attacks": ATTACKS[:4],
    },
    "defended": {
        "membership": mia.Halves(),
        "shadow": mia.Real(count=4),
        "attacks": [mia.Loss()],
        "defenses": [mia.TopK(k=1), mia.DPSGD(noise_multiplier=1.0)],
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_whole_audit_mixes_no_devices_and_reports_what_the_host_does(
    name: str, blobs: Population, pictures: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"training": RECIPE, "model": partial(MLP, hidden=[8]), **CASES[name]}
    population = blobs
    if name == "looped":
        population = pictures
        options["model"] = partial(CNN, channels=[3], hidden=4, kernel_size=3, batch_norm=True)
    if name == "regression":
        population = mia.make_population(blobs.x_N, blobs.x_N.sum(1), task=mia.Regression())
    monkeypatch.setattr("mia_lightning.training.step.recipe.fused_where_possible", lambda make: make)
    monkeypatch.setattr("mia_lightning.training.plan.probe.Probe._precision", lambda self: nullcontext())
    here = audited(population, "cpu", **options)
    monkeypatch.setattr(TrainerSettings, "make", on_far_device)
    with FarDevice() as far:
        there = audited(population, "auto", **options)
    assert far.refused == []
    np.testing.assert_allclose(there.scores.score, here.scores.score, rtol=1e-3, atol=1e-3)
