"""`mia-store` as a person runs it: what it shows, what it finds damaged, what it removes and what it leaves."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from filled_store import (
    ASKED,
    DAY,
    NEW,
    OLD,
    OTHER,
    STACK,
    Call,
    Ended,
    put_training,
    writes,
)
from filled_store import call as call
from filled_store import ended_process as ended_process
from filled_store import store as store
from training_jobs import job_of

from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.store import artefacts as store_module
from mia_lightning.store.artefacts import SCHEMA, Store
from mia_lightning.training.engine import Engine
from mia_lightning.training.kept_answers import KeptAnswers
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings


def test_it_starts_without_anything_heavy() -> None:
    script = (
        "import sys\nimport mia_lightning.store.command\n"
        "print(sorted(sys.modules.keys() & {'torch', 'numpy', 'hydra', 'pytorch_lightning', 'rich', 'safetensors'}))"
    )
    kept = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", script], env=kept, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["ls", "--help"], ["verify", "--help"], ["prune", "--help"]])
def test_help(call: Call, arguments: list[str]) -> None:
    ended = call(*arguments)
    assert ended.code == 0
    assert "usage: mia-store" in ended.out


def test_ls_shows_each_stack(call: Call, store: Store) -> None:
    ended = call("ls", "--dir", store.folder)
    assert ended.code == 0
    assert ended.error == ""
    lines = ended.out.splitlines()
    assert lines[0] == f"{store.folder}: 3 models"
    rows = {line.split()[0]: re.split(r"\s{2,}", line) for line in lines if line.startswith(("5", "6", "stack "))}
    assert rows["stack"][1:] == [
        *("role", "architecture", "seed", "epochs", "models", "bytes", "answers", "last written"),
    ]
    today, earlier = (time.strftime("%Y-%m-%d", time.localtime(time.time() - days * DAY)) for days in (0, 40))
    assert rows[STACK[:12]][1:8] == ["shadow", "Wide", "4", "20", "2", "200 B", "2.0 kB"]
    assert rows[STACK[:12]][8].startswith(earlier)
    assert rows[OTHER[:12]][1:8] == ["target", "make", "0", "-", "1", "100 B", "0 B"]
    assert rows[OTHER[:12]][8].startswith(today)
    assert list(rows).index(OTHER[:12]) < list(rows).index(STACK[:12])  # the last that was written first
    assert lines[-5:] == [
        *("syntheses: 1 (300 B)", "plans: 1", "running: nothing", "damaged: none", "leftovers: none"),
    ]


def test_ls_for_programs(call: Call, store: Store, ended_process: int) -> None:
    put_training(store, "mine", NEW, process=os.getpid())
    put_training(store, "gone", OLD, process=ended_process)
    put_training(store, "away", OLD, process=1, host="elsewhere")
    found = json.loads(call("ls", "--json", "--dir", store.folder).out)
    assert found["folder"] == str(store.folder)
    old = next(stack for stack in found["stacks"] if stack["stack"] == STACK)
    assert old.pop("written") == pytest.approx(time.time() - 40 * DAY, abs=600)
    assert old == {
        **{"stack": STACK, "role": "shadow", "architecture": "Wide", "seed": 4, "epochs": 20},
        **{"models": 2, "model_bytes": 200, "answer_bytes": 2000},
    }
    assert found["syntheses"] == {"count": 1, "bytes": 300}
    assert found["plans"] == {"count": 1, "bytes": 0}
    states = {
        training["place"]: (training["state"], training["models"], training["epoch"]) for training in found["running"]
    }
    assert states == {
        "running/mine": ("running", 1, 7),
        "running/gone": ("ended", 2, 7),
        "running/away": ("elsewhere", 2, 7),
    }
    assert found["damaged"] == found["leftovers"] == {"count": 0, "bytes": 0}
    assert found["unreadable"] == []


def test_ls_shows_what_runs_and_what_is_damaged(call: Call, store: Store) -> None:
    put_training(store, "mine", NEW, process=os.getpid())
    store.put("models/zz/dd", {}, writes(5))
    (store.folder / "models/zz/dd.json").write_text("?")
    assert store.get("models/zz/dd") is None
    (store.folder / "models/.ee.123.partial").write_bytes(b"half of")
    (store.folder / f"models/{STACK}/{OLD[0]}.json").write_text("?")
    out = call("ls", "--dir", store.folder).out
    assert f"process {os.getpid()} on {socket.gethostname()}, running, checkpoint at epoch 7" in out
    assert "running: 1 model (shadow) since 2" in out
    assert "damaged: 2 (6 B)" in out
    assert "leftovers: 2 (107 B)" in out  # with the content of the manifest that cannot be read
    assert f"unreadable: models/{STACK}/{OLD[0]}; `mia-store verify --set-aside`" in out


def test_a_stack_without_its_manifest_is_shown(call: Call, store: Store) -> None:
    store.forget(f"stacks/{STACK}")
    row = next(line for line in call("ls", "--dir", store.folder).out.splitlines() if line.startswith(STACK[:12]))
    assert row.split()[1:6] == ["-", "-", "-", "-", "2"]


def test_what_is_trained_is_shown_by_name(call: Call, tmp_path: Path, blobs: Population) -> None:
    """The fields that it reads are those that training writes."""
    store = Store(dir=tmp_path / "trained")
    engine = replace(Engine(seed=3, settings=TrainerSettings(accelerator="cpu")), store=store)
    recipe = Recipe(epochs=1, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.01))
    make_network = partial(MLP, blobs.input_shape, 3, hidden=[4])
    job = job_of(
        engine,
        make_network,
        blobs,
        [torch.arange(40), torch.arange(40, 80)],
        recipe,
        role="shadow",
        models=range(2),
        keep=True,
    )
    trained = engine.run(job)
    answers = KeptAnswers.of(trained.kept, blobs, torch.ones(2, 120, dtype=torch.bool))
    assert answers is not None
    answers.keep(torch.zeros(2, 1, 120, 3))
    found = json.loads(call("ls", "--json", "--dir", store.folder).out)
    (stack,) = found["stacks"]
    assert {name: stack[name] for name in ("role", "architecture", "seed", "epochs", "models")} == {
        **{"role": "shadow", "architecture": "MLP", "seed": 3, "epochs": 1, "models": 2},
    }
    assert stack["model_bytes"] > 0
    assert stack["answer_bytes"] > 2 * 120 * 3 * 4
    assert found["running"] == []
    assert found["unreadable"] == []
    assert call("verify", "--dir", store.folder).code == 0


def test_verify_finds_everything_whole(call: Call, store: Store) -> None:
    ended = call("verify", "--dir", store.folder)
    assert ended.code == 0
    assert ended.out == f"{store.folder}: 9 artefacts verified, all intact.\n"


def damage_two(store: Store) -> list[str]:
    places = [f"models/{STACK}/{OLD[0]}", "plans/one"]
    content = next((store.folder / places[0]).parent.glob(f"{OLD[0]}.*.data"))
    content.write_bytes(b"1" + content.read_bytes()[1:])
    manifest = store.folder / "plans/one.json"
    manifest.write_text(manifest.read_text().replace("shadow", "target"))
    return places


def test_verify_names_what_is_damaged_and_leaves_it(call: Call, store: Store) -> None:
    places = damage_two(store)
    (store.folder / "models/.ee.123.partial").write_bytes(b"half of")
    for _ in range(2):
        ended = call("verify", "--dir", store.folder)
        assert ended.code == 1
        assert ended.out.splitlines() == [
            f"damaged: {places[0]} (its content does not match its checksum)",
            f"damaged: {places[1]} (its manifest does not match its checksum)",
            "left over: models/.ee.123.partial",
            f"{store.folder}: 9 artefacts verified, 2 of them damaged.",
        ]


def test_verify_sets_aside_where_it_is_told(call: Call, store: Store) -> None:
    damage_two(store)
    ended = call("verify", "--set-aside", "--dir", store.folder)
    assert ended.code == 1
    assert ended.out.endswith("9 artefacts verified, 2 of them damaged and set aside.\n")
    assert call("verify", "--dir", store.folder).out == f"{store.folder}: 7 artefacts verified, all intact.\n"
    ended = call("prune", "--damaged", "--dir", store.folder)
    assert ended.code == 0
    assert ended.out.count("removed: damaged/") == 3
    assert not [path for path in (store.folder / "damaged").rglob("*") if path.is_file()]
    assert len(store.places()) == 7


def test_the_folder_of_the_environment(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIA_STORE", str(store.folder))
    assert call("verify").out.startswith(f"{store.folder}: 9 artefacts")
    monkeypatch.delenv("MIA_STORE")
    monkeypatch.chdir(tmp_path)  # where the fixture has made a folder `store`
    assert call("verify").out.startswith(f"{store.folder}: 9 artefacts")


def test_an_empty_folder_is_an_empty_store(call: Call, tmp_path: Path) -> None:
    for command in (["ls"], ["verify"], ["prune", "--answers"]):
        ended = call(*command, "--dir", tmp_path)
        assert ended.code == 0
    assert "0 models" in call("ls", "--dir", tmp_path).out


def is_refused(ended: Ended, *parts: str) -> None:
    """One sentence, and 2."""
    assert ended.code == 2
    assert ended.out == ""
    assert ended.error.startswith("mia-store: ")
    assert ended.error.count("\n") == 1
    for part in parts:
        assert part in ended.error


COMMANDS = [["ls"], ["verify"], ["prune", "--answers"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_none(call: Call, tmp_path: Path, command: list[str]) -> None:
    is_refused(call(*command, "--dir", tmp_path / "missing"), "there is no folder", "missing", "--dir")
    (tmp_path / "file").write_text("")
    is_refused(call(*command, "--dir", tmp_path / "file"), "there is no folder", "file")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_no_store(call: Call, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/mine.json").write_text("{}")
    is_refused(call(*command, "--dir", tmp_path), f"{tmp_path} is no store", "it holds models")
    assert (tmp_path / "models/mine.json").exists()


def test_a_folder_that_cannot_be_read(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    is_refused(call("ls", "--dir", store.folder), "cannot be read (Permission denied)")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_newer_store(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setattr(store_module, "SCHEMA", SCHEMA + 1)
    for place in (f"answers/{ASKED}/{OLD[0]}", "plans/one"):
        store.put(place, {})
    monkeypatch.undo()
    is_refused(call(*command, "--dir", store.folder), "newer version of mia_lightning")
    assert store.has("plans/one")


def test_what_cannot_be_removed_is_said(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.folder / "damaged/one.json"
    path.parent.mkdir()
    path.write_text("?")

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    is_refused(call("prune", "--answers", "--dir", store.folder), "Permission denied", str(store.folder))
    is_refused(call("prune", "--damaged", "--dir", store.folder), "Permission denied", str(path))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["COMMAND"]),
        (["list"], ["'list'", "ls"]),
        (["ls", "--jsn"], ["--jsn"]),
        (["prune"], ["needs to know what to remove", "--older-than"]),
        (["prune", "--dry-run"], ["needs to know what to remove"]),
        (["prune", "--older-than", "soon"], ["'soon' is no age", "30d"]),
        (["prune", "--older-than", "30"], ["'30' is no age"]),
        (["prune", "--older-than", "30y"], ["'30y' is no age"]),
        (["prune", "--older-than", "30dd"], ["'30dd' is no age"]),
        (["prune", "--keep-gb", "ten"], ["'ten' is no size"]),
        (["prune", "--keep-gb=-1"], ["'-1' is no size"]),
        (["prune", "--keep-gb", "nan"], ["'nan' is no size"]),
    ],
)
def test_what_was_typed_wrong(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.setenv("MIA_STORE", str(store.folder))
    before = store.places()
    is_refused(call(*arguments), *parts)
    assert store.places() == before


def test_a_reader_that_has_seen_enough(store: Store) -> None:
    """Such as `mia-store ls | head -1`."""
    kept = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "mia_lightning.store.command", "ls", "--dir", str(store.folder)]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(command, env=kept, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert ended.returncode == 141
    assert ended.stderr == ""


def test_an_interruption_is_one_sentence(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Store, place: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "damage", interrupt)
    ended = call("verify", "--dir", store.folder)
    assert ended.code == 130
    assert ended.error == "mia-store: interrupted.\n"
