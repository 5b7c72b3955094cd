"""DataModules whose split is known."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mia_lightning.seeds import isolated


def by_loader(loader: Any) -> tuple[Tensor, Tensor]:
    """All that a loader gives, in the order of its dataset: a slow loop."""
    with isolated(0, "a loader draws a seed for its workers"):
        batches = list(DataLoader(loader.dataset, batch_size=7))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


class Toy(pl.LightningDataModule):
    """Numbers in a table, with loaders as they are given."""

    def __init__(self, train: Any = None, val: Any = None, test: Any = None) -> None:
        super().__init__()
        self.loaders = {"train": train, "val": val, "test": test}

    def train_dataloader(self) -> Any:
        return self.loaders["train"]

    def val_dataloader(self) -> Any:
        return self.loaders["val"]

    def test_dataloader(self) -> Any:
        return self.loaders["test"]


def table(count: int, start: float = 0.0) -> TensorDataset:
    return TensorDataset(torch.arange(start, start + 2 * count).float().view(count, 2), torch.arange(count) % 2)
