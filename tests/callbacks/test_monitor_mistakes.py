"""What people get wrong with a monitor: one sentence before anything is trained, and what needs none is taken."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lit_project import Lit, loaders, made, records, trainer
from quick import slow_but
from refused_fits import NeverTrains, Unvalidated, plain, refused
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)
from torchvision import transforms
from torchvision.datasets import FakeData

import mia_lightning as mia
from mia_lightning.callbacks.records import records_of_loader
from mia_lightning.callbacks.sides import sides_of


def test_no_held_out_records(tmp_path: Path) -> None:
    train, held_out = loaders()
    assert "monitor.held_out_records" in refused(tmp_path, train, None, made(Unvalidated))
    assert "limit_val_batches" in refused(tmp_path, train, held_out, limit_val_batches=0)


def test_given_held_out_records_stand_in(tmp_path: Path) -> None:
    monitor = mia.LeakageMonitor(held_out_records=records(150, "held-out"))
    trainer(tmp_path, monitor).fit(made(Unvalidated), loaders()[0])
    assert [look.num_nonmembers for look in monitor.trace] == [150, 150, 150]


def test_a_validation_that_comes_later_gives_its_records_from_the_first_epoch(tmp_path: Path) -> None:
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor, check_val_every_n_epoch=3, num_sanity_val_steps=0).fit(made(), *loaders())
    assert len(monitor.trace) == 3


class Stream(IterableDataset):
    def __init__(self, dataset: TensorDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        return iter([self.dataset[i] for i in range(len(self.dataset))])


def test_an_iterable_dataset(tmp_path: Path) -> None:
    stream, (train, held_out) = DataLoader(Stream(records(200)), batch_size=20), loaders()
    assert "monitor.train_records" in refused(tmp_path, stream, held_out)
    assert "monitor.held_out_records" in refused(tmp_path, train, stream)
    monitor = mia.LeakageMonitor(train_records=records(200))
    trainer(tmp_path, monitor).fit(made(), stream, held_out)
    assert monitor.trace[-1].num_members == 200


def test_a_loader_of_another_kind(tmp_path: Path) -> None:
    batches = [tuple(each) for each in loaders()[0]]
    assert "a list, not a torch.utils.data.DataLoader" in refused(tmp_path, batches, loaders()[1])
    both = {"a": loaders()[0], "b": loaders()[0]}
    assert "monitor.train_records" in refused(tmp_path, both, loaders()[1])


class Odd(Sampler[int]):
    """Draws every other record, and does not say so."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Any:
        return iter(range(0, self.count, 2))

    def __len__(self) -> int:
        return self.count // 2


def test_a_sampler_says_which_records_are_members_or_is_refused(tmp_path: Path) -> None:
    dataset = records(300)
    train = DataLoader(dataset, batch_size=20, sampler=SubsetRandomSampler(range(200)))
    held_out = DataLoader(dataset, batch_size=20, sampler=SubsetRandomSampler(range(200, 300)))
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor).fit(made(), train, held_out)
    assert monitor.fitted.members.index_N.tolist() == list(range(200))
    assert monitor.fitted.nonmembers.index_N.tolist() == list(range(200, 300))
    weights = torch.cat([torch.ones(200), torch.zeros(100)])
    weighted = DataLoader(dataset, batch_size=20, sampler=WeightedRandomSampler(weights, 200))
    with pytest.warns(UserWarning, match="order of chance"):
        trainer(tmp_path, monitor).fit(made(), weighted, held_out)
    assert monitor.fitted.members.index_N.tolist() == list(range(200))
    assert "Odd" in refused(tmp_path, DataLoader(dataset, batch_size=20, sampler=Odd(300)), held_out)


class Batches:
    """Batches of some records, in an order of chance, of which nothing else is known."""

    def __init__(self, count: int, size: int = 20) -> None:
        self.count, self.size = count, size
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self) -> Any:
        return iter(torch.randperm(self.count, generator=self.generator).split(self.size))


def test_a_sampler_of_batches_says_which_records_are_members_or_is_refused(tmp_path: Path) -> None:
    dataset, (_, held_out) = records(300), loaders()
    assert "200 of 300 records by a Batches" in refused(
        tmp_path, DataLoader(dataset, batch_sampler=Batches(200)), held_out
    )
    fixed = [list(range(start, start + 20)) for start in range(0, 200, 20)]
    assert "200 of 300 records by a list" in refused(tmp_path, DataLoader(dataset, batch_sampler=fixed), held_out)
    assert "15 of 300 records by a list" in refused(tmp_path, DataLoader(dataset, sampler=[*Odd(30)] * 20), held_out)
    with pytest.MonkeyPatch.context() as patched:  # each of two processes has a half
        patched.setattr(torch.distributed, "is_initialized", lambda: True)
        patched.setattr(torch.distributed, "get_world_size", lambda: 2)
        halves = DataLoader(dataset, batch_sampler=fixed)
        found = records_of_loader(halves, name="training", setting="monitor.train_records")
    assert len(found) == 300
    weighs = Odd(300)
    weighs.weights = torch.tensor([1.0, 2.0, 1.0])  # of the classes
    assert "150 of 300 records by a Odd" in refused(tmp_path, DataLoader(dataset, sampler=weighs), held_out)
    batches, monitor = Batches(300, size=150), mia.LeakageMonitor()
    trainer(tmp_path, monitor, max_epochs=1).fit(made(), DataLoader(dataset, batch_sampler=batches), held_out)
    assert monitor.fitted.members.index_N.tolist() == list(range(300))


@pytest.mark.costly
@pytest.mark.parametrize("cut", [{"limit_train_batches": 3}, {"overfit_batches": 3}])
def test_records_that_are_not_trained_on_are_no_members_or_it_is_said(tmp_path: Path, cut: dict[str, int]) -> None:
    train, held_out = loaders()
    monitor = mia.LeakageMonitor(held_out_records=held_out.dataset)
    fit = trainer(tmp_path, monitor, **cut).fit
    if "overfit_batches" in cut:  # Lightning takes the records in order
        with pytest.warns(UserWarning, match="sequential|shuffl"):
            fit(made(), train, held_out)
        assert monitor.fitted.members.index_N.tolist() == list(range(60))
    else:
        with pytest.warns(UserWarning, match="give `monitor.train_records` those"):
            fit(made(), train, held_out)
    some = DataLoader(train.dataset, batch_size=20, sampler=RandomSampler(train.dataset, num_samples=60))
    if "overfit_batches" not in cut:
        with pytest.warns(UserWarning, match="understated"):
            trainer(tmp_path, monitor).fit(made(), some, held_out)


def test_training_records_that_are_the_held_out_ones(tmp_path: Path) -> None:
    train, _ = loaders()
    assert "200 of the 200" in refused(tmp_path, train, DataLoader(train.dataset, batch_size=20))
    first, _ = random_split(train.dataset, [150, 50], generator=torch.Generator().manual_seed(0))
    second = Subset(train.dataset, first.indices[:30] + [i for i in range(200) if i not in first.indices])
    loaders_ = DataLoader(first, batch_size=20, shuffle=True), DataLoader(second, batch_size=20)
    assert "30 of the 80" in refused(tmp_path, *loaders_)


def test_equal_records_on_both_sides_are_said(tmp_path: Path) -> None:
    train, _ = loaders()
    x_N, label_N = train.dataset.tensors
    copies = TensorDataset(torch.cat([x_N[:50], x_N[:50] + 1]), torch.cat([label_N[:50], label_N[:50]]))
    with pytest.warns(UserWarning, match="50 of 100 held-out records"):
        trainer(tmp_path, mia.LeakageMonitor(), max_epochs=1).fit(made(), train, DataLoader(copies, batch_size=20))


def test_too_few_records(tmp_path: Path) -> None:
    train, _ = loaders()
    assert "1 records" in refused(tmp_path, train, DataLoader(records(1, "held-out"), batch_size=1))


def test_fewer_records_than_asked_for_are_all_taken_and_a_rate_that_needs_more_is_left_out(tmp_path: Path) -> None:
    class Sees(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.names = set(trainer.callback_metrics)

    monitor, sees = mia.LeakageMonitor(members=5000, nonmembers=5000), Sees()
    trainer(tmp_path, monitor, sees).fit(made(), *loaders(held_out=99))
    look = monitor.trace[-1]
    assert (look.num_members, look.num_nonmembers, look.tpr) == (200, 99, None)
    assert "leakage/loss/auc" in sees.names
    assert "leakage/loss/tpr_at_fpr_0.01" not in sees.names


def test_one_class_alone(tmp_path: Path) -> None:
    def of_one(dataset: TensorDataset) -> TensorDataset:
        return TensorDataset(dataset.tensors[0], torch.ones(len(dataset), dtype=torch.int64))

    data = [DataLoader(of_one(each.dataset), batch_size=20) for each in loaders()]
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor).fit(made(), *data)
    look = monitor.trace[-1]
    assert (look.exposed_class, look.exposed_auc) == (1, look.auc)
    assert look.exposed_low == look.auc_low


class Flipped(Dataset):
    """Records whose signs a coin turns; or, without a transform, as they are."""

    def __init__(self, dataset: TensorDataset, transform: Any) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x, label = self.dataset[i]
        return self.transform(x), label


def flip(x: Tensor) -> Tensor:
    return x if torch.rand(()) < 0.5 else -x


@pytest.mark.costly
@pytest.mark.parametrize("wrapped", [False, True])
def test_augmentation_is_left_out_where_the_validation_set_shows_how(tmp_path: Path, wrapped: bool) -> None:
    train: Any = Flipped(records(200), flip)
    held_out: Any = Flipped(records(150, "held-out"), plain)
    if wrapped:
        train, held_out = Subset(train, range(180)), Subset(held_out, range(120))
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor).fit(
        made(), DataLoader(train, batch_size=20, shuffle=True), DataLoader(held_out, batch_size=50)
    )
    members = monitor.fitted.members
    x_B = torch.cat([members.batch(place)[0] for place in range(members.num_batches)])
    assert torch.equal(x_B, records(200).tensors[0][: len(members)])
    augmented = train.dataset if wrapped else train
    assert augmented.transform is flip


class OfImages(Lit):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1)[:, :8])


@pytest.mark.costly
@pytest.mark.parametrize("split", slow_but([True], [False, True]))
def test_datasets_of_torchvision_with_random_transforms(tmp_path: Path, split: bool) -> None:
    """As people write them: one dataset twice, with and without augmentation, or a random split of both."""
    crop, to_tensor = transforms.RandomCrop(16, padding=4), transforms.ToTensor()
    settings = {"size": 90, "image_size": (3, 16, 16), "num_classes": 3}
    train = FakeData(transform=transforms.Compose([crop, to_tensor]), **settings)
    held_out = FakeData(transform=to_tensor, **settings, random_offset=0 if split else 1000)
    parts = (Subset(train, range(60)), Subset(held_out, range(60, 90))) if split else (train, held_out)
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor).fit(
        made(OfImages), DataLoader(parts[0], batch_size=20, shuffle=True), DataLoader(parts[1], batch_size=20)
    )
    members = monitor.fitted.members
    assert len(members) == len(parts[0])
    plain_images = FakeData(transform=to_tensor, **settings)
    x_B = torch.cat([members.batch(place)[0] for place in range(members.num_batches)])
    assert torch.equal(x_B, torch.stack([plain_images[i][0] for i in range(len(members))]))
    assert train.transform is not to_tensor


class Uncollated(Dataset):
    """Items that no ordinary collation takes."""

    def __init__(self, dataset: TensorDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, object]:
        return *self.dataset[i], object()


def mixed(items: list[Any]) -> Any:
    items = [item[:2] for item in items]
    x_B, label_B = default_collate(items)
    share = torch.rand(())
    return share * x_B + (1 - share) * x_B.roll(1, 0), label_B


def test_records_that_the_collation_mixes_are_taken_as_the_held_out_ones_are(tmp_path: Path) -> None:
    train = DataLoader(records(200), batch_size=20, shuffle=True, collate_fn=mixed)
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor).fit(made(), train, loaders()[1])
    members = monitor.fitted.members
    assert members.collate is default_collate
    assert torch.equal(members.batch(0)[0], records(200).tensors[0][:20])
    given = mia.LeakageMonitor(train_records=records(200), held_out_records=records(150, "held-out"))
    trainer(tmp_path, given).fit(made(Unvalidated), train)
    assert given.fitted.members.collate is given.fitted.nonmembers.collate is default_collate
    both = DataLoader(Uncollated(records(150, "held-out")), batch_size=20, collate_fn=mixed)
    assert "`collate_fn`" in refused(tmp_path, train, both)


def test_augmentation_that_cannot_be_left_out(tmp_path: Path) -> None:
    train, held_out = DataLoader(Flipped(records(200), flip), batch_size=20), loaders()[1]
    assert "monitor.train_records" in refused(tmp_path, train, held_out)
    shaken = DataLoader(Flipped(records(150, "held-out"), flip), batch_size=20)
    assert "monitor.held_out_records" in refused(tmp_path, loaders()[0], shaken)
    assert "monitor.held_out_records" in refused(tmp_path, train, shaken)
    given = {"train_records": Flipped(records(200), flip)}
    assert "monitor.train_records" in refused(tmp_path, train, held_out, monitor=given)


class OnDevice(pl.LightningDataModule):
    """Augments batches in training after they have reached the device, as kornia's users do."""

    def train_dataloader(self) -> DataLoader:
        return loaders()[0]

    def val_dataloader(self) -> DataLoader:
        return loaders()[1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (batch[0] * 0, batch[1]) if self.trainer.training else batch


def test_hooks_that_augment_batches_in_training_leave_the_monitor_alone(tmp_path: Path) -> None:
    monitor, module = mia.LeakageMonitor(), made()
    trainer(tmp_path, monitor).fit(module, datamodule=OnDevice())
    assert isinstance(monitor.fitted.datamodule, OnDevice)
    module.eval()
    x_N, label_N = records(200).tensors
    with torch.no_grad():
        accuracy = (module(x_N).argmax(1) == label_N).double().mean()
    assert monitor.trace[-1].train_accuracy == pytest.approx(float(accuracy))


def test_an_average_of_weights_is_refused_beside_a_limit_and_warned_of_beside_a_monitor(tmp_path: Path) -> None:
    class EMACallback(pl.Callback):
        """As many projects have one."""

    settings = {"num_sanity_val_steps": 0, "enable_checkpointing": True}
    for average in (
        pl.callbacks.StochasticWeightAveraging(swa_lrs=1e-2),
        pl.callbacks.WeightAveraging(),
        EMACallback(),
    ):
        fit = trainer(tmp_path, mia.LeakageMonitor(), mia.BestWithin(auc=0.9), average, **settings)
        name = type(average).__name__
        with pytest.raises(mia.InputError, match=f"{name}.*average of weights.*BestWithin"):
            fit.fit(made(NeverTrains), *loaders())
        limited = trainer(tmp_path, mia.LeakageMonitor(), mia.LeakageLimit(auc=0.9), average, **settings)
        with pytest.raises(mia.InputError, match=f"{name}.*average of weights.*LeakageLimit"):
            limited.fit(made(NeverTrains), *loaders())
    with pytest.warns(UserWarning, match="EMACallback.*average of weights"):
        trainer(tmp_path, mia.LeakageMonitor(), EMACallback(), max_epochs=1).fit(made(), *loaders())


def test_two_monitors_of_one_prefix(tmp_path: Path) -> None:
    twice = trainer(tmp_path, mia.LeakageMonitor(), mia.LeakageMonitor(members=10), num_sanity_val_steps=0)
    with pytest.raises(mia.InputError, match=r"prefix 'leakage'.*LeakageMonitor\(prefix="):
        twice.fit(made(NeverTrains), *loaders())
    first, second = mia.LeakageMonitor(), mia.LeakageMonitor(members=10, prefix="few")

    class Sees(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}

    sees = Sees()
    trainer(tmp_path, first, second, sees).fit(made(), *loaders())
    assert sees.metrics["target/train_accuracy"] == pytest.approx(first.trace[-1].train_accuracy)
    assert sees.metrics["few/target/train_accuracy"] == pytest.approx(second.trace[-1].train_accuracy)
    assert sees.metrics["few/loss/auc"] == pytest.approx(second.trace[-1].auc)


class Plateau(Lit):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


@pytest.mark.costly
@pytest.mark.parametrize(
    ("callback", "cls", "named"),
    [
        (pl.callbacks.EarlyStopping("val_loss"), Lit, "EarlyStopping by val_loss"),
        (pl.callbacks.ModelCheckpoint(monitor="val_loss"), Lit, "ModelCheckpoint by val_loss"),
        (mia.BestWithin(auc=0.9), Lit, "BestWithin by val_loss"),
        (None, Plateau, "ReduceLROnPlateau by val_loss"),
    ],
)
def test_held_out_records_that_also_make_choices_are_said(tmp_path: Path, callback: Any, cls: Any, named: str) -> None:
    others = [] if callback is None else [callback]
    settings = {"enable_checkpointing": named.startswith(("Model", "Best"))}
    with pytest.warns(UserWarning, match=f"{named}.*`monitor.held_out_records`"):
        trainer(tmp_path, mia.LeakageMonitor(), *others, **settings).fit(made(cls), *loaders())
    given = mia.LeakageMonitor(held_out_records=records(150, "others"))  # no warning: those are errors here
    trainer(tmp_path, given, *others, **settings).fit(made(cls), *loaders())


def test_choices_by_other_metrics_are_no_matter(tmp_path: Path) -> None:
    class Logs(Lit):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("train_loss", loss, on_epoch=True)
            return loss

    stops = [pl.callbacks.EarlyStopping(name) for name in ("train_loss", "leakage/loss/auc")]
    trainer(tmp_path, mia.LeakageMonitor(), *stops).fit(made(Logs), *loaders())


@pytest.mark.costly
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_fit_that_ends_within_its_first_epoch_is_said_and_a_last_batch_that_is_dropped_is_not(
    tmp_path: Path, drop_last: bool
) -> None:
    train = DataLoader(records(205), batch_size=20, shuffle=True, drop_last=drop_last)
    trainer(tmp_path, mia.LeakageMonitor()).fit(made(), train, loaders()[1])  # no warning: those are errors here
    with pytest.warns(UserWarning, match="takes 5 batches an epoch of 205 training records"):
        trainer(tmp_path, mia.LeakageMonitor(), max_steps=5).fit(made(), train, loaders()[1])


def test_a_strategy_that_trains_in_other_processes_is_said() -> None:
    strategy = SimpleNamespace(launcher=SimpleNamespace(_start_method="spawn"))
    with pytest.warns(UserWarning, match="use strategy=ddp"):
        mia.LeakageMonitor().setup(SimpleNamespace(strategy=strategy, current_epoch=0), None, "fit")


def test_a_strategy_that_spreads_a_model_over_devices() -> None:
    class FSDPStrategy: ...

    with pytest.raises(mia.InputError, match="strategy=FSDPStrategy"):
        sides_of(mia.LeakageMonitor(), SimpleNamespace(strategy=FSDPStrategy()))
