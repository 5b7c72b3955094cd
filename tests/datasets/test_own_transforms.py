"""Random steps in a dataset's transform: they become augmentations, are applied record by record, or are refused."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_datasets import CROP, FLIP, LAST_V1, LAST_V2, Listed, N, Pictures, X, all_records, noise, refused
from own_projects import MEAN, STD, write_digits
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets import MNIST
from torchvision.transforms import v2

from mia_lightning.datasets.augmentation import Crop, Flip, augmented
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import counter_hash, derive, isolated

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


@pytest.mark.costly
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


@pytest.mark.costly
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
