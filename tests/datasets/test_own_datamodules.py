"""DataModules of three habits: the records are those of their own loaders, and what is said of them is so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from own_projects import MEAN, STD, Digits, Pets, TemplateDigits, unpack_digits, write_digits, write_pets
from own_splits import Toy, by_loader, table
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset

import mia_lightning as mia
from mia_lightning.datasets.augmentation import Crop, Flip, augmented
from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError


def equals_its_loaders(population: Population, *loaders: Any) -> None:
    x_N, label_N = (torch.cat(each) for each in zip(*map(by_loader, loaders), strict=True))
    assert torch.equal(population.label_N, label_N)
    torch.testing.assert_close(population.records(torch.arange(len(population))), x_N, rtol=1e-6, atol=2e-6)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write_digits(tmp_path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


def test_the_habit_of_the_documentation(digits: Path) -> None:
    module = Digits(str(digits), batch_size=16, split=(45, 15))
    population = Population.of(module)
    assert module.calls == ["prepare_data", "setup fit", "setup test"]
    equals_its_loaders(population, module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    assert population.x_N.dtype == torch.uint8
    assert (population.name, population.num_classes, population.class_names[3]) == ("Digits", 10, "3 - three")
    assert population.member_N.tolist() == [True] * 45 + [False] * 35
    assert population.loading == Loading(batch_size=16, shuffle=True, drop_last=False)
    assert population.augment == ()
    assert [(part.source, part.num_records, part.is_training) for part in population.origin.parts] == [
        ("train_dataloader", 45, True),
        ("val_dataloader", 15, False),
        ("test_dataloader", 20, False),
    ]
    assert population.origin.doubt is None
    assert population.record_names[0] == "training/0"
    assert population.record_names[45:61:15] == ("validation/0", "test/0")


def test_the_habit_of_the_template(digits: Path) -> None:
    module = TemplateDigits(f"{digits}/", (50, 10, 20), batch_size=8)
    population = Population.of(module)
    equals_its_loaders(population, module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    assert population.x_N.dtype == torch.uint8
    assert population.member_N.sum() == 50
    assert population.loading == Loading(batch_size=8, shuffle=True, drop_last=False)


@pytest.mark.slow
@pytest.mark.parametrize("habit", [Digits, TemplateDigits])
def test_real_digits(habit: Any, shared_data: Path, tmp_path: Path) -> None:
    module = habit(str(unpack_digits(shared_data, tmp_path)))
    population = Population.of(module)
    assert len(population) == 70_000
    assert population.member_N.sum() == 55_000
    assert population.x_N.dtype == torch.uint8
    equals_its_loaders(population, module.train_dataloader(), module.val_dataloader(), module.test_dataloader())


def test_the_habit_of_folders(pets: Path) -> None:
    module = Pets(str(pets))
    population = Population.of(module)
    paths = [place / name for place in (pets / "train", pets / "val") for name in names_in(place)]
    bytes_N = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])).permute(0, 3, 1, 2)
    assert torch.equal(population.x_N, bytes_N)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    expected = (bytes_N.float() / 255 - mean) / std
    torch.testing.assert_close(population.records(torch.arange(18)), expected, rtol=1e-6, atol=2e-6)
    assert population.record_names == tuple(str(path.relative_to(pets)) for path in paths)
    assert population.class_names == ("ant", "bee", "cat")
    assert population.loading == Loading(batch_size=4, shuffle=True, drop_last=True)
    crop, flip = population.augment
    assert isinstance(crop, Crop)
    assert crop.padding == 2
    assert crop.fill == pytest.approx([-m / s for m, s in zip(MEAN, STD, strict=True)])  # black
    assert flip == Flip()


def names_in(folder: Path) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in sorted(folder.glob("*/*"))]


@pytest.mark.slow
@pytest.mark.usefixtures("global_generators")
def test_our_augmentation_makes_the_pictures_that_theirs_makes(pets: Path) -> None:
    """Of one picture, 25 crops times two sides: both draw from the same 50, and from no other."""
    module = Pets(str(pets))
    population = Population.of(module)
    torch.manual_seed(0)
    theirs = {form(module.train_set[3][0]) for _ in range(600)}
    draws = torch.arange(600)
    x = population.records(torch.tensor([3])).expand(1, 600, -1, -1, -1)
    ours = augmented(x, population.augment, key_K=torch.tensor([5]), step=0, index_KB=draws[None])[0]
    assert len(theirs) == 50
    assert {form(each) for each in ours} == theirs


def form(x: Tensor) -> bytes:
    return (x * 1e3).round().to(torch.int64).numpy().tobytes()


def test_lightning_of_the_other_name(digits: Path) -> None:
    base = type("LightningDataModule", (), {"__module__": "lightning.pytorch.core.datamodule", "trainer": None})
    hooks = {name: vars(Digits)[name] for name in vars(Digits) if name.endswith("loader") or name == "setup"}
    other = type("Other", (base,), {**hooks, "prepare_data": lambda self: None})()
    own = Digits(str(digits), split=(45, 15))
    vars(other).update(data_dir=own.data_dir, batch_size=4, split=(45, 15), transform=own.transform, calls=[])
    population = Population.of(other)
    assert population.name == "Other"
    assert torch.equal(population.x_N, Population.of(own).x_N)


def test_loaders_in_lists_and_dictionaries() -> None:
    many = {"a": DataLoader(table(4), batch_size=2), "b": [DataLoader(table(3, 50), batch_size=2)]}
    module = Toy(many, [DataLoader(table(2, 100)), DataLoader(table(2, 200))], DataLoader(table(2, 300)))
    population = Population.of(module)
    assert population.x_N[:, 0].tolist() == [0, 2, 4, 6, 50, 52, 54, 100, 102, 200, 202, 300, 302]
    assert [part.name for part in population.origin.parts] == [
        "training a set",
        "training b 0 set",
        "validation 0 set",
        "validation 1 set",
        "test set",
    ]
    assert population.loading == Loading(batch_size=2, shuffle=False, drop_last=False)
    many["a"] = DataLoader(table(4), batch_size=3)
    population = Population.of(module)
    assert population.loading is None
    assert any("batch sizes" in remark for remark in population.remarks)


def test_a_combination_of_loaders_of_lightning() -> None:
    from pytorch_lightning.utilities import CombinedLoader

    loaders = CombinedLoader({"a": DataLoader(table(4)), "b": DataLoader(table(3, 50))}, "max_size")
    assert len(Population.of(Toy(loaders, DataLoader(table(2, 100))))) == 9


def test_a_module_from_datasets() -> None:
    module = pl.LightningDataModule.from_datasets(table(6), table(4, 100), batch_size=3)
    population = Population.of(module)
    assert population.member_N.tolist() == [True] * 6 + [False] * 4
    assert population.loading == Loading(batch_size=3, shuffle=True, drop_last=False)


def test_which_sets_are_held_out_can_be_told() -> None:
    module = Toy(*(DataLoader(table(4, start)) for start in (0, 100, 200)))
    assert Population.of(module, nonmembers="test").x_N[4:, 0].tolist() == [200, 202, 204, 206]
    assert Population.of(module, nonmembers=["validation"]).x_N[4:, 0].tolist() == [100, 102, 104, 106]
    population = Population.of(module, nonmembers=[table(2, 300), DataLoader(table(1, 400))])
    assert population.x_N[4:, 0].tolist() == [300, 302, 400]
    assert [part.name for part in population.origin.parts] == ["training set", "held-out 0 set", "held-out 1 set"]


def test_a_set_in_sets_is_unwrapped() -> None:
    inner = ConcatDataset([table(4), Subset(table(6, 100), [5, -6, 2])])
    population = Population.of(Subset(Subset(inner, [6, 0, 4]), torch.tensor([2, 0, -2])))
    assert population.x_N[:, 0].tolist() == [110, 104, 0]
    assert population.origin is None
    assert population.member_N is None


REFUSED = [
    (Toy(), ["train_dataloader", "Toy"]),
    (Toy([]), ["train_dataloader", "Toy"]),
    (Toy(DataLoader(table(0))), ["no records"]),
    (Toy(DataLoader(table(4)), DataLoader(table(0))), ["validation set", "val_dataloader", "no records"]),
    (Toy(iter([1])), ["training set", "DataLoader"]),
    (Toy(DataLoader(table(4), batch_size=None)), ["batch_size=None"]),
    (pl.LightningDataModule(), ["LightningDataModule", "train_dataloader"]),
    (Toy, ["the class Toy", "Toy(...)"]),
]


@pytest.mark.parametrize(("module", "parts"), REFUSED)
def test_what_gives_no_records_is_refused(module: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Population.of(module)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_hooks_on_batches_are_refused_unless_left_out() -> None:
    class Kornia(Toy):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

    module = Kornia(DataLoader(table(4)), DataLoader(table(2)), [])
    with pytest.raises(InputError, match=r"Kornia.*on_after_batch_transfer.*loading=ignore"):
        Population.of(module)
    assert Population.of(module, loading="ignore").loading is None


def test_a_method_that_fails_is_named() -> None:
    class Broken(Toy):
        def setup(self, stage: str) -> None:
            raise FileNotFoundError("no file there")

    with pytest.raises(InputError, match=r"setup\(stage='fit'\).*Broken.*FileNotFoundError: no file there"):
        Population.of(Broken())

    class Refusing(Toy):
        def prepare_data(self) -> None:
            raise InputError("the sentence of a part of this package")

    with pytest.raises(InputError, match=r"^the sentence"):
        Population.of(Refusing())


def test_what_is_told_must_be_there() -> None:
    module = pl.LightningDataModule.from_datasets(table(4), table(2))
    with pytest.raises(InputError, match=r"dataset.nonmembers.*test.*LightningDataModule.*test_dataloader"):
        Population.of(module, nonmembers="test")
    with pytest.raises(InputError, match=r"dataset.nonmembers.*'train'"):
        Population.of(module, nonmembers="train")
    with pytest.raises(InputError, match=r"dataset.nonmembers.*'test'"):
        Population.of(table(4), nonmembers="test")
    with pytest.raises(InputError, match=r"dataset.nonmembers.*\[\].*no dataset"):
        Population.of(module, nonmembers=[])


def test_the_whole_way_from_python(digits: Path) -> None:
    module = TemplateDigits(f"{digits}/", (40, 20, 20), batch_size=8)
    options: dict[str, Any] = {
        "model": lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)),
        "shadow": mia.Real(count=2),
        "attacks": [mia.Loss()],
        "training": mia.Recipe(epochs=1, batch_size=10, optimizer=torch.optim.Adam),
        "trainer": mia.TrainerSettings(accelerator="cpu"),
    }
    report = mia.audit(module, **options)
    assert (report.dataset.num_records, report.membership.plan, report.membership.num_members) == (80, "disjoint", 20)
    assert [(each.source, each.num_records) for each in report.dataset.sets] == [
        ("train_dataloader", 40),
        ("val_dataloader", 20),
        ("test_dataloader", 20),
    ]
    assert any("one pool" in note and "train_dataloader" in note for note in report.notes)
    with torch.random.fork_rng():
        target = options["model"]()
    report = mia.audit(module, target=target, **options)
    assert report.membership.plan == "given"
    assert (report.membership.num_members, report.membership.num_nonmembers) == (40, 40)
    assert any("The members are the 40 records" in note and "test_dataloader" in note for note in report.notes)
    names = report.record_names
    assert [names[i] for i in report.scores.record[report.scores.is_member]] == [f"training/{i}" for i in range(40)]
