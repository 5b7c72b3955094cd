"""What TensorBoard holds, read back by TensorBoard."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mia_lightning.errors import InputError
from mia_lightning.loggers.tensorboard import EVENTS, TensorBoardReport
from mia_lightning.reports.curves import PrecisionRecallCurve, attack_curves
from mia_lightning.reports.files import read_report, save_report
from mia_lightning.reports.rows import headline_scalars
from mia_lightning.reports.schema import AuditReport, TrustSection
from mia_lightning.reports.scores import Scores
from mia_lightning.reports.sentences import headline

pytest.importorskip("tensorboard", reason="needs TensorBoard: pip install 'mia-lightning[tensorboard]'")

CONF = Path(__file__).parents[2] / "conf" / "logger"
CONFIG = {
    "seed": 0,
    "attack": {"loss": {"threshold": 0.5, "hidden": [64, 8], "name": None}},
    "trainer": {"progress_bar": True},
    "logger": {"_target_": "x"},
    "store": {"dir": "/home/somebody"},
}


def read_back(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def tensor(events: Any, tag: str) -> np.ndarray:
    from tensorboard.util.tensor_util import make_ndarray

    (event,) = events.Tensors(tag)
    return make_ndarray(event.tensor_proto)


@pytest.fixture(scope="module")
def logged(report: AuditReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with TensorBoardReport().start(folder, CONFIG) as run:
        run.finish(report)
    save_report(report, folder)
    assert run.location == str(folder / "tensorboard")
    return folder


@pytest.fixture(scope="module")
def events(logged: Path) -> Any:
    return read_back(logged / "tensorboard")


def test_scalars_are_those_of_report_json_by_the_names_of_wandb(logged: Path, events: Any) -> None:
    report = read_report(logged)
    expected = headline_scalars(report)
    found = {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"] if name in expected}
    assert found == {name: pytest.approx(value, rel=1e-6) for name, value in expected.items()}
    assert found["leakage/loss/auc"] == pytest.approx(report.attacks[1].overall.auc.value, rel=1e-6)
    assert found["target/generalization_gap"] == 0.28125
    assert "leakage/shokri/tpr_at_fpr_0.01_low" in found
    assert all(len(events.Scalars(name)) == 1 for name in expected)


def test_losses_of_a_stack_are_bands_over_its_models(report: AuditReport, events: Any) -> None:
    assert report.training_curves is not None
    for name, loss_EK in (
        ("train_loss", report.training_curves["shadow"].train_loss_EK),
        ("validation_loss", report.training_curves["shadow"].validation_loss_EK),
    ):
        for quantile, share in (("median", 0.5), ("quantile_10", 0.1), ("quantile_90", 0.9)):
            found = events.Scalars(f"shadow/{name}/{quantile}")
            assert [each.step for each in found] == list(range(20))
            np.testing.assert_allclose([each.value for each in found], np.nanquantile(loss_EK, share, 1), rtol=1e-6)
    assert len([name for name in events.Tags()["scalars"] if name.startswith("shadow/")]) == 6  # not one for each model
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    for part in (b"shadow/train_loss/median", b"shadow/train_loss/quantile_90", b"target/train_loss"):
        assert part in layout


def test_curves_are_those_of_the_scores(report: AuditReport, events: Any) -> None:
    assert report.scores is not None
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("precision_recall/")]
    names = ["all records", *report.dataset.class_names[:3]]  # the last has no members
    assert sorted(tags) == sorted(
        f"precision_recall/{attack}/{name}" for attack in ("shokri", "loss") for name in names
    )
    scores = report.scores
    rows = (scores.attack == "loss") & (scores.label == 1)
    score, is_member = scores.score[rows], scores.is_member[rows]
    points = tensor(events, "precision_recall/loss/dog")
    assert points.shape[0] == 6
    assert 2 <= points.shape[1] <= 100
    known = {}
    for threshold in score:
        flagged = score >= threshold
        hits, alarms = (flagged & is_member).sum(), (flagged & ~is_member).sum()
        counts = (hits, alarms, (~is_member).sum() - alarms, is_member.sum() - hits)
        tpr, fpr = hits / is_member.sum(), alarms / (~is_member).sum()
        known[counts] = (*counts, tpr / (tpr + fpr) if hits else 0.0, tpr)
    for point in points.T:
        np.testing.assert_allclose(point, known[tuple(point[:4].round().astype(int))], rtol=1e-5, atol=1e-4)
    assert points[5, 0] == 1.0
    assert (np.diff(points[5]) <= 0).all()


def test_the_metadata_of_a_curve_counts_its_points(events: Any) -> None:
    from tensorboard.plugins.pr_curve import metadata

    tag = "precision_recall/shokri/all records"
    content = events.SummaryMetadata(tag).plugin_data.content
    assert metadata.parse_plugin_metadata(content).num_thresholds == tensor(events, tag).shape[1]


def test_scores_that_are_all_alike_are_a_curve_of_two_points(report: AuditReport, tmp_path: Path) -> None:
    assert report.scores is not None
    columns = {**vars(report.scores), "score": np.zeros_like(report.scores.score)}
    with TensorBoardReport().start(tmp_path, {}) as run:
        run.finish(report.model_copy(update={"scores": Scores(**columns)}))
    points = tensor(read_back(tmp_path / "tensorboard"), "precision_recall/loss/all records")
    assert points.shape == (6, 2)
    np.testing.assert_allclose(points[4:], [[0.5, 0.5], [1.0, 1.0]])


def test_counts_follow_from_precision_and_recall() -> None:
    from mia_lightning.loggers.tensorboard_content import curve_points

    recall, precision = np.array([0.25, 1.0]), np.array([1.0, 0.4])
    curve = PrecisionRecallCurve(recall=recall, precision=precision, precision_balanced=np.array([1.0, 0.5]))
    np.testing.assert_allclose(
        curve_points(curve, 4, 6), [[4, 1], [6, 0], [0, 6], [0, 3], [0.5, 1.0], [1.0, 0.25]], atol=1e-12
    )


def test_hyperparameters_stand_beside_the_metrics(logged: Path, events: Any) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    parsed = [
        plugin_data_pb2.HParamsPluginData.FromString(content)
        for content in events.PluginTagToContent("hparams").values()
    ]
    (start,) = (each.session_start_info for each in parsed if each.HasField("session_start_info"))
    found = {
        name: value.WhichOneof("kind") and getattr(value, value.WhichOneof("kind"))
        for name, value in start.hparams.items()
    }
    assert found == {
        "seed": 0.0,
        "attack.loss.threshold": 0.5,
        "attack.loss.hidden": "[64, 8]",
        "trainer.progress_bar": True,
    }
    (experiment,) = (each.experiment for each in parsed if each.HasField("experiment"))
    assert {info.name.tag for info in experiment.metric_infos} == set(headline_scalars(read_report(logged)))
    assert any(each.HasField("session_end_info") for each in parsed)


def test_a_run_from_python_has_its_settings_from_the_report(report: AuditReport, tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    with TensorBoardReport().start(tmp_path, {}) as run:
        run.finish(report)
    events = read_back(tmp_path / "tensorboard")
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["model"].string_value == "MLP"
    assert start.hparams["shadow.count"].number_value == 16
    assert not any(tag.startswith("config") for tag in events.Tags()["tensors"])


def test_texts_are_the_configuration_and_the_warnings(report: AuditReport, events: Any) -> None:
    text = tensor(events, "config/text_summary").item().decode()
    assert json.loads(text.removeprefix("```json\n").removesuffix("\n```")) == CONFIG
    assert tensor(events, "warnings/text_summary").item().decode() == f"- {report.warnings[0]}"
    assert tensor(events, "headline/text_summary").item().decode() == headline(report).replace("\u00a0", " ")


def test_why_low_figures_are_no_evidence_stands_beside_them(report: AuditReport, tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    trust = TrustSection(verdict="void", reasons=("Members are classified worse.",))
    with TensorBoardReport().start(tmp_path, {}) as run:
        run.finish(report.model_copy(update={"trust": trust, "scores": None}))
    content = read_back(tmp_path / "tensorboard").PluginTagToContent("hparams")["_hparams_/session_start_info"]
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["doubt"].string_value == "cannot be trusted"


def test_the_file_says_nothing_about_the_machine(logged: Path) -> None:
    assert [path.name for path in (logged / "tensorboard").iterdir()] == [EVENTS]
    content = (logged / "tensorboard" / EVENTS).read_bytes()
    assert os.uname().nodename.encode() not in content
    assert str(Path.cwd()).encode() not in content


def test_a_report_without_scores_has_scalars_alone(logged: Path, tmp_path: Path) -> None:
    with TensorBoardReport().start(tmp_path, {}) as run:
        run.finish(read_report(logged))
    events = read_back(tmp_path / "tensorboard")
    assert set(headline_scalars(read_report(logged))) == set(events.Tags()["scalars"])
    assert not [tag for tag in events.Tags()["tensors"] if tag.startswith("precision_recall")]


def test_a_run_that_fails_leaves_no_file_of_an_earlier_one(report: AuditReport, tmp_path: Path) -> None:
    with TensorBoardReport().start(tmp_path, {}) as run:
        run.finish(report)
    assert (tmp_path / "tensorboard" / EVENTS).is_file()
    with pytest.raises(KeyError), TensorBoardReport().start(tmp_path, {}) as run:
        raise KeyError("training failed")
    assert list((tmp_path / "tensorboard").iterdir()) == []
    with pytest.raises(RuntimeError, match="closed"):
        run.finish(report)


def test_without_a_folder_it_is_the_current_one(
    report: AuditReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with TensorBoardReport().start(None, {}) as run:
        run.finish(report)
    assert (tmp_path / "tensorboard" / EVENTS).is_file()


def test_tensorboard_that_is_not_installed_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mia_lightning.loggers.tensorboard.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs the package `tensorboard`.*pip install 'mia-lightning\[tensorboard\]'"
    ):
        TensorBoardReport().start(tmp_path, {})


@pytest.mark.slow
def test_the_command_exits_with_2_where_it_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "absent.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] == 'tensorboard':\n            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'tensorboard' else find(name, *rest)\n"
        "sys.argv = ['mia-lightning', 'logger=tensorboard', 'shadow.count=2', 'training.epochs=1', 'attack=loss']\n"
        "from mia_lightning.command.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "absent.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("mia-lightning: logger=tensorboard needs the package `tensorboard`")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_command_logs_what_its_report_says(tmp_path: Path) -> None:
    quick = ["attack=loss", "shadow.count=2", "training.epochs=2", "dataset.train_size=40", "trainer.accelerator=cpu"]
    command = [sys.executable, "-m", "mia_lightning", *quick, "logger=tensorboard", "hydra.run.dir=here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    events = read_back(tmp_path / "here" / "tensorboard")
    written = json.loads((tmp_path / "here" / "report.json").read_text())
    found = events.Scalars("leakage/loss/auc")[0].value
    assert found == pytest.approx(written["attacks"][0]["overall"]["auc"]["value"], rel=1e-6)
    assert {f"shadow/train_loss/{name}" for name in ("median", "quantile_10", "quantile_90")} < set(
        events.Tags()["scalars"]
    )
    assert not list((tmp_path / "here").rglob("*.wandb"))


def test_the_yaml_names_it() -> None:
    node = yaml.safe_load((CONF / "tensorboard.yaml").read_text())
    assert node == {"_target_": f"{TensorBoardReport.__module__}.{TensorBoardReport.__qualname__}"}


def test_curves_per_class_need_no_class_names_of_a_kind(
    make_report: Callable[..., AuditReport], tmp_path: Path
) -> None:
    report = make_report(class_names=("a/b", "ü", "c"))
    with TensorBoardReport().start(tmp_path, {}) as run:
        run.finish(report)
    tags = read_back(tmp_path / "tensorboard").Tags()["tensors"]
    assert {"precision_recall/loss/a/b", "precision_recall/loss/ü"} <= set(tags)
    assert report.scores is not None
    assert attack_curves(report.scores, "loss").per_class.keys() == {0, 1}
