"""A file of predictions as a target."""

import gzip
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
from mia_lightning.targets.endpoints.in_process import IN_PROCESS
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
        by_class("p2", "p0", "p1", order=(2, 0, 1)),
        by_class("class 1", "class 2", "class 3"),
        by_class("c", "a", "b", order=(2, 0, 1)),
        by_class(" C", "A", "B ", order=(2, 0, 1)),
        by_class("p_c", "p_a", "p_b", order=(2, 0, 1)),
        by_class("A (prob)", "C (prob)", "B (prob)", order=(0, 2, 1)),
    ],
    ids=["in order", "by number", "from 1", "by name", "regardless of case", "with a prefix", "with a suffix"],
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
    for name, text, why in (
        ("damaged.parquet", "no parquet", "damaged.parquet cannot be read"),
        ("ragged.csv", "a,b,c\n1,2\n", "line 2 of .*ragged.csv has 2 values for 3 columns"),
        ("empty.csv", "", "empty.csv is empty"),
        ("twice.csv", "a,a\n1,2\n", "column 'a' of .*twice.csv appears twice"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=why):
            endpoint(tmp_path / name, blobs)
    table = pa.Table.from_arrays([pa.array([1.0])] * 2, names=["a", "a"])
    pa.parquet.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="has the column 'a' 2 times"):
        endpoint(tmp_path / "twice.parquet", blobs)


SHUFFLED = np.random.default_rng(2).permutation(120)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("name", "values", "mend"),
    [
        ("id", SHUFFLED, r"set target.row_column=id; else leave it out"),
        ("", SHUFFLED, r"'Unnamed: 0'.*set 'target.row_column=Unnamed: 0'; else"),
        ("__index_level_0__", SHUFFLED, r"target.row_column=__index_level_0__"),
        ("customer", SHUFFLED * 37 + 10**10, r"target.row_column=customer"),
        ("note", ["x"] * 120, "'note', which is neither .* nor the row column; leave it out"),
        ("label", LABELS, "'label', which is neither"),
    ],
)
def test_a_column_of_no_class_is_refused_by_name(
    blobs: Population, tmp_path: Path, suffix: str, name: str, values: Any, mend: str
) -> None:
    if not name and suffix == "parquet":
        name, mend = "index", "target.row_column=index"
    path = write(tmp_path / f"predictions.{suffix}", {name: values, **by_class("a", "b", "c")})
    with pytest.raises(InputError, match=mend):
        endpoint(path, blobs)


@pytest.mark.parametrize(("header", "option"), [("", "Unnamed: 0"), ("Row ", "row"), ("id", "ID")])
def test_the_row_column_goes_by_pandas_name_and_regardless_of_case(
    blobs: Population, tmp_path: Path, header: str, option: str
) -> None:
    columns = {name: values[SHUFFLED] for name, values in by_class("a", "b", "c").items()}
    path = write(tmp_path / "predictions.csv", {header: SHUFFLED.astype(float), **columns})
    np.testing.assert_allclose(asked(path, blobs, row_column=option), PROBABILITY, rtol=1e-15)


def test_a_row_column_that_is_not_there_is_refused(blobs: Population, tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.csv", PLAIN)
    with pytest.raises(InputError, match=r"has no column 'nr' \(target.row_column\), but 'p0', 'p1', 'p2'"):
        endpoint(path, blobs, row_column="nr")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.2,0.3,0.5\n" * 120, "'0.2', '0.3', '0.5' in its first line"),
        ("x,y,z\n" + "0.2,0.3,0.5\n" * 120, r"3 columns of predictions \('x', 'y', 'z'\) for 3 classes"),
        ("row\n" + "\n".join(map(str, range(120))), "has no column of predictions"),
        ("a,b,c\n" + "0.2,0.3,\n" * 120, "line 2 of .* has '' in column 'c'"),
        ("a,b,c\n" + "0.2,0.3,much\n" * 120, "line 2 of .* has 'much' in column 'c'"),
    ],
    ids=["no header", "other names", "rows alone", "a missing value", "text"],
)
def test_text_files_that_do_not_fit(blobs: Population, tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(InputError, match=why):
        endpoint(tmp_path / "predictions.csv", blobs)


def test_decimal_commas_and_compression(blobs: Population, tmp_path: Path) -> None:
    rows = [";".join(f"{each:.17g}".replace(".", ",") for each in row) for row in PROBABILITY]
    with gzip.open(tmp_path / "predictions.csv.gz", "wt") as file:
        file.write("\n".join(["a;b;c", *rows]) + "\n")
    np.testing.assert_allclose(asked(tmp_path / "predictions.csv.gz", blobs), PROBABILITY, rtol=1e-15)


@pytest.mark.costly
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("names", "labels", "wanted"),
    [
        (("007", "07", "7"), ["7", "007", "07"], [2, 0, 1]),
        (("1", "2", "3"), ["1", "2", "1"], [0, 1, 0]),
        (("1", "2", "3"), [1.0, 2.0, 3.0], [0, 1, 2]),
        (("1", "2", "3"), ["0", "1", "2"], [0, 1, 2]),  # 0 is no name, so they count
        (("1", "2", "other"), ["1", "2", "other"], [0, 1, 2]),
        (("NA", "null", "x"), ["x", "NA", "null"], [2, 0, 1]),
        (("ash", "birch", "x"), [" Ash", "X ", "BIRCH"], [0, 2, 1]),
        (("a", "b", "c"), [False, True, True], [0, 1, 1]),
    ],
)
def test_labels_are_names_before_they_are_numbers(
    blobs: Population, tmp_path: Path, suffix: str, names: Any, labels: Any, wanted: Any
) -> None:
    path, named = write(tmp_path / f"predictions.{suffix}", {"label": labels * 40}), replace(blobs, class_names=names)
    assert asked(path, named) == wanted * 40
    signals = Predictions(path=path).obtain(given_setup(named)).observe(named)
    assert signals.log_probability_KANC[0, 0].argmax(1).tolist() == wanted * 40


def test_labels_that_could_be_names_and_numbers_are_decided_by_a_setting(blobs: Population, tmp_path: Path) -> None:
    named = replace(blobs, class_names=("1", "2", "other"))
    path = write(tmp_path / "predictions.parquet", {"label": [1, 2, 1] * 40})
    with pytest.raises(InputError, match=r"target.asking.labels=names or target.asking.labels=places"):
        endpoint(path, named)
    for labels, wanted in (("names", [0, 1, 0]), ("places", [1, 2, 1])):
        assert asked(path, named, asking=replace(IN_PROCESS, labels=labels)) == wanted * 40
    text = write(tmp_path / "predictions.csv", {"label": [1, 2, 1] * 40})
    assert asked(text, named, asking=replace(IN_PROCESS, labels="places")) == [1, 2, 1] * 40


YES = np.random.default_rng(3).uniform(size=120)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("names", "column", "place"),
    [
        (("no", "yes"), "yes", 1),
        (("no", "yes"), "p_yes", 1),
        (("no", "yes"), "P(No)", 0),
        (("no", "yes"), "score", 1),
        (("no", "yes"), "p0", 0),
        (("no", "yes"), "proba_1", 1),
        (("1", "2"), "p1", 0),
        (("bad risk", "good risk"), "probability of Bad risk", 0),
    ],
)
def test_one_column_of_two_classes_is_the_probability_of_the_one_that_it_names(
    blobs: Population, tmp_path: Path, suffix: str, names: Any, column: str, place: int
) -> None:
    two = replace(blobs, label_N=blobs.label_N % 2, class_names=names)
    setup = given_setup(two)
    path = write(tmp_path / f"predictions.{suffix}", {"row": np.arange(120), column: YES})
    answers = np.array(Predictions(path=path).connect(setup).ask(torch.arange(120)[:, None]))
    np.testing.assert_allclose(answers[:, place], YES, rtol=1e-15)
    np.testing.assert_allclose(answers.sum(1), 1, rtol=1e-15)
    (remark,) = setup.engine.stages.remarks
    assert repr(column) in remark
    assert f"the probability of {names[place]!r}" in remark


def test_one_column_of_logits(blobs: Population, tmp_path: Path) -> None:
    two = replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))
    path = write(tmp_path / "predictions.csv", {"no": 8 * YES - 4})
    models = Predictions(path=path, asking=replace(IN_PROCESS, answer="logits")).obtain(given_setup(two))
    found = models.observe(two).log_probability_KANC[0, 0].exp().numpy()
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(4 - 8 * YES)), rtol=1e-5)


def test_one_column_of_two_classes_may_be_labels(blobs: Population, tmp_path: Path) -> None:
    two = replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))
    for column, values, wanted in (
        ("label", [0, 1], [0, 1]),
        ("label", ["yes", "no"], [1, 0]),
        ("no", [1, 0], [0, 1]),  # the column of its class, with ones and zeros
    ):
        path = write(tmp_path / "predictions.csv", {column: values * 60})
        assert asked(path, two) == wanted * 60
    with pytest.raises(InputError, match=r"one column, '0', which may be .*such as p_yes"):
        endpoint(write(tmp_path / "predictions.csv", {"0": YES}), two)


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


def test_records_may_be_flattened_images(blobs: Population, tmp_path: Path) -> None:
    images = replace(blobs, image_shape=(1, 1, blobs.x_N.shape[1]))
    np.testing.assert_allclose(
        observed(images, tmp_path, images).log_probability_KANC[0, 0].exp(), PROBABILITY, rtol=1e-5
    )


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
