"""From somebody's project on MNIST to its audit: fit with a monitor, the checkpoint, by command and from Python."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from command_line import Call
from own_projects import unpack_digits
from pytorch_lightning.callbacks import ModelCheckpoint

import mia_lightning as mia
from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.training.signals import Signals
from mia_lightning.training.trainer import quiet_lightning

PROJECT = """
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST


class Data(pl.LightningDataModule):
    def __init__(self, folder, batch_size=32):
        super().__init__()
        self.save_hyperparameters()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def prepare_data(self):
        MNIST(self.hparams.folder, download=True)

    def setup(self, stage):
        digits = MNIST(self.hparams.folder, transform=self.transform)
        self.train_set, self.val_set = Subset(digits, range(300)), Subset(digits, range(300, 800))

    def train_dataloader(self):
        return DataLoader(self.train_set, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, batch_size=100)


class LitCNN(pl.LightningModule):
    def __init__(self, channels=4, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, channels, 5, stride=2), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
        )
        self.net(torch.zeros(2, 1, 28, 28))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, label = batch
        loss = nn.functional.cross_entropy(self(x), label)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, label = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), label))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.1)]
"""


@pytest.mark.slow
@pytest.mark.usefixtures("global_generators")  # of the fit
def test_the_whole_way_of_a_project(call: Call, shared_data: Path, tmp_path: Path) -> None:
    unpack_digits(shared_data, tmp_path / "digits")
    (tmp_path / "my_package.py").write_text(PROJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import my_package

        whole_way(call, my_package, tmp_path)


def whole_way(call: Call, project: Any, folder: Path) -> None:
    monitor = mia.LeakageMonitor(members="all", nonmembers="all")
    data, module = project.Data(str(folder / "digits")), project.LitCNN(channels=6)
    with quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=6,
            accelerator="cpu",
            callbacks=[monitor, ModelCheckpoint(folder / "run" / "checkpoints")],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
    assert len(monitor.trace) == 6
    assert float(trainer.callback_metrics["leakage/loss/auc"]) == pytest.approx(monitor.trace[-1].auc)

    command = call(
        *("model=lightning", "model._target_=my_package.LitCNN", "target=checkpoint", "target.path=run"),
        *(
            "dataset=datamodule",
            "dataset._target_=my_package.Data",
            "+dataset.folder=digits",
            "attack=[loss,lira_online]",
        ),
        *("shadow.count=6", "logger=none", "trainer.accelerator=cpu", "store.dir=null", "hydra.run.dir=audit"),
    )
    assert command.returncode == 0, command.stderr
    report = json.loads((folder / "audit" / "report.json").read_text())
    scores = pq.read_table(folder / "audit" / "scores.parquet").to_pydict()
    assert (report["membership"]["num_members"], report["membership"]["num_nonmembers"]) == (300, 500)
    assert report["run"]["config"]["model"]["channels"] == 6
    assert report["run"]["config"]["training"]["epochs"] == 6

    settings: dict[str, Any] = {
        "shadow": mia.Real(count=6),
        "attacks": [mia.Loss(), mia.Lira(online=True)],
        "trainer": mia.TrainerSettings(accelerator="cpu"),
    }
    same = mia.audit(data, model=project.LitCNN, target=folder / "run", **settings)
    assert same.scores is not None
    np.testing.assert_allclose(same.scores.score, scores["score"], rtol=1e-3, atol=1e-3)
    del settings["trainer"]
    of_fit = monitor.audit(**settings)
    assert of_fit.scores is not None
    np.testing.assert_allclose(of_fit.scores.score, scores["score"], rtol=1e-3, atol=1e-3)

    # The loss attack: the module's own answers, and the figure that the monitor logged last.
    x_N, label_N = (
        torch.stack(list(each)) if isinstance(each[0], torch.Tensor) else torch.tensor(each)
        for each in (
            [data.train_set[i][0] for i in range(300)] + [data.val_set[i][0] for i in range(500)],
            [data.train_set[i][1] for i in range(300)] + [data.val_set[i][1] for i in range(500)],
        )
    )
    with torch.no_grad():
        log_NC = module.eval()(x_N).double().log_softmax(1)
    expected_N = log_confidence(Signals(log_probability_KANC=log_NC.float()[None, None]), label_N)[0]
    is_loss = np.array([name == "loss" for name in scores["attack"]])
    np.testing.assert_allclose(np.array(scores["score"])[is_loss], expected_N.numpy(), atol=1e-4)
    assert same.attacks[0].overall.auc.value == pytest.approx(monitor.trace[-1].auc, abs=1e-4)
    shutil.rmtree(folder / "digits")
