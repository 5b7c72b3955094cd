"""Batches and labels of many forms: a monitor takes them as an audit does, or says in a sentence what would help."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lit_project import Lit, loaders, made, records, trainer
from refused_fits import NeverTrains, refused
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import mia_lightning as mia


class Regression(Lit):
    def __init__(self) -> None:
        super().__init__(num_classes=1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    def labelled(label_N: Tensor) -> tuple[DataLoader, DataLoader]:
        x_N = records(200).tensors[0]
        return tuple(DataLoader(TensorDataset(x_N + i, label_N), batch_size=20) for i in range(2))

    numbers = torch.linspace(0, 5, 200)
    assert "one class from 0 to 1" in refused(tmp_path, *labelled(numbers), made(Regression))
    several = (torch.arange(600).reshape(200, 3) % 2).float()
    assert "monitor.answer" in refused(
        tmp_path,
        *labelled(several),
        module=made(NeverTrains, num_classes=3),
        limit_val_batches=1,
        num_sanity_val_steps=0,
    )
    too_large = torch.full((200,), 7)
    assert "from 0 to 2" in refused(tmp_path, *labelled(too_large), num_sanity_val_steps=0)


def test_one_hot_labels_are_classes(tmp_path: Path) -> None:
    def one_hot(dataset: TensorDataset) -> TensorDataset:
        return TensorDataset(dataset.tensors[0], nn.functional.one_hot(dataset.tensors[1], 3).float())

    looks = []
    for change in (lambda dataset: dataset, one_hot):
        monitor = mia.LeakageMonitor()
        data = [DataLoader(change(each.dataset), batch_size=20) for each in loaders()]
        torch.manual_seed(0)
        trainer(tmp_path, monitor).fit(made(), *data)
        looks.append(monitor.trace[-1].train_accuracy)
    assert looks[0] == pytest.approx(looks[1], abs=0.02)


def test_batches_and_modules_of_another_form_have_a_way_out(tmp_path: Path) -> None:
    def three(dataset: TensorDataset) -> TensorDataset:
        return TensorDataset(*dataset.tensors, torch.arange(len(dataset)))

    data = [DataLoader(three(each.dataset), batch_size=20) for each in loaders()]
    assert "of 3 parts" in refused(tmp_path, *data)
    monitor = mia.LeakageMonitor(answer=lambda module, batch: (module(batch[0]), batch[1]))
    trainer(tmp_path, monitor).fit(made(), *data)
    assert len(monitor.trace) == 3

    class Fails(NeverTrains):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such input")

    settings = {"num_sanity_val_steps": 0}
    assert "no such input" in refused(tmp_path, *loaders(), made(Fails), **settings)

    class Whole(NeverTrains):
        def forward(self, x: Tensor) -> Tensor:
            return x.long()

    assert "torch.int64" in refused(tmp_path, *loaders(), made(Whole), **settings)

    class Mean(NeverTrains):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).mean()

    assert "logits [B, C]" in refused(tmp_path, *loaders(), made(Mean), **settings)


class AsMapping(Dataset):
    def __init__(self, dataset: TensorDataset, names: tuple[str, ...] = ("x", "label")) -> None:
        self.dataset, self.names = dataset, names

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return dict(zip(self.names, self.dataset[i], strict=True))


class OfMapping(Lit):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch["x"]), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


def test_batches_that_are_mappings(tmp_path: Path) -> None:
    data = [DataLoader(AsMapping(each.dataset), batch_size=20) for each in loaders()]
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor).fit(made(OfMapping), *data)
    assert len(monitor.trace) == 3
    data = [DataLoader(AsMapping(each.dataset, ("x", "class_")), batch_size=20) for each in loaders()]
    assert "x, class_" in refused(tmp_path, *data, made(OfMapping))


def test_a_mapping_of_several_inputs_is_spread_over_the_forward(tmp_path: Path) -> None:
    class Scaled(Dataset):
        def __init__(self, dataset: TensorDataset) -> None:
            self.dataset = dataset

        def __len__(self) -> int:
            return len(self.dataset)

        def __getitem__(self, i: int) -> dict[str, Any]:
            x, label = self.dataset[i]
            return {"x": x, "scale": torch.tensor(2.0), "labels": label}

    class OfTwo(Lit):
        def forward(self, x: Tensor, scale: Tensor) -> Any:
            return x, self.net(x * scale[:, None])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch["x"], batch["scale"])[1], batch["labels"])

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    data = [DataLoader(Scaled(each.dataset), batch_size=20) for each in loaders()]
    monitor, module = mia.LeakageMonitor(), made(OfTwo)
    trainer(tmp_path, monitor).fit(module, *data)
    x_N, label_N = records(200).tensors
    accuracy = (module.eval().net(2 * x_N).argmax(1) == label_N).double().mean()
    assert monitor.trace[-1].train_accuracy == pytest.approx(float(accuracy))
