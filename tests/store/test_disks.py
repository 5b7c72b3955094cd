"""Disks that refuse, are full or speak in the words of a library: one sentence, and nothing is left half."""

import errno
import gc
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from artefacts import FIELDS, PLACE, A, files, refuse, said, writes

from mia_lightning.errors import InputError
from mia_lightning.store import artefacts as store_module
from mia_lightning.store.artefacts import Store


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_folder_that_refuses_is_said(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    before = files(store)
    monkeypatch.setattr("os.replace", refuse(number))
    uses: list[Callable[[], object]] = [
        store.check,
        partial(store.put, "plans/one", {}),
        partial(store.put, PLACE, {}, writes(b"other")),
    ]
    for use in uses:
        with pytest.raises(InputError) as raised:
            use()
        said(raised, store, os.strerror(number))
    monkeypatch.undo()
    assert files(store) == before
    found = store.get(PLACE)
    assert found is not None
    assert found.fields == FIELDS


def test_a_refusal_after_the_content_leaves_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "write_whole", refuse(errno.ENOSPC))
    with pytest.raises(InputError) as raised:
        store.put(PLACE, {}, writes(b"numbers"))
    said(raised, store, "No space left")
    assert files(store) == []


@pytest.mark.parametrize("use", ["check", "put", "locked"])
def test_a_folder_below_a_file(tmp_path: Path, use: str) -> None:
    (tmp_path / "file").write_text("I am a file.")
    store = Store(dir=tmp_path / "file" / "store")
    uses: dict[str, Callable[[], object]] = {
        "check": store.check,
        "put": partial(store.put, PLACE, {}, writes(b"numbers")),
        "locked": lambda: store.locked([A]).__enter__(),
    }
    with pytest.raises(InputError) as raised:
        uses[use]()
    said(raised, store, os.strerror(errno.ENOTDIR))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(store: Store) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    for folder in (store.folder, store.folder / "models" / "ab"):
        folder.chmod(0o555)
    try:
        for use in (store.check, partial(store.put, PLACE, {}, writes(b"other")), partial(store.forget, PLACE)):
            with pytest.raises(InputError, match="Permission denied"):
                use()
        assert store.damage(PLACE) is None
    finally:
        for folder in (store.folder, store.folder / "models" / "ab"):
            folder.chmod(0o755)


@pytest.mark.parametrize("use", ["get", "damage", "fields", "forget"])
def test_what_cannot_be_read_or_removed_is_said(store: Store, monkeypatch: pytest.MonkeyPatch, use: str) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    method = {"get": "open", "damage": "open", "fields": "read_bytes", "forget": "unlink"}[use]
    monkeypatch.setattr(Path, method, refuse(errno.EACCES))
    with pytest.raises(InputError) as raised:
        getattr(store, use)(PLACE)
    monkeypatch.undo()
    said(raised, store, "Permission denied")
    assert store.damage(PLACE) is None


def test_what_cannot_be_set_aside_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    next(store.folder.rglob("*.data")).write_bytes(b"bad")
    monkeypatch.setattr("shutil.move", refuse(errno.EACCES))
    with pytest.raises(InputError) as raised:
        store.get(PLACE)
    said(raised, store, "Permission denied")


NUMBERS = {"x": torch.zeros(500_000)}
WRITERS = {
    "bytes": writes(b"0" * 2_000_000),
    "safetensors": partial(safetensors.torch.save_file, NUMBERS),
    "torch": partial(torch.save, NUMBERS),
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root may mount a small tmpfs")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def assert_full(store: Store, use: Callable[[], object]) -> None:
    with pytest.raises(InputError) as raised:
        use()
    said(raised, store, "No space left on device")
    del raised
    gc.collect()  # torch keeps its file open for as long as anybody has the traceback


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(small_disk: Path, writer: str) -> None:
    store = Store(dir=small_disk / "store")
    store.check()
    store.put(PLACE, FIELDS, writes(b"numbers"))
    before = files(store)
    for place in (PLACE, "models/ab/ef"):
        assert_full(store, partial(store.put, place, {}, WRITERS[writer]))
    assert files(store) == before
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "rest").write_bytes(b"0" * 2_000_000)
    assert_full(store, partial(store.put, "plans/one", {"a": "b"}))
    assert_full(store, store.check)
    assert files(store) == before
    found = store.get(PLACE)
    assert found is not None
    assert found.fields == FIELDS
    (small_disk / "rest").unlink()
    store.put("plans/one", {"a": "b"})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (
            safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "No space left on device",
        ),
        (safetensors.SafetensorError("I/O error: Disk quota exceeded (os error 122)"), "Disk quota exceeded"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "Input/output error"),
    ],
)
def test_a_disk_that_refuses_in_the_words_of_a_library(store: Store, error: Exception, reason: str) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half of")
        raise error

    with pytest.raises(InputError) as raised:
        store.put(PLACE, {}, write)
    said(raised, store, reason)
    assert files(store) == []


def test_torch_does_not_say_that_a_disk_is_full(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]

    def write(path: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    with pytest.raises(InputError, match="No space left on device"):
        store.put(PLACE, {}, write)
