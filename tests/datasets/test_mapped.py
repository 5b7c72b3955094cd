"""Records that stay on disk: the same as those in memory, and read no sooner than they are needed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mia_lightning.datasets import npz
from mia_lightning.datasets.npz import load_npz
from mia_lightning.errors import InputError

LABEL = np.arange(40) % 3


def records(dtype: str = "f4") -> np.ndarray[Any, Any]:
    return (np.random.default_rng(0).normal(size=(40, 2, 5)) * 50).astype(dtype)


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("dtype", ["f4", "f2", "u1", "i8", ">i4", "f8"])
@pytest.mark.parametrize("also", [{}, {"z": np.zeros(7)}])
def test_an_archive_that_is_mapped_holds_what_one_in_memory_does(
    dtype: str, also: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.npz"
    np.savez(path, **also, x=records(dtype), label=LABEL)
    whole = load_npz(path=path)
    assert not is_mapped(path)
    monkeypatch.setattr(npz, "_MAPPED_BYTES", 500)  # the labels take less
    mapped = load_npz(path=path)
    assert is_mapped(path) == (dtype not in (">i4", "f8"))  # these are converted
    assert torch.equal(mapped.x_N, whole.x_N)
    assert mapped.fingerprint() == whole.fingerprint()
    mapped.x_N[0] = 0  # in memory alone
    assert torch.equal(load_npz(path=path).x_N, whole.x_N)


@pytest.mark.parametrize("how", ["compressed", "fortran", "small"])
def test_what_cannot_or_need_not_be_mapped_is_read(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.npz"
    x = np.asfortranarray(records()) if how == "fortran" else records()
    (np.savez_compressed if how == "compressed" else np.savez)(path, x=x, label=LABEL)
    monkeypatch.setattr(npz, "_MAPPED_BYTES", 10**9 if how == "small" else 500)
    found = load_npz(path=path)
    assert not is_mapped(path)
    np.testing.assert_array_equal(found.x_N.numpy(), records())


def test_objects_are_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "_MAPPED_BYTES", 500)  # the labels take less
    path = tmp_path / "records.npz"
    np.savez(path, x=np.array([{"a": 1}] * 400), label=LABEL)
    with pytest.raises(InputError, match=r"without pickled objects"):
        load_npz(path=path)


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    member = np.arange(40) % 2 == 0
    for name, array in (("x", records("u1")), ("label", LABEL), ("in", member)):
        np.save(folder / f"{name}.npy", array)
    found = load_npz(path=folder, member_key="in")
    assert is_mapped(folder / "x.npy")
    assert found.name == "mine"
    assert found.member_N is not None
    assert found.member_N.tolist() == member.tolist()
    np.testing.assert_array_equal(found.x_N.numpy(), records("u1"))
    with pytest.raises(InputError, match=r"mine' has no array 'y' \(it has 'in', 'label', 'x'\): set dataset.x_key"):
        load_npz(path=folder, x_key="y")


@pytest.mark.parametrize("damage", ["truncated", "text", "objects", "empty"])
def test_a_damaged_array_of_a_folder_is_named(damage: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}] * 40) if damage == "objects" else records())
    np.save(tmp_path / "label.npy", LABEL)
    if damage != "objects":
        whole = (tmp_path / "x.npy").read_bytes()
        content = {"truncated": whole[:-10], "text": b"1,2\n", "empty": b""}[damage]
        (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match=rf"'{tmp_path}/x.npy' cannot be read as an .npy file .*: write it again"):
        load_npz(path=tmp_path)


SCRIPT = """
import sys
import torch
from mia_lightning.datasets import npz

npz._MAPPED_BYTES = 2**20

def held(kind):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) // 1024

torch.ones(2**20).aminmax()  # whatever torch holds from its first reductions on
before = held("RssAnon")
population = npz.load_npz(path=sys.argv[1])
most = held("RssAnon")
population.fingerprint()
most = max(most, held("RssAnon"))
total = 0.0
for index_B in torch.arange(len(population)).split(200):
    total += float(population.records(index_B).double().sum())
    most = max(most, held("RssAnon"))
print(most - before, held("RssFile"), total)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["archive", "folder"])
def test_records_are_never_loaded_as_a_whole(how: str, tmp_path: Path) -> None:
    """The memory that a process has to itself; pages of a file are counted apart, and dropped when memory is short."""
    x = np.ones((4_000, 6_000), np.float32)  # 92 MiB
    label = np.arange(len(x)) % 2
    path = tmp_path / "records.npz" if how == "archive" else tmp_path
    if how == "archive":
        np.savez(path, x=x, label=label)
    else:
        np.save(path / "x.npy", x)
        np.save(path / "label.npy", label)
    del x
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    grown, mapped, total = map(float, run.stdout.split())
    assert total == 4_000 * 6_000
    assert mapped > 92  # every page was read
    assert grown < 60  # a batch of 200 records in float32 and in float64 is 14 MiB
