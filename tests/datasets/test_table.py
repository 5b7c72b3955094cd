"""Tables of numbers, categories and gaps; the reference is Python's own csv module and `float`."""

import csv
import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mia_lightning.datasets.population import Population
from mia_lightning.datasets.table import load_table
from mia_lightning.errors import DataNotThereError, InputError
from mia_lightning.tasks import Multilabel, Regression

TABLE = """id,age,city,smokes,income,outcome
a1,30,Rome,true,1.5,ill
a2,?,Oslo,false,2,well
b7,41.5,,true,,well
c9,50,Rome,,1e3,ill
"""
GAP = float("nan")
ROWS = np.random.default_rng(0)


def write(folder: Path, content: str | bytes, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(folder: Path, content: str | bytes, **options: Any) -> Population:
    return load_table(path=write(folder, content), **{"label_column": "outcome", **options})


def long(rows: int, **columns: Any) -> str:
    """A table of many rows, with these columns beside a number, a category and a label."""
    header = ",".join(["size", "kind", *columns, "outcome"])
    lines = [
        ",".join([f"{i % 13}.5", "abc"[i % 3], *(str(each[i]) for each in columns.values()), "pq"[i % 7 % 2]])
        for i in range(rows)
    ]
    return "\n".join([header, *lines]) + "\n"


def records(population: Population) -> dict[str, Any]:
    """What a network is given, NaN as a text that equals itself."""
    values = population.records(torch.arange(len(population)))
    assert isinstance(values, dict)
    return {name: value.tolist() for name, value in values.items()}


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


def test_numbers_categories_and_gaps(tmp_path: Path) -> None:
    population = load(tmp_path, TABLE, id_column="id")
    assert population.form is not None
    numbers, categories = population.form.field("numbers"), population.form.field("categories")
    assert (numbers.columns, numbers.has_gaps, numbers.kind) == (("age", "smokes", "income"), True, "numeric")
    assert (categories.columns, categories.sizes, categories.kind) == (("city",), (3,), "category")
    assert (categories.vocabulary, categories.dtype) == ((("", "Oslo", "Rome"),), torch.uint8)
    found = records(population)
    assert same(found["numbers"], [[30.0, 1.0, 1.5], [GAP, 0.0, 2.0], [41.5, 1.0, GAP], [50.0, GAP, 1000.0]])
    assert found["categories"] == [[2], [1], [0], [2]]
    assert (population.class_names, population.label_N.tolist()) == (("ill", "well"), [0, 1, 1, 0])
    assert (population.name, population.record_names) == ("people", ("a1", "a2", "b7", "c9"))


def _parquet(folder: Path) -> bytes:
    table = pa.table(
        {
            "id": ["a1", "a2", "b7", "c9"],
            "age": [30, None, 41.5, 50],
            "city": pa.array(["Rome", "Oslo", None, "Rome"]).dictionary_encode(),
            "smokes": [True, False, True, None],
            "income": pa.array([1.5, 2, None, 1e3], pa.float32()),
            "outcome": ["ill", "well", "well", "ill"],
        }
    )
    pyarrow.parquet.write_table(table, folder / "table")
    return (folder / "table").read_bytes()


def test_json_lines_are_a_table(tmp_path: Path) -> None:
    """Numbers by their type, keys that are missing, and packed by whatever ending."""
    expected = load(tmp_path, TABLE, id_column="id")
    rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(TABLE.splitlines())]
    rows[2]["age"], rows[3]["income"], rows[0]["smokes"], rows[1]["income"] = 41.5, 1000, True, None
    rows[1] = {**rows[1], "income": 2, "extra": {"nested": [1]}}
    text = "\n\n".join(map(json.dumps, rows))
    for name, content in (("t.json", text.encode()), ("t.NDJSON.gz", gzip.compress(text.encode()))):
        path = write(tmp_path, content, name)
        found = load_table(path=path, label_column="outcome", id_column="id", drop_columns=["extra"])
        assert same(records(found), records(expected))
        assert (found.form, found.record_names) == (expected.form, expected.record_names)
    with pytest.raises(InputError, match=r"line 3 of .* has a list or an object in 'extra'.*leave the column out"):
        load_table(path=path, label_column="outcome", id_column="id")
    with pytest.raises(InputError, match=r"no column 'ids' .*near it: 'id'.*dataset.id_column to one of its columns"):
        load_table(path=path, label_column="outcome", id_column="ids")


def test_the_last_ending_says_what_is_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a,outcome\n1,p\n2,q\n", "export.json.csv")
    assert load_table(path=path, label_column="outcome").x_N.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        ("\ufeff" + TABLE).encode(),
        TABLE.encode("utf-16"),
        TABLE.replace(",", "\t").encode(),
        TABLE.replace(",", ";").replace(".", ",").encode(),
        TABLE.replace("?", "NA").replace("\n", "\r\n").encode(),
        gzip.compress(TABLE.encode(), mtime=0),
        None,
    ],
    ids=["plain", "mark", "utf-16", "tab", "commas", "windows", "gzip", "parquet"],
)
def test_forms_of_one_table(tmp_path: Path, content: bytes | None) -> None:
    expected = load(tmp_path, TABLE, id_column="id")
    found = load(tmp_path, _parquet(tmp_path) if content is None else content, id_column="id")
    assert same(records(found), records(expected))
    assert (found.form, found.record_names, found.label_N.tolist()) == (
        expected.form,
        expected.record_names,
        expected.label_N.tolist(),
    )


def test_numbers_without_gaps_are_one_tensor_that_knows_its_columns(tmp_path: Path) -> None:
    population = load(tmp_path, "a,b,outcome\n1,2.5,p\n-3,4,q\n")
    assert population.x_N.tolist() == [[1, 2.5], [-3, 4]]
    assert population.form is not None
    assert population.form.is_one
    assert population.form.fields[0].columns == ("a", "b")
    only_categories = load(tmp_path, "a,b,outcome\nx,u,p\ny,v,q\n")
    assert records(only_categories) == {"categories": [[1, 1], [2, 2]]}
    only_gaps = load(tmp_path, "a,b,outcome\n1,2,p\n,3,q\n")
    assert same(records(only_gaps), {"numbers": [[1.0, 2.0], [GAP, 3.0]]})


def test_codes_with_zeros_in_front_are_categories(tmp_path: Path) -> None:
    population = load(tmp_path, "place,n,outcome\n02139,1,p\n94105,2,q\n02139,3,p\n")
    assert records(population)["categories"] == [[1], [2], [1]]
    assert population.form is not None
    assert population.form.field("categories").vocabulary == (("", "02139", "94105"),)


@pytest.mark.parametrize(("num", "dtype"), [(255, torch.uint8), (256, torch.int16), (40_000, torch.int32)])
def test_codes_take_the_smallest_type_that_holds_them(tmp_path: Path, num: int, dtype: torch.dtype) -> None:
    rows = "".join(f"c{i % num:05},{i % 3},{'pq'[i % 2]}\n" for i in range(2 * num))
    population = load(tmp_path, "a,b,outcome\n" + rows)
    assert population.form is not None
    field = population.form.field("categories")
    assert (field.dtype, field.sizes) == (dtype, (num + 1,))
    assert records(population)["categories"] == [[1 + i % num] for i in range(2 * num)]


cells = st.one_of(
    st.sampled_from(["", "?", "NA"]), st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr)
)
words = st.one_of(st.sampled_from(["", "?"]), st.text(st.characters(codec="ascii", categories=["L"]), min_size=1))


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.tuples(cells, words), min_size=2, max_size=15))
def test_equals_the_standard_library(rows: list[tuple[str, str]], tmp_path_factory: Any) -> None:
    rows = [("0.5", "Xx"), ("1.5", "Yy"), *rows]
    path = tmp_path_factory.mktemp("table") / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("n", "w", "outcome"), *((a, b, "pq"[i % 2]) for i, (a, b) in enumerate(rows))])
    population = load_table(path=path, label_column="outcome")
    found = records(population)
    missing = ("", "?", "na", "n/a", "nan", "null", "none", "<na>")
    expected = [[GAP if a.lower() in missing else float(np.float32(a)) + 0.0] for a, _ in rows]
    assert same(found["numbers"], expected)
    assert population.form is not None
    names = population.form.field("categories").vocabulary[0]
    assert [names[code] for (code,) in found["categories"]] == ["" if b.lower() in missing else b for _, b in rows]
    assert list(names[1:]) == sorted(names[1:])


def test_several_groupings_at_once(tmp_path: Path) -> None:
    text = "sex,region,a,outcome\nf,north,1,p\nm,south,2,q\nf,south,3,p\n"
    population = load(tmp_path, text, group_columns=["sex", "region"])
    assert population.group_names == ("sex: f", "sex: m", "region: north", "region: south")
    assert population.group_N is not None
    assert population.group_N.tolist() == [[0, 2], [1, 3], [0, 3]]
    assert population.input_shape == (1,)
    one = load(tmp_path, text, group_columns=["region"], drop_columns=["sex"])
    assert (one.group_names, one.group_N.tolist() if one.group_N is not None else None) == (
        ("north", "south"),
        [0, 1, 1],
    )


def test_long_numbers_that_are_one_float_stay_two_groups_and_two_classes(tmp_path: Path) -> None:
    people = [2**53, 2**53 + 1, 2**53 + 2]
    content = long(12, person=[people[i % 3] for i in range(12)])
    grouped = load(tmp_path, content, group_columns=["person"])
    assert grouped.group_names == tuple(map(str, people))
    assert grouped.group_N.tolist() == [0, 1, 2] * 4
    classes = load(tmp_path, content, label_column="person", drop_columns=["outcome"])
    assert classes.class_names == grouped.group_names
    assert classes.label_N.tolist() == [0, 1, 2] * 4


def test_commas_of_what_is_no_number_say_nothing_of_other_columns(tmp_path: Path) -> None:
    content = 'pair,a,outcome\n"1,2",0.5,p\n"3,4",1.5,q\n'
    dropped = load(tmp_path, content, drop_columns=["pair"])
    assert dropped.x_N.tolist() == [[0.5], [1.5]]
    several = load(
        tmp_path,
        content,
        label_column="pair",
        label_separator=",",
        drop_columns=["outcome"],
        task=Multilabel(),
    )
    assert several.x_N.tolist() == [[0.5], [1.5]]
    assert several.class_names == ("1", "2", "3", "4")
    with pytest.raises(
        InputError, match=r"has '0.5' in column 'a': .*other columns have decimal commas, such as 'pair'"
    ):
        load(tmp_path, content)


def test_a_column_of_weights_and_labels_from_1(tmp_path: Path) -> None:
    population = load(tmp_path, "size,heavy,outcome\n1,2,1\n3,0.5,2\n4,1,2\n", weight_column="heavy")
    assert population.weight_N is not None
    assert population.weight_N.tolist() == [2.0, 0.5, 1.0]
    assert population.input_shape == (1,)
    assert population.label_N.tolist() == [0, 1, 1]
    assert any("'outcome'" in each and "1" in each and "2" in each for each in population.remarks)


def test_a_column_of_members(tmp_path: Path) -> None:
    population = load(tmp_path, "in,a,outcome\nyes,1,p\nno,2,q\n", member_column="in")
    assert population.member_N is not None
    assert population.member_N.tolist() == [True, False]


N = 60
IDENTIFIERS = {
    "numbers": 10**10 + 37 * np.arange(N),
    "shuffled": ROWS.permutation(N) + 1000,
    "texts": [f"P-{i:05}" for i in ROWS.permutation(N)],
    "codes": [f"{i:05}" for i in ROWS.permutation(N)],
    "nearly": [f"name {i if i else 1}" for i in range(N)],
}
NO_IDENTIFIERS = {
    "ages": ROWS.integers(18, 90, size=N),
    "fractions": ROWS.normal(size=N),
    "cities": [f"city {i % 40}" for i in range(N)],
}


@pytest.mark.parametrize("case", IDENTIFIERS)
def test_identifiers_are_named_and_kept_out_of_training(tmp_path: Path, case: str) -> None:
    text = long(N, number=IDENTIFIERS[case])
    population = load(tmp_path, text)
    (remark,) = population.remarks
    assert "'number' of people.csv" in remark
    assert "dataset.keep_identifiers=true" in remark
    plain = load(tmp_path, long(N))
    assert population.form == plain.form
    assert torch.equal(population.x_N, plain.x_N)
    kept = load(tmp_path, text, keep_identifiers=True)
    assert kept.form is not None
    assert "number" in [column for field in kept.form.fields for column in field.columns]
    assert "'dataset.drop_columns=[number]'" in kept.remarks[0]


@pytest.mark.parametrize("case", NO_IDENTIFIERS)
def test_other_columns_are_no_identifiers(tmp_path: Path, case: str) -> None:
    population = load(tmp_path, long(N, number=NO_IDENTIFIERS[case]))
    assert population.form is not None
    assert "number" in [column for field in population.form.fields for column in field.columns]
    assert not any("identifier" in remark for remark in population.remarks)


def test_counts_that_differ_in_most_columns_are_measurements(tmp_path: Path) -> None:
    counts = {f"c{j}": ROWS.integers(10**6, size=N) for j in range(8)}
    assert load(tmp_path, long(N, **counts)).remarks == ()


def test_free_text_is_kept_out_and_its_loader_named(tmp_path: Path) -> None:
    notes = [f"came on day {i} with a cough" for i in range(N)]
    (remark,) = load(tmp_path, long(N, notes=notes)).remarks
    assert "'notes'" in remark
    assert "dataset=text" in remark


def test_what_is_remarked(tmp_path: Path) -> None:
    nothing, same_for_all = ["?"] * N, ["x"] * N
    rare = ["one"] + ["many", "often"] * 29 + ["two"]
    population = load(tmp_path, long(N, nothing=nothing, same=same_for_all, one=[7] * N, rare=rare))
    empty, constant, single = population.remarks
    assert "'nothing'" in empty
    assert "'one', 'same'" in constant
    assert "2 (2 of 'rare')" in single
    assert population.form is not None
    assert population.form.field("numbers").columns == ("size", "one")


NUMBERS = [f"{i}.5" for i in range(N)]
REFUSED: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "dates": (
        "born,a,outcome\n1990-01-02,1,p\n,2,q\n",
        {},
        r"column 'born' of .* holds dates or times, such as '1990-01-02': .*dataset.drop_columns=\[born\]",
    ),
    "dates and a word": (
        "born,a,outcome\nunknown,1,p\n1990-01-02,2,q\n1.2.1990,3,q\n",
        {},
        "column 'born' of .* holds dates or times, such as '1990-01-02'",
    ),
    "no records": ("a,outcome\n", {}, "has no records: give one line a record"),
    "text among numbers": (
        long(N, number=[*NUMBERS[:-1], "red"]),
        {},
        r"line 61 of .* has 'red' in column 'number': .*leave the cell empty.*dataset.drop_columns=\[number\]",
    ),
    "thousands": ('a;outcome\n"1,234";p\n"5,678";q\n', {}, "line 2 of .* has '1,234' in column 'a': .*thousands"),
    "percent": (long(N, number=[f"{i}%" for i in range(N)]), {}, "line 2 of .* has '0%' in column 'number'"),
    "points beside commas": ("a;b;outcome\n1.25;0,5;p\n2.5;1,5;q\n", {}, "has '1.25' in column 'a': .*decimal commas"),
    "infinite": ("a,outcome\n1,p\ninf,q\n", {}, "line 3 of .* has 'inf' in column 'a': encode it as a finite"),
    "beyond float32": ("a;b;outcome\n1,5;;p\n1e300;2;q\n", {}, "line 3 of .* has '1e300' in column 'a'"),
    "no label": (
        "a,outcome\n1,p\n2,\n3,NaN\n",
        {},
        "line 3 of .* has '' in column 'outcome': records without label: 2",
    ),
    "one class": ("a,outcome\n1,p\n2,p\n", {}, "population 'people' has 1 class"),
    "measurement": (
        "a,outcome\n" + "".join(f"{i % 7},{i / 8}\n" for i in range(80)),
        {},
        "column 'outcome' of .* a measurement and no class",
    ),
    "no such column": ("a,Outcome\n1,p\n", {}, r"no column 'outcome' .*near it: 'Outcome'.*dataset.label_column"),
    "no such id": (TABLE, {"id_column": "ids"}, r"no column 'ids' .*near it: 'id'.*dataset.id_column"),
    "no such group": (TABLE, {"group_columns": ["town"]}, "no column 'town' .*dataset.group_columns"),
    "one id twice": ("id,a,outcome\nx,1,p\nx,2,q\n", {"id_column": "id"}, "line 3 .* has 'x' in column 'id': .*line 2"),
    "no id": (
        "id,a,outcome\nx,1,p\n,2,q\n",
        {"id_column": "id"},
        "line 3 .* has '' in column 'id': records without identifier: 1",
    ),
    "nothing left": (
        TABLE,
        {"drop_columns": ["id", "age", "city", "smokes", "income"]},
        "no column beside the label's",
    ),
    "label and members": (TABLE, {"member_column": "outcome"}, "dataset.label_column and dataset.member_column both"),
    "a label that is left out": (TABLE, {"drop_columns": ["outcome"]}, "dataset.label_column and dataset.drop_columns"),
    "a group twice": (TABLE, {"group_columns": ["city", "city"]}, "dataset.group_columns names 'city' twice"),
    "several labels": ("a,outcome\n1,0\n2,1\n", {"task": Multilabel()}, "task=multilabel takes .records, labels."),
    "twice": ("a,a,outcome\n1,2,p\n", {}, "column 'a' of .* appears twice"),
    "ragged": ("a,outcome\n1,p\n2\n", {}, "line 3 of .* has 1 values for 2 columns"),
    "not UTF-8": (b"a,outcome\n\xe9,p\n", {}, "cannot be read as CSV in UTF-8"),
    "damaged parquet": (b"PAR1....", {}, "cannot be read as a parquet file"),
    "no boolean": (TABLE, {"keep_identifiers": "perhaps"}, "`dataset.keep_identifiers` is 'perhaps'"),
}


@pytest.mark.parametrize("part", ["label", "weight"])
def test_a_column_that_is_needed_is_not_to_be_dropped(part: str, tmp_path: Path) -> None:
    content = "a,w,outcome\n1,x,5 %\n2,y,6 %\n"
    options = {"task": Regression()} if part == "label" else {"weight_column": "w"}
    with pytest.raises(InputError, match="encode it as a finite number") as caught:
        load(tmp_path, content, **options)
    assert "drop_columns" not in str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    content, options, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence) as caught:
        load(tmp_path, content, **options)
    assert "\n" not in str(caught.value)


DATES = ["2020-01-31", "31.1.2020", "1/31/20", "2020-01-31T12:00:05Z", "2020/01/31 12:00", "31 Jan 2020", "9:05 pm"]
DATES += ["Jan 31, 2020", "12:30", "2020-01-31 05:00:00.000000", "31-JAN-2020"]


@pytest.mark.parametrize("value", DATES)
def test_dates_in_many_spellings(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"column 'when' of .* holds dates or times"):
        load(tmp_path, f'when;a;outcome\n"{value}";1;p\n"{value}";2;q\n')


@pytest.mark.parametrize("value", ["1-2", "1990-1999", "10.0.0.1", "June", "3:1:1:1", "v1.2.3", "1/2"])
def test_what_is_no_date(tmp_path: Path, value: str) -> None:
    population = load(tmp_path, f"when;a;outcome\n{value};1;p\nother;2;q\n")
    assert population.form is not None
    assert population.form.field("categories").columns == ("when",)


def test_parquet_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    day = datetime.date(2020, 1, 31)
    for column, sentence in (
        (pa.array([day, None]), "column 'x' of .* holds dates or times, such as '2020-01-31'"),
        (pa.array([[1], [2]]), "column 'x' of .* holds list<.*give numbers or text"),
    ):
        pyarrow.parquet.write_table(pa.table({"x": column, "a": [1, 2], "outcome": ["p", "q"]}), path)
        with pytest.raises(InputError, match=sentence):
            load_table(path=path, label_column="outcome")
        assert load_table(path=path, label_column="outcome", drop_columns=["x"]).input_shape == (1,)
    twice = pa.Table.from_arrays([pa.array([1, 2])] * 2, names=["a", "a"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(InputError, match=r"column 'a' of .* appears twice"):
        load_table(path=path, label_column="a")
    pyarrow.parquet.write_table(pa.table({}), path)
    with pytest.raises(InputError, match="has no columns"):
        load_table(path=path, label_column="a")
    pyarrow.parquet.write_table(pa.table({"a": ["x", "7"], "outcome": ["p", None]}), path)
    with pytest.raises(InputError, match=r"row 1 of .* has '' in column 'outcome'"):
        load_table(path=path, label_column="outcome")


def test_absent_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotThereError, match=f"'{tmp_path}/no.csv' is not a file: set dataset.path"):
        load_table(path="no.csv", label_column="y")
