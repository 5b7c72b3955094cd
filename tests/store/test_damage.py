"""What is not as it was put there is noticed, set aside once, and made anew."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from artefacts import FIELDS, PLACE, files, writes

from mia_lightning.errors import InputError
from mia_lightning.store import artefacts as store_module
from mia_lightning.store.artefacts import DAMAGED, SCHEMA, Artefact, Store
from mia_lightning.store.documents import DamagedError, sealed, unsealed


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


@pytest.mark.costly
@pytest.mark.parametrize("bit", range(8))
def test_a_bit_flipped_in_the_content(store: Store, bit: int) -> None:
    for byte in range(7):
        store.put(PLACE, FIELDS, writes(b"numbers"))
        found = store.get(PLACE)
        assert found is not None
        assert found.content is not None
        flip(found.content, byte, bit)
        is_set_aside(store, "its content does not match its checksum")


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
    is_set_aside(store, "its content does not match its checksum")


def test_content_that_is_gone(store: Store) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    next(store.folder.rglob("*.data")).unlink()
    is_set_aside(store, "its content file is missing")


def test_neighbours_of_what_is_damaged_stay(store: Store) -> None:
    for place in (PLACE, f"{PLACE}2", "models/ab/c"):
        store.put(place, {}, writes(place.encode()))
    (store.folder / f"{PLACE}.json").write_text("?")
    assert store.get(PLACE) is None
    for place in (f"{PLACE}2", "models/ab/c"):
        assert store.damage(place) is None
        assert store.has(place)


def test_an_artefact_at_the_place_of_another_is_set_aside(store: Store) -> None:
    store.put("models/ab/ef", FIELDS, writes(b"others"))
    store.put(PLACE, FIELDS, writes(b"numbers"))
    (store.folder / "models/ab/ef.json").rename(store.folder / f"{PLACE}.json")
    next(store.folder.glob("models/ab/cd.*.data")).unlink()
    assert store.damage(PLACE) == "its manifest does not match its checksum"
    assert store.get(PLACE) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"file": "../../escape.0123456789ab.data"},
        {"file": "/etc/passwd"},
        {"file": 3},
        {"bytes": "7"},
        {"bytes": -1},
        {"sha256": "?"},
        {"schema": "1"},
        {"schema": None},
        {"fields": []},
        {"more": 1},
    ],
)
def test_a_manifest_of_another_form_is_set_aside_whatever_its_checksum(
    store: Store, changed: dict[str, object]
) -> None:
    store.put(PLACE, FIELDS, writes(b"numbers"))
    manifest = store.folder / f"{PLACE}.json"
    kept = unsealed(manifest.read_bytes(), PLACE)
    manifest.write_bytes(sealed(kept | changed, PLACE))
    assert store.fields(PLACE) is None
    assert store.size(PLACE) == 0
    is_set_aside(store, "its manifest is not of its form")


def test_what_means_nothing_to_its_reader_is_set_aside(store: Store) -> None:
    def meaning(artefact: Artefact) -> object:
        if "count" not in artefact.fields:
            raise DamagedError("has no count")
        return artefact.fields["count"]

    told: list[str] = []
    store.put(PLACE, {"count": 3}, writes(b"numbers"))
    assert store.read(PLACE, meaning, tell=told.append) == 3
    store.put(PLACE, {}, writes(b"numbers"))
    assert store.read(PLACE, meaning, tell=told.append) is None
    (sentence,) = told
    assert "is damaged (it has no count); it was set aside" in sentence
    assert not store.has(PLACE)
    assert store.was_damaged(PLACE)
    assert store.read(PLACE, meaning, tell=told.append) is None
    assert len(told) == 1


def test_what_somebody_replaces_meanwhile_is_not_set_aside(store: Store) -> None:
    def meaning(artefact: Artefact) -> object:
        if "count" not in artefact.fields:
            store.put(PLACE, {"count": 3}, writes(b"numbers"))
            raise DamagedError("has no count")
        return artefact.fields["count"]

    told: list[str] = []
    store.put(PLACE, {}, writes(b"numbers"))
    assert store.read(PLACE, meaning, tell=told.append) == 3
    assert told == []


def test_content_that_somebody_removes_meanwhile_is_absent(store: Store) -> None:
    def meaning(artefact: Artefact) -> object:
        assert artefact.content is not None
        artefact.content.unlink()
        return artefact.content.read_bytes()

    store.put(PLACE, FIELDS, writes(b"numbers"))
    assert store.read(PLACE, meaning) is None


def test_whether_an_artefact_came_out_as_before_is_told_by_its_checksum(store: Store) -> None:
    assert store.is_as_before(PLACE) is None
    store.put(PLACE, FIELDS, writes(b"numbers"))
    assert store.is_as_before(PLACE) is None
    next(store.folder.rglob("*.data")).write_bytes(b"?")
    assert store.get(PLACE) is None
    assert store.is_as_before(PLACE) is None
    store.put(PLACE, FIELDS, writes(b"numbers"))
    assert store.is_as_before(PLACE) is True
    store.put(PLACE, FIELDS, writes(b"others"))
    assert store.is_as_before(PLACE) is False
    (store.folder / DAMAGED / f"{PLACE}.json").write_bytes(b"?")
    assert store.is_as_before(PLACE) is None


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
