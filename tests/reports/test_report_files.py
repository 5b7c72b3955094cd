"""What stands in the files of a run, and that they are whole or absent."""

import csv
import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_reports import build_report

from mia_lightning.dashboard.curves import read_curves
from mia_lightning.errors import InputError
from mia_lightning.reports.cells import csv_of
from mia_lightning.reports.files import read_report, save_report
from mia_lightning.reports.schema import SCHEMA, AuditReport
from mia_lightning.store.atomic import write_whole


@pytest.fixture(scope="module")
def written(report: AuditReport, tmp_path_factory) -> list[Path]:
    return save_report(report, tmp_path_factory.mktemp("run") / "new")


@pytest.fixture
def folder(written: list[Path]) -> Path:
    return written[-1].parent


def test_files_of_a_run(written: list[Path], folder: Path) -> None:
    assert [str(path.relative_to(folder)) for path in written] == [
        "scores.parquet",
        "per_class.csv",
        "figures/precision_recall.png",
        "figures/roc.png",
        "figures/leakage_vs_gap.png",
        "report.html",
        "report.json",
    ]
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(written)


def test_json_reads_back_as_the_same_report(report: AuditReport, folder: Path) -> None:
    for path in (folder, folder / "report.json"):
        back = read_report(path)
        assert back.model_dump() == report.model_dump()
        assert back.scores is back.training_curves is None


def test_json_is_versioned_and_typed(folder: Path) -> None:
    content = json.loads((folder / "report.json").read_text())

    assert content["schema"] == SCHEMA
    assert set(content) >= {"run", "dataset", "target", "attacks"}
    figure = content["attacks"][0]["per_class"][3]["auc"]
    assert set(figure) == {"value", "low", "high", "n", "reason", "interval", "spread", "false_positives"}
    assert figure["value"] is None
    assert figure["reason"]


def test_parquet_has_a_row_for_each_attack_and_record(report: AuditReport, folder: Path) -> None:
    table = pq.read_table(folder / "scores.parquet")

    assert table.num_rows == len(report.scores.score) == 2 * 480
    assert table.column_names == ["attack", "target", "record", "label", "is_member", "score", "is_flagged"]
    for name in table.column_names:
        np.testing.assert_array_equal(table[name].to_numpy(), getattr(report.scores, name))


def test_csv_has_a_row_for_each_attack_and_class(report: AuditReport, folder: Path) -> None:
    with (folder / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 8
    second, last = rows[1], rows[7]
    group = report.attacks[0].per_class[1]
    assert (second["attack"], second["class_name"]) == ("shokri", "dog")
    for name in ("precision", "precision_balanced", "recall", "accuracy", "auc", "average_precision"):
        assert float(second[name]) == getattr(group, name).value
        limits = [second[f"{name}_{end}"] for end in ("low", "high")]
        assert limits == [
            "" if each is None else str(each) for each in (getattr(group, name).low, getattr(group, name).high)
        ]
    assert float(second["auc_simultaneous_low"]) == group.auc_simultaneous.low < group.auc.low
    assert float(second["ppv_0.01_high"]) == group.ppv["0.01"].high
    assert float(second["precision_at_recall_0.5_low"]) == group.precision_at_recall["0.5"].low
    assert float(second["train_accuracy"]) - float(second["test_accuracy"]) == float(second["generalization_gap"])
    assert second["tpr_at_fpr_0.01"] == ""
    assert "non-members" in second["tpr_at_fpr_0.01_reason"]
    assert (last["attack"], last["auc"], last["train_accuracy"]) == ("loss", "", "")
    assert "no members" in last["auc_reason"]


def test_pictures_are_drawn(folder: Path) -> None:
    for path in (folder / "figures").iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(content) > 15_000


@pytest.mark.slow
def test_pictures_take_any_name(make_report, tmp_path: Path) -> None:
    names = ("$\\frac{", "_hidden", "two\nlines", "</script>", "x" * 99, "&amp;", "last")

    assert len(save_report(make_report(class_names=names, per_class=40), tmp_path)) == 7


def test_a_report_without_curves_is_still_written(make_report, tmp_path: Path) -> None:
    save_report(make_report(), tmp_path)
    save_report(make_report(class_names=("only",), per_class=0), tmp_path)

    assert "could not be measured" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.rglob("*.png"))  # those of the earlier run neither


def test_a_failure_leaves_no_report(report: AuditReport, tmp_path: Path, monkeypatch) -> None:
    save_report(report, tmp_path)

    write_bytes = Path.write_bytes

    def disk_is_full(self: Path, content: bytes) -> int:
        if "report.html" in self.name:
            raise OSError("No space left on device")
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", disk_is_full)
    with pytest.raises(OSError, match="No space"):
        save_report(report, tmp_path)
    assert not (tmp_path / "report.json").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch) -> None:
    path = write_whole(tmp_path / "deep" / "file", b"old")

    monkeypatch.setattr("os.replace", lambda source, to: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write_whole(path, b"new")
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"old"]


def test_a_report_without_scores_is_refused(report: AuditReport, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="carries no scores"):
        save_report(report.model_copy(update={"scores": None}), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no report at"),
        ("{", "is not JSON"),
        ("[]", "has the schema None"),
        ('{"schema": "other/9"}', "has the schema 'other/9'"),
        ('{"schema": "mia_lightning.report/1"}', "has the schema 'mia_lightning.report/1'; .* run the audit again, or"),
        (f'{{"schema": "{SCHEMA}"}}', "is not a valid report: Field required at `run`"),
        ("\udcff", "is not JSON"),
    ],
)
def test_a_bad_report_is_refused_in_a_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=sentence) as error:
        read_report(tmp_path)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "＝1", "plain", "a=b")


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    names = FORMULAS[:4]
    report = build_report(class_names=names)
    save_report(report, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "per_class.csv").read_text(), newline="")))
    assert {row["class_name"] for row in rows} == {f"'{name}" for name in names}
    assert {float(row["auc"]) for row in rows if row["auc"]}
    found = list(csv.reader(io.StringIO(csv_of([{"name": name, "x": -1.5} for name in FORMULAS]).decode(), newline="")))
    assert found[0] == ["name", "x"]
    assert [row[0] for row in found[1:]] == [*(f"'{name}" for name in FORMULAS[:7]), *FORMULAS[7:]]
    assert {row[1] for row in found[1:]} == {"-1.5"}


@pytest.mark.parametrize(
    ("old", "new"), [('"overall"', '"overill"'), ('"num_classes":4', '"num_classes":"4"'), ('"seed":0', '"seed":true')]
)
def test_a_report_of_another_form_is_refused(old: str, new: str, tmp_path: Path) -> None:
    content = build_report().model_dump_json(by_alias=True)
    assert old in content
    (tmp_path / "report.json").write_text(content.replace(old, new, 1))
    with pytest.raises(InputError, match="is not a valid report"):
        read_report(tmp_path)


def test_a_folder_in_the_place_of_a_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(InputError, match=r"report\.json cannot be read \(Is a directory\)"):
        read_report(tmp_path)


def test_a_flipped_bit_in_the_scores_is_noticed_or_changes_no_curve(folder: Path, tmp_path: Path) -> None:
    whole, said = (folder / "scores.parquet").read_bytes(), []
    (tmp_path / "scores.parquet").write_bytes(whole)
    curves = read_curves(tmp_path, said.append)
    assert said == []
    numbers = random.Random(0)
    pages = range(4, whole.rindex(b"attack") // 2)  # the checksums are those of pages; the rest says where these lie
    for _ in range(40):
        content = bytearray(whole)
        content[numbers.choice(pages)] ^= 1 << numbers.randrange(8)
        (tmp_path / "scores.parquet").write_bytes(content)
        said.clear()
        found = read_curves(tmp_path, said.append)
        assert found == curves or (found == {} and said)
