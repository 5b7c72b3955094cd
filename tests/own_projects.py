"""DataModules of three habits, as people keep them in their projects, and the files that they read."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, random_split
from torchvision import transforms
from torchvision.datasets import MNIST, ImageFolder
from torchvision.transforms import v2

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


class Digits(pl.LightningDataModule):
    """The habit of Lightning's documentation: a transform made in the constructor, a split by `random_split`."""

    def __init__(self, data_dir: str = "data", batch_size: int = 32, split: tuple[int, int] = (55_000, 5_000)) -> None:
        super().__init__()
        self.data_dir, self.batch_size, self.split = data_dir, batch_size, split
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")
        for train in (True, False):
            MNIST(self.data_dir, train=train, download=True)

    def setup(self, stage: str) -> None:
        self.calls.append(f"setup {stage}")
        if stage == "fit":
            whole = MNIST(self.data_dir, train=True, transform=self.transform)
            seeded = torch.Generator().manual_seed(42)
            self.train_set, self.val_set = random_split(whole, self.split, generator=seeded)
        if stage == "test":
            self.test_set = MNIST(self.data_dir, train=False, transform=self.transform)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val_set, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test_set, batch_size=self.batch_size)


class TemplateDigits(pl.LightningDataModule):
    """The habit of lightning-hydra-template: hyper-parameters, all files in one pool, which is split in three once."""

    def __init__(
        self,
        data_dir: str = "data/",
        train_val_test_split: tuple[int, int, int] = (55_000, 5_000, 10_000),
        batch_size: int = 64,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.transforms = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
        self.parts: list[Dataset[Any]] = []
        self.batch_size_per_device = batch_size

    @property
    def num_classes(self) -> int:
        return 10

    def setup(self, stage: str | None = None) -> None:
        if self.trainer is not None:
            self.batch_size_per_device = self.hparams.batch_size // self.trainer.world_size
        if not self.parts:
            files = [MNIST(self.hparams.data_dir, train=train, transform=self.transforms) for train in (True, False)]
            seeded = torch.Generator().manual_seed(42)
            split = list(self.hparams.train_val_test_split)
            self.parts = list(random_split(ConcatDataset(files), split, generator=seeded))

    def _loader(self, part: int, *, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            self.parts[part],
            batch_size=self.batch_size_per_device,
            num_workers=self.hparams.num_workers,
            pin_memory=self.hparams.pin_memory,
            shuffle=shuffle,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(0, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(1, shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(2, shuffle=False)


class Pets(pl.LightningDataModule):
    """Folders of pictures, and transforms of torchvision v2: random ones for training, a fixed one for validation."""

    def __init__(self, folder: str = "pets", batch_size: int = 4, drop_last: bool = True) -> None:
        super().__init__()
        self.folder, self.batch_size, self.drop_last = Path(folder), batch_size, drop_last
        last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        self.for_training = v2.Compose(
            [v2.ToImage(), v2.Resize(8), v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip(), *last]
        )
        self.for_validation = v2.Compose([v2.ToImage(), v2.Resize(8), *last])

    def setup(self, stage: str) -> None:
        self.train_set = ImageFolder(self.folder / "train", self.for_training)
        self.val_set = ImageFolder(self.folder / "val", self.for_validation)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(self.val_set, batch_size=self.batch_size)]


def idx(values: np.ndarray) -> bytes:
    """The format of MNIST's files: two zeros, 8 for bytes, the number of axes, their lengths, the bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def write_digits(folder: Path, num_train: int = 60, num_test: int = 20) -> Path:
    """Files of MNIST's names and form, with random pictures of ten classes, brighter by their class."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for part, count in (("train", num_train), ("t10k", num_test)):
        label_N = np.arange(count) % 10
        x_N = np.clip(draws.integers(0, 100, (count, 28, 28)) + 15 * label_N[:, None, None], 0, 255)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(x_N))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(label_N))
    return folder


def unpack_digits(shared_data: Path, folder: Path) -> Path:
    """The real files, where torchvision looks for them."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (shared_data / "MNIST" / "raw").glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return folder


def write_pets(folder: Path, num_train: int = 12, num_val: int = 6) -> Path:
    """Class folders of small pictures, in `train` and `val`."""
    draws = np.random.default_rng(1)
    for part, count in (("train", num_train), ("val", num_val)):
        for i in range(count):
            place = folder / part / ("ant", "bee", "cat")[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")
    return folder
