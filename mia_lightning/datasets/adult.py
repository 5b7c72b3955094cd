"""Adult (Census Income): who earned more than 50,000 dollars a year, in the US census of 1994."""

import csv
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from mia_lightning.datasets.download import fetch
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike, Text

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult"
FILES = {
    "adult.data": "sha256:5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "sha256:a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}
NUM_RECORDS = {"adult.data": 32_561, "adult.test": 16_281}
CLASS_NAMES = ("<=50K", ">50K")


@dataclass(frozen=True, kw_only=True)
class Number:
    """A whole number from 0 to `largest`, scaled to [0, 1]."""

    name: str
    largest: int
    logarithmic: bool = False

    width = 1

    def encode(self, text: str) -> tuple[int, float] | None:
        """The column within the attribute and its value; None for what the attribute cannot be."""
        if not (text.isascii() and text.isdecimal() and len(text) <= 9) or int(text) > self.largest:
            return None
        if self.logarithmic:
            return 0, math.log1p(int(text)) / math.log1p(self.largest)
        return 0, int(text) / self.largest

    @property
    def expected(self) -> str:
        return f"a whole number from 0 to {self.largest}"


@dataclass(frozen=True, kw_only=True)
class Category:
    """One of a public list of values, one-hot."""

    name: str
    values: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.values)

    def encode(self, text: str) -> tuple[int, float] | None:
        return (self.values.index(text), 1.0) if text in self.values else None

    @property
    def expected(self) -> str:
        return f"one of its {len(self.values)} published values, such as {self.values[0]!r}"


def _category(name: str, values: str) -> Category:
    return Category(name=name, values=tuple(values.split()))


# In file order; None is left out. The lists and their order are those of the published `adult.names`, and `?` stands
# for a missing value in the three attributes that have missing values. The largest numbers are public as well: the
# census cuts hours off at 99 and dollars at 99,999, education has 16 levels, and ages are divided by 100.
ATTRIBUTES: tuple[Number | Category | None, ...] = (
    Number(name="age", largest=100),
    _category(
        "workclass",
        "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked ?",
    ),
    None,  # fnlwgt
    _category(
        "education",
        "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters 1st-4th 10th "
        "Doctorate 5th-6th Preschool",
    ),
    Number(name="education-num", largest=16),
    _category(
        "marital-status",
        "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent Married-AF-spouse",
    ),
    _category(
        "occupation",
        "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners "
        "Machine-op-inspct Adm-clerical Farming-fishing Transport-moving Priv-house-serv Protective-serv "
        "Armed-Forces ?",
    ),
    _category("relationship", "Wife Own-child Husband Not-in-family Other-relative Unmarried"),
    _category("race", "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black"),
    _category("sex", "Female Male"),
    Number(name="capital-gain", largest=99_999, logarithmic=True),
    Number(name="capital-loss", largest=99_999, logarithmic=True),
    Number(name="hours-per-week", largest=99),
    _category(
        "native-country",
        "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) India Japan Greece South "
        "China Cuba Iran Honduras Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland France "
        "Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary Guatemala Nicaragua Scotland Thailand "
        "Yugoslavia El-Salvador Trinadad&Tobago Peru Hong Holand-Netherlands ?",
    ),
)
NUM_FEATURES = sum(attribute.width for attribute in ATTRIBUTES if attribute is not None)


@checked("dataset")
def load_adult(*, root: PathLike, url: Text = URL, name: Name = "adult") -> Population:
    """48,842 records of 107 features in [0, 1] (float32) in the classes `<=50K` and `>50K`.

    `adult.data` (32,561 records) comes first, `adult.test` (16,281) after it: members and non-members are drawn at
    random from both together. Eight categorical attributes are one-hot, a missing value (`?`) being a category of
    its own; five numbers are divided by a public constant, capital gain and loss after `log(1 + x)`. Neither
    categories nor constants are fitted to the records, since values fitted to private records leak them.
    The attribute `fnlwgt` is left out: it is a sampling weight, the number of people that the person stands for,
    and no attribute of the person.

    Args:
        root: the folder of `adult.data` and `adult.test`; missing files are downloaded into it.
        url: the address of the folder that they are downloaded from.
        name: of the data set, in reports.

    Raises:
        InputError: a file cannot be downloaded or read, or is not of the published form.

    Source: Becker and Kohavi, "Adult" (UCI, 1996); in Shokri et al. (2017), section VI-A.
    """
    folder = Path(root).expanduser()
    for file, checksum in FILES.items():
        if not (folder / file).exists():
            fetch(f"{url.rstrip('/')}/{file}", folder / file, checksum=checksum)
    x_N = np.zeros((sum(NUM_RECORDS.values()), NUM_FEATURES), np.float32)
    label_N = np.empty(len(x_N), np.int64)
    first = 0
    for file, count in NUM_RECORDS.items():
        _read(folder / file, x_N[first : first + count], label_N[first : first + count])
        first += count
    return make_population(x_N, label_N, name=name, class_names=CLASS_NAMES)


def _read(file: Path, x_N: np.ndarray, label_N: np.ndarray) -> None:
    """Fill in the rows with the records of one file."""
    place = f"'{file.absolute()}'"
    record = 0
    try:
        with file.open(encoding="ascii", newline="") as handle:
            for line, cells in _rows(handle):
                if record < len(x_N):
                    label_N[record] = _encode(cells, x_N[record], f"line {line} of {place}")
                record += 1
                if record > len(x_N):
                    break
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{place} cannot be read as the published file of comma-separated values ({error}): make it readable, or "
            "delete it so that it is downloaded again"
        ) from error
    if record != len(x_N):
        raise InputError(
            f"{place} has {record if record < len(x_N) else 'more'} records where the published file has {len(x_N)}: "
            "delete it so that it is downloaded again"
        )


def _rows(handle: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each record; blank lines and the first line of `adult.test`, a comment, are skipped."""
    reader = csv.reader(handle, skipinitialspace=True, quoting=csv.QUOTE_NONE)
    for cells in reader:
        if cells and not cells[0].startswith("|"):
            yield reader.line_num, [cell.rstrip() for cell in cells]


def _encode(cells: list[str], x: np.ndarray, place: str) -> int:
    """Encode one record into `x`, which is all zeros, and return its class."""
    if len(cells) != len(ATTRIBUTES) + 1:
        raise InputError(
            f"{place} has {len(cells)} values where a record has {len(ATTRIBUTES)} attributes and a class: "
            "delete the file so that it is downloaded again"
        )
    widths = [0 if attribute is None else attribute.width for attribute in ATTRIBUTES]
    for attribute, cell, start in zip(ATTRIBUTES, cells, itertools.accumulate(widths, initial=0), strict=False):
        if attribute is None:
            continue
        encoded = attribute.encode(cell)
        if encoded is None:
            raise InputError(
                f"{place} has {cell!r} as {attribute.name}: give {attribute.expected}, or delete the file so that it "
                "is downloaded again"
            )
        x[start + encoded[0]] = encoded[1]
    label = cells[-1].removesuffix(".")  # the labels of adult.test end with a dot
    if label not in CLASS_NAMES:
        raise InputError(
            f"{place} has the class {cells[-1]!r}: give {' or '.join(map(repr, CLASS_NAMES))}, or delete the file so "
            "that it is downloaded again"
        )
    return CLASS_NAMES.index(label)
