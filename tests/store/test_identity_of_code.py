"""The identity of code that was imported: what is edited in it makes it another."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mia_lightning.store.identity import digest, identity


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


def test_a_global_that_cannot_be_said_counts_by_its_kind() -> None:
    """A lock beside a network is no reason to keep nothing, nor to keep it under another name."""
    source = "import threading\nlock = threading.Lock()\ndef made(x):\n    with lock:\n        return x"
    assert made_by(source) == made_by(source)
    assert made_by(source) != made_by(source.replace("Lock()", "Event()"))
