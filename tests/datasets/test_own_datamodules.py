"""DataModules of three habits: the records are those of their own loaders, and what is said of them is so."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from own_projects import MEAN, STD, Digits, Pets, TemplateDigits, unpack_digits, write_digits, write_pets
from PIL import Image
from pytorch_lightning.trainer.states import TrainerFn, TrainerState
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    random_split,
)

import mia_lightning as mia
from mia_lightning.datasets.augmentation import Crop, Flip, augmented
from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated


def by_loader(loader: Any) -> tuple[Tensor, Tensor]:
    """All that a loader gives, in the order of its dataset: a slow loop."""
    with isolated(0, "a loader draws a seed for its workers"):
        batches = list(DataLoader(loader.dataset, batch_size=7))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


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


ONE = table(20)
SHARING: dict[str, tuple[Any, Any, Any, list[str]]] = {
    "one dataset": (ONE, ONE, None, ["training set", "validation set", "20 records"]),
    "parts that overlap": (
        Subset(ONE, range(12)),
        Subset(ONE, range(9, 20)),
        None,
        ["training set (`train_dataloader`)", "validation set (`val_dataloader`)", "3 records", "TensorDataset"],
    ),
    "nested": (
        ConcatDataset([table(5, 100), Subset(ONE, range(4, 20))]),
        Subset(Subset(ONE, [1, 5]), [1, -2]),
        None,
        ["training set", "validation set", "1 records"],
    ),
    "training records evaluated": (
        table(7, 100),
        [table(5, 200), ONE],
        Subset(ONE, [3, 4]),
        ["validation 1 set", "test set", "2 records"],
    ),
}


@pytest.mark.parametrize("case", SHARING)
def test_sets_with_records_in_common_are_refused(case: str) -> None:
    train, val, test, parts = SHARING[case]
    many = val if isinstance(val, list) else [val]
    loaders = [DataLoader(each) for each in many]
    module = Toy(DataLoader(train), loaders if isinstance(val, list) else loaders[0], test and DataLoader(test))
    with pytest.raises(InputError) as caught:
        Population.of(module)
    assert all(part in str(caught.value) for part in [*parts, "nonmembers"]), caught.value
    if test is not None:
        assert len(Population.of(module, nonmembers="test")) == 9


def test_parts_and_samplers_that_share_none_are_taken() -> None:
    halves = [SubsetRandomSampler(range(start, start + 10)) for start in (0, 10)]
    module = Toy(*(DataLoader(ONE, sampler=each) for each in halves), None)
    assert len(Population.of(module)) == 20
    with pytest.raises(InputError, match=r"training set and the held-out set \(`nonmembers`\) have 2 records"):
        Population.of(Subset(ONE, [1, 2, 3]), nonmembers=DataLoader(ONE, sampler=[2, 3, 4]))


class Forgetful(Toy):
    """A split that nobody has seeded."""

    def setup(self, stage: str) -> None:
        train, val = random_split(table(20), [12, 8])
        self.loaders = {"train": DataLoader(train), "val": DataLoader(val), "test": None}


@pytest.mark.usefixtures("global_generators")
def test_a_split_by_the_global_generator_is_doubted() -> None:
    assert "torch" in Population.of(Forgetful()).origin.doubt
    module = Forgetful()
    module.setup("fit")
    module.trainer = object()  # as after `fit`
    members = by_loader(module.train_dataloader())[0]
    population = Population.of(module, nonmembers="validation")
    assert population.origin.doubt is None
    assert torch.equal(population.x_N[:12], members)


class Dealing(Toy):
    """A split into three that nobody has seeded, of a dataset that is made once or at each call."""

    def __init__(self, is_new: bool, *, has_own_test: bool = False) -> None:
        super().__init__()
        self.rows, self.is_new, self.has_own_test = table(60), is_new, has_own_test

    def setup(self, stage: str) -> None:
        rows = table(60) if self.is_new else self.rows
        train, val, test = random_split(rows, [30, 10, 20])
        if self.has_own_test:
            test = table(20, 500)
        self.loaders.update(train=DataLoader(train), val=DataLoader(val), test=DataLoader(test))


def fitted(module: Any) -> Any:
    module.setup("fit")
    module.trainer = object()  # as after `fit`
    return module


@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize("is_new", [False, True])
def test_a_fitted_module_is_not_dealt_anew_for_its_test_set(is_new: bool) -> None:
    module = fitted(Dealing(is_new))
    members = by_loader(module.train_dataloader())[0]
    population = Population.of(module)
    assert torch.equal(population.x_N[population.member_N], members)
    assert torch.equal(by_loader(module.train_dataloader())[0], members)  # the user's own is as it was
    others = {tuple(x) for x in population.x_N[~population.member_N].tolist()}
    assert len(others) == 10
    assert not others & {tuple(x) for x in members.tolist()}
    (remark,) = (each for each in population.remarks if "left out" in each)
    assert all(word in remark for word in ("setup(stage='test')", "of 20 records", "left out"))
    with pytest.raises(InputError, match=r"dataset.nonmembers.*test.*Dealing.*of 20 records"):
        Population.of(module, nonmembers="test")


@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_split_that_the_trainer_has_dealt_anew_after_fit_is_doubted(stage: str) -> None:
    for module, is_doubted in ((Dealing(False), True), (Careful(), False)):
        fitted(module).trainer = SimpleNamespace(state=TrainerState(fn=TrainerFn(stage)))
        doubt = Population.of(module, nonmembers="validation").origin.doubt
        if stage == "fit" or not is_doubted:
            assert doubt is None
        else:
            assert f"setup(stage='{stage}')" in doubt
            assert "Dealing" in doubt


@pytest.mark.usefixtures("global_generators")
def test_the_test_set_of_a_fitted_module_is_taken_where_it_is_none_of_its_split() -> None:
    population = Population.of(fitted(Dealing(True, has_own_test=True)))
    assert population.x_N[40:, 0].tolist() == list(range(500, 540, 2))
    assert not any("left out" in each for each in population.remarks)


class Careful(Toy):
    """It sets a seed itself, and draws something that has no part in the split."""

    def setup(self, stage: str) -> None:
        torch.manual_seed(42)
        train, val = random_split(table(20), [12, 8])
        self.loaders = {"train": DataLoader(train), "val": DataLoader(val), "test": None}


class Shuffled(Careful):
    """The same places each time, with other records in them."""

    def setup(self, stage: str) -> None:
        rows = TensorDataset(torch.rand(12, 2), torch.arange(12) % 2)
        self.loaders = {"train": DataLoader(rows), "val": DataLoader(table(8)), "test": None}


class Uncopied(Careful):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("a lock")


@pytest.mark.usefixtures("global_generators")
def test_a_split_that_comes_out_the_same_is_not_doubted() -> None:
    module = Careful()
    assert Population.of(module).origin.doubt is None
    assert Population.of(Shuffled()).origin.doubt is not None
    assert Population.of(Uncopied()).origin.doubt is not None


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


def test_an_unknown_order_of_records_is_refused_unless_left_out() -> None:
    weighted = torch.utils.data.WeightedRandomSampler([1.0, 2.0, 3.0, 4.0], 4)
    few = RandomSampler(table(4), num_samples=2)
    batches = [[0, 1], [2, 3]]
    for options, named in (
        ({"sampler": weighted}, "WeightedRandomSampler"),
        ({"sampler": few}, "RandomSampler"),
        ({"batch_sampler": batches}, "list"),
    ):
        loader = DataLoader(table(4), **options)
        with pytest.raises(InputError, match=rf"training set.*{named}.*loading=ignore"):
            Population.of(Toy(loader, DataLoader(table(2)), []))
        population = Population.of(Toy(loader, DataLoader(table(2)), []), loading="ignore")
        assert (len(population), population.loading) == (6, None)
        assert len(Population.of(Toy(DataLoader(table(4)), loader, []))) == 8  # held-out records come once all the same


def test_samplers_of_known_order() -> None:
    some = torch.utils.data.SubsetRandomSampler([3, 0])
    population = Population.of(DataLoader(table(4), sampler=some, batch_size=2))
    assert population.x_N[:, 0].tolist() == [0, 6]
    assert population.loading == Loading(batch_size=2, shuffle=True, drop_last=False)
    population = Population.of(DataLoader(table(4), sampler=[3, 1, 2]))
    assert population.x_N[:, 0].tolist() == [6, 2, 4]
    assert not population.loading.shuffle
    batches = torch.utils.data.BatchSampler(RandomSampler(table(4)), 3, drop_last=True)
    population = Population.of(DataLoader(table(4), batch_sampler=batches))
    assert population.loading == Loading(batch_size=3, shuffle=True, drop_last=True)
    of_one = torch.utils.data.DistributedSampler(table(4), num_replicas=1, rank=0)
    assert Population.of(DataLoader(table(4), sampler=of_one)).loading.shuffle


def test_records_that_a_loader_never_gives_are_no_members() -> None:
    module = Toy(DataLoader(table(10), batch_size=4, drop_last=True), DataLoader(table(3, 100)), [])
    population = Population.of(module)
    given = torch.cat([x for x, _ in batches_of(module.train_dataloader())])
    assert torch.equal(population.x_N[population.member_N], given)
    assert len(population) == 8 + 3
    assert population.loading == Loading(batch_size=4, shuffle=False, drop_last=True)
    assert any("last 2 records" in remark and "drop_last" in remark for remark in population.remarks)
    module.loaders["train"] = DataLoader(table(10), batch_size=4, drop_last=True, shuffle=True)
    assert len(Population.of(module)) == 10 + 3  # each of them in some epochs
    module.loaders["train"] = DataLoader(table(10), batch_size=5, drop_last=True)
    assert Population.of(module).remarks == ()
    module.loaders["train"] = DataLoader(table(10), batch_size=16, drop_last=True)
    with pytest.raises(InputError, match=r"training set.*10 records.*batches of 16.*drop_last=False"):
        Population.of(module)


def batches_of(loader: Any) -> list[Any]:
    with isolated(0, "a loader draws a seed for its workers"):
        return list(loader)


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
