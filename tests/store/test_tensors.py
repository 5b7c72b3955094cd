"""Tensors in files: what is read is what was written, or it is damage."""

import errno
import os
import random
import stat
from pathlib import Path

import pytest
import safetensors
import torch
from artefacts import refuse
from safetensors.torch import save_file

from mia_lightning.store.documents import DamagedError
from mia_lightning.store.tensors import save_tensors, saved_tensors, tensors_of

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        found[name].dtype == each.dtype and torch.equal(found[name], each) for name, each in TENSORS.items()
    )


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    save_tensors(TENSORS, tmp_path / "new" / "file")
    found, has_checksum = saved_tensors(tmp_path / "new" / "file")
    assert has_checksum
    assert same(found)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert same(tensors_of(tmp_path / "new" / "file"))


@pytest.mark.parametrize("mask", [0o022, 0o007, 0o077])
def test_a_file_has_the_mode_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save_tensors(TENSORS, tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_what_others_wrote_has_no_checksum(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "file", metadata={"format": "pt"})
    found, has_checksum = saved_tensors(tmp_path / "file")
    assert not has_checksum
    assert same(found)


def test_a_flipped_bit_is_damage_or_changes_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_tensors(TENSORS, path)
    whole, numbers = path.read_bytes(), random.Random(0)
    num_damaged = 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << numbers.randrange(8)
        path.write_bytes(content)
        try:
            assert same(saved_tensors(path)[0]), place
        except DamagedError:
            num_damaged += 1
    assert num_damaged > len(whole) / 2


@pytest.mark.parametrize("content", [b"", b"\x10\x00", b"no tensors at all"])
def test_what_holds_no_tensors_is_damage(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    for each in (saved_tensors, tensors_of):
        with pytest.raises(DamagedError, match="cannot be read as safetensors"):
            each(tmp_path / "file")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), safetensors.SafetensorError("I/O error (os error 28)")]
)
def test_a_full_disk_leaves_the_file_that_was_there(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tensors(TENSORS, tmp_path / "file")

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half of")
        raise error

    monkeypatch.setattr("mia_lightning.store.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_tensors({}, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert same(saved_tensors(tmp_path / "file")[0])


def test_a_file_that_is_gone_is_told_apart_from_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DamagedError, match="No such file"):
        saved_tensors(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        tensors_of(tmp_path / "file")
    monkeypatch.setattr("mia_lightning.store.tensors.safe_open", refuse(errno.EACCES))
    with pytest.raises(DamagedError, match="Permission denied"):
        saved_tensors(tmp_path / "file")
