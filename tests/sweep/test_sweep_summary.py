"""The rows of a sweep, its parquet file and its table: what the runs' own files say, whatever became of them."""

import io
import json
import math
import shutil
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

import mia_lightning as mia
from mia_lightning.comparison.schema import ComparisonReport, Variant
from mia_lightning.datasets.population import make_population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.sweep.rows import STAGES, Row, has_result
from mia_lightning.sweep.summary import FIGURES, render_rows, save_summary, summarise, sweep_markdown

pytestmark = pytest.mark.xdist_group("sweep_summary")

OVERRIDES = ["shadow.count=4", "attack=shokri,loss"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two attacks through an output defence, as the command leaves it."""
    folder = tmp_path_factory.mktemp("sweep") / "0"
    numbers = generator(0, "sweep", "records")
    data = make_population(torch.randn(200, 4, generator=numbers), torch.arange(200) % 2)
    mia.audit(
        data,
        model=partial(MLP, hidden=[8]),
        membership=mia.Disjoint(train_size=40),
        shadow=mia.Real(count=4),
        attacks=[mia.Shokri(), mia.Loss()],
        defenses=[mia.TopK(k=1)],
        adaptive=True,
        training=mia.Recipe(epochs=6, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.02)),
        trainer=mia.TrainerSettings(accelerator="cpu"),
        output=folder,
        seed=3,
    )
    ended(folder, 0)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {each}\n" for each in OVERRIDES))
    return folder


def ended(folder: Path, code: int, reason: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outcome.json").write_text(json.dumps({"exit_code": code, "reason": reason}))
    return folder


def drawn(rows: list[Row], width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as text:
        console.print(render_rows(rows))
    return text.get()


def test_a_row_for_each_attack_says_what_the_report_says(done: Path) -> None:
    report = json.loads((done / "report.json").read_text())
    rows = summarise([done])
    assert [(row.run, row.attack) for row in rows] == [("0", "shokri"), ("0", "loss")]
    for row, attack in zip(rows, report["attacks"], strict=True):
        assert (row.path, row.overrides, row.exit_code, row.reason) == (str(done), tuple(OVERRIDES), 0, None)
        found = row.found
        assert (found["seed"], found["dataset"], found["num_records"]) == (3, report["dataset"]["name"], 200)
        assert (found["architecture"], found["plan"], row.variant) == ("MLP", "disjoint", None)
        assert (found["defense"], found["adaptive"]) == (attack["defense"], attack["adaptive"]) == ("top 1 class", True)
        sizes = ("num_members", "num_targets", "num_shadows", "shadow_train_size")
        assert [found[name] for name in sizes] == [40, 1, 4, 40]
        for name in ("train_accuracy", "test_accuracy", "generalization_gap"):
            assert found[name] == report["target"][name]
        assert found["utility"] == report["task"]["utility"] == "accuracy"
        overall = attack["overall"]
        expected = {
            "auc": overall["auc"],
            "advantage": overall["advantage"],
            "tpr_at_fpr_0.001": overall["tpr_at_fpr"]["0.001"],
            "tpr_at_fpr_0.01": overall["tpr_at_fpr"]["0.01"],
        }
        assert set(FIGURES) == set(expected)
        for name, figure in expected.items():
            limited = tuple(found[f"{name}{end}"] for end in ("", "_low", "_high"))
            assert limited == (figure["value"], figure["low"], figure["high"])
        seconds = report["run"]["seconds"]
        assert row.seconds["total"] == pytest.approx(math.fsum(seconds.values()))
        assert row.seconds["attack"] == seconds[f"attack/{attack['name']}"]
        assert (row.seconds["target"], row.seconds["shadow"]) == (seconds["target"], seconds["shadow"])
    assert rows[0].found["auc_low"] < rows[0].found["auc"] < rows[0].found["auc_high"]


def test_the_file_has_the_same_columns_and_types_for_any_rows(done: Path, tmp_path: Path) -> None:
    rows = summarise([done, ended(tmp_path / "1", 2, "there is no such thing.")])
    table = pq.read_table(save_summary(rows, tmp_path / "new"))
    empty = pq.read_table(save_summary([], tmp_path / "none"))
    assert table.schema.equals(empty.schema)
    assert (table.num_rows, empty.num_rows) == (3, 0)
    limits = [f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")]
    plain = [each.name for each in fields(Row)][:-2]
    plain += ["seed", "dataset", "num_records", "architecture", "plan", "defense", "attack", "adaptive", "train_size"]
    plain += ["num_targets", "num_shadows", "shadow_train_size", "utility", "train_accuracy", "test_accuracy"]
    plain += ["generalization_gap", "doubt"]
    assert table.column_names == [*plain, *limits, *(f"seconds_{name}" for name in STAGES)]
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types["overrides"] == "list<element: string>"
    assert {types[name] for name in ("exit_code", "seed", "num_records", "num_shadows")} == {"int64"}
    assert {types[name] for name in (*limits, "seconds_total", "test_accuracy")} == {"double"}
    assert (types["run"], types["adaptive"]) == ("string", "bool")
    first, _, failed = table.to_pylist()
    assert first["overrides"] == OVERRIDES
    assert all(first[name] == rows[0].found[name] for name in limits)
    assert first["train_size"] == rows[0].found["num_members"]
    assert first["seconds_total"] == rows[0].seconds["total"]
    assert failed["reason"] == "there is no such thing."
    assert {name for name, value in failed.items() if value not in (None, [])} == {"run", "path", "exit_code", "reason"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sweep.parquet"]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"sweep\.parquet.*hydra\.sweep\.dir"):
        save_summary([], tmp_path / "file")


def damaged(folder: Path, name: str, content: str | bytes) -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_runs_without_a_report_have_a_row_that_says_why(done: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(done, tmp_path / name)
        return tmp_path / name

    old = json.loads((done / "report.json").read_text()) | {"schema": "mia_lightning.report/1"}
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "config.yaml").write_text("seed: 11\n")
    cases = [
        (tmp_path / "absent", None, "is not there"),
        (killed, None, "has not ended, or was killed"),
        (ended(tmp_path / "bad", 2, "`model` is empty."), 2, "`model` is empty."),
        (ended(tmp_path / "odd", 1), 1, "exit code 1, without a reason"),
        (ended(tmp_path / "planned", 0), 0, "no report.json"),
        (damaged(copy("cut"), "report.json", (done / "report.json").read_bytes()[:500]), 0, "cannot be read"),
        (damaged(copy("binary"), "report.json", bytes(range(256))), 0, "cannot be read"),
        (damaged(copy("old"), "report.json", json.dumps(old)), 0, "mia_lightning.report/1"),
        (damaged(copy("thin"), "report.json", '{"schema": "mia_lightning.report/2"}'), 0, "not a valid report"),
        (damaged(ended(tmp_path / "series", 0), "summary.json", "[{}]"), 0, "no report.json"),
        (damaged(ended(tmp_path / "compared", 0), "comparison.json", "{"), 0, "comparison.json cannot be read"),
    ]
    rows = summarise([folder for folder, _, _ in cases])
    assert [row.run for row in rows] == [folder.name for folder, _, _ in cases]
    for row, (folder, code, reason) in zip(rows, cases, strict=True):
        assert row.exit_code == code
        assert reason in (row.reason or ""), folder
        assert "\n" not in (row.reason or "")
        assert (row.attack, row.found, row.seconds) == (None, {"seed": 11} if folder == killed else {}, {})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"exit_code": null, "reason": null}', '{"exit_code": 0}'])
def test_a_damaged_outcome_hides_no_report(content: str, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "7")
    rows = summarise([damaged(tmp_path / "7", "outcome.json", content)])
    assert [row.attack for row in rows] == ["shokri", "loss"]
    assert all(row.exit_code is None and "outcome.json cannot be read" in (row.reason or "") for row in rows)
    damaged(tmp_path / "7" / ".hydra", "overrides.yaml", "a: [")
    assert summarise([tmp_path / "7"])[0].overrides == ()


def test_an_exit_code_of_the_gate_stands_beside_the_figures(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "0")
    rows = summarise([ended(tmp_path / "0", 3, "the advantage is above 0.1")])
    assert [(row.exit_code, row.reason, "auc" in row.found) for row in rows] == [
        (3, "the advantage is above 0.1", True)
    ] * 2


def comparison(folder: Path, done: Path) -> Path:
    """Two variants in a folder, the second of which was not run."""
    folder.mkdir(parents=True)
    shutil.copytree(done, folder / "none")
    report = ComparisonReport(
        **{"title": "t", "question": "q", "source": "s", "command": "c", "created": "now", "seconds": 1.0},
        **{"versions": {}, "estimand": "e", "statements": ()},
        variants=(Variant(name="no defence", folder="none"), Variant(name="noise", skipped="the data is not there.")),
    )
    (folder / "comparison.json").write_text(report.model_dump_json(by_alias=True))
    return folder


def test_an_experiment_has_the_rows_of_its_variants(done: Path, tmp_path: Path) -> None:
    ended(comparison(tmp_path / "4", done), 2, "some variants could not be run")
    rows = summarise([tmp_path / "4"])
    assert [(row.run, row.variant, row.attack) for row in rows] == [
        ("4", "no defence", "shokri"),
        ("4", "no defence", "loss"),
        ("4", "noise", None),
    ]
    assert rows[0].path == str(tmp_path / "4" / "none")
    assert rows[2].reason == "the data is not there."
    assert [row.exit_code for row in rows] == [2, 2, 2]
    (tmp_path / "4" / "none" / "report.json").unlink()
    assert "There is no report" in (summarise([tmp_path / "4"])[0].reason or "")


def test_a_series_of_experiments_names_each(done: Path, tmp_path: Path) -> None:
    ended(tmp_path / "5", 0)
    comparison(tmp_path / "5" / "defenses", done)
    (tmp_path / "5" / "summary.json").write_text('[{"folder": "defenses"}, {"folder": "gone"}]')
    rows = summarise([tmp_path / "5"])
    assert [row.variant for row in rows] == ["defenses/no defence"] * 2 + ["defenses/noise", "gone"]
    assert "comparison.json cannot be read" in (rows[3].reason or "")


@pytest.mark.parametrize("folder", ["../secret", "/etc", "..", "", "a/../../b", "a\0b"])
def test_a_folder_that_leads_elsewhere_is_not_followed(folder: str, done: Path, tmp_path: Path) -> None:
    place = comparison(tmp_path / "4", done)
    content = json.loads((place / "comparison.json").read_text())
    content["variants"][0]["folder"] = folder
    damaged(ended(place, 0), "comparison.json", json.dumps(content))
    (row,) = summarise([place])
    assert "comparison.json cannot be read" in (row.reason or "")
    assert "`variants.0.folder`" in (row.reason or "")
    damaged(ended(tmp_path / "5", 0), "summary.json", json.dumps([{"folder": folder}]))
    (row,) = summarise([tmp_path / "5"])
    assert "no report.json" in (row.reason or "")


def test_a_run_has_a_result_where_all_of_its_reports_are_whole(done: Path, tmp_path: Path) -> None:
    assert has_result(done)
    assert not has_result(ended(tmp_path / "nothing", 0))
    place = comparison(tmp_path / "4", done)
    assert has_result(place)
    series = ended(tmp_path / "5", 0)
    comparison(series / "defenses", done)
    damaged(series, "summary.json", '[{"folder": "defenses"}]')
    assert has_result(series)
    for folder in (place, series / "defenses"):
        report = folder / "none" / "report.json"
        report.write_bytes(report.read_bytes()[:-10])
    assert not has_result(place)
    assert not has_result(series)


def test_the_table_shows_what_varies_and_says_once_what_does_not(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "1")
    content = json.loads((done / "report.json").read_text())
    content["run"]["seed"] = 77
    damaged(tmp_path / "1", "report.json", json.dumps(content))
    rows = summarise([done, tmp_path / "1"])
    text = drawn(rows)
    lines = text.splitlines()
    header = next(line for line in lines if "attack" in line)
    assert "seed" in header
    assert not any(name in header for name in ("data set", "model", "exit"))
    for word in ("data set data", "model MLP", "shadow models 4", "defence top 1 class"):
        assert word in " ".join(text.split())
    assert f"Results:{tmp_path}" in "".join(text.split())  # a long path is wrapped
    of_loss = [line for line in lines if " loss " in f" {line} "]
    auc = rows[1].found["auc"]
    assert len(of_loss) == 2
    assert all(f"{auc:.3f} [" in line for line in of_loss)
    narrow = drawn(rows, 80)
    assert "…" not in narrow  # no figure is cut off
    assert sum(f" {auc:.3f} " in line for line in narrow.splitlines()) >= 2
    assert max(map(len, narrow.splitlines())) <= 80
    assert sum("77" in line.split()[:2] for line in lines) == 1  # the second attack of a run does not repeat the run


@pytest.mark.parametrize(
    ("content", "doubt"),
    [
        ({"trust": {"verdict": "void"}}, "cannot be trusted"),
        ({"broken": ["The loss was not finite."]}, "leakage may be understated"),
    ],
)
def test_runs_whose_low_figures_are_no_evidence_are_named(
    content: dict[str, Any], doubt: str, done: Path, tmp_path: Path
) -> None:
    plain = json.loads((done / "report.json").read_text()) | {"broken": []}
    for name, report in {"0": plain, "1": plain | content}.items():
        shutil.copytree(done, tmp_path / name)
        damaged(tmp_path / name, "report.json", json.dumps(report))
    rows = summarise([tmp_path / "0", tmp_path / "1"])
    for text in (drawn(rows), sweep_markdown(rows)):
        assert text.count(doubt) == 1
        assert f"Run 1: {doubt}" in text
    table = pq.read_table(save_summary(rows, tmp_path / "new")).to_pylist()
    assert [row["doubt"] for row in table] == [None, None, doubt, doubt]


def test_the_table_names_what_failed_and_undefined_figures_are_dashes(done: Path, tmp_path: Path) -> None:
    rows = summarise([done, ended(tmp_path / "1", 2, "there is no setting `modle`.")])
    text = drawn(rows)
    assert "exit" in text
    assert "Run 1: there is no setting `modle`." in " ".join(text.split())
    failed = next(line for line in text.splitlines() if line.startswith("1"))
    assert failed.split() == ["1", "2", *"–" * 9]
    content = {"digest": "d", "overrides": ["modle=cnn", OVERRIDES[0]]}
    damaged(tmp_path / "1", "run.json", json.dumps(content))
    again = summarise([done, tmp_path / "1"])
    assert again[-1].overrides == tuple(content["overrides"])
    assert "Run 1 (modle=cnn): there is no setting `modle`." in " ".join(
        drawn(again).split()
    )  # what is not the same for all runs
    nothing = drawn(summarise([tmp_path / "1"]))
    assert "Run 1 (modle=cnn shadow.count=4): there is no setting `modle`." in " ".join(nothing.split())
    assert "Brackets" not in nothing


def test_nothing_heavy_is_imported_before_a_report_is_read(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mia_lightning.sweep.summary import summarise, render_rows; "
        f"render_rows(summarise([Path({str(tmp_path)!r})])); "
        "print(sorted({'torch', 'numpy', 'pandas', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
