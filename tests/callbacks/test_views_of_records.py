"""The records that a monitor looks at are those that an audit of the same fit attacks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lit_project import Lit, made, trainer
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.datasets import FakeData

import mia_lightning as mia
from mia_lightning.datasets.population import Population

TO_TENSOR = transforms.ToTensor()
DARK = transforms.Compose([TO_TENSOR, transforms.Normalize([0.5] * 3, [0.5] * 3)])
FLIPPED = transforms.Compose([transforms.RandomHorizontalFlip(), TO_TENSOR])
ERASED = transforms.Compose([TO_TENSOR, transforms.RandomErasing(p=0.02)])


class OfImages(Lit):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1)[:, :8])


def images(transform: Any, offset: int = 0) -> FakeData:
    return FakeData(size=90, image_size=(3, 16, 16), num_classes=3, transform=transform, random_offset=offset)


class Plain(Dataset):
    """Images whose transform nobody can take out."""

    def __init__(self, dataset: FakeData) -> None:
        self.images = dataset

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        return self.images[i]


def seen(records: Any) -> Tensor:
    return torch.cat([records.batch(place)[0] for place in range(records.num_batches)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        (images(DARK), images(TO_TENSOR, 1000)),
        (images(TO_TENSOR), images(DARK, 1000)),
        (images(FLIPPED), images(DARK, 1000)),
        (images(FLIPPED), Plain(images(TO_TENSOR, 1000))),
        (images(ERASED), images(TO_TENSOR, 1000)),
        (images(TO_TENSOR), images(FLIPPED, 1000)),
        (ConcatDataset([images(FLIPPED), Subset(images(ERASED, 500), range(40))]), images(DARK, 1000)),
        (Subset(images(FLIPPED), range(0, 90, 2)), Subset(images(TO_TENSOR), range(1, 90, 2))),
    ],
)
def test_both_sides_are_seen_through_the_transform_of_an_audit(tmp_path: Path, train: Any, held_out: Any) -> None:
    data = DataLoader(train, batch_size=20, shuffle=True), DataLoader(held_out, batch_size=20)
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor, max_epochs=1).fit(made(OfImages), *data)
    population = Population.of(data[0], nonmembers=data[1], train_transform="ignore")
    x_N = population.records(torch.arange(len(population)), torch.float32)
    found_N = torch.cat([seen(monitor.fitted.members), seen(monitor.fitted.nonmembers)])
    torch.testing.assert_close(found_N, x_N, rtol=1e-5, atol=1e-5)


def test_a_fixed_transform_that_is_not_that_of_the_held_out_records_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataLoader(images(DARK), batch_size=20), DataLoader(images(TO_TENSOR, 1000), batch_size=20)
    with caplog.at_level("INFO"):
        trainer(tmp_path, mia.LeakageMonitor(), max_epochs=1).fit(made(OfImages), *data)
    assert "transform of the held-out data" in caplog.text


def test_records_that_two_datasets_share_are_found_in_parts_of_them(tmp_path: Path) -> None:
    base, more = images(TO_TENSOR), images(TO_TENSOR, 500)
    train = ConcatDataset([Subset(base, range(50)), more])
    held_out = ConcatDataset([Subset(base, range(40, 90)), images(TO_TENSOR, 1000)])
    monitor = mia.LeakageMonitor()
    fit = trainer(tmp_path, monitor, num_sanity_val_steps=0).fit
    with pytest.raises(mia.InputError, match="10 of the 140 held-out records"):
        fit(made(OfImages), DataLoader(train, batch_size=20), DataLoader(held_out, batch_size=20))


class Mapped(Plain):
    """Items with several inputs, of which the second draws."""

    def __getitem__(self, i: int) -> Any:
        x, label = self.images[i]
        return {"labels": label, "x": x, "noise": torch.randn(2)}


def test_a_draw_anywhere_in_an_item_is_seen(tmp_path: Path) -> None:
    data = [DataLoader(Mapped(images(TO_TENSOR, offset)), batch_size=20) for offset in (0, 1000)]
    fit = trainer(tmp_path, mia.LeakageMonitor(), num_sanity_val_steps=0).fit
    with pytest.raises(mia.InputError, match=r"held-out dataset \(Mapped\).*`monitor.held_out_records`"):
        fit(made(OfImages), *data)
