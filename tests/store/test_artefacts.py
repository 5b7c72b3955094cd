"""Artefacts are there whole or not at all, whatever happens to the process or its neighbours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from artefacts import FIELDS, PLACE, StoppedError, ended, files, python, writes

from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import DAMAGED, Store
from mia_lightning.store.atomic import write_whole


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


@pytest.mark.parametrize("written", [False, True])
def test_an_interrupt_at_the_manifest_leaves_all_of_an_artefact_or_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    def interrupted(path: Path, content: bytes, **options: Any) -> Path:
        if written:
            write_whole(path, content, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("mia_lightning.store.artefacts.write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.put(PLACE, FIELDS, writes(b"numbers"))
    found = store.get(PLACE, tell=lambda damage: pytest.fail(str(damage)))
    assert (found is not None) == written
    assert found is None or found.content is None or found.content.read_bytes() == b"numbers"
    assert len(files(store)) == (2 if written else 0)


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


def test_what_appears_during_a_look_for_leftovers_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(PLACE, {}, writes(b"one"))
    places = Store.places

    def late(self: Store, under: str = "") -> list[str]:
        found = places(self, under)
        self.put("models/ab/ef", {}, writes(b"two"))
        return found

    monkeypatch.setattr(Store, "places", late)
    assert store.leftovers() == []


@pytest.mark.slow
def test_what_a_killed_writer_leaves_is_named(store: Store) -> None:
    script = """
import os, sys
from pathlib import Path
from mia_lightning.store import artefacts as store
def write(path):
    path.write_bytes(b"half of")
    if sys.argv[2] == "content":
        os._exit(9)
if sys.argv[2] == "manifest":
    store.write_whole = lambda *arguments, **named: os._exit(9)
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
from mia_lightning.store.artefacts import Store
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


def test_a_folder_must_be_named() -> None:
    with pytest.raises(InputError, match=r"^`store.dir` is ''; it must be a folder, or null to keep nothing\.$"):
        Store(dir="")


def test_a_folder_by_any_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store(dir="kept").folder == tmp_path / "kept"
    assert Store(dir="~/kept").folder == tmp_path / "home" / "kept"
    assert Store(dir=tmp_path / "kept", checkpoint_minutes=0).folder == tmp_path / "kept"
    assert not (tmp_path / "kept").exists()


def test_a_manifest_is_text_that_a_person_reads(store: Store) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    kept = json.loads((store.folder / f"{PLACE}.json").read_text())
    assert sorted(kept) == ["bytes", "check", "fields", "file", "schema", "sha256"]
    assert kept["fields"] == FIELDS
