"""Several label columns, and columns of lists of labels; the reference is Python's own csv and json."""

import csv
import io
import json
import wave
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from mia_lightning.datasets.audio import load_audio, recording_names
from mia_lightning.datasets.csv import load_csv
from mia_lightning.datasets.population import Population
from mia_lightning.datasets.table import load_table
from mia_lightning.datasets.text import load_text
from mia_lightning.errors import InputError
from mia_lightning.settings.checking import SettingError
from mia_lightning.tasks import Binary, Classification, Multilabel, Regression

ROWS: dict[str, list[Any]] = {
    "key": ["a", "b", "c", "d"],
    "text": ["good day", "bad night", "good night", "bad day"],
    "size": [1.5, 2, -3, 4.25],
    "ill": [0, 1, 1, 0],
    "smokes": ["true", "false", "true", "false"],
    "moved": ["Yes", "no", "no", "yes"],
    "sex": ["m", "f", "m", "m"],
    "level": [2, 1, 10, 2],
    "coded": [2, 10, 10, 2],
    "always": [1, 1, 1, 1],
    "same": ["x", "x", "x", "x"],
    "gap": [0, "", 1, "NaN"],
    "large": [0, 1, "1e300", 0],
    "tags": ["red;  round", "", "round;red; round;", "5"],
    "lists": ['["red", 5]', "[]", "['red', 'round']", '["round"]'],
    "few": ['["red"]', "[]", "", "nan"],
    "odd": ['["red"]', "[]", "red", '["red"]'],
    "nested": ['["red"]', "[]", '[["red"]]', '["red"]'],
}


def columns(*names: str, **others: list[Any]) -> dict[str, list[Any]]:
    return {**{name: ROWS[name] for name in names}, **others}


def as_csv(folder: Path, rows: dict[str, list[Any]]) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows([rows.keys(), *zip(*rows.values(), strict=True)])
    (folder / "rows.csv").write_text(text.getvalue())
    return folder / "rows.csv"


def as_json_lines(folder: Path, rows: dict[str, list[Any]]) -> Path:
    lines = [json.dumps(dict(zip(rows, each, strict=True))) for each in zip(*rows.values(), strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def as_parquet(folder: Path, rows: dict[str, list[Any]]) -> Path:
    pyarrow.parquet.write_table(pa.table(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


WRITERS = {"csv": as_csv, "json": as_json_lines, "parquet": as_parquet}


def recordings(folder: Path, rows: dict[str, list[Any]]) -> Path:
    for number, name in enumerate(rows["file"]):
        with wave.open(str(folder / name), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(8000)
            out.writeframes((np.arange(80) * (number + 1)).astype("<i2").tobytes())
    return as_csv(folder, rows)


FILES = [f"{each}.wav" for each in "abcd"]
SOUND = {"path_column": "file", "sample_rate": 8000, "seconds": 0.01}


def loaded(kind: str, folder: Path, rows: dict[str, list[Any]], **options: Any) -> Population:
    """The records of `rows` by one of the loaders of tables."""
    if kind == "text":
        return load_text(path=as_json_lines(folder, {"text": ROWS["text"], **rows}), max_tokens=4, **options)
    if kind == "audio":
        return load_audio(path=recordings(folder, {"file": FILES, **rows}), **SOUND, **options)
    load = load_csv if kind == "csv" else load_table
    return load(path=as_csv(folder, {"size": ROWS["size"], **rows}), **options)


LOADERS = ("csv", "table", "text", "audio")


@pytest.mark.parametrize("kind", LOADERS)
def test_each_column_is_a_label(kind: str, tmp_path: Path) -> None:
    names = ["ill", "smokes", "moved", "sex", "coded"]
    population = loaded(kind, tmp_path, columns(*names), label_column=names, task=Multilabel())
    assert population.class_names == ("ill", "smokes", "moved", "sex: m", "coded: 10")
    assert population.label_N.dtype == torch.uint8
    assert population.label_N.tolist() == [[0, 1, 1, 1, 0], [1, 0, 0, 0, 1], [1, 1, 0, 1, 1], [0, 0, 1, 1, 0]]
    said = [each for each in population.remarks if "is on where" in each]
    assert [("'sex'" in each, "'m'" in each, "'f'" in each) for each in said] == [(True,) * 3, (False,) * 3]
    assert "'coded'" in said[1]


@pytest.mark.parametrize("kind", LOADERS)
def test_each_column_is_a_number(kind: str, tmp_path: Path) -> None:
    names = ["level", "ill"]
    population = loaded(kind, tmp_path, columns("sex", *names), label_column=names, task=Regression(), **dropping(kind))
    assert population.class_names == ("level", "ill")
    assert population.label_N.dtype == torch.float32
    assert population.label_N.tolist() == [[2, 0], [1, 1], [10, 1], [2, 0]]


def dropping(kind: str) -> dict[str, Any]:
    return {"drop_columns": ["sex"]} if kind in ("csv", "table") else {}


def test_label_columns_are_no_features(tmp_path: Path) -> None:
    place = as_csv(tmp_path, columns("size", "level", "ill", "sex"))
    population = load_table(path=place, label_column=["ill", "sex"], task=Multilabel())
    assert population.x_N.tolist() == [[1.5, 2], [2, 1], [-3, 10], [4.25, 2]]


@pytest.mark.parametrize("write", WRITERS)
def test_labels_are_the_same_from_every_file(write: str, tmp_path: Path) -> None:
    rows = columns("size", "ill", "sex", smokes=[True, False, True, False])
    population = load_table(
        path=WRITERS[write](tmp_path, rows), label_column=["smokes", "ill", "sex"], task=Multilabel()
    )
    assert population.label_N.tolist() == [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]]


def test_a_list_of_one_name(tmp_path: Path) -> None:
    place = as_csv(tmp_path, columns("size", "ill", "level"))
    of_labels = load_table(path=place, label_column=["ill"], task=Multilabel())
    assert of_labels.label_N.tolist() == [[0], [1], [1], [0]]
    of_classes = load_table(path=place, label_column=["ill"])
    assert (of_classes.class_names, of_classes.label_N.tolist()) == (("0", "1"), [0, 1, 1, 0])
    of_numbers = load_table(path=place, label_column=["level"], task=Regression())
    assert of_numbers.label_N.tolist() == [2, 1, 10, 2]


@pytest.mark.parametrize("kind", LOADERS)
def test_a_column_holds_all_labels_of_a_record(kind: str, tmp_path: Path) -> None:
    options = {"label_column": "tags", "label_separator": ";", "task": Multilabel()}
    population = loaded(kind, tmp_path, columns("tags"), **options)
    assert population.class_names == ("5", "red", "round")
    assert population.label_N.tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert any("without any label in column 'tags': 1 of 4" in each for each in population.remarks)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_column_of_lists_as_text(kind: str, tmp_path: Path) -> None:
    """As JSON writes them, or as pandas does."""
    population = loaded(kind, tmp_path, columns("lists"), label_column="lists", task=Multilabel())
    assert population.class_names == ("5", "red", "round")
    assert population.label_N.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("write", ["json", "parquet"])
def test_a_column_of_lists(write: str, tmp_path: Path) -> None:
    rows = columns("size", tags=[["red"], [], ["round", "red"], ["round"]])
    place = WRITERS[write](tmp_path, rows)
    population = load_table(path=place, label_column="tags", task=Multilabel())
    assert population.class_names == ("red", "round")
    assert population.label_N.tolist() == [[1, 0], [0, 0], [1, 1], [0, 1]]
    with pytest.raises(InputError, match="'tags'"):
        load_table(path=place, label_column="size", task=Regression())  # where it would be a feature


def test_numbers_of_lists_are_in_their_order(tmp_path: Path) -> None:
    rows = columns("size", tags=[[10], [9], [9, 10], []])
    population = load_table(path=as_json_lines(tmp_path, rows), label_column="tags", task=Multilabel())
    assert population.class_names == ("9", "10")


MULTILABEL: dict[str, Any] = {"task": Multilabel()}
REFUSED: dict[str, tuple[list[str], dict[str, Any], list[str]]] = {
    "several classes": (["ill", "sex"], {}, ["'ill', 'sex'", "task=classification", "task=multilabel"]),
    "classes by name": (["ill", "sex"], {"task": Classification()}, ["'ill', 'sex'", "task=classification"]),
    "two of two classes": (["ill", "sex"], {"task": Binary()}, ["'ill', 'sex'", "task=binary"]),
    "absent": (["ill", "code"], MULTILABEL, ["no column 'code'", "near it: 'coded'", "dataset.label_column"]),
    "twice": (["ill", "sex", "ill"], MULTILABEL, ["dataset.label_column names 'ill' twice"]),
    "constant": (["ill", "always"], MULTILABEL, ["label 'always'", "never off"]),
    "constant text": (["ill", "same"], MULTILABEL, ["column 'same'", "one value", "'x'"]),
    "constant number": (["ill", "always"], {"task": Regression()}, ["label 'always'", "1 for all records"]),
    "three values": (["ill", "level"], MULTILABEL, ["column 'level'", "3 values", "'1', '2', '10'"]),
    "a gap": (["ill", "gap"], MULTILABEL, ["'' in column 'gap'", "records without label: 2"]),
    "a gap among numbers": (["ill", "gap"], {"task": Regression()}, ["'' in column 'gap'"]),
    "text among numbers": (["ill", "sex"], {"task": Regression()}, ["'m' in column 'sex'"]),
    "a large number": (["ill", "large"], {"task": Regression()}, ["'1e300' in column 'large'", "finite"]),
    "an id": (
        ["ill", "key"],
        {**MULTILABEL, "id_column": "key"},
        ["dataset.label_column and dataset.id_column", "'key'"],
    ),
    "members": (
        ["ill", "smokes"],
        {**MULTILABEL, "member_column": "ill"},
        ["dataset.label_column and dataset.member_column", "'ill'"],
    ),
}


@pytest.mark.parametrize(("case", "kind"), [each for each in product(REFUSED, LOADERS) if each != ("an id", "csv")])
def test_label_columns_that_are_refused(case: str, kind: str, tmp_path: Path) -> None:
    names, options, named = REFUSED[case]
    rows = columns("coded", *dict.fromkeys(each for each in names if each in ROWS))
    with pytest.raises(InputError) as caught:
        loaded(kind, tmp_path, rows, label_column=names, **options)
    assert all(each in str(caught.value) for each in named), str(caught.value)
    assert "\n" not in str(caught.value)


SETS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "no lists": ("ill", {}, ["'ill'", "task=multilabel takes [records, labels]", "dataset.label_separator"]),
    "records without": ("few", {}, ["'few'", "2 of 4", "[]"]),
    "a text among lists": ("odd", {}, ["'odd'", "1 of 4", "[]"]),
    "lists in a list": ("nested", {}, ["'nested'", "1 of 4"]),
    "a word for nothing": ("gap", {"label_separator": ";"}, ["'gap'", "1 of 4"]),
    "one label": ("same", {"label_separator": ";"}, ["label 'x'", "never off"]),
    "a separator of classes": (
        "sex",
        {"label_separator": ";", "task": None},
        ["dataset.label_separator", "multilabel"],
    ),
    "a separator of numbers": ("ill", {"label_separator": ";", "task": Regression()}, ["dataset.label_separator"]),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("case", SETS)
def test_columns_of_lists_that_are_refused(case: str, kind: str, tmp_path: Path) -> None:
    name, options, named = SETS[case]
    with pytest.raises(InputError) as caught:
        loaded(kind, tmp_path, columns(name), label_column=name, **{**MULTILABEL, **options})
    assert all(each in str(caught.value) for each in named), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_separator_is_of_one_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.label_separator"):
        loaded("table", tmp_path, columns("ill", "sex"), label_column=["ill", "sex"], label_separator=";", **MULTILABEL)


def test_lists_of_names_are_no_labels(tmp_path: Path) -> None:
    rows = {"size": list(range(200)), "tags": [f"t{i};u{i}" for i in range(200)]}
    with pytest.raises(InputError, match=r"column 'tags'.* 400 different values for 200 records"):
        load_table(path=as_csv(tmp_path, rows), label_column="tags", label_separator=";", task=Multilabel())


def test_a_column_of_texts_is_no_label(tmp_path: Path) -> None:
    place = as_csv(tmp_path, columns("text", "ill", "sex"))
    with pytest.raises(InputError, match=r"dataset\.text_column and dataset\.label_column .*'text'"):
        load_text(path=place, label_column=["text", "ill"], task=Multilabel())


def test_a_column_of_paths_is_no_label(tmp_path: Path) -> None:
    place = recordings(tmp_path, columns("ill", file=FILES))
    with pytest.raises(InputError, match=r"dataset\.path_column and dataset\.label_column .*'file'"):
        load_audio(path=place, label_column=["file", "ill"], task=Multilabel(), **SOUND)


@pytest.mark.parametrize("given", [[], [""], [["ill"]], {"ill": 1}, 1.5, ["ill", None]])
def test_names_of_columns_that_are_none(given: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"`dataset\.label_column` is .*the name of a column, or a list of names"):
        loaded("table", tmp_path, columns("ill"), label_column=given, task=Multilabel())


def test_a_folder_has_no_label_columns(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("purr")
    with pytest.raises(InputError, match=r"dataset\.label_separator.*folder"):
        load_text(path=tmp_path, label_separator=";")


def test_texts_without_a_word_leave_their_labels_out(tmp_path: Path) -> None:
    rows = columns("ill", "smokes", text=["good", "", "day", "bad"])
    population = load_text(
        path=as_csv(tmp_path, rows), label_column=["ill", "smokes"], task=Multilabel(), empty="leave_out"
    )
    assert population.label_N.tolist() == [[0, 1], [1, 1], [0, 0]]


def test_the_names_of_recordings_with_several_labels(tmp_path: Path) -> None:
    place = recordings(tmp_path, columns("ill", "sex", file=FILES))
    options = {"path": place, "label_column": ["ill", "sex"], "task": Multilabel(), **SOUND}
    assert recording_names(**options) == load_audio(**options).record_names == tuple(FILES)
