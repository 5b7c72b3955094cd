"""Artefacts are there whole or not at all, whatever happens to the disk, the process or its neighbours."""

import errno
import fcntl
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mia_lightning import store as store_module
from mia_lightning.errors import InputError
from mia_lightning.store import DAMAGED, SCHEMA, Store

FIELDS = {"role": "shadow", "rate": 0.1, "none": None, "list": [1, [2, "é"]], "deep": {"a": {"b": True}}}
PLACE = "models/ab/cd"
A, B, C = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(dir=tmp_path / "kept" / "store")


def writes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def files(store: Store) -> list[str]:
    return sorted(path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file())


def test_what_is_put_is_found(store: Store) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    found = Store(dir=store.folder).get(PLACE)
    assert found is not None
    assert found.content is not None
    assert found.fields == FIELDS
    assert found.content.read_bytes() == b"numbers"
    assert store.fields(PLACE) == FIELDS
    assert store.has(PLACE)
    assert store.size(PLACE) == 7
    assert store.damage(PLACE) is None
    assert store.leftovers() == []
    assert len(files(store)) == 2


def test_nothing_is_nothing(store: Store) -> None:
    told: list[str] = []
    assert store.get(PLACE, tell=told.append) is None
    assert store.damage(PLACE) is None
    assert store.fields(PLACE) is None
    assert not store.has(PLACE)
    assert store.size(PLACE) == 0
    assert store.places() == []
    assert store.leftovers() == []
    store.forget(PLACE)
    assert told == []
    assert not store.folder.exists()


def test_an_artefact_without_content(store: Store) -> None:
    store.put("plans/one", FIELDS)
    found = store.get("plans/one")
    assert found is not None
    assert found.content is None
    assert found.fields == FIELDS
    assert store.size("plans/one") == 0
    assert files(store) == ["plans/one.json"]


def test_fields_come_back_as_json_has_them(store: Store) -> None:
    """Numbers as keys, which JSON orders otherwise than Python does, and tuples."""
    store.put(PLACE, {"of": {number: number for number in range(12)}, "pair": (1, 2)})
    found = store.get(PLACE)
    assert found is not None
    assert found.fields == {"of": {str(number): number for number in range(12)}, "pair": [1, 2]}


def test_an_artefact_is_replaced_and_forgotten_with_its_content(store: Store) -> None:
    for content in (b"one", b"two", b"two"):
        store.put(PLACE, {"content": content.decode()}, writes(content))
        found = store.get(PLACE)
        assert found is not None
        assert found.content is not None
        assert found.content.read_bytes() == content
        assert len(files(store)) == 2
    store.put(PLACE, {})
    assert files(store) == [f"{PLACE}.json"]
    store.put(PLACE, {}, writes(b"three"))
    store.forget(PLACE)
    assert files(store) == []


def test_places_are_in_order_and_by_folder(store: Store) -> None:
    for place in ("plans/b", "models/x/2", "models/x/1", "plans/a"):
        store.put(place, {})
    assert store.places() == ["models/x/1", "models/x/2", "plans/a", "plans/b"]
    assert store.places("plans") == ["plans/a", "plans/b"]
    assert store.places("answers") == []


class StoppedError(Exception):
    pass


def stops_at_once(path: Path) -> None:
    raise StoppedError


def stops_in_the_middle(path: Path) -> None:
    path.write_bytes(b"half of")
    raise StoppedError


def interrupted(path: Path) -> None:
    path.write_bytes(b"half of")
    raise KeyboardInterrupt


@pytest.mark.parametrize("write", [stops_at_once, stops_in_the_middle, interrupted])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_write_that_raises_leaves_nothing(store: Store, write: Callable[[Path], object], earlier: bool) -> None:
    if earlier:
        store.put(PLACE, {"earlier": True}, writes(b"whole"))
    before = files(store)
    with pytest.raises((StoppedError, KeyboardInterrupt)):
        store.put(PLACE, {"earlier": False}, write)
    assert files(store) == before
    found = store.get(PLACE)
    assert (found is not None) is earlier
    assert found is None or found.fields == {"earlier": True}


def test_a_writer_that_writes_nothing_is_no_artefact(store: Store) -> None:
    with pytest.raises(InputError, match="No such file"):
        store.put(PLACE, {}, lambda path: None)
    assert files(store) == []


def test_fields_that_json_cannot_keep_leave_nothing(store: Store) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.put(PLACE, {"object": object()}, writes(b"numbers"))
    assert files(store) == []


def is_set_aside(store: Store, reason: str) -> None:
    """The artefact is given up, with a sentence, kept for whoever wants to look, and can be made anew."""
    damaged = len([name for name in files(store) if not name.startswith(DAMAGED)])
    assert reason in (store.damage(PLACE) or "")
    assert len([name for name in files(store) if not name.startswith(DAMAGED)]) == damaged  # a look moves nothing
    told: list[str] = []
    assert store.get(PLACE, tell=told.append) is None
    assert len(told) == 1
    for part in (PLACE, str(store.folder), reason, f"set aside in {DAMAGED}/"):
        assert part in told[0]
    assert [name for name in files(store) if not name.startswith(DAMAGED)] == []
    assert store.places() == []
    assert store.leftovers() == []
    assert store.get(PLACE, tell=told.append) is None
    assert len(told) == 1
    store.put(PLACE, {"anew": True}, writes(b"numbers"))
    found = store.get(PLACE, tell=told.append)
    assert found is not None
    assert found.fields == {"anew": True}
    store.forget(PLACE)


def flip(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("bit", range(8))
def test_a_bit_flipped_in_the_content(store: Store, bit: int) -> None:
    for byte in range(7):
        store.put(PLACE, FIELDS, writes(b"numbers"))
        found = store.get(PLACE)
        assert found is not None
        assert found.content is not None
        flip(found.content, byte, bit)
        is_set_aside(store, "its content does not agree with its checksum")


def test_a_bit_flipped_anywhere_in_the_manifest(store: Store) -> None:
    """A bit of each byte: of the fields, the name and the length of the file, the checksums, the spaces."""
    store.put(PLACE, {"role": "shadow", "rate": 0.1, "list": [1, None, True]}, writes(b"numbers"))
    manifest = store.folder / f"{PLACE}.json"
    whole = manifest.read_bytes()
    for byte in range(len(whole)):
        flip(manifest, byte, byte % 8)
        assert "its manifest" in (store.damage(PLACE) or ""), (byte, manifest.read_bytes())
        manifest.write_bytes(whole)
    assert store.damage(PLACE) is None


@pytest.mark.parametrize(
    "part", ['"role"', "shadow", '"file"', ".data", '"bytes"', '"sha256"', '"check"', '"schema": 1']
)
def test_a_manifest_with_a_flipped_bit_is_set_aside(store: Store, part: str) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    manifest = store.folder / f"{PLACE}.json"
    flip(manifest, manifest.read_text().index(part) + len(part) - 1, 0)
    is_set_aside(store, "its manifest")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b"{}", b"[" * 100_000])
def test_what_is_no_manifest_is_set_aside(store: Store, content: bytes) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    (store.folder / f"{PLACE}.json").write_bytes(content)
    assert store.fields(PLACE) is None
    is_set_aside(store, "its manifest cannot be read")


@pytest.mark.parametrize("length", [0, 3, 6, 8])
def test_content_of_another_length(store: Store, length: int) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    found = store.get(PLACE)
    assert found is not None
    assert found.content is not None
    found.content.write_bytes(b"numbers!"[:length])
    is_set_aside(store, "its content does not agree with its checksum")


def test_content_that_is_gone(store: Store) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    next(store.folder.rglob("*.data")).unlink()
    is_set_aside(store, "its content is gone")


def test_neighbours_of_what_is_damaged_stay(store: Store) -> None:
    for place in (PLACE, f"{PLACE}2", "models/ab/c"):
        store.put(place, {}, writes(place.encode()))
    (store.folder / f"{PLACE}.json").write_text("?")
    assert store.get(PLACE) is None
    for place in (f"{PLACE}2", "models/ab/c"):
        assert store.damage(place) is None
        assert store.has(place)


def test_a_newer_schema_is_refused_and_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SCHEMA", SCHEMA + 1)
    store.put(PLACE, FIELDS, writes(b"numbers"))
    monkeypatch.undo()
    before = files(store)
    read: list[Callable[[], object]] = [
        *(partial(each, PLACE) for each in (store.get, store.fields, store.damage, store.size, store.forget)),
        partial(store.put, PLACE, {}, writes(b"mine")),
        store.leftovers,
    ]
    for each in read:
        with pytest.raises(InputError, match=rf"newer version of mia_lightning \(schema {SCHEMA + 1}, here {SCHEMA}\)"):
            each()
    assert files(store) == before


def test_what_another_process_has_just_replaced_is_read_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content goes between the look at the manifest and the look at the content."""
    store.put(PLACE, {"old": True}, writes(b"old"))
    parsed, times = Store._parsed, iter([True])

    def stale(self: Store, manifest: Path) -> Any:
        kept = parsed(self, manifest)
        if next(times, False):
            self.put(PLACE, {"old": False}, writes(b"new"))
        return kept

    monkeypatch.setattr(Store, "_parsed", stale)
    told: list[str] = []
    found = store.get(PLACE, tell=told.append)
    assert found is not None
    assert found.fields == {"old": False}
    assert told == []


def test_what_another_process_has_made_anew_is_not_set_aside(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw the damage; the slower one must not take the new artefact for the damaged one."""
    store.put(PLACE, {"old": True}, writes(b"old"))
    next(store.folder.rglob("*.data")).write_bytes(b"bad")
    set_aside, times = Store._set_aside, iter([True])

    def late(self: Store, place: str, damage: str) -> bool:
        if next(times, False):
            self.put(PLACE, {"old": False}, writes(b"new"))
        return set_aside(self, place, damage)

    monkeypatch.setattr(Store, "_set_aside", late)
    told: list[str] = []
    found = store.get(PLACE, tell=told.append)
    assert found is not None
    assert found.fields == {"old": False}
    assert told == []
    assert not (store.folder / DAMAGED).exists()


def test_what_appears_during_a_look_for_leftovers_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(PLACE, {}, writes(b"one"))
    places = Store.places

    def late(self: Store, under: str = "") -> list[str]:
        found = places(self, under)
        self.put("models/ab/ef", {}, writes(b"two"))
        return found

    monkeypatch.setattr(Store, "places", late)
    assert store.leftovers() == []


def test_what_a_killed_writer_leaves_is_named(store: Store) -> None:
    script = """
import os, sys
from pathlib import Path
from mia_lightning import store
def write(path):
    path.write_bytes(b"half of")
    if sys.argv[2] == "content":
        os._exit(9)
if sys.argv[2] == "manifest":
    store.write_whole = lambda *arguments: os._exit(9)
store.Store(dir=sys.argv[1]).put("models/ab/cd", {}, write)
"""
    assert ended(python(script, store, "content")) == 9
    assert [path.suffix for path in store.leftovers()] == [".partial"]
    assert ended(python(script, store, "manifest")) == 9
    assert sorted(path.suffix for path in store.leftovers()) == [".data", ".partial"]
    assert store.get(PLACE) is None
    store.put(PLACE, FIELDS, writes(b"numbers"))
    assert len(store.leftovers()) == 2
    assert store.damage(PLACE) is None


def test_writers_of_one_place_do_not_mix(store: Store) -> None:
    """Two write, a third reads: what it finds is always one of the artefacts, whole."""
    script = """
import sys
from mia_lightning.store import Store
store = Store(dir=sys.argv[1])
for i in range(150):
    text = f"{sys.argv[2]} {i}" if i % 2 else "of both"
    store.put("models/ab/cd", {"text": text}, lambda path: path.write_bytes(text.encode()))
"""
    store.put(PLACE, {"text": "first"}, writes(b"first"))
    writers = [python(script, store, name) for name in ("one", "two")]
    told: list[str] = []
    while any(writer.poll() is None for writer in writers):
        found = store.get(PLACE, tell=told.append)
        assert found is not None, told
    assert [ended(writer) for writer in writers] == [0, 0]
    assert told == []
    assert store.damage(PLACE) is None
    assert not (store.folder / DAMAGED).exists()


def refuse(number: int) -> Callable[..., None]:
    def refusing(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return refusing


def said(raised: pytest.ExceptionInfo[InputError], store: Store, reason: str) -> None:
    text = str(raised.value)
    for part in (str(store.folder), reason, "set store.dir", "What was finished before is kept."):
        assert part in text
    assert "\n" not in text


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


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dir": ""}, "`store.dir` is ''"),
        ({"dir": None}, "`store.dir` is None"),
        ({"dir": 3}, "`store.dir` is 3"),
        ({"checkpoint_minutes": -1}, "`store.checkpoint_minutes` is -1"),
        ({"checkpoint_minutes": float("nan")}, "`store.checkpoint_minutes` is nan"),
        ({"checkpoint_minutes": "10"}, "`store.checkpoint_minutes` is '10'"),
        ({"checkpoint_minutes": True}, "`store.checkpoint_minutes` is True"),
        ({"checkpoint_minutes": None}, "`store.checkpoint_minutes` is None"),
        ({"answers": "yes"}, "`store.answers` is 'yes'"),
        ({"answers": 1}, "`store.answers` is 1"),
        ({"answers": None}, "`store.answers` is None"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as raised:
        Store(**{"dir": "kept", **settings})
    assert str(raised.value).startswith(named)


def test_a_folder_by_any_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store(dir="kept").folder == tmp_path / "kept"
    assert Store(dir="~/kept").folder == tmp_path / "home" / "kept"
    assert Store(dir=tmp_path / "kept", checkpoint_minutes=0).folder == tmp_path / "kept"
    assert not (tmp_path / "kept").exists()


def python(script: str, store: Store, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own; it imports no torch."""
    kept = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", script, str(store.folder), *arguments]
    return subprocess.Popen(command, env=kept, stdout=subprocess.PIPE, text=True)


HOLDS = """
import sys
import time
from mia_lightning.store import Store
with Store(dir=sys.argv[1]).locked(sys.argv[2:], waiting=lambda: print("waiting", flush=True)):
    print("held", flush=True)
    time.sleep(600)
"""
TAKES = """
import sys
from mia_lightning.store import Store
with Store(dir=sys.argv[1]).locked_free(sys.argv[2:]) as free:
    print(*sorted(free))
"""


def ended(process: subprocess.Popen[str]) -> int:
    """Its exit code."""
    process.communicate()
    return process.returncode


@pytest.fixture
def holds(store: Store) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that takes locks, says so, and keeps them until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*keys: str) -> subprocess.Popen[str]:
        started.append(python(HOLDS, store, *keys))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def free_elsewhere(store: Store, *keys: str) -> set[str]:
    """Which of the keys another process can take at this moment."""
    out, _ = python(TAKES, store, *keys).communicate()
    return set(out.split())


def test_a_process_waits_and_goes_on_when_the_holder_is_killed(
    store: Store, holds: Callable[..., subprocess.Popen[str]]
) -> None:
    first = holds(A, B)
    assert line(first) == "held"
    second = holds(C, B)
    assert line(second) == "waiting"
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert line(second) == "held"  # and `waiting` is not called again
    assert free_elsewhere(store, A, B, C) == {A}


def test_waiting_is_called_once(
    store: Store, holds: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, and for however many keys."""
    first = holds(A, B)
    assert line(first) == "held"
    waited, looks = [], iter(range(4))

    def look(seconds: float) -> None:
        if next(looks, None) is None:
            first.kill()
            first.wait()

    monkeypatch.setattr("time.sleep", look)
    with store.locked([A, B], waiting=lambda: waited.append("waiting")):
        pass
    assert waited == ["waiting"]
    assert next(looks, None) is None
    with store.locked([A], waiting=lambda: waited.append("again")):
        pass
    assert waited == ["waiting"]


def test_keys_that_do_not_overlap_do_not_wait(store: Store, holds: Callable[..., subprocess.Popen[str]]) -> None:
    assert line(holds(A)) == "held"
    assert line(holds(B)) == "held"
    waited: list[str] = []
    with store.locked([C, C], waiting=lambda: waited.append("waiting")):
        assert free_elsewhere(store, A, B, C) == set()
    assert waited == []
    assert free_elsewhere(store, A, B, C) == {C}


def test_locks_of_other_stores_are_others(store: Store, tmp_path: Path) -> None:
    with Store(dir=tmp_path / "other").locked([A]):
        assert free_elsewhere(store, A) == {A}


def test_without_waiting_only_what_is_free(store: Store, holds: Callable[..., subprocess.Popen[str]]) -> None:
    assert line(holds(A)) == "held"
    with store.locked_free([A, B, C]) as free:
        assert free == {B, C}
        assert free_elsewhere(store, A, B, C) == set()
    assert free_elsewhere(store, A, B, C) == {B, C}


def test_an_error_gives_the_locks_up(store: Store) -> None:
    for take in (store.locked, store.locked_free):
        with pytest.raises(StoppedError), take([A]):
            raise StoppedError
        assert free_elsewhere(store, A) == {A}


def test_what_is_done_meanwhile_gives_no_lock_up(store: Store, tmp_path: Path) -> None:
    """A process that closes any descriptor of a file gives up all its locks on it."""
    link = tmp_path / "link"
    link.symlink_to(store.folder)
    with store.locked([A]):
        with Store(dir=store.folder).locked([B]):
            assert free_elsewhere(store, A, B) == set()
        with Store(dir=link).locked([C]), store.locked_free([B]):
            pass
        store.check()
        store.put(PLACE, FIELDS, writes(b"numbers"))
        assert store.places() == [PLACE]
        assert store.damage(PLACE) is None
        assert store.leftovers() == []
        store.forget(PLACE)
        assert free_elsewhere(store, A, B, C) == {B, C}
    assert free_elsewhere(store, A) == {A}


def test_a_child_holds_nothing_of_its_parent(store: Store) -> None:
    """Nor does its end give anything of the parent up."""
    with store.locked([A]):
        child = os.fork()
        if child == 0:
            with store.locked_free([A, B]) as free:
                os._exit(0 if free == {B} else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert free_elsewhere(store, A, B) == {B}


def test_a_folder_that_is_removed_and_made_anew(store: Store) -> None:
    with store.locked([A]):
        pass
    shutil.rmtree(store.folder)
    store.put(PLACE, FIELDS, writes(b"numbers"))
    assert store.damage(PLACE) is None
    with store.locked([A]):
        assert free_elsewhere(store, A, B) == {B}
    shutil.rmtree(store.folder)
    with store.locked_free([A]) as free:
        assert free == {A}
        assert free_elsewhere(store, A, B) == {B}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_stops_nobody(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(fcntl, "lockf", refuse(number))
    with store.locked([A]), store.locked_free([A, B]) as free:
        assert free == {A, B}


def test_a_lock_that_fails_otherwise_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", refuse(errno.EIO))
    for take in (store.locked, store.locked_free):
        with pytest.raises(OSError, match="Input/output error"), take([A]):
            pass


def test_a_manifest_is_text_that_a_person_reads(store: Store) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    kept = json.loads((store.folder / f"{PLACE}.json").read_text())
    assert sorted(kept) == ["bytes", "check", "fields", "file", "schema", "sha256"]
    assert kept["fields"] == FIELDS
