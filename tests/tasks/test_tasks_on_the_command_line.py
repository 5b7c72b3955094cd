"""Tasks by their settings on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Call, call

__all__ = ["call"]

SHORT = ("training.epochs=3", "shadow.count=6", "membership=halves", "logger=none", "store.dir=null")


@pytest.mark.slow
def test_a_regression_runs_from_beginning_to_end(call: Call) -> None:
    ended = call("dataset=diabetes", "task=regression", "attack=[loss,lira_offline]", *SHORT, "hydra.run.dir=run")
    assert ended.returncode == 0, ended.stderr
    assert "train R²" in ended.stdout
    report = json.loads(Path("run/report.json").read_text())
    assert report["task"]["name"] == "regression"
    assert report["run"]["config"]["task"]["likelihood"] == "gaussian"
    assert [each["class_name"].split()[0] for each in report["target"]["per_class"]] == ["progression"] * 4
    loss, lira = (each["description"] for each in report["attacks"])
    assert "squared residual" in loss
    assert "no smaller a residual" in lira
    page = Path("run/report.html").read_text()
    assert "Train R² of the target" in page
    assert "range by range" in page


@pytest.mark.slow
def test_several_labels_of_an_archive_run_from_beginning_to_end(call: Call) -> None:
    random = np.random.default_rng(0)
    label = random.integers(2, size=(200, 3))
    label[:, 1] |= label[:, 2]  # the last label is never the first of a record
    np.savez("records.npz", x=random.normal(size=(200, 4)).astype(np.float32), label=label)
    options = ("dataset=npz", "dataset.path=records.npz", "dataset.class_names=[a,b,c]", "task=multilabel")
    ended = call(*options, "attack=all", "skip_inapplicable=true", *SHORT, "hydra.run.dir=run")
    assert ended.returncode == 0, ended.stderr
    assert "mean AUROC" in ended.stdout
    report = json.loads(Path("run/report.json").read_text())
    per_class = report["attacks"][0]["per_class"]
    assert [each["class_name"] for each in per_class] == ["a", "b", "c"]
    scored = sum(each["num_members"] + each["num_nonmembers"] for each in per_class)
    assert scored > report["membership"]["num_members"] + report["membership"]["num_nonmembers"]  # labels overlap
    assert any("attack=entropy" in note for note in report["notes"])
    assert "gap" in [each["name"] for each in report["attacks"]]


def test_a_task_that_does_not_suit_the_data_exits_with_2(call: Call) -> None:
    for options in (("dataset=diabetes",), ("task=regression",), ("task=multilabel",)):
        ended = call(*options, *SHORT)
        assert ended.returncode == 2
        assert "task=" in ended.stderr
    ended = call("task=regression", "task.likelihood=gauss", "dataset=diabetes", *SHORT)
    assert ended.returncode == 2
    assert "task.likelihood" in ended.stderr
    ended = call("task=ranking", *SHORT)
    assert ended.returncode == 2
    assert "regression" in ended.stderr
