"""Datasets of people's own: items in their forms, transforms, names; and what is refused, in one sentence."""

import collections
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_projects import MEAN, STD, write_digits
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms as v1
from torchvision.datasets import MNIST
from torchvision.transforms import v2

from mia_lightning.datasets.augmentation import Crop, Flip, augmented
from mia_lightning.datasets.own import filling
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, SettingError
from mia_lightning.seeds import counter_hash, derive, isolated

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


# Items

Pair = collections.namedtuple("Pair", "picture kind")
X = [torch.tensor([float(i), 2.0 * i]) for i in range(4)]
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

LAST_V1 = [v1.ToTensor(), v1.Normalize(MEAN, STD)]
LAST_V2 = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
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


FLIP, CROP = v1.RandomHorizontalFlip(), v1.RandomCrop(8, padding=1)
BLACK = [-m / s for m, s in zip(MEAN, STD, strict=True)]
AUGMENTED: list[tuple[list[Any], list[Any]]] = [
    ([FLIP, *LAST_V1], ["flip"]),
    ([*LAST_V1, FLIP], ["flip"]),
    ([v2.RandomHorizontalFlip(0.5), *LAST_V2], ["flip"]),
    ([CROP, FLIP, *LAST_V1], [(1, BLACK), "flip"]),
    ([*LAST_V1, CROP], [(1, "zero")]),
    ([v1.ToTensor(), CROP], [(1, "zero")]),
    ([v1.ToTensor(), CROP, v1.Normalize(0.5, 0.25)], [(1, -2.0)]),
    ([v1.RandomCrop(8, 2, padding_mode="reflect"), *LAST_V1], [(2, "reflect")]),
    ([v2.RandomCrop((8, 8), [1, 1]), *LAST_V2], [(1, BLACK)]),
    ([v1.RandomCrop(8), *LAST_V1], []),
    ([v1.Resize(6), v1.RandomCrop(6, padding=3, fill=255), v1.ToTensor()], [(3, 1.0)]),
]


@pytest.mark.parametrize(("steps", "expected"), AUGMENTED)
def test_random_steps_become_our_augmentations(steps: list[Any], expected: list[Any]) -> None:
    population = Population.of(Pictures(v1.Compose(steps)))
    assert len(population.augment) == len(expected)
    for ours, wanted in zip(population.augment, expected, strict=True):
        if wanted == "flip":
            assert ours == Flip()
        else:
            assert isinstance(ours, Crop)
            padding, fill = wanted
            assert (ours.padding, ours.fill) == (padding, fill if isinstance(fill, str) else pytest.approx(fill))
    kept = [step for step in steps if not type(step).__name__.startswith("Random")]
    bare = Pictures(v1.Compose(kept))
    expected_N = torch.stack([bare[i][0] for i in range(N)])
    torch.testing.assert_close(all_records(population), expected_N, rtol=1e-6, atol=3e-6)
    assert population.x_N.dtype == torch.uint8


def noise(x: Tensor) -> Tensor:
    return x + torch.rand(())


def numpy_noise(x: Tensor) -> Tensor:
    return x + float(np.random.random())


def python_noise(x: Tensor) -> Tensor:
    return x + random.random()


OWN_DRAWS = np.random.default_rng(0)


def hidden_noise(x: Tensor) -> Tensor:
    return x + float(OWN_DRAWS.random())


# Random steps without a counterpart: what a sentence calls them, and whether they can be applied record by record.
UNKNOWN: list[tuple[list[Any], str, bool]] = [
    ([v1.RandomResizedCrop(8), *LAST_V1], "RandomResizedCrop", True),
    ([v1.RandomHorizontalFlip(0.3), *LAST_V1], "RandomHorizontalFlip", True),
    ([v1.RandomCrop(8, padding=(1, 2)), *LAST_V1], "RandomCrop", True),
    ([v1.RandomCrop(8, padding=1, padding_mode="edge"), *LAST_V1], "RandomCrop", True),
    ([FLIP, v1.ColorJitter(0.5), *LAST_V1], "RandomHorizontalFlip and ColorJitter", True),
    ([*LAST_V2, v2.RandomErasing(p=0.01)], "RandomErasing", True),
    ([v1.ToTensor(), noise], "noise", True),
    ([v1.ToTensor(), numpy_noise], "numpy_noise", True),
    ([v1.ToTensor(), python_noise], "python_noise", True),
    ([v1.RandomCrop(6), *LAST_V1], "RandomCrop", False),  # another shape than the fixed transform gives
    ([v1.ToTensor(), hidden_noise], "Compose", False),  # which nobody can seed
]
FIXED = v1.Compose(LAST_V1)


@pytest.mark.parametrize(("steps", "named", "is_possible"), UNKNOWN)
def test_random_steps_without_a_counterpart(steps: list[Any], named: str, is_possible: bool) -> None:
    dataset, fixed = Pictures(v1.Compose(steps)), Pictures(FIXED)
    refused(dataset, named, "train_transform=ignore", "eval_dataset")
    refused(dataset, named, "eval_dataset", train_transform="ignore")
    for options in ({"nonmembers": fixed}, {"eval_dataset": fixed}):
        population = Population.of(dataset, train_transform="ignore", **options)
        torch.testing.assert_close(all_records(population)[:N], all_records(Population.of(fixed)))
        assert population.x_N.dtype == torch.uint8
        assert population.augment == ()
        assert any("dataset.train_transform" in remark and named in remark for remark in population.remarks)
        if not is_possible:
            refused(dataset, named, "train_transform=ignore", **options)
            continue
        population = Population.of(dataset, **options)
        torch.testing.assert_close(all_records(population)[:N], all_records(Population.of(fixed)))
        (each,) = population.augment
        assert named in repr(each)
        assert each.refusal((3, 8, 8)) is None
        assert "dataset.train_transform" in each.refusal((3, 9, 9))


JITTERED = v1.Compose([FLIP, v1.ColorJitter(0.5), v1.RandomResizedCrop(8), *LAST_V1, noise, numpy_noise, python_noise])


@pytest.mark.parametrize("form", ["pil", "array", "tensor", "grey"])
def test_a_training_transform_is_applied_record_by_record(form: str) -> None:
    """Against a loop over the dataset itself, with the generators seeded for each item."""
    steps = {"array": [v1.ToTensor(), noise], "tensor": [*LAST_V2[1:], v2.RandomErasing(1.0)]}.get(form)
    mode = "L" if form == "grey" else "RGB"
    if form == "grey":
        steps = [v1.RandomRotation(90), v1.ToTensor()]
    transform = JITTERED if steps is None else v1.Compose(steps)
    fixed = {"pil": FIXED, "grey": v1.ToTensor(), "array": v1.ToTensor(), "tensor": v1.Compose(LAST_V2[1:])}[form]
    options: dict[str, Any] = {"form": "pil" if form == "grey" else form, "mode": mode}
    dataset = Pictures(transform, **options)
    population = Population.of(dataset, eval_dataset=Pictures(fixed, **options))
    index_KB = torch.tensor([[3, 8, 3], [8, 1, 2]])
    key_K = torch.tensor([11, 12])
    x = population.records(index_KB)
    changed = augmented(x, population.augment, key_K=key_K, step=5, index_KB=index_KB)
    draw_KB = counter_hash(key_K[:, None], derive(0, "augmentation"), 0, 5, index_KB)
    for k in range(2):
        for b in range(3):
            draw = int(draw_KB[k, b])
            with isolated(0, "an item"):
                torch.manual_seed(draw % 2**63)
                np.random.seed(draw % 2**32)
                random.seed(draw)
                expected = dataset[int(index_KB[k, b])][0]
            assert torch.equal(changed[k, b], expected)
    assert torch.equal(changed[0, 0], changed[0, 2])  # one record of one model in one step
    assert not torch.equal(changed[0, 1], changed[1, 0])  # of two models
    again = augmented(x.double(), population.augment, key_K=key_K, step=5, index_KB=index_KB)
    torch.testing.assert_close(again, changed.double())


def test_a_training_transform_draws_as_in_a_loader_whatever_the_precision_of_the_step() -> None:
    population = Population.of(Pictures(JITTERED), eval_dataset=Pictures(FIXED))
    (each,) = population.augment
    x, draw_KB = all_records(population)[None], torch.arange(N)[None]
    expected = each.apply(x, draw_KB)
    torch.set_default_dtype(torch.float64)  # as Lightning does around a step, for trainer.precision=64
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            changed = each.apply(x.double(), draw_KB)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert changed.dtype == torch.float64
    assert torch.equal(changed, expected.double())


def test_a_transform_of_tables() -> None:
    class Table(Dataset[Any]):
        def __init__(self, transform: Any) -> None:
            self.transform = transform

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return (X[index] if self.transform is None else self.transform(X[index])), index % 2

    population = Population.of(Table(noise), nonmembers=Table(None))
    (each,) = population.augment
    x = all_records(population)[None, :4]
    with isolated(0, "an item"):
        torch.manual_seed(7)
        expected = noise(X[2])
    assert torch.equal(each.apply(x, torch.full((1, 4), 7))[0, 2], expected)
    refused(Table(noise), "dataset.std", "train_transform=ignore", nonmembers=Table(None), std=2.0)


def test_a_transform_that_fails_in_training_is_named() -> None:
    def sometimes(x: Tensor) -> Tensor:
        if float(torch.rand(())) < 0.5 and bool((x == 0).all()):
            raise RuntimeError("all black")
        return x[..., :2] if bool((x == 1).all()) else x + torch.rand(())

    population = Population.of(Pictures(v1.Compose([v1.ToTensor(), sometimes])), eval_dataset=Pictures(v1.ToTensor()))
    (each,) = population.augment
    draws = torch.arange(20)[None]
    with pytest.raises(InputError, match=r"RuntimeError: all black.*train_transform=ignore"):
        each.apply(torch.zeros(1, 20, 3, 8, 8), draws)
    with pytest.raises(InputError, match=r"\[3, 8, 2\].*\[3, 8, 8\].*train_transform=ignore"):
        each.apply(torch.ones(1, 20, 3, 8, 8), draws)


@pytest.mark.usefixtures("global_generators")
def test_noise_that_a_transform_cannot_be_rid_of() -> None:
    class Noisy(Listed):
        def __getitem__(self, index: int) -> Any:
            x, y = self.items[index]
            return x + torch.rand(()), y

    items = [(X[i], i % 2) for i in range(4)]
    refused(Noisy(items), "Noisy", "eval_dataset")
    population = Population.of(Noisy(items), eval_dataset=Listed(items), train_transform="ignore")
    assert torch.equal(population.x_N, torch.stack(X))
    refused(Listed(items), "held-out set", "Noisy", nonmembers=Noisy(items))


def test_noise_that_the_sample_does_not_show() -> None:
    class Seldom(Listed):
        def __getitem__(self, index: int) -> Any:
            return (torch.rand(2) if index == 57 else torch.zeros(2)), index % 2

    refused(Seldom([0] * 100), "Seldom", "torch", "eval_dataset")


def test_ignored_steps_that_are_known_are_said() -> None:
    population = Population.of(Pictures(v1.Compose([FLIP, *LAST_V1])), train_transform="ignore")
    assert population.augment == ()
    assert any("RandomHorizontalFlip" in remark for remark in population.remarks)


def test_an_error_in_a_transform_is_no_random_change() -> None:
    def broken(x: Any) -> Any:
        raise KeyError("no such channel")

    refused(Pictures(v1.Compose([v1.Lambda(broken), FLIP, *LAST_V1])), "cannot be read", "KeyError", "no such channel")


def test_the_error_of_a_dataset_that_takes_no_other_transform_is_said() -> None:
    class Own(Pictures):
        def __getitem__(self, index: int) -> Any:
            if not isinstance(self.transform, v1.Compose):
                raise RuntimeError("only Compose is known")
            return super().__getitem__(index)

    known, unknown = (v1.Compose([step, *LAST_V1]) for step in (FLIP, v1.ColorJitter(0.5)))
    refused(Own(known), "data set", "RuntimeError: only Compose is known", train_transform="ignore")
    fixed = Pictures(FIXED)
    refused(Own(unknown), "data set", "RuntimeError: only Compose is known", eval_dataset=fixed)


def test_training_records_are_seen_as_held_out_ones_are() -> None:
    train = Pictures(v1.Compose([FLIP, v1.ToTensor()]))
    val = Pictures(v1.Compose(LAST_V1), seed=1)
    population = Population.of(train, nonmembers=val)
    assert population.augment == (Flip(),)
    torch.testing.assert_close(all_records(population)[:N], all_records(Population.of(Pictures(v1.Compose(LAST_V1)))))
    assert any("transform of the held-out data" in remark for remark in population.remarks)
    same = Population.of(Pictures(v1.Compose([FLIP, *LAST_V1])), nonmembers=val)
    assert same.remarks == ()


def test_a_transform_that_was_made_for_another_dataset_is_not_put_in() -> None:
    pictures = Pictures(v1.Compose([v1.RandomRotation(9), *LAST_V1]))
    table = Listed([(torch.zeros(3, 8, 8), i % 2) for i in range(4)], transform=lambda x: x.no_such_thing())
    refused(pictures, "RandomRotation", nonmembers=table, train_transform="ignore")


def test_stand_ins() -> None:
    dataset = Pictures(v1.Compose([v1.ColorJitter(0.5), *LAST_V1]))
    fixed = Pictures(v1.Compose(LAST_V1))
    options: dict[str, Any] = {"train_transform": "ignore"}
    some, others = Subset(dataset, [7, 3, 9]), Subset(dataset, [1, 2])
    population = Population.of(some, nonmembers=others, eval_dataset=fixed, **options)  # of the dataset inside
    assert any("ColorJitter" in remark for remark in population.remarks)
    expected = torch.stack([fixed[i][0] for i in (7, 3, 9, 1, 2)])
    torch.testing.assert_close(all_records(population), expected, rtol=1e-6, atol=3e-6)
    same = Population.of(some, eval_dataset=Subset(fixed, [7, 3, 9]), **options)  # of the training set
    torch.testing.assert_close(all_records(same), expected[:3], rtol=1e-6, atol=3e-6)
    refused(some, "eval_dataset", "2 records", "3", "30", eval_dataset=Subset(fixed, [7, 3]), **options)
    refused(some, "eval_dataset", "label", eval_dataset=Subset(fixed, [8, 3, 9]), **options)
    refused(some, "eval_dataset", "Pictures", "ColorJitter", eval_dataset=dataset, **options)
    refused(some, "eval_dataset", "[]", eval_dataset=[], **options)
    known = Subset(Pictures(v1.Compose([FLIP, *LAST_V1])), [7, 3, 9])
    assert Population.of(known, eval_dataset=Subset(fixed, [7, 3, 9])).augment == (Flip(),)


def test_sets_of_different_random_transforms_are_refused() -> None:
    mixed = torch.utils.data.ConcatDataset([Pictures(v1.Compose([FLIP, *LAST_V1])), Pictures(v1.Compose(LAST_V1))])
    refused(mixed, "different random transforms", "train_transform=ignore")
    assert len(Population.of(mixed, train_transform="ignore")) == 2 * N


def test_datasets_of_torchvision_keep_their_target_transform(tmp_path: Path) -> None:
    steps = v1.Compose([FLIP, v1.ToTensor()])
    dataset = MNIST(write_digits(tmp_path), transform=steps, target_transform=lambda y: (y + 1) % 10)
    population = Population.of(dataset)
    assert population.label_N.tolist() == [(i + 1) % 10 for i in range(60)]
    assert torch.equal(population.x_N[:, 0], dataset.data)
    assert population.augment == (Flip(),)


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
