"""Settings that act alike are the same, others are not: pairs of sources, one of them edited, and pairs of values."""

import collections
import enum
import functools
import os
import random
import re
import subprocess
import sys
import threading
import types
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


def made_by(source: str, **modules: types.ModuleType) -> str:
    """The digest of `made` after the source has run as a module of its own."""
    module = types.ModuleType("edited")
    vars(module).update(modules)
    exec(source, vars(module))
    return digest(identity(module.made))


NETWORK = """
import functools
from dataclasses import dataclass
from torch import nn

WIDTH = 8
LAYERS = {"small": [8, "M"], "large": [16, "M"]}
norm = functools.partial(nn.BatchNorm1d, eps=1e-3)

def helper(x):
    return x * 2

@functools.lru_cache
def cached(x):
    return x + 1

class Base(nn.Module):
    slope = 0.1

    def activated(self, x):
        return x.relu()

@dataclass
class Shape:
    width: int = 8

class Net(Base):
    '''A network.'''

    def __init__(self, width=WIDTH, *, depth=2):
        super().__init__()
        self.first = nn.Linear(4, LAYERS["small"][0])
        self.norm = norm(8)
        self.shape = Shape()

    def forward(self, x):
        if x.shape in {"a", "b"}:
            return x
        return cached(helper(self.activated(self.first(x))))

    @property
    def size(self):
        return self.shape.width + 1

    @staticmethod
    def of(x):
        return x - 1

made = functools.partial(Net, 5)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIDTH = 8", "WIDTH = 9"),
        ('[8, "M"]', '[9, "M"]'),
        ("eps=1e-3", "eps=1e-2"),
        ("x * 2", "x * 3"),
        ("x * 2", "2 * x"),
        ("x + 1", "x + 2"),
        ("slope = 0.1", "slope = 0.2"),
        ("x.relu()", "x.tanh()"),
        ("class Net(Base)", "class Net(nn.Module)"),
        ("width: int = 8", "width: int = 9"),
        ("width: int = 8", "width: int = 8\n    height: int = 8"),
        ("depth=2", "depth=3"),
        ("width=WIDTH", "width=7"),
        ('{"a", "b"}', '{"a", "c"}'),
        ("self.shape.width + 1", "self.shape.width + 2"),
        ("x - 1", "x - 2"),
        ("partial(Net, 5)", "partial(Net, 6)"),
        ("partial(Net, 5)", "partial(Net, depth=5)"),
        ("nn.Linear(4,", "nn.LazyLinear(4,"),
        ("def activated(self, x)", "def activated(self, x, y=1)"),
    ],
)
def test_an_edited_network_is_another(old: str, new: str) -> None:
    assert NETWORK.count(old) == 1
    assert made_by(NETWORK) != made_by(NETWORK.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIDTH = 8", "# how wide\n\n\nWIDTH = 8"),
        ("        super().__init__()\n", "        # first of all\n\n        super().__init__()  # really\n"),
        ("class Net(Base)", "def unrelated(x):\n    return x\n\n\nunused = unrelated(3)\n\nclass Net(Base)"),
        ('{"a", "b"}', '{"b", "a"}'),
        ('{"small": [8, "M"], "large": [16, "M"]}', '{"large": [16, "M"], "small": [8, "M"]}'),
        ("partial(Net, 5)", "partial(Net, *[5])"),
        ("class Base(nn.Module)", "class Base(nn.Module, )"),
    ],
)
def test_an_edited_script_around_it_is_not(old: str, new: str) -> None:
    assert NETWORK.count(old) == 1
    assert made_by(NETWORK) == made_by(NETWORK.replace(old, new))


CHECKED = """
from mia_lightning.settings import checked, settings
from torch import nn

class Net(nn.Module):
    @checked("model")
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)

@checked("model")
def make(width: int = 8) -> nn.Module:
    return nn.Linear(4, width)

@settings("callback")
class Patience:
    epochs: int = 3

    def is_over(self, epoch):
        return epoch > self.epochs

made = [Net, make, Patience(), Patience]
"""


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("self.first = nn.Linear(4, width)", "self.first = nn.Linear(4, 2 * width)", True),
        ("return nn.Linear(4, width)", "return nn.Linear(4, width + 1)", True),
        ("def __init__(self, width: int = 8)", "def __init__(self, width: int = 9)", True),
        ("epoch > self.epochs", "epoch >= self.epochs", True),
        ("epochs: int = 3", "epochs: int = 4", True),
        ("        super().__init__()", "        # a comment\n        super().__init__()", False),
        ("made =", "unused = 3\nmade =", False),
    ],
)
def test_checked_settings_are_known_by_the_code_under_the_check(old: str, new: str, differs: bool) -> None:
    assert CHECKED.count(old) == 1
    assert made_by(CHECKED) == made_by(CHECKED)
    assert (made_by(CHECKED) != made_by(CHECKED.replace(old, new))) is differs


@pytest.mark.parametrize("use", ["import blocks\ndef made(x):\n    return blocks.{}", "def made(x):\n    {}"])
def test_code_of_a_module_of_ones_own_counts(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is imported above, or by the function as it runs."""
    monkeypatch.syspath_prepend(tmp_path)
    source = use.format("f(x)") if use.startswith("import") else use.format("from blocks import f\n    return f(x)")

    def with_(blocks: str) -> str:
        (tmp_path / "blocks.py").write_text(blocks)
        sys.modules.pop("blocks", None)
        sys.path_importer_cache.clear()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        try:
            return made_by(source)
        finally:
            sys.modules.pop("blocks", None)

    plain = with_("def f(x):\n    return g(x)\ndef g(x):\n    return x + 1\n")
    assert plain == with_("# moved\n\ndef f(x):\n    return g(x)\ndef g(x):\n    return x + 1\ndef h(x): return 0\n")
    assert plain != with_("def f(x):\n    return g(x)\ndef g(x):\n    return x + 2\n")


def test_modules_that_name_each_other_come_to_an_end() -> None:
    a, b = types.ModuleType("own_a"), types.ModuleType("own_b")
    a.b, b.a = b, a  # type: ignore[attr-defined]
    exec("def f(x):\n    return x + 1", vars(b))
    source = "def made(x):\n    return a.b.a.b.f(x)"
    first = made_by(source, a=a)
    exec("def f(x):\n    return x + 2", vars(b))
    assert made_by(source, a=a) != first


def test_an_import_that_fails_is_left_alone() -> None:
    source = "def made(x):\n    import of_nobody\n    return x"
    assert made_by(source) == made_by(source)
    assert made_by(source) != made_by(source.replace("return x", "return -x"))


ANYWHERE = """
import enum
import sys
from mia_lightning.store.identity import digest, identity

class Kind(enum.Enum):
    A = 1
    B = 2

def f(x):
    return x in {"a", "b", "cc", "dd", ("e", 1), 7, None}

def g(x):
    return f(x)

class Net:
    kinds = frozenset(Kind)
    both = {f, g, Kind}

    def forward(self, x):
        return Kind.A if g(x) else {"x": {"p", "q"}}

print(digest(identity([Net(), Net, f, g, {f, g}, {"a", "b"}, {"k": Kind.B, f: 1, g: 2}])))
"""


@pytest.mark.slow
def test_it_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ANYWHERE)
    kept = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = {
        subprocess.run(
            [sys.executable, str(tmp_path / "script.py")],
            env={**kept, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == 40


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


def test_settings_that_share_code_may_come_in_any_order() -> None:
    """The first that is described holds the code in full, and it must not matter which is the first."""
    source = (
        "import functools\ndef shared(x):\n    return x\ndef f(x):\n    return shared(x)\n"
        "def g(x):\n    return shared(-x)\ndef call(**kwargs):\n    return kwargs\n"
    )
    assert made_by(source + "made = functools.partial(call, a=f, b=g)") == made_by(
        source + "made = functools.partial(call, b=g, a=f)"
    )
    assert made_by(source + "made = functools.partial(call, a=f, b=g)") != made_by(
        source + "made = functools.partial(call, a=g, b=f)"
    )


def test_recursion_comes_to_an_end() -> None:
    source = (
        "class Tree:\n    def __init__(self, depth):\n        self.child = Tree(depth - 1)\n"
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
        "made = [Tree, even]"
    )
    assert made_by(source) == made_by(source)
    assert made_by(source) != made_by(source.replace("n != 0 and", "n != 1 and"))
    itself: list[object] = [1]
    itself.append(itself)
    assert digest(identity(itself)) != digest(identity([1, [1]]))


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


def test_a_global_that_cannot_be_said_counts_by_its_kind() -> None:
    """A lock beside a network is no reason to keep nothing, nor to keep it under another name."""
    source = "import threading\nlock = threading.Lock()\ndef made(x):\n    with lock:\n        return x"
    assert made_by(source) == made_by(source)
    assert made_by(source) != made_by(source.replace("Lock()", "Event()"))


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
