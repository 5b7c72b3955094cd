"""Hostile and damaged files of torch: no code runs, and what is not read is refused."""

import os
import pickle
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch_archives import FORMS, archive, rebuilt, save

from mia_lightning.targets.storages import NotReadError
from mia_lightning.targets.torch_file import read_without_code

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make


class Does:
    """Calls a function while it is read by pickle."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.made = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.made


class DoesLater(Does):
    """By the parts of a pickle that fill an object: its state, items, a function that sets the state."""

    def __reduce__(self) -> Any:
        function, args = self.made
        inner = Does(function, *args)
        return list, (), inner, iter([inner]), None, function


def codes(parts: str, touched: Path) -> bytes:
    """A pickle by hand."""
    command = f"touch {touched}"
    return {
        "GLOBAL": f"cos\nsystem\n(S'{command}'\ntR.".encode(),
        "INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "NEWOBJ": f"\x80\x02cos\nsystem\nS'{command}'\n\x85\x81.".encode("latin1"),
        "NEWOBJ_EX": f"\x80\x04cos\nsystem\nS'{command}'\n\x85}}\x92.".encode("latin1"),
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system" + f"\x93S'{command}'\n\x85R.".encode("latin1"),
        "eval": f'cbuiltins\neval\n(S\'__import__("os").system("{command}")\'\ntR.'.encode(),
        "getattr": f"cbuiltins\ngetattr\n(cos\n__dict__\nS'system'\ntR(S'{command}'\ntR.".encode(),
        "dotted": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.system" + f"\x93S'{command}'\n\x85R.".encode("latin1"),
        "BUILD": f"cos\nsystem\n(S'{command}'\ntRq\x00}}S'__setstate__'\ncos\nsystem\nsbS'{command}'\nb.".encode(
            "latin1"
        ),
        "setattr": f"ccollections\nOrderedDict\n)R}}S'items'\ncos\nsystem\nsb(S'{command}'\nl.".encode(),
        "load_from_bytes": b"ctorch.storage\n_load_from_bytes\n(C\x05hello\x85R.",
        "joblib": f"cjoblib\nload\n(S'{touched}'\ntR.".encode(),
        "runpy": f"crunpy\nrun_path\n(S'{touched}'\ntR.".encode(),
        "rebuild": b"ctorch._tensor\n_rebuild_from_type_v2\n"
        + f"(cos\nsystem\nctorch\nTensor\n(S'{command}'\ntNtR.".encode(),
        "encode": b"c_codecs\nencode\n(S'x'\nS'no_such_codec'\ntR.",
        "persistent": f"(cos\nsystem\nS'{command}'\ntQ.".encode(),
        "extension": b"\x80\x02\x82\x07.",
    }[parts]


BY_HAND = [
    *("GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "eval", "getattr", "dotted", "BUILD", "setattr"),
    *("load_from_bytes", "joblib", "runpy", "rebuild", "encode", "persistent", "extension"),
]


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hostile file would use, watched: to call any of it fails the test."""

    def caught(*args: object, **kwargs: object) -> None:
        pytest.fail(f"code of a file ran, with {args}")

    for name in ("system", "popen"):
        monkeypatch.setattr(os, name, caught)


def tried(path: Path) -> Any:
    """What is read, or None where the file is refused, which is as good."""
    try:
        return read_without_code(path)
    except NotReadError:
        return None


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "pickle"])
@pytest.mark.parametrize("parts", BY_HAND)
def test_no_pickle_runs_code(tmp_path: Path, parts: str, in_zip: bool) -> None:
    touched = tmp_path / "touched"
    pickled = codes(parts, touched)
    archive(pickled, tmp_path / "a.pt") if in_zip else (tmp_path / "a.pt").write_bytes(pickled)
    tried(tmp_path / "a.pt")
    assert not touched.exists()


WATCHED = """
import encodings.cp437
import sys
from pathlib import Path

from mia_lightning.targets.storages import NotReadError
from mia_lightning.targets.torch_file import read_without_code

seen, is_on = [], False


def hook(event, args):
    writes = event == "open" and any(letter in str(args[1] or "") for letter in "wax+")
    runs = event.startswith(("os.", "subprocess.", "socket.", "ctypes.")) and event != "os.listdir"
    if is_on and (writes or runs or event in ("exec", "compile", "import")):
        seen.append((event, args))


sys.addaudithook(hook)
for path in sorted(Path(sys.argv[1]).iterdir()):
    is_on = True
    try:
        read_without_code(path)
    except NotReadError:
        pass
    is_on = False
print(len(list(Path(sys.argv[1]).iterdir())), seen)
"""


@pytest.mark.slow
def test_python_itself_sees_nothing_run(tmp_path: Path) -> None:
    """By the audit events of another process: no code, no import, no file that is written."""
    draws, folder = random.Random(11), tmp_path / "files"
    folder.mkdir()
    for parts in BY_HAND:
        (folder / f"{parts}.pkl").write_bytes(codes(parts, tmp_path / "touched"))
        archive(codes(parts, tmp_path / "touched"), folder / f"{parts}.pt")
    for number in range(2000):
        (folder / f"{number}.pkl").write_bytes(random_pickle(draws))
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(folder)], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == f"{2000 + 2 * len(BY_HAND)} []"
    assert not (tmp_path / "touched").exists()


@FORMS
@pytest.mark.parametrize("kind", [Does, DoesLater])
def test_tensors_beside_hostile_objects_are_read(tmp_path: Path, kind: type[Does], in_zip: bool) -> None:
    touched = tmp_path / "touched"
    held = {"state_dict": {"a": torch.ones(3)}, "hook": kind(os.mkdir, str(touched)), "b": kind(exec, "1/0")}
    save(held, tmp_path / "a.pt", in_zip)
    found = read_without_code(tmp_path / "a.pt")
    assert torch.equal(found["state_dict"]["a"], torch.ones(3))
    assert not touched.exists()


def mutated(content: bytes, draws: random.Random) -> bytes:
    """A file with a few bytes changed, cut or doubled."""
    changed = bytearray(content)
    for _ in range(draws.randint(1, 8)):
        place = draws.randrange(len(changed))
        changed[place] = draws.choice([0, 255, draws.randrange(256), ord("."), ord("R"), ord("b"), ord("\x81")])
    if draws.random() < 0.2:
        del changed[draws.randrange(len(changed)) :]
    return bytes(changed)


@pytest.mark.usefixtures("nothing_runs")
@FORMS
def test_damaged_files_are_read_or_refused(tmp_path: Path, in_zip: bool) -> None:
    held = {"state_dict": nn.Linear(3, 2).state_dict(), "hyper_parameters": {"act": nn.ReLU, "w": [1, 2]}, "e": 3}
    save(held, tmp_path / "a.pt", in_zip)
    content, draws = (tmp_path / "a.pt").read_bytes(), random.Random(5)
    refused = 0
    for _ in range(400):
        (tmp_path / "b.pt").write_bytes(mutated(content, draws) or b"x")
        refused += tried(tmp_path / "b.pt") is None
    assert 20 < refused < 400  # of which some are harmless


def random_pickle(draws: random.Random) -> bytes:
    """Opcodes in any order, with names of code among them."""
    globals_ = [b"cos\nsystem\n", b"cbuiltins\nexec\n", b"ctorch._utils\n_rebuild_tensor_v2\n"]
    globals_ += [b"ccollections\nOrderedDict\n", b"ctorch._tensor\n_rebuild_from_type_v2\n"]
    values = [b"}", b"]", b")", b"N", b"K\x05", b"S'id'\n", b"(", b"\x8f", b"G" + struct.pack(">d", 0.5)]
    does = [
        b"R",
        b"b",
        b"s",
        b"u",
        b"a",
        b"e",
        b"\x81",
        b"\x92",
        b"o",
        b"t",
        b"\x85",
        b"\x86",
        b"d",
        b"l",
        b"0",
        b"2",
        b"Q",
    ]
    parts = [draws.choice(draws.choice([globals_, values, does, values])) for _ in range(draws.randint(3, 30))]
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_runs")
def test_any_order_of_opcodes_is_harmless(tmp_path: Path) -> None:
    draws = random.Random(7)
    read = 0
    for _ in range(3000):
        (tmp_path / "a.pt").write_bytes(random_pickle(draws))
        read += tried(tmp_path / "a.pt") is not None
    assert read > 10  # not all of them end at once


@pytest.mark.parametrize(
    ("count", "offset", "size", "stride"),
    [
        (4, 0, (2, 2), (2, 1)),
        (4, 3, (2,), (1,)),
        (4, 0, (2**40,), (1,)),
        (4, 0, (2**31, 2**31), (0, 0)),
        (2**40, 0, (2**40,), (1,)),
        (4, 0, (4,), (-1,)),
        (4, -1, (4,), (1,)),
        (4, 0, (2, 2), (2**62, 1)),
        (-4, 0, (4,), (1,)),
    ],
)
def test_a_tensor_that_is_larger_than_its_numbers_is_refused(
    tmp_path: Path, count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    archive(rebuilt("0", count, offset, size, stride), tmp_path / "a.pt", data__0=struct.pack("<4f", 1, 2, 3, 4))
    if (count, offset, size) == (4, 0, (2, 2)) and stride == (2, 1):
        assert read_without_code(tmp_path / "a.pt")["a"].tolist() == [[1, 2], [3, 4]]
        return
    with pytest.raises(NotReadError):
        read_without_code(tmp_path / "a.pt")


def sequence(count: int) -> bytes:
    """The older form, whose storage says that it holds `count` numbers and holds four."""
    head = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    body = rebuilt("0", 4, 0, (4,), (1,))
    return head + body + pickle.dumps(["0"], 2) + struct.pack("<q", count) + struct.pack("<4f", 1, 2, 3, 4)


@pytest.mark.parametrize("count", [4, 5, 2**40, 2**61, -1])
def test_a_storage_that_is_larger_than_the_file_is_refused(tmp_path: Path, count: int) -> None:
    (tmp_path / "a.pt").write_bytes(sequence(count))
    if count == 4:
        assert read_without_code(tmp_path / "a.pt")["a"].tolist() == [1, 2, 3, 4]
        return
    with pytest.raises(NotReadError, match="cut off"):
        read_without_code(tmp_path / "a.pt")


LENGTHS = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "digits": b"I" + b"9" * 10_000 + b"\n.",
    "nested": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "nested key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
    "nested set": b"\x80\x04\x8f(" + b")" + b"\x85" * 200_000 + b"\x90.",
    "marks": b"\x80\x02" + b"(" * 200_000 + b".",
    "doubled": b"\x80\x02]" + b"q\x00h\x00h\x00\x86\x86"[:3] + b"(" + b"h\x00" * 5000 + b"e.",
}


@pytest.mark.costly
@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "pickle"])
def test_lengths_and_depths_are_not_believed(tmp_path: Path, kind: str, in_zip: bool) -> None:
    archive(LENGTHS[kind], tmp_path / "a.pt") if in_zip else (tmp_path / "a.pt").write_bytes(LENGTHS[kind])
    tried(tmp_path / "a.pt")  # within the memory and the stack of this process
