"""What wandb holds, read back from the files of an offline run."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.loggers.interface import NoLogger, NoRun
from mia_lightning.loggers.wandb import WandbReport
from mia_lightning.loggers.wandb_content import ALL_RECORDS, MAX_ROWS, curve_rows
from mia_lightning.loggers.wandb_experiment import Experiment
from mia_lightning.reports.curves import attack_curves
from mia_lightning.reports.rows import headline_scalars
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sections.records import flagged_members
from mia_lightning.reports.sentences import headline

# Where the machine is busy, wandb waits for its service, for a time that it draws.
pytestmark = [pytest.mark.xdist_group("wandb"), pytest.mark.usefixtures("global_generators")]

CONF = Path(__file__).parents[2] / "conf" / "logger"


@pytest.fixture(scope="module")
def logged(report: AuditReport, tmp_path_factory) -> Iterator["_Logged"]:
    """Two runs, one after the other."""
    import wandb

    services: list[dict[str, str]] = []
    popen = subprocess.Popen

    def recorded(command, *rest, **options):
        if "wandb-core" in str(command[0]) and "leet" not in command:
            services.append(dict(options["env"]))
        return popen(command, *rest, **options)

    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch, _Proxy() as proxy:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
            patch.setenv(name, proxy.address)
        patch.setattr(subprocess, "Popen", recorded)
        before = dict(os.environ)
        folders = []
        for number in range(2):
            folder = tmp_path_factory.mktemp(f"job{number}")
            config = {"seed": number, "attack": {"loss": {"threshold": 0.5}}}
            with WandbReport(name=f"job {number}", tags=["a", "b"]).start(folder, config) as run:
                run.finish(report)
            assert run.location is not None
            folders.append(Path(run.location))
        after = dict(os.environ)
        wandb.teardown()
        names = {name for name in before | after if name.startswith("WANDB_")}
        changed = {name: after.get(name, "") for name in names if before.get(name) != after.get(name)}
        yield _Logged(folders, changed, proxy.connections, list(services))  # later tests start services too


@dataclass(frozen=True)
class _Logged:
    """Folders of the runs, what is left in the environment, connections to a proxy, environments of the service."""

    folders: list[Path]
    changed: dict[str, str]
    connections: int
    services: list[dict[str, str]]


class _Proxy:
    """A proxy that counts who asks it for another host: processes of other tests may call at its port by mistake."""

    def __enter__(self) -> "_Proxy":
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def _listen(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                said = connection.recv(200)
                if said == b"stop":
                    return
                self.connections += bool(re.match(rb"CONNECT |[A-Z]+ https?://", said))

    def __exit__(self, *error: object) -> None:
        with socket.create_connection(self._socket.getsockname()) as last:
            last.sendall(b"stop")
        self._thread.join()
        self._socket.close()


def _records(folder: Path) -> list[dict]:
    from wandb.util import get_core_path

    (file,) = folder.glob("run-*.wandb")
    # As `wandb leet inspect --json` runs it, but for the imports.
    options = ["--no-observability", "--json", "--run-file", str(file)]
    command = [get_core_path(), "leet", "inspect", *options, str(folder.parent)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def records(logged) -> list[dict]:
    return _records(logged.folders[0])


@pytest.fixture(scope="module")
def summary(records: list[dict]) -> dict:
    entries = [record["summary"]["update"] for record in records if record["type"] == "summary"]
    return {name: value for entry in entries for name, value in entry.items()}


def test_summary_is_the_report(report: AuditReport, summary: dict) -> None:
    expected = headline_scalars(report)

    assert {name: summary[name] for name in expected} == expected
    assert expected["leakage/loss/auc"] == report.attacks[1].overall.auc.value
    assert expected["target/generalization_gap"] == 0.28125
    assert summary["headline"] == headline(report).replace("\u00a0", " ")
    assert summary["warnings"] == f"- {report.warnings[0]}"
    assert "leakage/loss/tpr_at_fpr_0.01" in summary
    assert "leakage/loss/tpr_at_fpr_0.001" not in summary
    overall = report.attacks[1].overall
    assert (summary["leakage/loss/auc_low"], summary["leakage/loss/auc_high"]) == (overall.auc.low, overall.auc.high)
    assert summary["leakage/loss/tpr_at_fpr_0.01_high"] == overall.tpr_at_fpr["0.01"].high
    assert summary["leakage/loss/advantage"] == overall.advantage.value


@pytest.mark.slow
def test_two_runs_each_close_well(logged) -> None:
    folders = logged.folders

    assert len(set(folders)) == 2
    for number, folder in enumerate(folders):
        entries = _records(folder)
        run = next(entry["run"] for entry in entries if entry["type"] == "run")
        assert run["config"]["update"]["seed"] == number
        assert run["display_name"] == f"job {number}"
        assert [entry["exit"]["exit_code"] for entry in entries if entry["type"] == "exit"] == [0]


def test_environment_is_left_as_it_was(logged) -> None:
    assert logged.changed == {}


def test_nothing_is_sent(logged) -> None:
    assert logged.connections == 0
    # One service serves both runs; it would send error reports even from offline runs.
    assert [service["WANDB_ERROR_REPORTING"] for service in logged.services] == ["false"]


def test_nothing_about_the_machine_is_recorded(logged, records: list[dict]) -> None:
    run = next(record["run"] for record in records if record["type"] == "run")

    assert not run.get("host")
    folder = re.compile(rb"pytest-of-[^/]+/pytest-\d+")  # of the tests
    for path in logged.folders[0].rglob("*"):
        assert path.name not in ("requirements.txt", "wandb-metadata.json")
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".wandb":  # blocks of 32 KiB, whose heads of 7 bytes stand within words
                content = b"".join(content[start + 7 : start + 2**15] for start in range(0, len(content), 2**15))
            assert b"pytest" not in folder.sub(b"", content)


def _table(folder: Path, summary: dict, key: str) -> dict:
    return json.loads((folder / "files" / summary[f"{key}.path"]).read_text())


def test_curves_are_those_of_the_scores(report: AuditReport, logged, summary: dict) -> None:
    table = _table(logged.folders[0], summary, "precision_recall/curves")
    assert table["columns"] == ["attack", "class", "recall", "precision", "precision_balanced"]
    assert {(row[0], row[1]) for row in table["data"]} == {
        (attack, name) for attack in ("shokri", "loss") for name in (ALL_RECORDS, *report.dataset.class_names[:3])
    }
    exact = attack_curves(report.scores, "shokri").overall
    rows = [row[2:] for row in table["data"] if row[:2] == ["shokri", ALL_RECORDS]]
    known = np.stack([exact.recall, exact.precision, exact.precision_balanced], axis=1)
    assert all(np.isclose(known, row).all(axis=1).any() for row in rows)
    np.testing.assert_allclose([rows[0], rows[-1]], known[[0, -1]])


def test_per_class_table_is_the_report(report: AuditReport, logged, summary: dict) -> None:
    table = _table(logged.folders[0], summary, "per_class")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]

    assert len(rows) == 8
    found = {(row["attack"], row["class_index"]): row["auc"] for row in rows}
    assert found == {
        (attack.name, group.class_index): group.auc.value for attack in report.attacks for group in attack.per_class
    }


def test_exposed_records_are_the_flagged_members_of_highest_score(report: AuditReport, logged, summary: dict) -> None:
    assert report.scores is not None
    table = _table(logged.folders[0], summary, "exposed_records")
    assert table["columns"] == ["attack", "target", "record", "class_name", "score", "share_above"]
    for name in {attack.name for attack in report.attacks}:
        rows = [row for row in table["data"] if row[0] == name]
        scores = report.scores
        own = [i for i in range(len(scores.score)) if scores.attack[i] == name]
        flagged = [i for i in own if scores.is_member[i] and scores.is_flagged[i]]
        best = sorted(flagged, key=lambda i: -scores.score[i])[:50]
        assert [row[4] for row in rows] == [scores.score[i] for i in best]
        for row, i in zip(rows, best, strict=True):
            others = [scores.score[j] for j in own if not scores.is_member[j] and scores.target[j] == row[1]]
            assert row[2] == scores.record[i] or scores.score[i] in [scores.score[j] for j in best if j != i]
            assert row[3] == report.dataset.class_names[scores.label[i]]
            assert row[5] == pytest.approx(sum(other >= row[4] for other in others) / len(others))


@pytest.mark.slow
def test_exposed_records_that_are_images_are_shown(make_report, tmp_path: Path) -> None:
    import wandb

    report = make_report()
    found = flagged_members(report, 50)
    numbers = np.random.default_rng(0)
    shown = {each.record: numbers.integers(0, 256, (6, 5, 3), dtype=np.uint8) for each in found}
    names = tuple(f"{i}.png" for i in range(1 + int(report.scores.record.max())))
    with WandbReport().start(tmp_path, {}) as run:
        run.finish(report.model_copy(update={"pictures": shown, "record_names": names}))
    wandb.teardown()
    assert run.location is not None
    contents = {
        each["path"]: each["local_path"]
        for record in _records(Path(run.location))
        if record["type"] == "artifact"
        for each in record["artifact"]["manifest"]["contents"]
    }
    table = json.loads(Path(contents["exposed_records.table.json"]).read_text())
    column = table["columns"].index("picture")
    assert len(table["data"]) == len(found)
    for row, each in zip(table["data"], found, strict=True):
        image = Image.open(contents[row[column]["path"]])
        assert np.array_equal(np.asarray(image), shown[each.record])
        assert row[table["columns"].index("record_name")] == f"{each.record}.png"


def test_records_become_pictures(pictures: Population, blobs: Population) -> None:
    from mia_lightning.reports.sections.records import pictures as drawn

    assert drawn(blobs, [0, 1]) is None
    assert drawn(pictures, [0]) is None  # of two channels
    coloured = replace(pictures, x_N=pictures.x_N[:, [0, 1, 0]], mean=None, std=None)
    shown = drawn(coloured, [4, 4, 9])
    assert shown is not None
    assert list(shown) == [4, 9]
    assert np.array_equal(shown[9], coloured.x_N[9].permute(1, 2, 0).numpy())
    few = replace(pictures, x_N=pictures.x_N[:, :1] // 16, mean=None, std=None)  # 16 levels
    shown = drawn(few, [3, 5])
    assert shown is not None
    levels = few.x_N[[3, 5], 0].double().numpy()
    assert np.array_equal(np.stack([shown[3], shown[5]]), (levels * 255 / levels.max()).round())
    grey = replace(pictures, x_N=pictures.x_N[:, :1].float() / 7 - 3, mean=None, std=None)
    shown = drawn(grey, [2])
    assert shown is not None
    assert shown[2].shape == (6, 6)
    x = grey.x_N[2, 0].numpy()
    np.testing.assert_allclose(shown[2], 255 * (x - x.min()) / (x.max() - x.min()), atol=0.51)


def test_histograms_count_every_score_once(report: AuditReport, summary: dict) -> None:
    assert report.scores is not None
    for attack in report.attacks:
        is_own = report.scores.attack == attack.name
        bins = []
        for side, is_side in (("members", report.scores.is_member), ("nonmembers", ~report.scores.is_member)):
            bins.append(json.loads(str(summary[f"scores/{attack.name}/{side}.bins"])))
            counts = json.loads(str(summary[f"scores/{attack.name}/{side}.values"]))
            expected, _ = np.histogram(report.scores.score[is_own & is_side], bins=bins[0])
            assert counts == expected.tolist()
            assert sum(counts) == (is_own & is_side).sum()
        assert bins[0] == bins[1]


@pytest.mark.slow
def test_runs_of_a_sweep_are_a_group_and_runs_are_tagged(report: AuditReport, logged, tmp_path: Path) -> None:
    import wandb

    entries = [entry["run"] for entry in _records(logged.folders[0]) if entry["type"] == "run"]
    assert "run_group" not in entries[0]
    assert set(entries[-1]["tags"]) == {"a", "b", report.dataset.name, report.target.architecture}
    folder = tmp_path / "multirun" / "12-00" / "3"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    with WandbReport().start(folder, {}) as run:
        run.finish(report)
    wandb.teardown()
    assert run.location is not None
    assert next(e["run"] for e in _records(Path(run.location)) if e["type"] == "run")["run_group"] == "multirun/12-00"


def _run_of(folder: Path) -> dict:
    """What the files of an offline run say of the run at the end."""
    return [entry["run"] for entry in _records(folder) if entry["type"] == "run"][-1]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("settings", "experiment", "name", "group"),
    [
        ({}, {"name": "defenses", "variant": "top 1"}, "top 1", "defenses/outputs/12-00"),
        ({"name": "mine", "group": "ours"}, {"name": "defenses", "variant": "top 1"}, "mine: top 1", "ours"),
        pytest.param(
            *({"name": "mine"}, {"name": "multi_run_epsilon", "variant": None}, "mine", None), marks=pytest.mark.slow
        ),
    ],
)
def test_runs_of_an_experiment_are_a_group_and_have_its_tag(
    settings: dict, experiment: dict, name: str, group: str | None, report: AuditReport, tmp_path: Path
) -> None:
    import wandb

    folder = tmp_path / "outputs" / "12-00" / "top_1"
    with WandbReport(tags=["a"], **settings).start(folder, {"experiment": experiment}) as run:
        run.finish(report)
    wandb.teardown()
    assert run.location is not None
    found = _run_of(Path(run.location))
    assert found["display_name"] == name
    assert found.get("run_group") == group
    tag = f"experiment:{experiment['name']}"
    assert set(found["tags"]) == {"a", tag, report.dataset.name, report.target.architecture}
    assert found["config"]["update"]["experiment"] == experiment


def test_tags_and_groups_have_the_length_that_wandb_takes(report: AuditReport, tmp_path: Path) -> None:
    import wandb

    dataset = report.dataset.model_copy(update={"name": "d" * 100})
    config = {"experiment": {"name": "e" * 200, "variant": "v"}}
    with WandbReport().start(tmp_path / "v", config) as run:
        run.finish(report.model_copy(update={"dataset": dataset}))
    wandb.teardown()
    assert run.location is not None
    found = _run_of(Path(run.location))
    assert set(found["tags"]) == {"d" * 64, f"experiment:{'e' * 53}", report.target.architecture}
    assert found["run_group"] == "e" * 128


@pytest.mark.parametrize("section", [None, "defenses", {"variant": "v"}, {"name": 5}])
def test_a_section_of_another_kind_is_no_experiment(section: object) -> None:
    assert Experiment.of({"experiment": section}) is None


def test_saved_models_are_an_artefact_on_request(report: AuditReport, tmp_path: Path) -> None:
    import wandb

    for name in ("target.safetensors", "shadow.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    with WandbReport(models=True).start(tmp_path, {"save_models": True}) as run:
        run.finish(report)
    wandb.teardown()
    assert run.location is not None
    (artefact,) = [
        entry
        for record in _records(Path(run.location))
        if (entry := record.get("artifact") or record.get("request", {}).get("log_artifact", {}).get("artifact"))
        and entry["type"] == "model"
    ]
    assert {each["path"] for each in artefact["manifest"]["contents"]} == {"target.safetensors", "shadow.safetensors"}


def test_models_that_nobody_saves_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add save_models=true"):
        WandbReport(models=True).start(tmp_path, {"save_models": False})


def test_figures_and_line_series_are_there(logged, summary: dict) -> None:
    for key in ("roc", "leakage_vs_gap", "precision_recall/shokri/by_class", "shadow/training"):
        figure = json.loads((logged.folders[0] / "files" / summary[f"{key}.path"]).read_text())
        assert figure["data"]
        assert '"--' not in json.dumps(figure)
    menu = json.loads((logged.folders[0] / "files" / summary["precision_recall/loss/by_class.path"]).read_text())
    assert len(menu["layout"]["updatemenus"][0]["buttons"]) == 5
    assert summary["precision_recall/shokri_table.nrows"] == 400


def test_training_curves_are_quantiles_over_epochs(report: AuditReport, records: list[dict]) -> None:
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = [item for item in history if "shadow/epoch" in item]
    loss_EK = report.training_curves["shadow"].train_loss_EK

    assert [row["shadow/epoch"] for row in rows] == list(range(20))
    np.testing.assert_allclose([row["shadow/train_loss/median"] for row in rows], np.nanmedian(loss_EK, axis=1))
    np.testing.assert_allclose(
        [row["shadow/train_loss/quantile_90"] for row in rows], np.nanquantile(loss_EK, 0.9, axis=1)
    )
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    assert any(metric.get("step_metric") == "shadow/epoch" for metric in metrics)


def test_rows_are_counted(make_report) -> None:
    report = make_report(class_names=tuple(str(c) for c in range(150)), per_class=100)
    curves = {name: attack_curves(report.scores, name) for name in ("shokri", "loss")}
    rows = curve_rows(report, curves)

    assert len(rows) <= MAX_ROWS
    assert len({(row[0], row[1]) for row in rows}) == 300


def test_of_too_many_curves_the_most_exposed_are_kept(report: AuditReport, monkeypatch) -> None:
    monkeypatch.setattr("mia_lightning.loggers.wandb_content.MAX_ROWS", 6)
    curves = {name: attack_curves(report.scores, name) for name in ("shokri", "loss")}
    rows = curve_rows(report, curves)
    first = max(report.attacks[0].per_class[:3], key=lambda group: group.auc.value)

    assert len(rows) == 6
    assert [row[:2] for row in rows[::2]] == [
        ["shokri", ALL_RECORDS],
        ["loss", ALL_RECORDS],
        ["shokri", first.class_name],
    ]


def test_an_error_closes_the_run_as_failed(tmp_path: Path) -> None:
    import wandb

    with pytest.raises(KeyError), WandbReport().start(tmp_path, {}) as run:
        raise KeyError("training failed")
    run.abort()
    wandb.teardown()
    assert run.location is not None
    codes = [record["exit"]["exit_code"] for record in _records(Path(run.location)) if record["type"] == "exit"]
    assert codes == [1]


def test_a_closed_run_is_not_finished_again(tmp_path: Path, report: AuditReport) -> None:
    run = WandbReport().start(tmp_path, {})
    run.abort()
    with pytest.raises(RuntimeError, match="closed"):
        run.finish(report)


def test_an_unknown_mode_names_the_environment_variable_that_may_have_set_it() -> None:
    with pytest.raises(InputError, match=r"`logger.mode` is 'shared'; .*offline, online, disabled .*WANDB_MODE"):
        WandbReport(mode="shared")


def test_online_without_a_key_is_refused_at_once(tmp_path: Path, monkeypatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"no wandb API key was found; .*logger\.mode=offline"):
        WandbReport(mode="online").start(tmp_path, {})


def test_what_wandb_refuses_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wandb refused the run .*project name"):
        WandbReport(project="a/b").start(tmp_path, {})


def test_netrc_is_a_key(tmp_path: Path, monkeypatch) -> None:
    import wandb

    from mia_lightning.loggers.wandb import _has_key

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password secret\n")
    assert not _has_key(wandb.Settings())
    assert _has_key(wandb.Settings(base_url="https://wandb.example.org"))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert _has_key(wandb.Settings())


def test_disabled_and_none_keep_nothing(report: AuditReport, tmp_path: Path) -> None:
    for logger in (WandbReport(mode="disabled"), NoLogger()):
        with logger.start(tmp_path, {}) as run:
            assert isinstance(run, NoRun)
            assert run.location is None
            run.finish(report)
            run.abort()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_logger_none_does_not_load_wandb() -> None:
    program = (
        "import sys, pathlib; from mia_lightning.loggers.interface import NoLogger; "
        "NoLogger().start(pathlib.Path('.'), {}).abort(); "
        "assert not {'wandb', 'matplotlib', 'plotly', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_yaml_lists_every_parameter() -> None:
    wandb_node = yaml.safe_load((CONF / "wandb.yaml").read_text())
    none_node = yaml.safe_load((CONF / "none.yaml").read_text())

    assert wandb_node.pop("_target_") == f"{WandbReport.__module__}.{WandbReport.__qualname__}"
    assert list(wandb_node) == [field.name for field in fields(WandbReport)]
    assert wandb_node.pop("mode") == "${oc.env:WANDB_MODE,offline}"
    for name, value in wandb_node.items():
        assert value == getattr(WandbReport(), name) or (value, name) == ([], "tags")
    assert none_node == {"_target_": f"{NoLogger.__module__}.{NoLogger.__qualname__}"}
