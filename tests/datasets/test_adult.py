import csv
import hashlib
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from mia_lightning.datasets import adult
from mia_lightning.datasets.adult import ATTRIBUTES, Category, load_adult
from mia_lightning.errors import InputError

NEVER = "http://127.0.0.1:9/never-asked"
TRAIN = """\
39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, United-States, <=50K
54, ?, 180211, Some-college, 10, Married-civ-spouse, ?, Husband, Asian-Pac-Islander, Male, 0, 0, 60, South, >50K
25, Private, 2, 11th, 7, Separated, Sales, Wife, Black, Female, 0, 1902, 99, ?, <=50K

"""  # noqa: E501
TEST = """\
|1x3 Cross validator
25, Private, 226802, 11th, 7, Never-married, Machine-op-inspct, Own-child, Black, Male, 0, 0, 40, United-States, <=50K.
38, Private, 89814, HS-grad, 9, Divorced, Sales, Unmarried, White, Female, 99999, 0, 50, Cuba, >50K.

"""


def decoded(x: torch.Tensor) -> list[object]:
    """The attributes of one encoded record: the category, or the scaled number."""
    found: list[object] = []
    start = 0
    for attribute in ATTRIBUTES:
        if attribute is None:
            continue
        part = x[start : start + attribute.width]
        start += attribute.width
        if isinstance(attribute, Category):
            assert (part.sum(), part.max()) == (1, 1)
            found.append(attribute.values[int(part.argmax())])
        else:
            found.append(part.item())
    assert start == len(x)
    return found


@pytest.mark.slow
def test_real_files_against_the_standard_library(shared_data: Path) -> None:
    population = load_adult(root=shared_data / "adult", url=NEVER)
    rows = []
    for file in ("adult.data", "adult.test"):
        lines = (shared_data / "adult" / file).read_text().splitlines()
        rows += [row for row in csv.reader(lines, skipinitialspace=True) if len(row) == 15]
    assert len(population) == len(rows) == 48_842
    assert population.x_N.dtype == torch.float32
    assert population.input_shape == (107,)
    assert population.label_N.tolist() == [row[-1].startswith(">50K") for row in rows]
    assert population.label_N.bincount().tolist() == [37_155, 11_687]
    # Every category: how often each column is 1.
    start = 0
    for attribute, cells in zip(ATTRIBUTES, zip(*rows, strict=True), strict=False):
        if isinstance(attribute, Category):
            counts = Counter(cells)
            columns = population.x_N[:, start : start + attribute.width]
            assert columns.sum(0).tolist() == [counts[value] for value in attribute.values]
            assert sum(counts.values()) == columns.sum()
        start += attribute.width if attribute is not None else 0
    # Every number, and the missing values that the publishers count.
    for column, at, largest in ((0, 0, 100), (26, 4, 16), (64, 12, 99)):
        expected = torch.tensor([int(row[at]) / largest for row in rows])
        torch.testing.assert_close(population.x_N[:, column], expected)
    for column, at in ((62, 10), (63, 11)):
        expected = torch.tensor([math.log1p(int(row[at])) / math.log1p(99_999) for row in rows])
        torch.testing.assert_close(population.x_N[:, column], expected)
    assert [int(population.x_N[:, column].sum()) for column in (9, 48, 106)] == [2_799, 2_809, 857]


def test_first_real_record(shared_data: Path) -> None:
    population = load_adult(root=shared_data / "adult")
    found = decoded(population.x_N[0])
    assert found == [
        *(pytest.approx(0.39), "State-gov", "Bachelors", pytest.approx(13 / 16), "Never-married", "Adm-clerical"),
        *("Not-in-family", "White", "Male", pytest.approx(math.log(2175) / math.log(100_000)), 0.0),
        *(pytest.approx(40 / 99), "United-States"),
    ]
    assert (population.x_N.min(), population.x_N.max()) == (0, 1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(adult, "NUM_RECORDS", {"adult.data": 3, "adult.test": 2})
    folder = tmp_path / "adult"
    folder.mkdir()
    (folder / "adult.data").write_text(TRAIN)
    (folder / "adult.test").write_text(TEST)
    return folder


def test_training_file_comes_first_and_missing_is_a_category(root: Path) -> None:
    population = load_adult(root=str(root), url=NEVER, name="census")
    assert (population.name, population.class_names) == ("census", ("<=50K", ">50K"))
    assert population.label_N.tolist() == [0, 1, 0, 0, 1]
    assert [decoded(x)[i] for x in population.x_N for i in (1, 5, 12)] == [
        *("State-gov", "Adm-clerical", "United-States", "?", "?", "South", "Private", "Sales", "?"),
        *("Private", "Machine-op-inspct", "United-States", "Private", "Sales", "Cuba"),
    ]
    assert decoded(population.x_N[4])[9] == 1.0
    assert decoded(population.x_N[2])[10] == pytest.approx(math.log(1903) / math.log(100_000))


def test_sample_weights_are_no_feature(root: Path) -> None:
    before = load_adult(root=root).x_N
    (root / "adult.data").write_text(TRAIN.replace("77516", "1"))
    assert torch.equal(load_adult(root=root).x_N, before)


def test_missing_files_are_downloaded_and_checked(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksums = {file: f"sha256:{hashlib.sha256((root / file).read_bytes()).hexdigest()}" for file in adult.FILES}
    monkeypatch.setattr(adult, "FILES", checksums)
    cache = tmp_path / "cache"
    population = load_adult(root=cache, url=root.as_uri())
    assert torch.equal(population.x_N, load_adult(root=root).x_N)
    assert sorted(path.name for path in cache.iterdir()) == ["adult.data", "adult.test"]
    (cache / "adult.test").unlink()
    (root / "adult.test").write_text(TEST.replace("Sales", "Priv-house-serv"))
    with pytest.raises(InputError, match=r"is not the published adult\.test"):
        load_adult(root=cache, url=f"{root.as_uri()}/")
    assert not (cache / "adult.test").exists()


def test_offline(root: Path) -> None:
    (root / "adult.data").unlink()
    with pytest.raises(InputError, match=r"adult\.data could not be downloaded from .*: put the file adult\.data into"):
        load_adult(root=root, url=NEVER)


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", r"'.*adult\.data' has 0 records where the published file has 3: delete it"),
    "truncated": (
        TRAIN[:150],
        r"line 2 of '.*adult\.data' has \d+ values where a record has 14 attributes and a class",
    ),
    "fewer records": (TRAIN.split("\n54")[0], "has 1 records where the published file has 3"),
    "oversized": (TRAIN * 2, "has more records where the published file has 3: delete it"),
    "narrow": (TRAIN.replace(", Male", "", 1), "line 1 of '.*' has 14 values where"),
    "wide": (TRAIN.replace("South", "South, South"), "line 2 of '.*' has 16 values where"),
    "not a number": (TRAIN.replace("60, South", "x, South"), "line 2 of '.*' has 'x' as hours-per-week: give a whole"),
    "fraction": (TRAIN.replace("60, South", "1.5, South"), "has '1.5' as hours-per-week"),
    "negative": (TRAIN.replace("39,", "-39,"), "has '-39' as age: give a whole number from 0 to 100"),
    "too large": (TRAIN.replace("39,", "101,"), "has '101' as age"),
    "far too large": (TRAIN.replace("39,", "9" * 5000 + ","), "has '9+' as age"),
    "other digits": (TRAIN.replace("13,", "٣,"), "cannot be read as the published file"),
    "missing number": (TRAIN.replace("39,", "?,"), r"has '\?' as age"),
    "unknown category": (
        TRAIN.replace("South", "Atlantis"),
        "line 2 of '.*' has 'Atlantis' as native-country: give one",
    ),
    "missing sex": (
        TRAIN.replace("Female", "?"),
        r"line 3 of '.*' has '\?' as sex: give one of its 2 published values",
    ),
    "class": (TRAIN.replace(">50K", ">60K"), "line 2 of '.*' has the class '>60K': give '<=50K' or '>50K'"),
    "binary": (bytes(range(256)) * 20, "cannot be read as the published file of comma-separated values"),
    "one long line": ("a" * 200_000, "cannot be read as the published file .*field larger"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, root: Path) -> None:
    content, sentence = REFUSED[case]
    (root / "adult.data").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=sentence) as caught:
        load_adult(root=root, url=NEVER)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in root.iterdir()) == ["adult.data", "adult.test"]


def test_folder_in_the_place_of_a_file(root: Path) -> None:
    (root / "adult.test").unlink()
    (root / "adult.test").mkdir()
    with pytest.raises(InputError, match=r"adult\.test' cannot be read as the published file .*: make it readable"):
        load_adult(root=root, url=NEVER)
