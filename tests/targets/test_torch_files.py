"""Files of torch.save, honest and hostile: tensors come out as torch itself reads them, and no code ever runs."""

import argparse
import collections
import functools
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mia_lightning.targets.inert import Inert, is_inert, name_of
from mia_lightning.targets.storages import NotReadError
from mia_lightning.targets.torch_file import read_without_code

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool, torch.complex64, torch.complex128),
)
FORMS = pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "older"])


def save(value: object, path: Path, in_zip: bool) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=in_zip)


@FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_those_that_torch_reads(tmp_path: Path, dtype: torch.dtype, in_zip: bool) -> None:
    whole = (torch.arange(24) % 5).to(dtype)
    held = {
        "whole": whole,
        "view": whole.view(4, 6)[1:, ::2],
        "turned": whole.view(4, 6).T,
        "number": whole[3],
        "nothing": whole[:0],
        "spread": whole[:1].expand(7),
        "again": whole,
        "alone": whole[5:9].clone(),
    }
    save(held, tmp_path / "a.pt", in_zip)
    expected = torch.load(tmp_path / "a.pt", weights_only=True)
    found = read_without_code(tmp_path / "a.pt")
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype is dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.uint32], ids=str)
def test_younger_types_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    numbers = torch.arange(6, dtype=torch.float32).to(dtype)
    torch.save({"a": numbers}, tmp_path / "a.pt")
    found = read_without_code(tmp_path / "a.pt")["a"]
    assert found.dtype is dtype
    assert torch.equal(found.view(torch.uint8), numbers.view(torch.uint8))


def test_a_file_without_sums_of_its_records_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(9.0)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_without_code(tmp_path / "a.pt")["a"], torch.arange(9.0))


def test_what_is_read_is_not_bound_to_the_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(4)}, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    read_without_code(tmp_path / "a.pt")["a"].fill_(7)
    assert (tmp_path / "a.pt").read_bytes() == before


class Plain:
    def __init__(self) -> None:
        self.width = 3


@FORMS
def test_plain_values_stand_and_all_else_is_named(tmp_path: Path, in_zip: bool) -> None:
    held = {
        "numbers": [1, 2.5, None, True, "text", b"bytes", 2**80, (1, (2, 3))],
        "ordered": collections.OrderedDict(a=1, b=[2]),
        "default": collections.defaultdict(list, {"x": [1]}),
        "score": np.float64(0.25),
        "path": Path("a/b"),
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "parameter": nn.Parameter(torch.ones(2)),
        "set": {3},
        "class": nn.ReLU,
        "partial": functools.partial(torch.optim.Adam, lr=0.1),
        "object": Plain(),
        "module": nn.Linear(2, 2),
        "namespace": argparse.Namespace(lr=0.1),
        "array": np.zeros(3),
        "container": OmegaConf.create({"a": {"b": [1, 2]}}),
        "device": torch.device("cpu"),
        "function": os.path.join,
    }
    save(held, tmp_path / "a.pt", in_zip)
    found = read_without_code(tmp_path / "a.pt")
    for name in ("numbers", "ordered", "default", "score", "dtype"):
        assert found[name] == held[name], name
    assert (found["path"], found["size"], found["set"]) == ("a/b", (2, 3), [3])
    assert torch.equal(found["parameter"], torch.ones(2))
    names = {name: name_of(value) for name, value in found.items() if is_inert(value)}
    assert names["class"] == "torch.nn.modules.activation.ReLU"
    assert names["partial"] == "functools.partial"
    assert names["object"].endswith("test_torch_files.Plain")
    assert names["module"] == "torch.nn.modules.linear.Linear"
    assert set(names) == set(held) - {
        *("numbers", "ordered", "default", "score", "path", "size", "dtype", "parameter", "set"),
    }
    assert found["object"].state == {"width": 3}
    with pytest.raises(TypeError, match="not written again"):
        pickle.dumps(found["object"])


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


def archive(pickled: bytes, path: Path, **others: bytes) -> None:
    """A file in the form of torch.save around a pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        for name, content in others.items():
            file.writestr(f"archive/{name.replace('__', '/')}", content)


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


@pytest.mark.usefixtures("nothing_runs")
def test_any_order_of_opcodes_is_harmless(tmp_path: Path) -> None:
    draws = random.Random(7)
    read = 0
    for _ in range(3000):
        (tmp_path / "a.pt").write_bytes(random_pickle(draws))
        read += tried(tmp_path / "a.pt") is not None
    assert read > 10  # not all of them end at once


def rebuilt(key: str, count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of a tensor that says of itself what it likes."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(value, io.BytesIO) else None

    class Told:
        def __reduce__(self) -> Any:
            arguments = (io.BytesIO(), offset, size, stride, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    written = io.BytesIO()
    Pickler(written, 2).dump({"a": Told()})
    return written.getvalue()


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


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "pickle"])
def test_lengths_and_depths_are_not_believed(tmp_path: Path, kind: str, in_zip: bool) -> None:
    archive(LENGTHS[kind], tmp_path / "a.pt") if in_zip else (tmp_path / "a.pt").write_bytes(LENGTHS[kind])
    tried(tmp_path / "a.pt")  # within the memory and the stack of this process


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * 10_000_000 + b"N.")


def other_byte_order(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"N.")
        file.writestr("archive/byteorder", "big")


def many_names(path: Path) -> None:
    path.write_bytes(b"\x80\x02" + b"".join(b"ca\nb%d\n0" % number for number in range(10_001)) + b"N.")


def two_pickles(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for folder in ("a", "b"):
            file.writestr(f"{folder}/data.pkl", b"N.")


def tar(path: Path) -> None:
    import tarfile

    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("storages"))


def cut(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (compressed, "it lacks its record data.pkl"),
        (other_byte_order, "the other byte order"),
        (many_names, "names more than 10000"),
        (two_pickles, "an archive that torch.save has not written"),
        (tar, "the form of torch before 0.1.10"),
        (cut, "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: archive(rebuilt("7", 4, 0, (4,), (1,)), path), "it lacks its record data/7"),
        (lambda path: path.write_bytes(pickle.dumps(torch.ones(2))), "tensors without numbers"),
        (lambda path: torch.save({"a": torch.ones(2, dtype=torch.complex64).conj()}, path), "conjugated or negated"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, write: Callable[[Path], None], words: str) -> None:
    write(tmp_path / "a.pt")
    with pytest.raises(NotReadError, match=words):
        read_without_code(tmp_path / "a.pt")


def test_a_pickle_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mia_lightning.targets.torch_file._MOST_PICKLED", 1000)
    archive(pickle.dumps(["x" * 2000]), tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(["x" * 2000]))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(NotReadError, match="more than 1,000"):
            read_without_code(tmp_path / name)


def test_an_inert_value_does_nothing() -> None:
    made = type("Inert", (Inert,), {"name": "a.b"})(1, 2)
    assert made.args == (1, 2)
    assert made(3) is made
    assert isinstance(made, Inert)
    assert not isinstance(made, Tensor)
