"""Training transforms of which a record keeps too little, so that it is taken from its dataset again for each step."""

import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from own_projects import MEAN, STD
from PIL import Image
from quick import quick_audit
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision.transforms import v2
from training_jobs import job_of

import mia_lightning as mia
from mia_lightning.datasets.augmentation import augmented
from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.run.preparation import engine_of, prepare
from mia_lightning.seeds import counter_hash, derive, isolated
from mia_lightning.store.artefacts import Store
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.kept import KeptModels
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

N, M = 24, 12  # records of the training set, and of the held-out one
LAST = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
TRAIN = v2.Compose([v2.PILToTensor(), v2.RandomResizedCrop(8, antialias=True), v2.RandomHorizontalFlip(), *LAST])
EVAL = v2.Compose([v2.PILToTensor(), v2.Resize((8, 8), antialias=True), *LAST])


class Pictures(Dataset[Any]):
    """Pictures of 14 x 11 pixels in three classes."""

    classes = ("a", "b", "c")

    def __init__(self, length: int, transform: Any, *, seed: int = 0) -> None:
        self.pixels = np.random.default_rng(seed).integers(0, 256, (length, 14, 11, 3), dtype=np.uint8)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def label(self, index: int) -> int:
        return index % 3

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = Image.fromarray(self.pixels[index])
        return (picture if self.transform is None else self.transform(picture)), self.label(index)


class Others(Pictures):
    """Another class."""


class Drawing(Pictures):
    """Without an attribute `transform`: pictures are changed in the dataset itself."""

    def __init__(self, length: int) -> None:
        super().__init__(length, None)
        del self.transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return TRAIN(Image.fromarray(self.pixels[index])), self.label(index)


class Data(pl.LightningDataModule):
    def __init__(self, train: Any = TRAIN) -> None:
        super().__init__()
        self.train, self.val = Pictures(N, train), Pictures(M, EVAL, seed=1)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=5, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=5)


def item(n: int, draw: int) -> Tensor:
    """Record n of the pooled sets by the datasets themselves, with the global generators seeded."""
    own = Pictures(N, TRAIN) if n < N else Pictures(M, TRAIN, seed=1)
    with isolated(0, "an item"):
        torch.manual_seed(draw % 2**63)
        np.random.seed(draw % 2**32)
        random.seed(draw)
        made: Tensor = own[n % N][0]
    return made


def hashed(key: int, step: int, n: int) -> int:
    return int(counter_hash(torch.tensor(key), derive(0, "augmentation"), 0, step, n))


INDEX_KB = torch.tensor([[3, 8, 3, N + 2], [8, 1, N, 2]])
KEY_K = torch.tensor([11, 12])


def changed(population: Population, rows: Any = slice(None), columns: Any = slice(None), step: int = 5) -> Tensor:
    index_KB = INDEX_KB[rows][:, columns]
    x = population.records(index_KB)
    assert isinstance(x, Tensor)
    return augmented(x, population.augment, key_K=KEY_K[rows], step=step, index_KB=index_KB)


@pytest.mark.usefixtures("global_generators")
def test_the_records_of_a_step_are_items_of_the_datasets_themselves() -> None:
    population = Population.of(Data())
    (each,) = population.augment
    assert "RandomResizedCrop" in repr(each)
    fixed = torch.stack([*(Pictures(N, EVAL)[i][0] for i in range(N)), *(Data().val[i][0] for i in range(M))])
    torch.testing.assert_close(population.records(torch.arange(N + M)), fixed, rtol=1e-5, atol=1e-5)
    found = changed(population)
    for k, numbers in enumerate(INDEX_KB.tolist()):
        for b, n in enumerate(numbers):
            assert torch.equal(found[k, b], item(n, hashed(int(KEY_K[k]), 5, n)))
    assert torch.equal(found[0, 0], found[0, 2])  # one record of one model in one step
    assert not torch.equal(found[0, 1], found[1, 0])  # of two models
    assert not torch.equal(found, changed(population, step=6))


def test_they_depend_on_no_other_model_or_record() -> None:
    population = Population.of(Data())
    whole, order = changed(population), [2, 0, 3]
    assert torch.equal(changed(population, slice(1, 2), order), whole[1:2, order])
    handed_over = replace(population, augment=pickle.loads(pickle.dumps(population.augment)))  # to another process
    assert torch.equal(changed(handed_over), whole)


def test_a_subset_and_held_out_records_of_one_dataset() -> None:
    train, fixed = Pictures(N, TRAIN), Pictures(N, EVAL)
    some, others = Subset(train, [7, 3, 9]), Subset(train, [1, 2])
    population = Population.of(some, nonmembers=others, eval_dataset=fixed)
    (each,) = population.augment
    x, draw_KB, index_KB = torch.zeros(1, 5, 3, 8, 8), torch.arange(5)[None], torch.arange(5)[None]
    found = each.apply(x, draw_KB, index_KB)  # type: ignore[call-arg]
    expected = [item(n, draw) for draw, n in enumerate([7, 3, 9, 1, 2])]
    assert torch.equal(found[0], torch.stack(expected))
    alone = Population.of(Drawing(N), eval_dataset=fixed)  # nothing is put in its place
    assert torch.equal(alone.augment[0].apply(x, draw_KB, index_KB)[0, 4], item(4, 4))  # type: ignore[call-arg]


class ByName(Pictures):
    """The transform is given the picture by name, and gives it back so."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(image=Image.fromarray(self.pixels[index]))["image"], self.label(index)


def trained_on(image: Any) -> dict[str, Any]:
    return {"image": TRAIN(image)}


def looked_at(image: Any) -> dict[str, Any]:
    return {"image": EVAL(image)}


def together(items: list[Any]) -> Any:
    return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])


def test_transforms_that_take_pictures_by_name_and_loaders_with_a_collate_fn() -> None:
    expected = changed(Population.of(Data()))
    named = Population.of(
        ByName(N, trained_on), nonmembers=ByName(M, looked_at, seed=1), eval_dataset=ByName(N, looked_at)
    )
    assert torch.equal(changed(named), expected)
    train = DataLoader(Pictures(N, TRAIN), batch_size=5, collate_fn=together)
    assert torch.equal(changed(Population.of(train, nonmembers=Data().val)), expected)


def test_sets_with_one_transform_are_taken_together() -> None:
    both = ConcatDataset([Pictures(N, TRAIN), Pictures(M, TRAIN, seed=1)])
    val = Pictures(2, EVAL, seed=2)
    assert torch.equal(changed(Population.of(both, nonmembers=val)), changed(Population.of(Data())))
    mixed = ConcatDataset([Pictures(N, TRAIN), Pictures(M, v2.Compose(TRAIN.transforms), seed=1)])
    refused(mixed, "different random transforms", "train_transform=ignore", nonmembers=val)


# Training

NETWORK = partial(CNN, channels=[2], hidden=4, kernel_size=3)
RECIPE = Recipe(epochs=2, batch_size=7, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))
RECORDS = [torch.arange(0, N + M, 2), torch.arange(1, N + M, 2)]  # of both sets, as under membership=halves


def engine_and_job(
    population: Population, models: Sequence[int] = (0, 1), *, store: Store | None = None, **changes: Any
) -> Any:
    engine = Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision="64"))
    engine = engine if store is None else replace(engine, store=store)
    recipe = replace(RECIPE, augment=population.augment, **changes)
    make = bind_shapes(NETWORK, population.input_shape, 3)
    return engine, job_of(
        engine, make, population, [RECORDS[k] for k in models], recipe, role="shadow", models=models, keep=True
    )


def state(population: Population, **options: Any) -> dict[str, Tensor]:
    engine, job = engine_and_job(population, **options)
    return dict(engine.run(job).stack.networks.state_dict())


def by_hand(population: Population, k: int) -> nn.Module:
    """An ordinary training on the datasets' own items."""
    with isolated(7, "shadow", k, "initialisation"):
        network: nn.Module = bind_shapes(NETWORK, population.input_shape, 3)().double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    key = derive(7, "shadow", k, "order")
    batches = StackBatches([RECORDS[k]], torch.tensor([key]), batches_per_epoch=3)
    for epoch in range(2):
        batches.set_epoch(epoch)
        for number, (index_KB, _) in enumerate(batches):
            numbers = index_KB[0].tolist()
            x_B = torch.stack([item(n, hashed(key, 3 * epoch + number, n)) for n in numbers]).double()
            loss = nn.functional.cross_entropy(network(x_B), torch.tensor([n % N % 3 for n in numbers]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@pytest.mark.slow
def test_a_loop_over_the_datasets_gives_the_same_networks() -> None:
    population = Population.of(Data())
    together = state(population, execution="stack")
    for k in range(2):
        for name, tensor in by_hand(population, k).state_dict().items():
            torch.testing.assert_close(together[name][k], tensor, rtol=1e-8, atol=1e-8)
    for other in ({"execution": "loop"}, {"execution": "stack", "chunk": 1}):
        torch.testing.assert_close(state(population, **other), together, rtol=1e-8, atol=1e-8)
    (alone,) = (state(population, models=[1], execution="stack"),)
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor[0], together[name][1], rtol=1e-8, atol=1e-8)
    unchanged = state(replace(population, augment=()), execution="stack")
    assert not all(torch.allclose(unchanged[name], tensor, rtol=1e-3) for name, tensor in together.items())


def test_models_come_back_from_the_store_by_their_transform(tmp_path: Path) -> None:
    store = Store(dir=tmp_path)
    engine, job = engine_and_job(Population.of(Data()), store=store)
    first = engine.run(job).stack.state()
    again, same = engine_and_job(Population.of(Data()), store=store)
    torch.testing.assert_close(again.run(same).stack.state(), first, rtol=0, atol=0)
    assert (again.reused["shadow"].found, again.reused["shadow"].trained) == (2, 0)
    wider = v2.Compose([v2.PILToTensor(), v2.RandomResizedCrop(8, scale=(0.5, 1.0), antialias=True), *LAST])
    engine, other = engine_and_job(Population.of(Data(wider)))
    assert KeptModels.of(store, other, engine.settings).num_found() == 0
    assert KeptModels.of(store, same, engine.settings).num_found() == 2


def test_an_audit_under_halves_says_how_records_are_changed() -> None:
    audit = mia.Audit(Data(), **quick_audit(membership=mia.Halves(), shadow=mia.Real(count=2)))
    stages = Stages()
    setup = prepare(engine_of(audit, stages), audit)
    assert bool(setup.membership.member_KN[:, N:].any())
    assert setup.recipe.augment == audit.population.augment
    (note,) = [each for each in stages.notes if "at random" in each]
    assert "RandomResizedCrop" in note
    assert "again" in note


# What is refused


def refused(data: Any, *parts: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        Population.of(data, **options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_held_out_records_that_the_transform_cannot_be_given() -> None:
    named = ("RandomResizedCrop", "held-out set", "train_transform=ignore")
    others = Others(M, EVAL)
    refused(Pictures(N, TRAIN), *named, "Others", "Pictures", nonmembers=others)
    fixed = Pictures(N, EVAL)
    refused(Drawing(N), "Drawing", "held-out set", "train_transform=ignore", nonmembers=fixed, eval_dataset=fixed)
    assert Population.of(Pictures(N, TRAIN), nonmembers=others, train_transform="ignore").augment == ()

    class Closed(Pictures):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "transform" and len(self) == M and "transform" in vars(self):
                raise AttributeError("it cannot be set")
            super().__setattr__(name, value)

    refused(Closed(N, TRAIN), *named, "it cannot be set", nonmembers=Closed(M, EVAL))

    class Odd(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            if self.transform is not TRAIN or len(self) == N:
                return super().__getitem__(index)
            return torch.rand(3, 8, 8), {"a label": 5, "no label": None}[kind]

    kind = "a label"
    refused(Odd(N, TRAIN), *named, "5 at place 0", nonmembers=Odd(M, EVAL))
    kind = "no label"
    refused(Odd(N, TRAIN), *named, "has no label", nonmembers=Odd(M, EVAL))
    kind = "fails"
    refused(Odd(N, TRAIN), *named, "KeyError", nonmembers=Odd(M, EVAL))


class Numbers(Dataset[Any]):
    """Items as a function gives them; of two classes."""

    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


FIXED = Numbers(lambda i: (torch.ones(2), i % 2))
HIDDEN = torch.Generator().manual_seed(3)
ODD: dict[str, tuple[Any, str]] = {
    "type": (lambda i: (torch.randint(9, (2,), dtype=torch.uint8), i % 2), "uint8 of shape [2]"),
    "shape": (lambda i: (torch.rand(3), i % 2), "float32 of shape [3]"),
    "a generator of its own": (lambda i: (torch.rand(2, generator=HIDDEN), i % 2), "seeded"),
    "named tensors": (lambda i: ({"a": torch.rand(2), "b": torch.rand(1)}, i % 2), "named tensors"),
}


@pytest.mark.parametrize("kind", ODD)
def test_items_that_cannot_take_the_place_of_a_record(kind: str) -> None:
    make, part = ODD[kind]
    fixed = Numbers(lambda i: ({"a": torch.ones(2), "b": torch.ones(1)}, i % 2)) if kind == "named tensors" else FIXED
    refused(Numbers(make), part, "Numbers", "train_transform=ignore", eval_dataset=fixed)


def test_items_that_are_kept_once_they_were_drawn() -> None:
    """Their seeds would be those of whoever was first."""
    kept: dict[int, Tensor] = {}

    def make(index: int) -> Any:
        if index not in kept:
            kept[index] = torch.rand(2)
        return kept[index], index % 2

    refused(Numbers(make), "none of the global generators", "train_transform=ignore", eval_dataset=FIXED)


def test_an_item_that_fails_or_has_another_shape_in_training_is_named() -> None:
    def sometimes(index: int) -> Any:
        draw = float(torch.rand(()))
        if broken and draw < 0.5:
            raise RuntimeError("no memory")
        return torch.full((3 if broken else 2,), draw), index % 2

    broken = False
    (each,) = Population.of(Numbers(sometimes), eval_dataset=FIXED).augment
    assert each.refusal((2,)) is None
    assert "[3]" in str(each.refusal((3,)))
    broken = True
    x, draws, index = torch.zeros(1, 1, 2), torch.arange(20), torch.zeros(1, 1, dtype=torch.int64)
    sentences = set()
    for draw in draws.tolist():
        with pytest.raises(InputError, match="train_transform=ignore") as caught:
            each.apply(x, torch.tensor([[draw]]), index)  # type: ignore[call-arg]
        sentences.add("no memory" in str(caught.value) or "[3]" in str(caught.value))
    assert sentences == {True}


def test_what_does_not_go_with_it() -> None:
    refused(Data(), "dataset.mean", "train_transform=ignore", mean=0.5)

    def prepared(**options: Any) -> None:
        audit = mia.Audit(Data(), **quick_audit(**options))
        prepare(engine_of(audit, Stages()), audit)

    for options, part in (
        ({"shadow": mia.Noisy(count=2)}, "shadow=noisy"),
        ({"shadow": mia.Real(count=2), "canaries": Canaries(count=2, kind="uniform")}, "canary.kind"),
    ):
        with pytest.raises(InputError, match=f"{part}.*train_transform=ignore"):
            prepared(**options)
    prepared(shadow=mia.Real(count=2), canaries=Canaries(count=2))
