"""A file of predictions as a target."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from given_setup import given_setup
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.attacks.interface import DoesNotApplyError
from mia_lightning.attacks.label_only import BoundaryLabelOnly
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.predictions import Predictions, PredictionsEndpoint
from mia_lightning.training.signals import Signals

PROBABILITY = np.random.default_rng(0).dirichlet([1, 1, 1], size=120)
LABELS = PROBABILITY.argmax(1)


def write(path: Path, columns: dict[str, Any]) -> Path:
    table = pa.table(columns)
    (pa.csv.write_csv if path.suffix == ".csv" else pa.parquet.write_table)(table, path)
    return path


def by_class(*names: str, order: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    return {name: PROBABILITY[:, c] for name, c in zip(names, order, strict=True)}


def endpoint(path: Path, population: Population, **options: Any) -> PredictionsEndpoint:
    return Predictions(path=path, **options).connect(given_setup(population))


def asked(path: Path, population: Population, **options: Any) -> Any:
    return endpoint(path, population, **options).ask(torch.arange(120)[:, None])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    "columns",
    [
        by_class("p0", "p1", "p2"),
        by_class("c", "a", "b", order=(2, 0, 1)),
        {"note": ["x"] * 120, **by_class("b", "a", "c", order=(1, 0, 2))},
    ],
    ids=["in order", "by name", "by name beside others"],
)
def test_columns_are_found_by_name_or_by_order(
    blobs: Population, tmp_path: Path, suffix: str, columns: dict[str, Any]
) -> None:
    path = write(tmp_path / f"predictions.{suffix}", columns)
    np.testing.assert_allclose(asked(path, blobs), PROBABILITY, rtol=1e-15)


@pytest.mark.parametrize("row_column", ["row", "number"])
def test_rows_may_stand_in_any_order(blobs: Population, tmp_path: Path, row_column: str) -> None:
    order = np.random.default_rng(1).permutation(120)
    columns = {row_column: order, **{name: values[order] for name, values in by_class("p0", "p1", "p2").items()}}
    path = write(tmp_path / "predictions.csv", columns)
    np.testing.assert_allclose(asked(path, blobs, row_column=row_column), PROBABILITY, rtol=1e-15)


@pytest.mark.parametrize("labels", [LABELS, np.array(["a", "b", "c"])[LABELS], LABELS.astype(float)])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_one_column_is_labels(blobs: Population, tmp_path: Path, labels: Any, suffix: str) -> None:
    path = write(tmp_path / f"predictions.{suffix}", {"row": np.arange(120), "label": labels})
    answers = asked(path, blobs)
    assert answers == LABELS.tolist()
    assert all(type(each) is int for each in answers)


def test_logits_pass_as_they_are(blobs: Population, tmp_path: Path) -> None:
    columns = {f"p{c}": np.arange(120) * c - 60 for c in range(3)}
    path = write(tmp_path / "predictions.parquet", columns)
    np.testing.assert_array_equal(asked(path, blobs), np.stack(list(columns.values()), 1))


def test_the_identity_is_the_content(blobs: Population, tmp_path: Path) -> None:
    first = endpoint(write(tmp_path / "first.csv", by_class("p0", "p1", "p2")), blobs)
    same = endpoint(write(tmp_path / "same.csv", by_class("p0", "p1", "p2")), blobs)
    other = endpoint(write(tmp_path / "other.csv", by_class("p0", "p1", "p2", order=(0, 2, 1))), blobs)
    assert first.identity == same.identity != other.identity
    assert (first.place, first.protocol) == ("first.csv", "predictions")
    first.close()


PLAIN = by_class("p0", "p1", "p2")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({name: values[:100] for name, values in PLAIN.items()}, "has 100 predictions for a data set of 120 records"),
        ({"row": np.arange(120) + 1, **PLAIN}, "a prediction for record 120, but the data set has 120"),
        ({"row": np.arange(120) - 1, **PLAIN}, "a prediction for record -1, but"),
        ({"row": np.arange(120) // 2, **PLAIN}, "has 2 predictions for record 0; give exactly one"),
        ({"row": [0, 2], "p0": [1, 1], "p1": [0, 0], "p2": [0, 0]}, "has no prediction for record 1; give exactly one"),
        ({"row": np.arange(120) / 2, **PLAIN}, "has double in column 'row'; give numbers of records"),
        ({"row": [str(each) + "x" for each in range(120)], **PLAIN}, "has string in column 'row'"),
        (by_class("a", "b", "d"), "columns of some classes but none of 'c'"),
        ({"p0": PLAIN["p0"], "p1": PLAIN["p1"]}, r"has 2 columns of predictions \('p0', 'p1'\) for 3 classes"),
        ({"p0": ["x"] * 120, "p1": PLAIN["p1"], "p2": PLAIN["p2"]}, "has string in column 'p0'; give probabilities"),
        ({"p0": [None, *PLAIN["p0"][1:]], "p1": PLAIN["p1"], "p2": PLAIN["p2"]}, "no value for prediction 0 in column"),
        ({"label": ["d"] * 120}, "has the class 'd'"),
    ],
)
def test_files_that_do_not_fit(blobs: Population, tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        endpoint(write(tmp_path / "predictions.parquet", columns), blobs)


def test_files_that_cannot_be_read(blobs: Population, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        endpoint(tmp_path / "none.csv", blobs)
    (tmp_path / "predictions.txt").write_text("1")
    with pytest.raises(InputError, match=r"ends in '.txt'; give a .parquet or .csv file"):
        endpoint(tmp_path / "predictions.txt", blobs)
    for name, text in (("damaged.parquet", "no parquet"), ("ragged.csv", "a,b,c\n1,2\n"), ("empty.csv", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            endpoint(tmp_path / name, blobs)
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    with pytest.raises(InputError, match="has the column 'a' 2 times"):
        endpoint(tmp_path / "twice.csv", blobs)


def observed(population: Population, tmp_path: Path, other: Population) -> Signals:
    path = write(tmp_path / "predictions.parquet", PLAIN)
    return Predictions(path=path).obtain(given_setup(population)).observe(other)


def test_the_data_set_is_observed_record_by_record_equal_ones_too(blobs: Population, tmp_path: Path) -> None:
    x_N = blobs.x_N.clone()
    x_N[60:] = x_N[:60]
    doubled = replace(blobs, x_N=x_N)
    for other in (doubled, replace(doubled, x_N=x_N.clone())):
        signals = observed(doubled, tmp_path, other)
        np.testing.assert_allclose(signals.log_probability_KANC[0, 0].exp(), PROBABILITY, rtol=1e-5)


def test_some_of_its_records_are_found_by_their_bytes(blobs: Population, tmp_path: Path) -> None:
    row_B = torch.tensor([5, 3, 5, 119])
    some = replace(blobs, x_N=blobs.x_N[row_B], label_N=blobs.label_N[row_B])
    signals = observed(blobs, tmp_path, some)
    np.testing.assert_allclose(signals.log_probability_KANC[0, 0].exp(), PROBABILITY[row_B], rtol=1e-5)


def test_equal_records_with_equal_predictions_are_one(blobs: Population, tmp_path: Path) -> None:
    x_N = blobs.x_N.clone()
    x_N[1] = x_N[0]
    same = {name: np.concatenate([values[:1], values[:1], values[2:]]) for name, values in PLAIN.items()}
    path = write(tmp_path / "same.parquet", same)
    doubled = replace(blobs, x_N=x_N)
    models = Predictions(path=path).obtain(given_setup(doubled))
    signals = models.observe(replace(blobs, x_N=x_N[1:2], label_N=blobs.label_N[1:2]))
    np.testing.assert_allclose(signals.log_probability_KANC[0, 0, 0].exp(), PROBABILITY[0], rtol=1e-5)


def test_other_records_are_refused(blobs: Population, tmp_path: Path) -> None:
    x_N = blobs.x_N.clone()
    x_N[7, 0] += 1
    with pytest.raises(InputError, match=r"has no answer for record 7, .*take attacks that ask for no more"):
        observed(blobs, tmp_path, replace(blobs, x_N=x_N))


def test_equal_records_with_two_answers_answer_for_no_other(blobs: Population, tmp_path: Path) -> None:
    x_N = blobs.x_N.clone()
    x_N[9] = x_N[4]
    doubled = replace(blobs, x_N=x_N)
    one = replace(blobs, x_N=x_N[4:5], label_N=blobs.label_N[4:5])
    with pytest.raises(InputError, match="has different answers for the records 4 and 9"):
        observed(doubled, tmp_path, one)


def test_attacks_that_ask_for_more_are_refused_before_anything_is_trained(blobs: Population, tmp_path: Path) -> None:
    """Or left out, and said to be, where that is asked for."""
    path = write(tmp_path / "all.parquet", by_class("a", "b", "c"))
    settings = quick_audit(
        membership=mia.Given(member_N=list(range(60))),
        shadow=mia.Real(count=4),
        attacks=[mia.Loss(), BoundaryLabelOnly()],
    )
    with pytest.raises(DoesNotApplyError, match="boundary_label_only asks about changed copies"):
        mia.audit(blobs, **settings, target=Predictions(path=path), output=tmp_path / "refused")
    assert not (tmp_path / "refused" / "execution.json").exists()
    report = mia.audit(blobs, **settings, target=Predictions(path=path), skip_inapplicable=True)
    assert [attack.name for attack in report.attacks] == ["loss"]
    assert any("boundary_label_only was not run" in note for note in report.notes)
