"""Whole audits of estimators on raw Adult as a CSV file: strings, gaps, columns by their names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mia_lightning as mia
from mia_lightning.datasets.table import load_table
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.making import ready

COLUMNS = "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex"
COLUMNS += ",capital-gain,capital-loss,hours-per-week,native-country,income"
NUMBERS = ["age", "education-num", "capital-gain", "capital-loss", "hours-per-week"]
CATEGORIES = ["workclass", "occupation", "sex", "native-country"]


def people(shared_data: Path, folder: Path, count: int) -> Path:
    """The first records of Adult in `adult.csv`, as they are, with a header line."""
    lines = (shared_data / "adult" / "adult.data").read_text().splitlines()[:count]
    (folder / "adult.csv").write_text("\n".join([COLUMNS, *lines]) + "\n")
    return folder / "adult.csv"


TABLE = ("dataset=table", "dataset.path=adult.csv", "dataset.label_column=income")
FOREST = ("target=estimator", "target.estimator._target_=sklearn.ensemble.RandomForestClassifier")


@pytest.mark.slow
def test_every_attack_on_a_forest_of_a_raw_table(shared_data: Path, tmp_path: Path, call: Call) -> None:
    people(shared_data, tmp_path, 1200)
    quick = ("+target.estimator.n_estimators=8", "membership=halves", "shadow.count=8", "logger=none")
    result = call(*TABLE, *FOREST, *quick, "attack=all", "skip_inapplicable=true", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert any("ColumnTransformer" in each for each in report["notes"])
    assert not any("`model`" in each for each in report["warnings"])  # which plays no part
    assert report["target"]["train_accuracy"] > 0.95
    assert report["target"]["test_accuracy"] > 0.74  # the commonest class has 0.76 of the records
    area = {each["name"]: each["overall"]["auc"]["value"] for each in report["attacks"]}
    assert len(area) > 8
    assert area["lira_online"] > 0.7
    assert report["structure"]["leaves"]["num_trees"] == 8


@pytest.mark.slow
def test_a_forest_of_a_raw_table_leaks(shared_data: Path, tmp_path: Path, call: Call) -> None:
    people(shared_data, tmp_path, 4000)
    how = ("+target.estimator.n_estimators=100", "membership=halves", "shadow.count=16", "logger=none")
    result = call(*TABLE, *FOREST, *how, "attack=lira_online", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["attacks"][0]["overall"]["auc"]["value"] >= 0.82
    assert report["target"]["train_accuracy"] > 0.99


def by_names(last: Any) -> Any:
    """A Pipeline that takes columns by their names, with gaps in numbers and categories."""
    categories = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_pipeline(make_column_transformer((categories, CATEGORIES), (numbers, NUMBERS)), last)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_pipeline_gets_what_pandas_reads(shared_data: Path, tmp_path: Path, task: str) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    path = people(shared_data, tmp_path, 600)
    is_classes = task == "classification"
    column = "income" if is_classes else "education-num"
    numbers = [each for each in NUMBERS if each != column]
    pipeline = by_names(RandomForestClassifier(6) if is_classes else RandomForestRegressor(6))
    pipeline.steps[0][1].transformers[1] = (*pipeline.steps[0][1].transformers[1][:2], numbers)
    population = load_table(
        path=path, label_column=column, task=mia.Classification() if is_classes else mia.Regression()
    )
    observation = mia.observe(
        population,
        target=mia.Estimator(pipeline, processes=1),
        membership=mia.Halves(),
        shadow=mia.Real(count=6),
        attacks=[mia.Loss(), mia.Lira()],
    )
    frame = pandas.read_csv(path, skipinitialspace=True, na_values="?")
    frame = frame.astype(dict.fromkeys(numbers, np.float32))  # a step of float32 decides about a split
    assert frame["occupation"].isna().any()
    label = population.label_N.numpy()
    member_KN = observation.membership.member_KN.numpy()
    fits = [*observation.targets._fits, *observation.shadows._fits]  # type: ignore[attr-defined]
    for signals, rows in ((observation.target_signals, slice(0, 1)), (observation.shadow_signals, slice(1, 7))):
        for answer_NC, fit, member_N in zip(
            signals.log_probability_KANC[:, 0].numpy(), fits[rows], member_KN[rows], strict=True
        ):
            own = ready(pipeline, Layout(), fit.seed).fit(frame[member_N], label[member_N])
            if is_classes:
                assert np.allclose(np.exp(answer_NC), (6 * own.predict_proba(frame) + 1 / 2) / 7, atol=1e-6)
            else:
                assert np.allclose(answer_NC[:, 0], own.predict(frame), atol=1e-5)
    assert len(mia.attack(observation).attacks) == 2
