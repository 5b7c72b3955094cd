"""Datasets as people write them, and what is read from them."""

from typing import Any

import numpy as np
import pytest
import torch
from own_projects import MEAN, STD
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError

N = 30


class Listed(Dataset[Any]):
    """Items as they are given, with other attributes as they are named."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items = items
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Pictures(Dataset[Any]):
    """Pictures of 8 x 8 pixels in three classes, each given as a PIL image, an array or a tensor."""

    classes = ("a", "b", "c")

    def __init__(self, transform: Any = None, *, seed: int = 0, form: str = "pil", mode: str = "RGB") -> None:
        shape = (N, 8, 8, 3) if mode == "RGB" else (N, 8, 8)
        self.pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        self.transform, self.form = transform, form

    def __len__(self) -> int:
        return N

    def picture(self, index: int) -> Any:
        pixels = self.pixels[index]
        if self.form == "pil":
            return Image.fromarray(pixels)
        return pixels if self.form == "array" else torch.from_numpy(pixels.transpose(2, 0, 1))

    def __getitem__(self, index: int) -> tuple[Any, int]:
        x = self.picture(index)
        return (x if self.transform is None else self.transform(x)), index % 3


def all_records(population: Population) -> Tensor:
    return population.records(torch.arange(len(population)))


def refused(data: Any, *parts: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        Population.of(data, **options)
    sentence = str(caught.value)
    assert all(part in sentence for part in parts), sentence


X = [torch.tensor([float(i), 2.0 * i]) for i in range(4)]
LAST_V1 = [v1.ToTensor(), v1.Normalize(MEAN, STD)]
LAST_V2 = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
FLIP, CROP = v1.RandomHorizontalFlip(), v1.RandomCrop(8, padding=1)


def noise(x: Tensor) -> Tensor:
    return x + torch.rand(())
