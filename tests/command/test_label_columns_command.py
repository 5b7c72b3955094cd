"""Several label columns by the command, on real tables, mails and recordings."""

import csv
import json
import os
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from command_line import Call
from klettres import klettres
from sklearn.metrics import roc_auc_score

pytestmark = pytest.mark.slow

COLUMNS = "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex"
COLUMNS += ",capital-gain,capital-loss,hours-per-week,native-country,income"

QUICK = ("shadow.count=4", "attack=[loss,lira_offline]", "logger=none", "trainer.accelerator=cpu", "hydra.run.dir=run")


def write(rows: list[dict[str, Any]], place: Path) -> Path:
    with place.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return place


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "report.json").read_text())
    return found


def check_labels(folder: Path, has: dict[str, list[bool]]) -> None:
    """Hold the figures of each label against the scores of the records that have it."""
    report = report_of(folder)
    assert (report["task"]["name"], report["task"]["utility"]) == ("multilabel", "mean AUROC")
    scores = pyarrow.parquet.read_table(folder / "run" / "scores.parquet").to_pylist()
    for attack in report["attacks"]:
        assert [each["class_name"] for each in attack["per_class"]] == list(has)
        for part in attack["per_class"]:
            own = [
                each for each in scores if each["attack"] == attack["name"] and has[part["class_name"]][each["record"]]
            ]
            members = sum(each["is_member"] for each in own)
            assert (part["num_members"], part["num_nonmembers"]) == (members, len(own) - members)
            auc = roc_auc_score([each["is_member"] for each in own], [each["score"] for each in own])
            assert part["auc"]["value"] == pytest.approx(auc, abs=1e-9)
    assert report["target"]["test_accuracy"] > 0.6  # of the mean AUROC; 0.5 by chance
    assert report["target"]["generalization_gap"] > 0


@pytest.fixture
def adult(shared_data: Path, tmp_path: Path) -> list[dict[str, str]]:
    """1,500 records of raw Adult, which stand in `adult.csv`."""
    lines = (shared_data / "adult" / "adult.data").read_text().splitlines()[:1500]
    (tmp_path / "adult.csv").write_text("\n".join([COLUMNS, *lines]) + "\n")
    with (tmp_path / "adult.csv").open(newline="") as file:
        return list(csv.DictReader(file, skipinitialspace=True))


def of_adult(rows: list[dict[str, str]]) -> dict[str, list[bool]]:
    return {
        "income: >50K": [each["income"] == ">50K" for each in rows],
        "sex: Male": [each["sex"] == "Male" for each in rows],
    }


ADULT = ("dataset=table", "dataset.path=adult.csv", "dataset.label_column=[income,sex]", "task=multilabel")


def test_two_labels_of_a_table(adult: list[dict[str, str]], call: Call, tmp_path: Path) -> None:
    ended = call(*ADULT, *QUICK, "dataset.train_size=300", "training.epochs=10")
    assert ended.returncode == 0, ended.stderr
    check_labels(tmp_path, of_adult(adult))
    report = report_of(tmp_path)
    assert report["target"]["architecture"] == "Tabular"
    remarks = [each for each in report["warnings"] + report["notes"] if "is on where" in each]
    assert ["'Male'" in each for each in remarks] == [False, True]


def test_two_labels_of_a_forest(adult: list[dict[str, str]], call: Call, tmp_path: Path) -> None:
    ended = call(
        *(*ADULT, *QUICK, "dataset.train_size=300", "target=estimator", "target.processes=1"),
        "target.estimator._target_=sklearn.ensemble.RandomForestClassifier",
        "+target.estimator.n_estimators=10",
    )
    assert ended.returncode == 0, ended.stderr
    check_labels(tmp_path, of_adult(adult))


def test_two_numbers_of_a_table(call: Call, tmp_path: Path) -> None:
    data = pytest.importorskip("statsmodels.datasets", reason="needs real numbers: pip install statsmodels")
    data.randhie.load_pandas().data[:3000].to_csv("visits.csv", index=False)
    ended = call(
        *("dataset=table", "dataset.path=visits.csv", "dataset.label_column=[disea,mdvis]", "task=regression"),
        *(*QUICK, "dataset.train_size=200", "training.epochs=10"),
    )
    assert ended.returncode == 0, ended.stderr
    report = report_of(tmp_path)
    assert report["dataset"]["values"] == ["disea", "mdvis"]
    assert (report["task"]["utility"], report["target"]["architecture"]) == ("R²", "Tabular")
    assert all(each["class_name"].startswith("disea ") for each in report["target"]["per_class"])
    assert report["target"]["generalization_gap"] > 0


@pytest.fixture
def mails() -> list[dict[str, Any]]:
    """Mails of SpamAssassin: whether each is spam, and long; the test is skipped where there are none."""
    if "MIA_SPAM_ASSASSIN" not in os.environ:
        pytest.skip("needs real mails: the environment variable MIA_SPAM_ASSASSIN (see docs/how-to/text.md)")
    rows = []
    with tarfile.open(os.environ["MIA_SPAM_ASSASSIN"], "r|gz") as archive:
        entries = (each for each in archive if each.name.startswith("package/data/") and each.name.endswith(".json"))
        for entry in islice(entries, 0, None, 10):
            file = archive.extractfile(entry)
            assert file is not None
            text = json.load(file)["text"]
            rows.append({"text": text, "spam": "spam" in Path(entry.name).parent.name, "long": len(text) > 3000})
    assert len(rows) > 500
    return rows


MAILS = ("dataset=text", "dataset.path=mails.jsonl", "dataset.label_column=[long,spam]", "task=multilabel")


def test_two_labels_of_mails(mails: list[dict[str, Any]], call: Call, tmp_path: Path) -> None:
    (tmp_path / "mails.jsonl").write_text("\n".join(map(json.dumps, mails)))
    ended = call(
        *(*MAILS, *QUICK, "dataset.max_tokens=64", "dataset.train_size=150", "model=text_cnn", "training.epochs=5")
    )
    assert ended.returncode == 0, ended.stderr
    check_labels(tmp_path, {label: [each[label] for each in mails] for label in ("long", "spam")})


def test_two_labels_of_recordings(call: Call, tmp_path: Path) -> None:
    """Whether a recording is Russian, and whether it is of a letter from the first half of the alphabet's files."""
    sounds = klettres()
    rows = [
        {"file": sound, "russian": language == "ru", "half": "first" if place < len(files) // 2 else "second"}
        for language in ("es", "ru")
        for files in [sorted((sounds / language).rglob("*.ogg"))]
        for place, sound in enumerate(files)
    ]
    write(rows, tmp_path / "letters.csv")
    ended = call(
        *("dataset=audio", "dataset.path=letters.csv", "dataset.path_column=file", "task=multilabel"),
        *("dataset.label_column=[russian,half]", "dataset.sample_rate=8000", "dataset.seconds=0.5"),
        *(*QUICK, "dataset.train_size=60", "model=audio_cnn", "model.channels=[8,16]", "training.epochs=8"),
    )
    assert ended.returncode == 0, ended.stderr
    has = {"russian": [each["russian"] for each in rows], "half: second": [each["half"] == "second" for each in rows]}
    check_labels(tmp_path, has)


def test_label_columns_that_are_none_end_the_command_before_anything_is_trained(
    adult: list[dict[str, str]], call: Call, tmp_path: Path
) -> None:
    for columns, task, named in (
        ("[income,sexx]", "multilabel", "'sexx'"),
        ("[income,race]", "multilabel", "'race'"),
        ("[income,sex]", "classification", "task=multilabel"),
        ("[income,income]", "multilabel", "twice"),
        ("[age,income]", "regression", "'<=50K'"),
        ("income", "multilabel", "dataset.label_separator"),
    ):
        ended = call(
            *("dataset=table", "dataset.path=adult.csv", f"dataset.label_column={columns}", f"task={task}", *QUICK)
        )
        assert (ended.returncode, named in ended.stderr) == (2, True), ended.stderr
    assert not (tmp_path / "run" / "report.json").exists()
