"""The scripts that measure sizes, a GPU and whole audits: what they print hangs together; no time is asserted."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_scripts import imported, run
from sklearn.metrics import precision_score, recall_score, roc_auc_score


@pytest.mark.slow
def test_a_point_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    point = json.dumps({"changed": "models", "models": 2, "records": 100, "width": 16})
    measured = json.loads(run("scaling", "--quick", "--rounds", "2", "--point", point).splitlines()[-1])
    assert len(measured["seconds_R"]) == 2
    assert all(seconds > 0 for seconds in measured["seconds_R"])
    assert measured["peak"] >= 0


@pytest.mark.usefixtures("global_generators")
def test_slopes_and_rates_are_those_of_the_printed_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = imported("scaling", monkeypatch)
    points = [scaling.Point("models", models=2), scaling.Point("models", models=8), scaling.Point("width", width=32)]
    measured = [
        scaling.Measured([1.0, 3.0, 2.0], 2**21),
        scaling.Measured([8.0], 2**23),
        scaling.Measured([1.0], 2**20),
    ]
    rows = [
        dict(zip(scaling.HEADER, row, strict=True)) for row in scaling.rows(list(zip(points, measured, strict=True)))
    ]
    assert [row["s / epoch"] for row in rows] == ["2.0000", "8.0000", "1.0000"]
    assert [row["slope"] for row in rows] == ["–", f"{math.log(4) / math.log(4):.2f}", "–"]
    assert [row["a model"] for row in rows] == ["1.00", "1.00", "0.06"]
    products = 300 * (6 * (64 * 128 + 128 * 128 + 128 * 10) - 2 * 64 * 128)  # without the gradient of the input
    assert float(rows[1]["GFLOP/s"]) == pytest.approx(8 * products / 8.0 / 1e9, abs=0.05)


def test_figures_of_an_audit_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    end_to_end = imported("end_to_end", monkeypatch)
    numbers = np.random.default_rng(0)
    is_member = numbers.random(200) < 0.5
    score = (numbers.random(200) + 0.3 * is_member) / 1.3
    row = dict(zip(end_to_end.HEADER, end_to_end.row("ours", [2.0, 4.0], 12.0, score, is_member), strict=True))
    assert (row["seconds"], row["times as fast"]) == ("3.0", "4.0")
    assert row["AUC"] == f"{roc_auc_score(is_member, score):.3f}"
    assert row["precision"] == f"{precision_score(is_member, score >= 0.5):.3f}"
    assert row["recall"] == f"{recall_score(is_member, score >= 0.5):.3f}"


@pytest.mark.slow
def test_the_gpu_script_says_that_there_is_none(forks: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert run("gpu", forks=forks) == "no CUDA device\n"


@pytest.mark.slow
@pytest.mark.usefixtures("global_generators")
def test_the_memory_floor_is_counted_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, settings = imported("gpu_parts", monkeypatch), imported("training_settings", monkeypatch)
    case = settings.make_case(parts.PURCHASE, torch.device("cpu"), 50)
    parameters = 600 * 128 + 128 + 128 * 100 + 100
    expected = 50 * 100 * 1024 * 4 * (7 * parameters + 2 * 100 * 600) / 4.3e12
    assert parts.floor_bytes(case, 1024) / 4.3e12 == pytest.approx(expected)
    assert 3.0 < expected < 5.0
