import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import tgz

from mia_lightning.datasets import location
from mia_lightning.datasets.location import load_location
from mia_lightning.errors import InputError

SHARED = Path(os.environ.get("MIA_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
real = pytest.mark.skipif(
    not (SHARED / "location" / location.ARCHIVE).is_file(),
    reason=f"{location.ARCHIVE} is not in {SHARED / 'location'} (set MIA_SHARED_DATA)",
)


@real
@pytest.mark.slow
def test_every_value_of_the_published_file() -> None:
    population = load_location(root=SHARED / "location")
    with tarfile.open(SHARED / "location" / location.ARCHIVE) as tar:
        member = tar.extractfile("bangkok")
        assert member is not None
        rows = list(csv.reader(io.TextIOWrapper(member)))
    assert len(population) == len(rows) == 5010
    assert population.x_N.dtype == torch.uint8
    assert population.input_shape == (446,)
    np.testing.assert_array_equal(population.x_N.numpy(), np.array([row[1:] for row in rows]).astype(int))
    assert [population.class_names[c] for c in population.label_N] == [row[0] for row in rows]
    assert population.num_classes == 30
    assert len(population.label_N.unique()) == 30


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """A file of the published form: class 1 to 30, then 446 bits."""
    generator = np.random.default_rng(0)
    value = generator.integers(0, 2, (location.NUM_RECORDS, location.NUM_FEATURES + 1))
    value[:, 0] = np.arange(len(value)) % 30 + 1
    return value


def as_csv(value: np.ndarray) -> bytes:
    return b"".join(b'"%d",' % row[0] + b",".join(b"%d" % v for v in row[1:]) + b"\n" for row in value.tolist())


@pytest.fixture(scope="module")
def content(table: np.ndarray) -> bytes:
    return as_csv(table)


@pytest.fixture(scope="module")
def archive(content: bytes) -> bytes:
    return tgz({"bangkok": content})


@pytest.fixture
def trusted(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "ARCHIVE_CHECKSUM", f"sha256:{hashlib.sha256(archive).hexdigest()}")


def check(population: location.Population, table: np.ndarray) -> None:
    np.testing.assert_array_equal(population.x_N.numpy(), table[:, 1:])
    np.testing.assert_array_equal(population.label_N.numpy(), table[:, 0] - 1)
    assert population.class_names == tuple(str(c) for c in range(1, 31))


@pytest.mark.usefixtures("trusted")
def test_archive_that_lies_in_root(tmp_path: Path, archive: bytes, table: np.ndarray) -> None:
    (tmp_path / location.ARCHIVE).write_bytes(archive)
    check(load_location(root=str(tmp_path), url="http://127.0.0.1:9/never-asked"), table)
    assert [path.name for path in tmp_path.iterdir()] == [location.ARCHIVE]


def test_extracted_file(tmp_path: Path, content: bytes, table: np.ndarray) -> None:
    (tmp_path / "bangkok").write_bytes(content)
    population = load_location(root=tmp_path, url="http://127.0.0.1:9/never-asked", name="other")
    check(population, table)
    assert population.name == "other"


@pytest.mark.usefixtures("trusted")
def test_archive_is_downloaded_where_it_is_absent(tmp_path: Path, archive: bytes, table: np.ndarray) -> None:
    source = tmp_path / "mirror.tgz"
    source.write_bytes(archive)
    root = tmp_path / "not" / "there" / "yet"
    check(load_location(root=root, url=source.as_uri()), table)
    assert [path.name for path in root.iterdir()] == [location.ARCHIVE]
    source.unlink()
    check(load_location(root=root, url=source.as_uri()), table)


@pytest.mark.parametrize("change", ["truncated", "altered", "text"])
@pytest.mark.usefixtures("trusted")
def test_archive_that_is_not_the_published_one(tmp_path: Path, archive: bytes, change: str) -> None:
    content = {"truncated": archive[:-100], "altered": archive[:-1] + b"?", "text": b"<html>"}[change]
    path = tmp_path / location.ARCHIVE
    path.write_bytes(content)
    found, expected = hashlib.sha256(content).hexdigest(), hashlib.sha256(archive).hexdigest()
    sentence = rf"'{path}' is truncated or altered \(SHA-256 {found}, expected {expected}\): delete it so that"
    with pytest.raises(InputError, match=sentence):
        load_location(root=tmp_path)
    assert path.read_bytes() == content


def changed(at: tuple[int, int], value: int) -> Callable[[np.ndarray], bytes]:
    def change(table: np.ndarray) -> bytes:
        table = table.copy()
        table[at] = value
        return as_csv(table)

    return change


MALFORMED: dict[str, tuple[Callable[[np.ndarray], bytes], str]] = {
    "fewer records": (lambda table: as_csv(table[:-1]), "it has 5,009 records"),
    "fewer columns": (lambda table: as_csv(table[:, :-1]), "line 1 has 446 columns"),
    "class 0": (changed((7, 0), 0), "line 8, column 1 has '\"0\"', not a class from 1 to 30"),
    "class 31": (changed((7, 0), 31), "line 8, column 1 has '\"31\"', not a class from 1 to 30"),
    "not binary": (changed((7, 5), 2), "line 8, column 6 has '2', not 0 or 1"),
    "not a number": (lambda table: as_csv(table).replace(b",0,", b",x,", 1), r"line 1, column \d+ has 'x', not 0 or 1"),
    "missing": (lambda table: as_csv(table).replace(b",0,", b",,", 1), r"line 1, column \d+ has '', not 0 or 1"),
    "empty": (lambda table: b"", "it has 0 records"),
}


@pytest.mark.costly
@pytest.mark.parametrize("case", MALFORMED)
def test_extracted_file_of_another_form(case: str, tmp_path: Path, table: np.ndarray) -> None:
    make, found = MALFORMED[case]
    (tmp_path / "bangkok").write_bytes(make(table))
    sentence = rf"bangkok' is not the published file of 5,010 records of .* features \({found}\): delete it"
    with pytest.raises(InputError, match=sentence):
        load_location(root=tmp_path)
