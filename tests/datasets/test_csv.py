import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mia_lightning.datasets.csv import load_csv
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
    ],
    ids=["byte order mark", "CRLF", "blank lines", "spaces and quotes"],
)
def test_forms_of_one_table(tmp_path: Path, content: str) -> None:
    population = load_csv(path=write(tmp_path, content), label_column="y")
    assert population.x_N.tolist() == [[1], [2]]
    assert population.class_names == ("p", "q")


labels = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=4)


@given(
    rows=st.lists(
        st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), labels), min_size=2, max_size=20
    ).filter(lambda rows: len({label for _, label in rows}) > 1)
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
    "ragged short": ("a,b,y\n1,2,p\n1,q\n", {}, "line 3 of .* has 2 values for 3 columns: give each record"),
    "ragged long": ("a,y\n1,p\n1,q\n1,q,\n", {}, "line 4 of .* has 3 values for 2 columns: give each record"),
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
