"""LightningModules as people write them, and how they are trained and kept; a copy of this file is a user's project."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FEATURES, CLASSES = 6, 3


def layers(width: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, width), act(), nn.Linear(width, CLASSES))


class Steps(pl.LightningModule):
    """The steps, which all have in common."""

    lr = 0.05

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class LitNet(Steps):
    """In the style of Lightning's documentation."""

    def __init__(self, width: int = 8, lr: float = 0.05, class_weights: list[float] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = layers(width)
        if class_weights is not None:
            self.register_buffer("class_weights", torch.tensor(class_weights))


class Ignores(Steps):
    """Its network is given, and is no hyper-parameter."""

    def __init__(self, net: nn.Module, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["net"], logger=False)
        self.net = net


class Keeps(Steps):
    """In the style of the Lightning-Hydra template: network and optimiser are hyper-parameters."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., Any] = torch.optim.SGD, compile: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.net = net


class OfConfig(Steps):
    """One object holds all of its settings: a dict, a Namespace, a container of OmegaConf."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.save_hyperparameters(cfg)
        width = cfg["width"] if isinstance(cfg, Mapping) or hasattr(cfg, "__getitem__") else cfg.width
        self.net = layers(width)


class OfNamespace(Steps):
    def __init__(self, hparams: Namespace) -> None:
        super().__init__()
        self.save_hyperparameters(hparams)
        self.net = layers(hparams.width)


class WithConfig(Steps):
    """A container of OmegaConf among other settings."""

    def __init__(self, cfg: Any, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = layers(cfg.width)


class OfAny(Steps):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = layers(self.hparams.width)


class WithClass(Steps):
    """A class is among its settings."""

    def __init__(self, act: type[nn.Module] = nn.ReLU, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = layers(width, act)


class Bare(Steps):
    """It keeps no hyper-parameters."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.net = layers(width)


class Binary(Steps):
    """One number a record for two classes."""

    def __init__(self, num_classes: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(FEATURES, num_classes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]).squeeze(-1), batch[1].float())

    validation_step = pl.LightningModule.validation_step


class WithAverage(Steps):
    """It follows its weights, and keeps others beside them."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = layers(width)
        self.ema = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ema.update_parameters(self.model)
        self.seen += 1


def fitted(
    module: pl.LightningModule,
    x_N: Tensor,
    label_N: Tensor,
    folder: Path,
    *,
    epochs: int = 2,
    callbacks: Iterable[pl.Callback] = (),
    **options: Any,
) -> pl.Trainer:
    """The module, trained on the first half of the records by an ordinary Trainer."""
    half = len(x_N) // 2
    train = DataLoader(TensorDataset(x_N[:half], label_N[:half]), batch_size=20, shuffle=False)
    rest = DataLoader(TensorDataset(x_N[half:], label_N[half:]), batch_size=60)
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
    }
    options = {"logger": False, **quiet, **options}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), default_root_dir=folder, **options)
    trainer.fit(module, train, rest)
    return trainer


def checkpoint_of(module: pl.LightningModule, x_N: Tensor, label_N: Tensor, path: Path, **options: Any) -> Path:
    """Its last checkpoint."""
    options.setdefault("enable_checkpointing", False)
    fitted(module, x_N, label_N, path.parent, **options).save_checkpoint(path)
    return path


def best(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(**{"dirpath": folder, "monitor": "val_loss", "save_top_k": -1, **options})


MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
