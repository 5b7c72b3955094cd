"""Files of torch.save: tensors come out as torch itself reads them, and all else is named or refused."""

import argparse
import collections
import functools
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch_archives import FORMS, archive, cut, rebuilt, save

from mia_lightning.targets.inert import Inert, is_inert, name_of
from mia_lightning.targets.storages import NotReadError
from mia_lightning.targets.torch_file import read_without_code

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool, torch.complex64, torch.complex128),
)


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


@pytest.mark.costly
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
