"""Settings that act alike are the same, others are not: pairs of sources, one of them edited, and pairs of values."""

import collections
import enum
import functools
import os
import random
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional
from torch import nn

from mia_lightning.models.mlp import MLP
from mia_lightning.store.identity import NoIdentityError, digest, digest_of_tensor, identity


def times(factor: int) -> Callable[[int], int]:
    return lambda x: x * factor


def like_relu(factor: int) -> Callable[..., Any]:
    @functools.wraps(torch.nn.functional.relu)
    def relu(x: Any) -> Any:
        return torch.nn.functional.relu(x) * factor

    return relu


def linear(seed: int, hook: Callable[..., Any] | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = nn.Linear(3, 2)
    if hook is not None:
        layer.register_forward_hook(hook)
    return layer


def in_order(*names: str) -> nn.Module:
    kinds: dict[str, Callable[[], nn.Module]] = {"a": nn.ReLU, "b": nn.Tanh}
    return nn.Sequential(collections.OrderedDict((name, kinds[name]()) for name in names))


class Counted:
    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class Drawn(nn.Module):
    def __init__(self, **block_kwargs: int) -> None:
        super().__init__()
        self.block_kwargs = block_kwargs

    @functools.cached_property
    def half(self) -> float:
        return 0.5


class Size(enum.Enum):
    SMALL = 8
    LARGE = 16


@dataclass(frozen=True)
class Setting:
    rate: float
    name: str = "plain"


class Stopping:
    def __init__(self, patience: int) -> None:
        self.patience = patience

    def stop(self) -> bool:
        return self.patience > 3


def two_lambdas() -> list[Callable[[int], int]]:
    return [lambda x: x * 2, lambda x: x * 3]


DOUBLE, TRIPLE = two_lambdas()
NUMBERS = np.arange(6).reshape(2, 3)
STRANGE = [
    lambda: 1,
    lambda: 1.5,
    lambda: True,
    lambda: None,
    lambda: "1",
    lambda: b"1",
    lambda: [1],
    lambda: [[1]],
    lambda: {"a": 1},
    lambda: {"a": 2},
    lambda: {"b": 1},
    lambda: {1, 2},
    lambda: {1, 3},
    lambda: Path("a"),
    lambda: Size.SMALL,
    lambda: Size.LARGE,
    lambda: slice(1, 2),
    lambda: 1j,
    lambda: torch.float32,
    lambda: torch.channels_last,
    lambda: np.float32(3),
    lambda: NUMBERS,
    lambda: NUMBERS.T,
    lambda: NUMBERS.astype(np.uint16),
    lambda: NUMBERS + 1,
    lambda: np.array(["a", "b"]),
    lambda: np.array(["a", "c"]),
    lambda: torch.arange(6),
    lambda: torch.arange(6).reshape(2, 3),
    lambda: torch.arange(6).float(),
    lambda: torch.arange(6).to(torch.bfloat16),
    lambda: torch.tensor([1j]).conj(),
    lambda: torch.empty(0),
    lambda: times(2),
    lambda: times(3),
    lambda: DOUBLE,
    lambda: TRIPLE,
    lambda: [DOUBLE, TRIPLE, DOUBLE],
    lambda: [DOUBLE, TRIPLE, TRIPLE],
    lambda: functools.partial(times, 2),
    lambda: functools.partial(times, 3),
    lambda: functools.partial(times, factor=2),
    lambda: like_relu(2),
    lambda: like_relu(3),
    lambda: torch.nn.functional.relu,
    lambda: torch.nn.functional.gelu,
    lambda: torch.relu,
    lambda: torch.tanh,
    lambda: torch.Tensor.relu,
    lambda: torch.Tensor.tanh,
    lambda: np.sin,
    lambda: np.cos,
    lambda: nn.Linear,
    lambda: nn.Bilinear,
    lambda: MLP,
    lambda: linear(0),
    lambda: linear(1),
    lambda: linear(0, hook=times(2)),
    lambda: linear(0, hook=times(3)),
    lambda: in_order("a", "b"),
    lambda: in_order("b", "a"),
    lambda: Drawn(),
    lambda: Drawn(width=3),
    lambda: Counted(1),
    lambda: Counted(2),
    lambda: Setting(rate=0.1),
    lambda: Setting(rate=0.2),
    lambda: Setting(rate=0.1, name="other"),
    lambda: Stopping(3),
    lambda: Stopping(4),
    lambda: Stopping(3).stop,
    lambda: Stopping(4).stop,
    lambda: random.Random(0),
    lambda: random.Random(1),
    lambda: re.compile("a"),
    lambda: re.compile("b"),
    lambda: list[int],
    lambda: int | None,
    lambda: os.path,
    lambda: collections.OrderedDict(a=1, b=2),
    lambda: collections.OrderedDict(b=2, a=1),
    lambda: [1, 2].append,
    lambda: [1, 3].append,
]


@pytest.mark.usefixtures("global_generators")
def test_different_values_differ_and_equal_ones_do_not() -> None:
    """All against all, each made twice."""
    first, second = ([digest(identity(make())) for make in STRANGE] for _ in range(2))
    assert first == second
    shared = [number for number, count in collections.Counter(first).items() if count > 1]
    assert shared == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ([1, 2], (1, 2)),
        (np.float64(0.5), 0.5),
        (np.arange(6)[::2], np.array([0, 2, 4])),
        (torch.arange(6)[::2], torch.tensor([0, 2, 4])),
        (torch.ones(2, requires_grad=True), torch.ones(2)),
        (functools.partial(times, factor=2, other=DOUBLE), functools.partial(times, other=DOUBLE, factor=2)),
        (frozenset({"a", "b"}), {"b", "a"}),
        ([linear(0), linear(0)], [linear(0)] * 2),
    ],
)
def test_what_acts_alike_is_the_same(one: object, other: object) -> None:
    assert digest(identity(one)) == digest(identity(other))


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Refuses:
    def __reduce_ex__(self, protocol: object) -> str:
        raise RuntimeError("not this one")


def deep() -> list[object]:
    nested: list[object] = []
    for _ in range(10_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: sys.__stdout__, "TextIOWrapper"),
        (threading.Lock, "lock"),
        (Locked, "lock"),
        (lambda: (each for each in ()), "generator"),
        (lambda: np.array([object()]), "an array of objects"),
        (lambda: torch.empty(2, device="meta"), "tensor on meta"),
        (lambda: torch.eye(2).to_sparse(), "sparse_coo tensor"),
        (Refuses, "Refuses"),
        (deep, "list that is nested too deeply"),
    ],
)
def test_what_cannot_be_said_is_named(make: Callable[[], Any], named: str) -> None:
    value = make()
    with pytest.raises(NoIdentityError, match=named):
        identity({"setting": [value]} if make is not deep else value)


def test_libraries_are_known_by_name() -> None:
    assert identity(nn.Linear) == {"class": "torch.nn.modules.linear.Linear"}
    assert identity(torch.nn.functional.relu) == {"function": "torch.nn.functional.relu"}
    assert identity(digest) == {"function": "mia_lightning.store.identity.digest"}
    described = identity(MLP)
    assert described["class"] == "mia_lightning.models.mlp.MLP"
    assert "code" in described["own"]["__init__"]  # an architecture of this package is looked into


def test_a_script_that_is_run_as_another_process_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that multiprocessing starts calls the module of the script `__mp_main__`."""
    monkeypatch.setattr(Setting, "__module__", "__main__")
    monkeypatch.setattr(Stopping, "__module__", "__mp_main__")
    assert identity(Setting)["class"] == "__main__.Setting"
    assert identity(Stopping)["class"] == "__main__.Stopping"


def test_numbers_alone_make_the_digest_of_a_tensor() -> None:
    numbers = torch.arange(12.0).reshape(3, 4)
    assert digest_of_tensor(numbers) == digest_of_tensor(numbers.T.contiguous().T)
    assert digest_of_tensor(numbers) != digest_of_tensor(numbers.T)
    assert digest_of_tensor(numbers) != digest_of_tensor(numbers.double())
    changed = numbers.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(100.0))
    assert digest_of_tensor(numbers) != digest_of_tensor(changed)
