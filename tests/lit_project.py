"""A Lightning project as people write one: a module, records with label noise, and a short Trainer."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mia_lightning.seeds import generator, isolated


class Lit(pl.LightningModule):
    """A network of two layers that memorises its records within a few epochs."""

    def __init__(self, width: int = 64, lr: float = 0.01, num_classes: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def made(cls: type[Lit] = Lit, **settings: Any) -> Any:
    """A module, its initialisation seeded by name."""
    with isolated(0, "module"):
        return cls(**settings)


def records(count: int, name: str = "training", num_classes: int = 3) -> TensorDataset:
    """`count` records of 8 features whose classes are hard to learn and easy to memorise."""
    draws = generator(0, "records", name)
    x_N = torch.randn(count, 8, generator=draws)
    label_N = (x_N[:, 0] + 1.5 * torch.randn(count, generator=draws) > 0).long()
    if num_classes > 2:
        label_N = label_N + (torch.rand(count, generator=draws) < 0.3).long()
    return TensorDataset(x_N, label_N)


def loaders(train: int = 200, held_out: int = 150) -> tuple[DataLoader, DataLoader]:
    return (
        DataLoader(records(train), batch_size=20, shuffle=True),
        DataLoader(records(held_out, "held-out"), batch_size=50),
    )


def trainer(folder: Path, *callbacks: Any, **settings: Any) -> pl.Trainer:
    """A quiet Trainer on the CPU."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 3,
    }
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **(quiet | settings))
