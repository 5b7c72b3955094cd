import bz2
import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mia_lightning.datasets.csv import load_csv
from mia_lightning.datasets.population import make_population
from mia_lightning.datasets.table import load_table
from mia_lightning.errors import InputError

TABLE = """height,class,weight,in
1.5,dog,3,1
-2,cat,4e1,0
0.25,dog,5,True
7,eel,6,false
"""


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "animals.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_table(tmp_path: Path) -> None:
    population = load_csv(path=write(tmp_path, TABLE), label_column="class", member_column="in")
    assert (population.name, population.class_names) == ("animals", ("cat", "dog", "eel"))
    assert population.x_N.dtype == torch.float32
    assert population.x_N.tolist() == [[1.5, 3], [-2, 40], [0.25, 5], [7, 6]]
    assert population.label_N.tolist() == [1, 0, 1, 2]
    assert population.member_N is not None
    assert population.member_N.tolist() == [True, False, True, False]


def test_without_members_their_column_would_be_a_feature(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,y\n1,0,p\n2,1,q\n")
    assert load_csv(path=path, label_column="y").input_shape == (2,)
    assert load_csv(path=path, label_column="y", member_column="b").input_shape == (1,)


def test_classes_that_look_alike_and_numbers_that_lose_their_digits_are_remarked(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    cafes = ("caf\u00e9", "cafe\u0301")
    lines = [f"{1_700_000_000_000 + 1000 * (i % 9)},{i % 5}.1,0.1,{cafes[i % 2]}" for i in range(40)]
    path.write_text("\n".join(["when,a,same,y", *lines]))
    population = load_csv(path=path, label_column="y")
    rounded, alike = population.remarks
    for part in ("'when'", "float32", "dataset.drop_columns=[when]"):
        assert part in rounded
    assert "'cafe\\u0301' and 'caf\\xe9'" in alike
    error = abs(int(np.float32(1_700_000_001_000)) - 1_700_000_001_000)
    assert error > 0.01 * np.std([1000 * (i % 9) for i in range(40)])
    table = load_table(path=path, label_column="y")
    assert rounded in table.remarks
    assert sum("float32" in each for each in table.remarks) == 1
    x = np.array([[float(each) for each in line.split(",")[:3]] for line in lines])
    arrays = make_population(x, np.arange(40) % 2)
    assert [each.partition(" of ")[0] for each in arrays.remarks] == ["Feature 0"]


def test_a_word_for_what_is_missing_may_name_a_class_among_words(tmp_path: Path) -> None:
    path = tmp_path / "countries.csv"
    path.write_text("a,y\n1,NA\n2,DE\n3,NA\n")
    population = load_csv(path=path, label_column="y")
    assert population.class_names == ("DE", "NA")


def test_numeric_labels_are_sorted_by_value_and_keep_their_text(tmp_path: Path) -> None:
    population = load_csv(path=write(tmp_path, "a,y\n1,10\n2,9\n3,-1\n4,10\n"), label_column="y", name="n")
    assert (population.name, population.class_names) == ("n", ("-1", "9", "10"))
    assert population.label_N.tolist() == [2, 1, 0, 2]


@pytest.mark.parametrize(("argument", "mark"), [(";", ";"), ("\t", "\t"), ("\\t", "\t"), ("|", "|")])
def test_delimiter(tmp_path: Path, argument: str, mark: str) -> None:
    path = write(tmp_path, TABLE.replace(",", mark))
    population = load_csv(path=path, label_column="class", member_column="in", delimiter=argument)
    assert population.x_N.tolist() == [[1.5, 3], [-2, 40], [0.25, 5], [7, 6]]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffa,y\n1,p\n2,q\n",
        "a,y\r\n1,p\r\n2,q\r\n",
        "a,y\n1,p\n\n2,q\n\n",
        'a, y\n" 1", p\n2 ,"q"',
        'a, "y"\n1, "p"\n2, "q" ',
        "a;y\n1;p\n2;q\n",
        "a\ty\n1\tp\n2\tq\n",
        "a|y\n1|p\n2|q\n",
        '"a";"y"\n"1,0";"p"\n"2";"q"\n',
        "sep=;\na;y\n1;p\n2;q\n",
        "a,y,,\n1,p,,\n2,q,,\n,,,\n",
        "\na,y\n1.0,p\n+2,q\n",
        "a,y\n1e0,p\n2,q\n",
        "a,y\n1,p\n2,q\n".encode("utf-16"),
        gzip.compress(b"a,y\n1,p\n2,q\n", mtime=0),
        bz2.compress(b"a,y\n1,p\n2,q\n"),
        lzma.compress(b"a,y\n1,p\n2,q\n"),
        pa.compress(b"a;y\n1,0;p\n2;q\n", codec="zstd", asbytes=True),
    ],
    ids=lambda content: repr(content)[:24],
)
def test_forms_of_one_table(tmp_path: Path, content: str | bytes) -> None:
    population = load_csv(path=write(tmp_path, content), label_column="y")
    assert population.x_N.tolist() == [[1], [2]]
    assert population.class_names == ("p", "q")


def test_a_table_in_a_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._table.csv", "x")
        archive.writestr("table.csv", "a,y\n1,p\n2,q\n")
    assert load_csv(path=path, label_column="y").x_N.tolist() == [[1], [2]]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.csv", "a,y\n")
    with pytest.raises(InputError, match="is a zip file of 2 files: pack one table alone"):
        load_csv(path=path, label_column="y")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "x")
    with pytest.raises(InputError, match="is a workbook and no text: save the sheet as CSV"):
        load_csv(path=path, label_column="y")


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_decimal_commas_give_the_numbers_of_points(tmp_path: Path, mark: str) -> None:
    """Also in a column whose commas alone could stand between thousands."""
    rows = np.random.default_rng(0).normal(size=(30, 2)).round(3).tolist()
    header = mark.join(["a", "b", "c", "y"]) + "\n"
    lines = [mark.join([f"{a}", f"{b:.2e}", f"{i}.125", "pq"[i % 2]]) + "\n" for i, (a, b) in enumerate(rows, start=1)]
    points = load_csv(path=write(tmp_path, header + "".join(lines)), label_column="y")
    commas = load_csv(path=write(tmp_path, (header + "".join(lines)).replace(".", ",")), label_column="y")
    assert torch.equal(points.x_N, commas.x_N)


def test_columns_of_true_and_false_are_1_and_0(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,y\nTrue,1,p\nfalse,2,q\nTRUE,3,q\n")
    assert load_csv(path=path, label_column="y").x_N[:, 0].tolist() == [1, 0, 1]


def test_one_number_in_two_spellings_is_one_class(tmp_path: Path) -> None:
    path = write(tmp_path, "a,y\n1,2\n2,1.0\n3,1\n4,1.00\n5,2e0\n6,10\n")
    population = load_csv(path=path, label_column="y")
    assert population.class_names == ("1", "2", "10")
    assert population.label_N.tolist() == [1, 0, 0, 0, 1, 2]
    codes = load_csv(path=write(tmp_path, "a,y\n1,007\n2,012\n3,112\n"), label_column="y")
    assert codes.class_names == ("007", "012", "112")
    with pytest.raises(InputError, match=r"'y' of .* has '7' and '007', one number in two spellings"):
        load_csv(path=write(tmp_path, "a,y\n1,007\n2,012\n3,7\n"), label_column="y")


@pytest.mark.parametrize("pair", [("1", "0"), ("TRUE", "False"), ("1.0", "0.0"), ("Yes", "no")])
def test_members_in_several_spellings(tmp_path: Path, pair: tuple[str, str]) -> None:
    path = write(tmp_path, "a,in,y\n1,{},p\n2,{},q\n".format(*pair))
    member_N = load_csv(path=path, label_column="y", member_column="in").member_N
    assert member_N is not None
    assert member_N.tolist() == [True, False]


def test_a_label_that_each_record_has_of_its_own_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7}.5,name {i}\n" for i in range(60))
    with pytest.raises(
        InputError, match=r"column 'y' of .* has 60 different values for 60 records, which is an identifier"
    ):
        load_csv(path=write(tmp_path, "a,y\n" + rows), label_column="y")


def test_columns_may_be_left_out(tmp_path: Path) -> None:
    text = ",a,note,b,y\n0,1,x,2,p\n1,3,z,4,q\n"
    path = write(tmp_path, text)
    for columns in (["Unnamed: 0", "note"], ("note", "Unnamed: 0")):
        assert load_csv(path=path, label_column="y", drop_columns=columns).x_N.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(InputError, match=r"no column 'nota' among its 5 .*set dataset.drop_columns"):
        load_csv(path=path, label_column="y", drop_columns=["nota"])
    with pytest.raises(InputError, match=r"column 1 .* no name .*'dataset.drop_columns=\[Unnamed: 0\]'"):
        load_csv(path=path, label_column="y", drop_columns=["note"])
    with pytest.raises(
        InputError, match=r"'x' in column 'note': .*; 'dataset.drop_columns=\[note\]' leaves the column out"
    ):
        load_csv(path=path, label_column="y", drop_columns=["Unnamed: 0"])


N = 60
WHOLE = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "is_identifier"),
    [
        (10**10 + 37 * np.arange(N), True),
        (np.arange(N), True),
        (WHOLE.permutation(N) + 1000, True),
        (np.concatenate([WHOLE.permutation(N - 1), [0]]), True),  # nearly all
        (WHOLE.integers(18, 90, size=N), False),  # ages
        (np.arange(N) // 2, False),
        (WHOLE.normal(size=N), False),
    ],
    ids=["customers", "index", "shuffled", "one twice", "ages", "pairs", "fractions"],
)
def test_identifiers_are_named_with_what_leaves_them_out(tmp_path: Path, values: Any, is_identifier: bool) -> None:
    label = ["pq"[i] for i in WHOLE.integers(2, size=N)]
    rows = [f"{a},{b:.3f},{y}\n" for a, b, y in zip(values.tolist(), WHOLE.normal(size=N), label, strict=True)]
    path = write(tmp_path, "number,b,y\n" + "".join(rows))
    remarks = load_csv(path=path, label_column="y").remarks
    assert len(remarks) == is_identifier
    assert all("'number' of animals.csv" in each and "'dataset.drop_columns=[number]'" in each for each in remarks)
    assert load_csv(path=path, label_column="y", drop_columns=["number"]).remarks == ()


def test_counts_that_differ_in_most_columns_are_measurements(tmp_path: Path) -> None:
    counts = WHOLE.integers(10**6, size=(N, 8))
    rows = ["".join(f"{each}," for each in row) + "pq"[i % 2] + "\n" for i, row in enumerate(counts.tolist())]
    path = write(tmp_path, "a,b,c,d,e,f,g,h,y\n" + "".join(rows))
    assert load_csv(path=path, label_column="y").remarks == ()


@pytest.mark.parametrize(
    ("labels", "is_measurement"),
    [
        (np.random.default_rng(0).normal(size=200).round(2), True),
        (np.random.default_rng(0).integers(10**4, size=200), True),
        (np.random.default_rng(0).integers(40, size=4000) / 4, True),
        (np.arange(200) % 100 / 10, True),
        (np.arange(200) % 9 / 2, False),  # marks from 0 to 4
        (np.arange(200) % 40, False),  # five records for each class
    ],
)
def test_a_label_that_is_a_measurement_is_refused(tmp_path: Path, labels: Any, is_measurement: bool) -> None:
    path = write(tmp_path, "a,y\n" + "".join(f"{i % 7}.5,{y}\n" for i, y in enumerate(labels.tolist())))
    if not is_measurement:
        assert load_csv(path=path, label_column="y").num_classes == len(np.unique(labels))
        return
    with pytest.raises(InputError, match=r"column 'y' of .* different numbers for .* a measurement and no class"):
        load_csv(path=path, label_column="y")


def have_one_spelling(labels: Iterable[str]) -> bool:
    """Whether labels that write one number are the same text."""

    def value(label: str) -> float | str:
        try:
            return float(label)
        except ValueError:
            return label

    distinct = set(labels)
    return len(set(map(value, distinct))) == len(distinct)


labels = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=4)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), labels), min_size=2, max_size=20
    ).filter(lambda rows: len({label for _, label in rows}) > 1 and have_one_spelling(label for _, label in rows))
)
def test_equals_the_standard_library(rows: list[tuple[float, str]], tmp_path_factory: Any) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("a", "y"), *rows])
    path = write(tmp_path_factory.mktemp("csv"), text.getvalue())
    population = load_csv(path=path, label_column="y")
    read = list(csv.DictReader(io.StringIO(text.getvalue(), newline="")))
    np.testing.assert_array_equal(population.x_N[:, 0].numpy(), np.array([row["a"] for row in read]).astype(np.float32))
    assert [population.class_names[c] for c in population.label_N] == [row["y"] for row in read]


def test_a_line_longer_than_the_usual_block(tmp_path: Path) -> None:
    width = 300_000
    header = ",".join(f"a{i}" for i in range(10)) + ",y,pad\n"
    rows = [",".join(["1"] * 10) + f",{label},0." + "1" * width * 4 + "\n" for label in "pq"]
    assert load_csv(path=write(tmp_path, header + "".join(rows)), label_column="y").input_shape == (11,)


REFUSED: dict[str, tuple[str | bytes, dict[str, str], str]] = {
    "empty": ("", {}, "is empty: give a CSV file with a header line"),
    "header only": ("a,y\n", {}, "population 'animals' has no records: give it some"),
    "one class": ("a,y\n1,p\n2,p\n", {}, "population 'animals' has 1 class"),
    "label only": ("y\np\nq\n", {}, "has no column beside the label's: add the features"),
    "no header": (
        "1,p\n2,q\n",
        {},
        r"no column 'y' among its 2 \(near it: '1', 'p'\): .* in the header line",
    ),
    "close match": (
        "weight,Label,lable\n1,2,3\n",
        {"label_column": "label"},
        r"no column 'label' among its 3 \(near it: .*'lable'.*\): set dataset.label_column to",
    ),
    "unknown member column": (
        TABLE,
        {"label_column": "class", "member_column": "inn"},
        "'in'.*member_column",
    ),
    "delimiter": (TABLE, {"label_column": "class", "delimiter": ";"}, "among its 1 .*dataset.delimiter"),
    "two delimiters": (TABLE, {"delimiter": ", "}, "`dataset.delimiter` is ', '; it must be one ASCII character"),
    "a quote": (TABLE, {"delimiter": '"'}, "`dataset.delimiter` is '\"'; it must be one ASCII character"),
    "no ASCII": (TABLE, {"delimiter": "é"}, "`dataset.delimiter` is 'é'; it must be one ASCII character"),
    "unnamed": (",a,y\n0,1,p\n", {}, "column 1 of .* has no name in the header line: .*index=False"),
    "twice": ("a,a,y\n0,1,p\n", {}, "column 'a' of .* appears twice: name each column differently"),
    "text": (
        "a,b,y\n1,2,p\n1,red,q\n",
        {},
        "line 3 of .* has 'red' in column 'b': encode it as a finite number",
    ),
    "text after blank": ("a,y\n1,p\n\n\nred,q\n", {}, "line 5 of .* has 'red' in column 'a'"),
    "text after break": ('a,y\n1,"p\np"\nred,q\n', {}, "line 4 of .* has 'red' in column 'a'"),
    "empty value": (
        "a,b,y\n1,,p\n1,2,q\n",
        {},
        "line 2 of .* has '' in column 'b': fill in the missing value",
    ),
    "question mark": ("a,y\n1,p\n ?,q\n", {}, r"line 3 of .* has '\?' in column 'a': fill in the missing"),
    "nan": ("a,y\n1,p\nNaN,q\n", {}, "line 3 of .* has 'NaN' in column 'a': fill in the missing"),
    "infinite": ("a,y\n1,p\ninf,q\n", {}, "line 3 of .* has 'inf' in column 'a': encode it as a finite"),
    "beyond float32": (
        "a,y\n1,p\n1e300,q\n",
        {},
        "line 3 of .* has '1e300' in column 'a': encode it as a finite",
    ),
    "no label": ("a,y\n1,p\n2, \n", {}, "line 3 of .* has '' in column 'y': give each record a label"),
    "true among numbers": ("a,y\n1,p\ntrue,q\n0,p\n", {}, "line 3 of .* has 'true' in column 'a': encode it as"),
    "a negative gap": ("a,y\n1,p\n-nan,q\n", {}, "line 3 of .* has '-nan' in column 'a': encode it as"),
    "no label among numbers": (
        "a,y\n1,0\n2,1\n3,nan\n4,none\n",
        {},
        "line 4 of .* has 'nan' in column 'y': give each record a label",
    ),
    "ragged short": ("a,b,y\n1,2,p\n1,q\n", {}, "line 3 of .* has 2 values for 3 columns: give each record"),
    "ragged long": ("a,y\n1,p\n1,q\n1,q,\n", {}, "line 4 of .* has 3 values for 2 columns: give each record"),
    "thousands": (
        "a;y\n1,234;p\n5,678;q\n",
        {},
        "line 2 of .* has '1,234' in column 'a': .* without a comma between thousands and with a point",
    ),
    "points beside decimal commas": (
        "a;b;y\n1.234;0,5;p\n5,678;1,5;q\n",
        {},
        "line 2 of .* has '1.234' in column 'a': .*other columns have decimal commas",
    ),
    "text with a comma": ('a;b;y\n"x, z";0,5;p\n', {}, "line 2 of .* has 'x, z' in column 'a': encode it"),
    "text after an empty line": ("a,y\n1,p\n,\nred,q\n", {}, "line 4 of .* has 'red' in column 'a'"),
    "parquet": (b"PAR1....", {}, "is a parquet file and no text: save the table as CSV in UTF-8"),
    "old workbook": (b"\xd0\xcf\x11\xe0....", {}, "is a workbook and no text"),
    "damaged gzip": (gzip.compress(b"a,y\n1,p\n", mtime=0)[:-9], {}, "cannot be read as CSV in UTF-8"),
    "damaged zip": (b"PK\x03\x04....", {}, "cannot be read as CSV in UTF-8"),
    "not UTF-8": (
        b"a,y\n1,\xe9t\xe9\n2,b\n",
        {},
        r"cannot be read as CSV in UTF-8 \(.*\): save it in that form",
    ),
    "not UTF-8 far down": (
        b"a,y\n" + b"1,p\n" * 100_000 + b"1,\xff\n",
        {},
        r"cannot be read as CSV in UTF-8 \(.*UTF.?8.*\): save it",
    ),
    "member": (
        TABLE,
        {"label_column": "class", "member_column": "weight"},
        "line 2 .* '3' in column 'weight': write 1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    content, arguments, sentence = REFUSED[case]
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=sentence) as caught:
        load_csv(path=path, **{"label_column": "y", **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_absent_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"'{tmp_path}/no.csv' is not a file: set dataset.path"):
        load_csv(path="no.csv", label_column="y")
