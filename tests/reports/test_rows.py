"""The flat table of runs against the report, wherever it is read from, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dashboard_runs import report_of, write_run

from mia_lightning.errors import InputError
from mia_lightning.reports.rows import (
    FIGURE_FAMILIES,
    FIGURE_NAMES,
    RunRow,
    figures_by_name,
    headline_scalars,
    per_class_rows,
    read_run,
)
from mia_lightning.reports.schema import AuditReport


def test_a_row_for_each_attack_with_every_figure_and_its_limits(report: AuditReport) -> None:
    rows = RunRow.of(report).rows()
    assert [row["attack"] for row in rows] == [attack.name for attack in report.attacks]
    for row, attack in zip(rows, report.attacks, strict=True):
        assert (row["dataset"], row["num_records"], row["plan"]) == ("made-up", 1234, "disjoint")
        assert (row["architecture"], row["num_shadows"], row["shadow_source"]) == ("MLP", 16, "real")
        assert (row["num_members"], row["num_nonmembers"]) == (
            report.membership.num_members,
            report.membership.num_nonmembers,
        )
        assert (row["defense"], row["adaptive"], row["generalization_gap"]) == (None, False, 0.28125)
        flat = {name: getattr(attack.overall, name) for name in FIGURE_NAMES}
        for family in FIGURE_FAMILIES:
            flat |= {f"{family}_{key}": figure for key, figure in getattr(attack.overall, family).items()}
        assert figures_by_name(attack.overall) == flat
        for name, figure in flat.items():
            assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (figure.value, figure.low, figure.high)
    assert not any(isinstance(value, dict | list | tuple) for row in rows for value in row.values())


def test_the_file_and_the_report_have_the_same_row(report: AuditReport, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report.model_dump_json(by_alias=True))
    assert read_run(tmp_path) == RunRow.of(report) == RunRow.of(json.loads(report.model_dump_json(by_alias=True)))


def test_utility_has_the_name_of_the_task(report: AuditReport) -> None:
    predicts = report.model_copy(update={"task": report.task.model_copy(update={"utility": "R²"})})
    assert [RunRow.of(each).utility for each in (report, predicts, report_of())] == ["accuracy", "R²", "accuracy"]


@pytest.mark.parametrize(("utility", "key"), [("accuracy", "accuracy"), ("R²", "r2"), ("mean AUROC", "mean_auroc")])
def test_scalars_of_the_target_are_named_by_its_utility(report: AuditReport, utility: str, key: str) -> None:
    of_task = report.model_copy(update={"task": report.task.model_copy(update={"utility": utility})})
    scalars = headline_scalars(of_task)
    assert scalars[f"target/test_{key}"] == report.target.test_accuracy
    assert scalars[f"target/train_{key}"] == report.target.train_accuracy
    assert scalars["target/generalization_gap"] == report.target.generalization_gap
    assert sum(name.startswith("target/") for name in scalars) == 3


def test_the_defence_is_that_which_the_attack_met(report: AuditReport) -> None:
    attacks = [
        report.attacks[0].model_copy(update={"defense": "top 1 class", "adaptive": True}),
        report.attacks[1],
    ]
    rows = RunRow.of(report.model_copy(update={"attacks": tuple(attacks)})).rows()
    assert [(row["defense"], row["adaptive"]) for row in rows] == [("top 1 class", True), (None, False)]
    content = report_of(defense="top 3 classes", attacks={})
    assert [row["defense"] for row in RunRow.of(content).rows()] == ["top 3 classes"]  # of a run without attacks


def test_rows_of_classes_and_scalars_have_the_same_figures(report: AuditReport) -> None:
    scalars = headline_scalars(report)
    for row in RunRow.of(report).rows():
        for name in ("auc", "auc_low", "auc_high", "tpr_at_fpr_0.01", "tpr_at_fpr_0.01_low", "recall"):
            assert scalars[f"leakage/{row['attack']}/{name}"] == row[name]
        assert f"leakage/{row['attack']}/recall_low" not in scalars
    (columns,) = {tuple(row) for row in per_class_rows(report)}
    assert {name for name in columns if name.endswith("_low")} == {
        f"{name}_low" for name in (*figures_by_name(report.attacks[0].overall), "auc_simultaneous")
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has the schema None"),
        ('{"schema": "somebody.else/7"}', "has the schema 'somebody.else/7'"),
        ('{"schema": "mia_lightning.report/2"}', "is not a valid report: Field required at `run.created`"),
        (json.dumps(report_of(test=float("nan"))), "finite number at `target.test_accuracy`"),
        (json.dumps(report_of() | {"attacks": [{"name": "a", "overall": 3}]}), "no figures .* at `attacks.0.overall`"),
        (json.dumps(report_of() | {"attacks": [{"name": "a", "overall": {}}]}), "no figures .* at `attacks.0.overall`"),
    ],
)
def test_what_is_no_report(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_run(tmp_path)


def test_what_is_gone_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no report at"):
        read_run(tmp_path)
    (tmp_path / "report.json").mkdir()
    with pytest.raises(InputError, match=r"report.json cannot be read \(Is a directory\)"):
        read_run(tmp_path)


def test_reading_loads_no_torch(tmp_path: Path) -> None:
    write_run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from mia_lightning.reports.rows import read_run; "
        f"print(read_run(Path({str(tmp_path)!r})).dataset, sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "location []"
