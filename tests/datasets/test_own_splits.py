"""The split of a user's DataModule: which records are members, and where that is not known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from own_splits import Toy, by_loader, table
from pytorch_lightning.trainer.states import TrainerFn, TrainerState
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    random_split,
)

from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated

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


class Batches:
    """Pairs of some records, in an order of chance; it counts its passes, and has no length."""

    def __init__(self, some: list[int], drop_last: bool = False) -> None:
        self.some, self.drop_last, self.epoch = some, drop_last, 0
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self) -> Any:
        self.epoch += 1
        order = torch.randperm(len(self.some), generator=self.generator).tolist()
        self.some = [self.some[i] for i in order]
        for start in range(0, len(order) - self.drop_last * (len(order) % 2), 2):
            yield self.some[start : start + 2]


def test_records_that_a_sampler_never_gives_are_no_members() -> None:
    held_out = DataLoader(table(3, 100))
    weighted = torch.utils.data.WeightedRandomSampler([0.0, 2.0, 0.0, 4.0, 1.0, 0.0], 60)
    own = Batches([1, 3, 4])
    for options, name in (
        ({"sampler": weighted, "batch_size": 4, "drop_last": True}, "WeightedRandomSampler"),
        ({"batch_sampler": own}, "Batches"),
        ({"batch_sampler": Batches([1, 3, 4], drop_last=True)}, "Batches"),
        ({"batch_sampler": [[1, 3], [4, 3]]}, "list"),
        ({"sampler": [1, 3, 4, 3]}, "list"),
    ):
        module = Toy(DataLoader(table(6), **options), held_out, [])
        population = Population.of(module, loading="ignore")
        assert population.x_N[population.member_N, 0].tolist() == [2, 6, 8], name
        said = [each for each in population.remarks if name in each]
        assert any("3 of its records" in each for each in said), said
        assert any("loading" in each for each in said), said
    assert own.epoch == 0
    assert own.some == [1, 3, 4]
    assert torch.equal(own.generator.get_state(), torch.Generator().manual_seed(0).get_state())


def test_weights_of_classes_are_no_weights_of_records() -> None:
    class Own(torch.utils.data.Sampler[int]):
        weights = torch.tensor([1.0, 0.0])

        def __iter__(self) -> Any:
            return iter([5, 1, 2, 2])

    population = Population.of(DataLoader(table(6), sampler=Own()), loading="ignore")
    assert population.x_N[:, 0].tolist() == [2, 4, 10]


class Endless(torch.utils.data.Sampler[int]):
    def __iter__(self) -> Any:
        while True:
            yield from torch.randperm(6).tolist()


def test_a_sampler_without_an_end_is_told_from_one_that_gives_each_record_once() -> None:
    loader = DataLoader(table(6), sampler=Endless(), batch_size=2)
    with pytest.raises(InputError, match="Endless, which does not give each record once"):
        Population.of(loader)
    assert len(Population.of(loader, loading="ignore")) == 6


def test_what_is_left_out_of_a_loader_is_said() -> None:
    def turned(items: list[Any]) -> Any:
        x, y = torch.utils.data.default_collate(items)
        return x.flip(0), y

    population = Population.of(DataLoader(table(4), batch_size=2, collate_fn=turned), loading="ignore")
    assert any("loading" in remark and "turned" in remark for remark in population.remarks)
    assert Population.of(DataLoader(table(4), batch_size=2, shuffle=True), loading="ignore").remarks == ()


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
