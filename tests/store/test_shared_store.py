"""A store that several people share: by the mode and group of its folder, or on a disk that can be read alone."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from artefacts import FIELDS, PLACE, A, refuse, said, writes

from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import DAMAGED, Store


def modes(store: Store) -> set[tuple[str, int]]:
    found = [(path, path.stat().st_mode) for path in store.folder.rglob("*")]
    return {("folder" if path.is_dir() else "file", stat.S_IMODE(mode)) for path, mode in found}


def used(store: Store) -> None:
    """Everything that makes a file or a folder."""
    store.check()
    store.put(PLACE, FIELDS, writes(b"numbers"))
    store.put("plans/one", FIELDS)
    store.put("answers/ab/cd", FIELDS, lambda path: (path.write_bytes(b"x"), path.chmod(0o600)))  # as safetensors does
    with store.locked([A]):
        pass
    next((store.folder / "models").rglob("*.data")).write_bytes(b"bad")
    assert store.get(PLACE) is None


@pytest.mark.parametrize(
    ("of_folder", "folders", "of_files"),
    [
        (0o700, 0o700, 0o600),
        (0o755, 0o755, 0o644),
        (0o770, 0o770, 0o660),
        (0o2775, 0o2775, 0o664),
        (0o1777, 0o777, 0o666),  # in a sticky folder, nobody could replace or prune the files of another
    ],
)
def test_files_and_folders_have_the_mode_of_the_store(
    store: Store, of_folder: int, folders: int, of_files: int
) -> None:
    store.folder.mkdir(parents=True)
    store.folder.chmod(of_folder)
    used(store)
    assert (store.folder / DAMAGED / "models" / "ab").is_dir()
    assert modes(store) == {("folder", folders), ("file", of_files)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to any group")
def test_files_and_folders_have_the_group_of_the_store(store: Store) -> None:
    store.folder.mkdir(parents=True)
    os.chown(store.folder, -1, 4242)
    used(store)
    assert {path.stat().st_gid for path in store.folder.rglob("*")} == {4242}


def test_a_group_that_one_does_not_belong_to_and_a_mode_that_the_disk_has_not_are_let_be(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.chown", refuse(errno.EPERM))
    monkeypatch.setattr(Path, "chmod", refuse(errno.EPERM))
    store.put(PLACE, FIELDS, writes(b"numbers"))
    assert store.damage(PLACE) is None


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_store_that_can_be_read_alone_is_used_as_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as refusing:
        refusing.setattr("os.replace", refuse(number))
        with pytest.raises(InputError) as raised:  # it has nothing that could be used
            store.check(to_read=True)
        said(raised, store, os.strerror(number))
    store.put(PLACE, FIELDS, writes(b"numbers"))
    assert not store.is_read_only
    monkeypatch.setattr("os.replace", refuse(number))
    store.check(to_read=True)
    assert store.is_read_only
    found = store.get(PLACE)
    assert found is not None
    assert found.fields == FIELDS


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_full_is_not_one_that_can_be_read_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    monkeypatch.setattr("os.replace", refuse(number))
    assert not store.is_read_only
    with pytest.raises(InputError) as raised:
        store.check(to_read=True)
    said(raised, store, os.strerror(number))


@pytest.fixture
def read_only(store: Store) -> Iterator[Store]:
    """The store on a disk that can be read alone."""
    store.put(PLACE, FIELDS, writes(b"numbers"))
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root may mount")
    for options in (["--bind", store.folder, store.folder], ["-o", "remount,ro,bind", store.folder]):
        if subprocess.run([mount, *options], capture_output=True).returncode != 0:
            pytest.skip("nothing can be mounted here")
    yield store
    subprocess.run(["umount", store.folder], check=True)


def test_a_disk_that_can_be_read_alone(read_only: Store) -> None:
    read_only.check(to_read=True)
    assert read_only.is_read_only
    assert read_only.damage(PLACE) is None
    for use in (read_only.check, partial(read_only.put, "plans/one", {}), partial(read_only.locked, [A])):
        with pytest.raises(InputError) as raised:
            use()
        said(raised, read_only, "Read-only file system")
