"""A LightningModule that predicts numbers: audited after its own fit, and refused by the monitor."""

from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.seeds import generator, isolated

X = torch.randn(120, 4, generator=generator(0, "x"))
VALUE = X.sum(1) + 0.3 * torch.randn(120, generator=generator(0, "noise"))


class Predicts(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        x, y = batch
        return (self(x).squeeze(1) - y).square().mean()

    def validation_step(self, batch: Any, number: int) -> None:
        self.log("validation_loss", self.training_step(batch, number))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def trainer(*callbacks: Any) -> lightning.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return lightning.Trainer(max_epochs=5, accelerator="cpu", callbacks=list(callbacks), **dict.fromkeys(quiet, False))


def loaders() -> list[DataLoader[Any]]:
    return [DataLoader(TensorDataset(X[part], VALUE[part]), batch_size=60) for part in (slice(0, 60), slice(60, 120))]


def test_the_monitor_says_that_numbers_have_no_attack_there() -> None:
    with isolated(0, "fit"), pytest.raises(InputError, match=r"one class.*numbers to be predicted"):
        trainer(mia.LeakageMonitor(members=60, nonmembers=60)).fit(Predicts(), *loaders())


@pytest.mark.slow
def test_a_fit_is_audited_by_its_task() -> None:
    with isolated(0, "fit"):
        fitted, module = trainer(), Predicts()
        fitted.fit(module, *loaders())
    report = mia.audit(trainer=fitted, task="regression", attacks=[mia.Loss()], shadow=mia.Real(count=4))
    predicted = module.eval().cpu()(X[60:]).detach().squeeze(1)
    left = (VALUE[60:] - predicted).square().sum() / (VALUE[60:] - VALUE[60:].mean()).square().sum()
    assert report.task.name == "regression"
    assert report.target.test_accuracy == pytest.approx(1 - float(left), abs=1e-5)
