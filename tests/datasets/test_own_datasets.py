"""Datasets of people's own: items in their forms, transforms, names; and what is refused, in one sentence."""

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from own_datasets import CROP, FLIP, LAST_V1, LAST_V2, Listed, N, Pictures, X, all_records, refused
from own_projects import MEAN, STD
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from mia_lightning.datasets.own import filling
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, SettingError
from mia_lightning.seeds import isolated

# Items

Pair = collections.namedtuple("Pair", "picture kind")
FORMS: dict[str, Callable[[int], Any]] = {
    "tuple": lambda i: (X[i], i % 2),
    "list": lambda i: [X[i], i % 2],
    "named": lambda i: Pair(X[i], i % 2),
    "with index": lambda i: (X[i], i % 2, i),
    "dict": lambda i: {"image": X[i], "label": i % 2, "id": f"r{i}"},
    "numpy": lambda i: (X[i].numpy(), np.int16(i % 2)),
    "float64": lambda i: (X[i].double(), torch.tensor(i % 2)),
    "one in a row": lambda i: (X[i], torch.tensor([i % 2])),
    "bool": lambda i: (X[i], bool(i % 2)),
    "gradient": lambda i: (X[i].clone().requires_grad_(), i % 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_items_in_their_forms(form: str) -> None:
    population = Population.of(Listed([FORMS[form](i) for i in range(4)]))
    assert torch.equal(population.x_N, torch.stack(X))
    assert population.label_N.tolist() == [0, 1, 0, 1]
    assert (population.scale, population.mean, population.std) == (1.0, None, None)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (torch.arange(4), torch.int64),
        (torch.tensor([True, False]), torch.uint8),
        (np.full((2, 2), 200, np.uint8), torch.uint8),
        (torch.ones(3, dtype=torch.bfloat16), torch.bfloat16),
    ],
)
def test_numbers_stay_what_a_loader_gives(x: Any, dtype: torch.dtype) -> None:
    population = Population.of(Listed([(x, 0), (x, 1)]))
    assert population.x_N.dtype == dtype
    assert torch.equal(all_records(population)[0], torch.as_tensor(x).float())


class Unreadable(Listed):
    def __getitem__(self, index: int) -> Any:
        raise OSError("the disk is away")


ITEMS = [
    ([X[0], X[1]], ["a Tensor", "without a label", "data set"]),
    ([(X[0],)], ["a tuple of one", "without a label"]),
    ([{"image": X[0]}], ["'image'", "label"]),
    ([{"label": 1}], ["'label'", "record"]),
    ([{"x": X[0], "image": X[0], "y": 1}], ["x and image"]),
    ([(X[0], None)], ["no label"]),
    ([(X[0], "cat")], ["1 class"]),
    ([(X[0], torch.tensor([0, 1, 1]))], ["shape [3]", "one-hot", "argmax", "task=multilabel"]),
    ([(X[0], torch.zeros(2, 2))], ["shape [2, 2]", "class number"]),
    ([(X[0], 0.5)], ["0.5", "float32", "int(y)", "task=regression"]),
    ([(X[0], torch.tensor(torch.nan))], ["nan", "float32"]),
    ([(X[0], 0), (X[1], "cat")], ["'cat'", "0", "one type"]),
    ([(X[0], (0, 1)), (X[1], (0, 0, 1))], ["rows of equal length"]),
    ([(X[0], object())], ["object", "class number"]),
    ([("text", 1)], ["'text'", "tensor"]),
    ([([1.0, 2.0], 1)], ["[1.0, 2.0]", "tensor"]),
    ([(X[0], 0), (torch.zeros(3), 1)], ["Item 1", "shape [3]", "shape [2]", "Resize"]),
    ([(X[0], 0), (X[1].int(), 1)], ["Item 1", "int32", "float32"]),
    ([(torch.tensor(1.0), 0), (torch.tensor(1.0), 1)], ["shape"]),
    ([(X[0], 0), (X[0], 1), (X[0], -1)], ["-1"]),
    ([(X[0], 0), (X[0], 0)], ["1 class"]),
]


@pytest.mark.parametrize(("items", "parts"), ITEMS)
def test_items_of_other_forms_are_refused(items: list[Any], parts: list[str]) -> None:
    refused(Listed(items), *parts)


def test_it_is_said_that_further_parts_of_items_are_left_out() -> None:
    parts = TensorDataset(torch.arange(12.0).view(4, 3), torch.arange(4) % 2, torch.arange(4))
    population = Population.of(DataLoader(parts, batch_size=2))
    (remark,) = population.remarks
    assert "3 parts" in remark
    assert population.label_N.tolist() == [0, 1, 0, 1]

    def last(items: list[Any]) -> Any:
        x, _, y = torch.utils.data.default_collate(items)
        return x, y // 2

    chosen = Population.of(DataLoader(parts, batch_size=2, collate_fn=last))
    assert chosen.remarks == ()
    assert chosen.label_N.tolist() == [0, 0, 1, 1]


def test_numbers_of_records_beside_their_tensors_are_no_tokens() -> None:
    items = Listed([{"ids": torch.arange(5), "idx": i, "label": i % 2} for i in range(4)])
    with pytest.raises(InputError, match=r"'idx' of population .* has whole numbers of shape .*say which in kinds"):
        Population.of(items)


def test_what_cannot_be_read_is_named() -> None:
    refused(Unreadable([1, 2]), "data set", "OSError", "the disk is away")

    class Late(Listed):
        def __getitem__(self, index: int) -> Any:
            if index == 57:
                raise KeyError("lost")
            return torch.zeros(2), index % 2

    refused(Late([0] * 100), "Item 57 of the data set", "KeyError", "lost")


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.zeros(2), 0


def test_what_is_no_dataset_is_refused() -> None:
    refused(DataLoader(Endless()), "IterableDataset Endless", "__getitem__")
    refused(Listed, "the class Listed", "Listed(...)")
    refused(Listed([]), "Listed", "no records")
    refused([Listed([(X[0], 0)])], "ConcatDataset")
    refused(object(), "a object", "DataLoader")
    with pytest.raises(SettingError, match=r"dataset.train_transform.*never.*own, ignore"):
        Population.of(Listed([(X[0], 0)]), train_transform="never")


# Transforms

AS_BYTES = {
    "v1": v1.Compose(LAST_V1),
    "v2": v2.Compose([*LAST_V2, v2.ToPureTensor()]),
    "v2 of v1": v2.Compose([v2.PILToTensor(), v2.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD)]),
    "nested": v1.Compose([v1.Compose([v1.Resize(6), v1.CenterCrop(5)]), v1.Compose(LAST_V1)]),
    "twice normalised": v1.Compose([*LAST_V1, v1.Normalize((0.1,), (2.0,))]),
    "scaled alone": v1.ToTensor(),
    "sequential": v2.Compose([v2.PILToTensor(), nn.Sequential(v1.ConvertImageDtype(torch.float32))]),
}
AS_NUMBERS = {
    "own last step": v1.Compose([*LAST_V1, v1.Lambda(torch.flatten)]),
    "own function": lambda picture: torch.from_numpy(np.asarray(picture) / 100).float(),
    "jitter between, which does nothing": v1.Compose([v1.ToTensor(), v1.Lambda(lambda x: x**2), v1.Normalize(0, 1)]),
    "unscaled": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]),
}


@pytest.mark.parametrize("name", [*AS_BYTES, *AS_NUMBERS])
def test_records_are_those_of_the_loader(name: str) -> None:
    dataset = Pictures({**AS_BYTES, **AS_NUMBERS}[name])
    population = Population.of(dataset)
    with isolated(0, "a loader draws a seed for its workers"):
        expected = torch.cat([x for x, _ in DataLoader(dataset, batch_size=4)])
    assert population.x_N.dtype == (torch.uint8 if name in AS_BYTES else torch.float32)
    torch.testing.assert_close(all_records(population), expected, rtol=1e-6, atol=3e-6)
    assert population.augment == ()
    assert dataset.transform is {**AS_BYTES, **AS_NUMBERS}[name]  # which is left as it was


@pytest.mark.parametrize("form", ["array", "tensor"])
def test_bytes_of_arrays_and_tensors(form: str) -> None:
    steps = LAST_V1 if form == "array" else LAST_V2[1:]
    dataset = Pictures(v1.Compose(steps), form=form)
    population = Population.of(dataset)
    assert population.x_N.dtype == torch.uint8
    expected = torch.stack([dataset[i][0] for i in range(N)])
    torch.testing.assert_close(all_records(population), expected, rtol=1e-6, atol=3e-6)


def test_pictures_without_a_transform_and_of_two_colours() -> None:
    population = Population.of(Pictures())
    assert torch.equal(population.x_N, torch.from_numpy(Pictures().pixels).permute(0, 3, 1, 2))

    class TwoColours(Pictures):
        def picture(self, index: int) -> Any:
            return super().picture(index).convert("1")

    dataset = TwoColours(v1.ToTensor(), mode="L")
    population = Population.of(dataset)
    assert torch.equal(all_records(population), torch.stack([dataset[i][0] for i in range(N)]))


# Batches


def twice(items: list[Any]) -> Any:
    x, y = torch.utils.data.default_collate(items)
    return {"x": 2 * x, "y": y}


def mixed_up(items: list[Any]) -> Any:
    x, y = torch.utils.data.default_collate(items)
    return v2.MixUp(num_classes=2)(x.float(), y)


def normalised_over_the_batch(items: list[Any]) -> Any:
    x, y = torch.utils.data.default_collate(items)
    return x - x.sum(), y


def of_another_form(items: list[Any]) -> Any:
    return torch.stack([x for x, _ in items])


def test_batches_that_are_made_in_another_way() -> None:
    dataset = Listed([(X[i], i % 2) for i in range(4)])
    population = Population.of(DataLoader(dataset, batch_size=2, collate_fn=twice))
    assert torch.equal(population.x_N, 2 * torch.stack(X))
    for collate in (mixed_up, normalised_over_the_batch, of_another_form):
        loader = DataLoader(dataset, batch_size=2, collate_fn=collate)
        refused(loader, collate.__name__, "loading=ignore")
        assert torch.equal(Population.of(loader, loading="ignore").x_N, torch.stack(X))


# Names, classes, numbers


def test_names_of_records() -> None:
    items = [{"x": X[i], "y": i % 2, "id": f"r{i}"} for i in range(4)]
    assert Population.of(Listed(items), ids="id").record_names == ("r0", "r1", "r2", "r3")
    of_items = Listed([(X[i], i % 2, torch.tensor(10 * i)) for i in range(4)])
    assert Population.of(of_items, ids="2").record_names == ("0", "10", "20", "30")
    pairs = [(X[i], i % 2) for i in range(4)]
    inner = Listed(pairs, patient=torch.arange(4) + 7)
    outer = Subset(Subset(inner, [3, 1, 0]), [2, 0])
    assert Population.of(outer, ids="patient").record_names == ("7", "10")
    own = Listed(pairs, patient=["a", "b", "c", "d"])
    loader = DataLoader(own, sampler=[2, 1])
    assert Population.of(loader, ids="patient").record_names == ("c", "b")
    assert Population.of(own, nonmembers=outer, ids="patient").record_names == ("a", "b", "c", "d", "7", "10")
    assert Population.of(own).record_names == ()
    population = Population.of(loader, nonmembers=outer)
    assert population.record_names == ("training/2", "training/1", "held-out/0", "held-out/1")


@pytest.mark.parametrize(
    ("attributes", "parts"),
    [
        ({}, ["'patient'", "dataset.ids", "data set"]),
        ({"patient": [1, 2]}, ["patient", "2 values", "4 records"]),
        ({"patient": "abcd"}, ["patient", "no list"]),
    ],
)
def test_names_that_are_not_there_are_refused(attributes: dict[str, Any], parts: list[str]) -> None:
    refused(Listed([(X[i], i % 2) for i in range(4)], **attributes), *parts, ids="patient")


def test_names_that_one_set_lacks_are_refused() -> None:
    pairs = [(X[i], i % 2) for i in range(4)]
    refused(Listed(pairs, key=[1, 2, 3, 4]), "dataset.ids", "held-out set", nonmembers=Listed(pairs), ids="key")


def test_classes() -> None:
    pairs = [(X[i], i % 2) for i in range(4)]
    assert Population.of(Listed(pairs)).class_names == ("0", "1")
    assert Population.of(Listed(pairs, num_classes=3)).class_names == ("0", "1", "2")
    assert Population.of(Listed(pairs, classes=["no", "yes"])).class_names == ("no", "yes")
    assert Population.of(Listed(pairs, classes=["no"])).class_names == ("0", "1")
    assert Population.of(Listed(pairs, classes=["no", "yes"]), class_names=["n", "y"]).class_names == ("n", "y")
    one, other = Listed(pairs, classes=["no", "yes"]), Listed(pairs, classes=["maybe", "no", "yes"])
    refused(one, "held-out set", "maybe", nonmembers=other)


def test_constants_after_the_datasets_own_transform() -> None:
    dataset = Pictures(v1.Compose(LAST_V1))
    population = Population.of(dataset, mean=[1.0, 2.0, 3.0], std=4.0, name="mine")
    own = torch.stack([dataset[i][0] for i in range(N)])
    expected = (own - torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)) / 4
    torch.testing.assert_close(all_records(population), expected, rtol=1e-5, atol=3e-6)
    assert population.name == "mine"
    table = Population.of(Listed([(X[i], i % 2) for i in range(4)]), std=[2.0, 4.0])
    assert torch.equal(all_records(table), torch.stack(X) / torch.tensor([2.0, 4.0]))
    refused(dataset, "dataset.mean", "2 numbers", "[3, 8, 8]", mean=[1.0, 2.0])
    assert Population.of(dataset, std=2).std.flatten().tolist() == pytest.approx([2 * s for s in STD])


def test_large_records_lie_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Pictures(v1.Compose(LAST_V1))
    in_memory = Population.of(dataset)
    made: list[int] = []
    fallocate = filling.os.posix_fallocate
    monkeypatch.setattr(filling.os, "posix_fallocate", lambda *given: (made.append(given[2]), fallocate(*given)))
    monkeypatch.setattr(filling, "MAPPED_BYTES", N * 3 * 8 * 8)
    assert torch.equal(Population.of(dataset).x_N, in_memory.x_N)
    assert made == [N * 3 * 8 * 8]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filling.os, "posix_fallocate", full)
    refused(dataset, "No space left on device", "TMPDIR")


def test_the_callers_generators_are_left_alone() -> None:  # as the suite's own fixture checks
    Population.of(DataLoader(Pictures(v1.Compose([CROP, FLIP, *LAST_V1])), shuffle=True))
    table = TensorDataset(torch.zeros(4, 2), torch.arange(4) % 2)
    Population.of(DataLoader(table, sampler=torch.utils.data.RandomSampler(table)))
