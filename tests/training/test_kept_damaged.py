"""Models in the store that are damaged, or were being trained when a process ended: what comes out is the same."""

import errno
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import refuse
from kept_models import RECIPE, alike, engine_and_job, equal, key_of, records_of, same, stopped_after, stored
from kept_models import store as store
from safetensors.torch import save_file

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import Store
from mia_lightning.store.housekeeping import trainings
from mia_lightning.training.engine import Reuse


def test_a_damaged_model_is_said_set_aside_and_trained_anew(
    blobs: Population, store: Store, recwarn: pytest.WarningsRecorder
) -> None:
    _, trained = stored(store, blobs, range(4))
    content = sorted((store.folder / "models").rglob("*.data"))[1]
    content.write_bytes(content.read_bytes()[:-1] + b"?")
    engine, again = stored(store, blobs, range(4))
    assert engine.reused["shadow"] == Reuse(found=3, trained=1)
    (remark,) = engine.stages.remarks
    assert "is damaged (its content does not match its checksum); it was set aside in damaged/" in remark
    assert alike(again, trained)
    assert len(store.places("models")) == 4


def changed_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.costly
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, "auto"])
@pytest.mark.parametrize("part", ["data", "json"])
def test_a_damaged_model_made_anew_is_the_same_to_the_bit_since_its_chunk_is_trained_as_before(
    chunk: Any, part: str, blobs: Population, store: Store
) -> None:
    recipe = replace(RECIPE, chunk=chunk)
    first, trained = stored(store, blobs, range(5), recipe=recipe)
    written = {path: path.read_bytes() for path in (store.folder / "models").rglob("*.json")}
    _, job = engine_and_job(blobs, range(5), records_K=records_of(range(5)), recipe=recipe)
    for k in (1, 3):
        manifest = store.folder / f"{key_of(store, first, job, k)}.json"
        changed_bytes(manifest if part == "json" else next(manifest.parent.glob(f"{manifest.stem}.*.data")))
    engine, again = stored(store, blobs, range(5), recipe=recipe)
    assert same(again, trained)
    assert engine.reused["shadow"] == Reuse(found=3, trained=2)
    content = {path: json.loads(path.read_bytes())["sha256"] for path in written}
    assert content == {path: json.loads(before)["sha256"] for path, before in written.items()}
    is_alone = chunk == 1 and part == "json"  # nobody can tell how a model came out whose chunk and manifest are gone
    assert sum("last bits" in sentence for sentence in engine.stages.remarks) == (2 if is_alone else 0)
    assert store.places("running") == []


@pytest.mark.costly
@pytest.mark.parametrize("part", ["data", "json"])
def test_a_damaged_model_that_comes_out_otherwise_is_said(part: str, blobs: Population, store: Store) -> None:
    """It was trained in another chunk than that of the run that makes it anew, by which its sums differ in order."""
    stored(store, blobs, range(8), recipe=replace(RECIPE, chunk=8))
    changed_bytes(sorted((store.folder / "models").rglob(f"*.{part}"))[2])
    for place in store.places("plans"):
        store.forget(place)
    engine, again = stored(store, blobs, range(8), recipe=replace(RECIPE, chunk=8, execution="loop"))
    assert again.num_models == 8
    (sentence,) = [each for each in engine.stages.remarks if "last bits" in each]
    assert "shadow" in sentence


def test_a_model_of_another_place_is_not_taken(blobs: Population, store: Store) -> None:
    """Its manifest is whole, but the fields are those of another model."""
    engine, trained = stored(store, blobs, range(3))
    first, second = store.places("models")[:2]
    other = store.get(second)
    assert other is not None
    assert other.content is not None
    store.put(first, other.fields, partial(shutil.copy, other.content))
    engine, again = stored(store, blobs, range(3))
    assert same(again, trained)
    assert "is another model" in engine.stages.remarks[0]


@pytest.mark.costly
@pytest.mark.parametrize("content", [b"no tensors", b""])
def test_content_that_is_no_model_whatever_its_checksum_is_set_aside(
    content: bytes, blobs: Population, store: Store
) -> None:
    _, trained = stored(store, blobs, range(3))
    signals = trained.observe(blobs).log_probability_KANC
    for place in store.places("models")[:1] + store.places("answers"):
        fields = store.fields(place)
        assert fields is not None
        store.put(place, fields, lambda path: path.write_bytes(content))
    engine, again = stored(store, blobs, range(3))
    assert same(again, trained)
    assert torch.equal(again.observe(blobs).log_probability_KANC, signals)
    assert "safetensors" in engine.stages.remarks[0]


def test_answers_of_another_shape_are_set_aside(blobs: Population, store: Store) -> None:
    _, trained = stored(store, blobs, range(2))
    signals = trained.observe(blobs).log_probability_KANC
    for place, content in zip(
        store.places("answers"), ({"log_probability_ANC": torch.zeros(1, 1, 3)}, {}), strict=True
    ):
        store.put(place, store.fields(place) or {}, partial(save_file, content))
    engine, again = stored(store, blobs, range(2))
    assert torch.equal(again.observe(blobs).log_probability_KANC, signals)
    assert "holds no answers for these records" in engine.stages.remarks[0]


@pytest.mark.costly
@pytest.mark.parametrize("kind", ["plans", "running"])
def test_fields_of_another_form_are_set_aside_whatever_their_checksum(
    kind: str, blobs: Population, store: Store
) -> None:
    _, trained = stored(store, blobs, range(3))
    place = f"running/{'ab' * 20}" if kind == "running" else store.places("plans")[0]
    fields = {"keys": 3} if kind == "running" else {"role": "shadow", "plan": {"chunk": 0}}
    store.put(place, fields)
    assert trainings(store) == []
    for model in store.places("models"):
        store.forget(model)
    _, again = stored(store, blobs, range(3))
    assert same(again, trained)
    assert store.was_damaged(place) is (kind == "plans")  # nobody asked for the other


def test_models_in_a_store_that_can_be_read_alone_are_used_and_their_answers_computed(
    blobs: Population, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trained = stored(store, blobs, range(3))
    monkeypatch.setattr("os.replace", refuse(errno.EROFS))
    _, again = stored(store, blobs, range(3))
    assert same(again, trained)
    assert len(again.observe(blobs).log_probability_KANC) == 3
    assert store.places("answers") == []
    with pytest.raises(InputError, match="Read-only file system"):
        stored(store, blobs, range(4))


@pytest.mark.costly
@pytest.mark.parametrize("kind", ["plans", "stacks", "answers"])
def test_other_damaged_files_change_no_result(kind: str, blobs: Population, store: Store) -> None:
    _, trained = stored(store, blobs, range(3))
    signals = trained.observe(blobs).log_probability_KANC
    for path in (store.folder / kind).rglob("*.*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 4
            path.write_bytes(bytes(content))
    engine, again = stored(store, blobs, range(3))
    assert same(again, trained)
    assert torch.equal(again.observe(blobs).log_probability_KANC, signals)
    assert any("is damaged" in remark for remark in engine.stages.remarks) is (kind == "answers")


def stop_training(store: Store, population: Population, models: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until something stops it, after a checkpoint."""
    with stopped_after(2, monkeypatch):
        stored(store, population, models)


def test_a_damaged_checkpoint_begins_anew(blobs: Population, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store = replace(store, checkpoint_minutes=0)
    _, undisturbed = stored(None, blobs, range(3))  # type: ignore[arg-type]
    stop_training(store, blobs, range(3), monkeypatch)
    (content,) = (store.folder / "running").glob("*.data")
    content.write_bytes(content.read_bytes()[:-9])
    engine, resumed = stored(store, blobs, range(3))
    assert any("-checkpoint in the store" in remark for remark in engine.stages.remarks)
    assert same(undisturbed, resumed)


@pytest.mark.costly
@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_what_is_missing_by_now_is_trained_beside_what_a_killed_process_was_training(
    how: str, blobs: Population, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = replace(store, checkpoint_minutes=0)
    _, undisturbed = stored(None, blobs, range(4))  # type: ignore[arg-type]
    engine, _ = stored(store, blobs, range(2, 4))
    stop_training(store, blobs, range(4), monkeypatch)  # of which two are in the store
    _, job = engine_and_job(blobs, range(4), records_K=records_of(range(4)))
    manifest = store.folder / f"{key_of(store, engine, job, 3)}.json"
    manifest.unlink() if how == "gone" else changed_bytes(manifest)
    _, resumed = stored(store, blobs, range(4))
    assert resumed.num_models == 4
    for k in range(4):
        weights, expected = ([*each.weights(k).values()] for each in (resumed, undisturbed))
        assert equal([each.float() for each in weights], [each.float() for each in expected])
