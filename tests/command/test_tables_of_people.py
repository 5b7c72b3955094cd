"""Whole audits of raw Adult as a CSV file: strings, gaps, several groups, ids."""

import csv
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from command_line import Call
from sklearn.metrics import roc_auc_score

COLUMNS = "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex"
COLUMNS += ",capital-gain,capital-loss,hours-per-week,native-country,income"
GROUPS = ("sex", "race")


@pytest.fixture
def rows(shared_data: Path, tmp_path: Path) -> list[dict[str, str]]:
    """The first 3,000 records, which stand in `adult.csv`, each with an id in front."""
    lines = (shared_data / "adult" / "adult.data").read_text().splitlines()[:3000]
    text = [f"person,{COLUMNS}", *(f"A-{number:05}, {line}" for number, line in enumerate(lines))]
    (tmp_path / "adult.csv").write_text("\n".join(text) + "\n")
    with (tmp_path / "adult.csv").open(newline="") as file:
        return list(csv.DictReader(file, skipinitialspace=True))


TABLE = ("dataset=table", "dataset.path=adult.csv", "dataset.label_column=income", "dataset.id_column=person")
QUICK = ("model=tabular", "shadow.count=4", "training.epochs=25", "attack=loss", "logger=none")


@pytest.mark.slow
def test_raw_adult(rows: list[dict[str, str]], tmp_path: Path, call: Call) -> None:
    groups = f"dataset.group_columns=[{','.join(GROUPS)}]"
    result = call(*TABLE, *QUICK, groups, "dataset.train_size=600", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    scores = pyarrow.parquet.read_table(tmp_path / "run" / "scores.parquet").to_pylist()
    assert len(scores) == 1200
    assert all(each["record_name"] == rows[each["record"]]["person"] for each in scores)
    assert all(each["label"] == ["<=50K", ">50K"].index(rows[each["record"]]["income"]) for each in scores)
    with (tmp_path / "run" / "per_group.csv").open(newline="") as file:
        of_group = {line["group_name"]: line for line in csv.DictReader(file)}
    names = {f"{column}: {row[column]}" for column in GROUPS for row in rows}
    assert of_group.keys() == names
    for name, line in of_group.items():
        column, _, value = name.partition(": ")
        own = [each for each in scores if rows[each["record"]][column] == value]
        members = sum(each["is_member"] for each in own)
        assert (int(line["num_members"]), int(line["num_nonmembers"])) == (members, len(own) - members)
        if 0 < members < len(own):
            expected = roc_auc_score([each["is_member"] for each in own], [each["score"] for each in own])
            assert float(line["auc"]) == pytest.approx(expected, abs=1e-9)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    target = report["target"]
    assert target["test_accuracy"] > 0.74  # the commonest class has 0.76 of the records
    assert target["train_accuracy"] > target["test_accuracy"] + 0.03
    assert report["attacks"][0]["overall"]["auc"]["value"] > 0.52


@pytest.mark.slow
def test_members_by_their_ids_or_by_their_rows(rows: list[dict[str, str]], tmp_path: Path, call: Call) -> None:
    members = range(1, 1500, 3)
    (tmp_path / "ids.csv").write_text("id\n" + "".join(f"{rows[i]['person']}\n" for i in members))
    (tmp_path / "rows.csv").write_text("row\n" + "".join(f"{i}\n" for i in members))
    found = []
    for name in ("ids", "rows"):
        given = ("membership=given", f"membership.path={name}.csv", f"hydra.run.dir={name}")
        result = call(*TABLE, *QUICK, *given, "shadow.count=2", "training.epochs=2")
        assert result.returncode == 0, result.stderr
        found.append(pyarrow.parquet.read_table(tmp_path / name / "scores.parquet"))
    assert found[0].equals(found[1])
    of_members = [each["record"] for each in found[0].to_pylist() if each["is_member"]]
    assert of_members == list(members)
