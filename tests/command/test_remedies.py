"""`experiment=remedies` as a person types it."""

import json
from pathlib import Path

import pytest
from command_line import Call, Ended

QUICK = [
    "experiment=remedies",
    "logger=none",
    "attack=loss",
    "shadow.count=16",
    "dataset.train_size=60",
    "training.epochs=4",
    "model.hidden=[8]",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "store.dir=null",
    "hydra.run.dir=here",
]


def refused(result: Ended, *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.mark.slow
def test_it_leaves_its_files_and_prints_a_table(call: Call, tmp_path: Path) -> None:
    ended = call(*QUICK, "remedies=[fewer_epochs,rounding]")
    assert ended.returncode == 0, ended.stderr
    for name in ("remedies.json", "remedies.html", "remedies.csv", "figures/remedies.png", "nothing/report.json"):
        assert (tmp_path / "here" / name).stat().st_size > 0, name
    report = json.loads((tmp_path / "here" / "remedies.json").read_text())
    assert report["command"].startswith("mia-lightning experiment=remedies")
    for remedy in report["remedies"]:
        assert remedy["strengths"][remedy["best"]]["description"] in ended.stdout
    assert "remedies.html" in ended.stdout


@pytest.mark.slow
def test_as_json_it_prints_its_document(call: Call) -> None:
    ended = call(*QUICK, "remedies=[rounding]", "output=json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["schema"] == "mia_lightning.remedies/1"


@pytest.mark.costly
@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (["remedies=l2"], ["`remedies`", "l2"]),
        (["remedies=[]"], ["`remedies`"]),
        (["remedies=[l3]"], ["`remedies`", "l3", "l2"]),
        (["remedies=[dropout]", "model=cnn", "model.channels=[4]"], ["dropout"]),
        (["output=markdown"], ["`output`", "json"]),
        (["gate.metric=auc", "gate.limit=0.6"], ["`gate.metric`"]),
        (["membership=one_canary", "target.count=40"], ["one_canary"]),
        (["+comparison.title=x"], ["comparison"]),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_trained(call: Call, typed: list[str], parts: list[str]) -> None:
    base = [each for each in QUICK if not (each.startswith("model.") and "model=cnn" in typed)]
    refused(call(*base, *typed), *parts)


def test_a_sweep_is_refused(call: Call) -> None:
    ended = call("--multirun", *QUICK, "remedies=[l2]", "hydra.sweep.dir=sweep")
    assert ended.returncode == 2
    assert "--multirun" in ended.stderr


@pytest.mark.slow
def test_the_estimate_is_a_sentence_for_each_remedy(call: Call, tmp_path: Path) -> None:
    ended = call(*QUICK, "remedies=[fewer_epochs,rounding]", "estimate=true")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [each for each in ("Doing nothing", "fewer_epochs", "rounding") if each not in ended.stdout] == []
    assert "here" in lines[-1]
    assert not (tmp_path / "here" / "remedies.json").exists()
