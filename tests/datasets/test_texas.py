from pathlib import Path

import numpy as np
import pytest
import torch
from archives import tgz

from mia_lightning.datasets import texas
from mia_lightning.datasets.population import Population
from mia_lightning.datasets.texas import load_texas
from mia_lightning.errors import InputError

NUM_RECORDS = 130
NOWHERE = "http://127.0.0.1:9/never-asked"


@pytest.fixture(autouse=True)
def _few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texas, "NUM_RECORDS", NUM_RECORDS)


@pytest.fixture(scope="module")
def bits() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (NUM_RECORDS, 6170))


@pytest.fixture(scope="module")
def files(bits: np.ndarray) -> dict[str, bytes]:
    """The two published files, of fewer records."""
    features = "".join(",".join(map(str, row)) + "\n" for row in bits.tolist())
    labels = "".join(f"{100 - i % 100}\n" for i in range(NUM_RECORDS))
    return {"texas/100/feats": features.encode(), "texas/100/labels": labels.encode()}


def extract(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def check(population: Population, bits: np.ndarray) -> None:
    np.testing.assert_array_equal(population.x_N.numpy(), bits)
    assert population.label_N.tolist() == [99 - i % 100 for i in range(NUM_RECORDS)]
    assert population.class_names == tuple(str(c) for c in range(1, 101))
    assert population.input_shape == (6170,)


def test_archive_extracted_files_and_download(tmp_path: Path, files: dict[str, bytes], bits: np.ndarray) -> None:
    source = tmp_path / "mirror.tgz"
    source.write_bytes(tgz(files))
    downloaded = load_texas(root=tmp_path / "downloaded", url=source.as_uri())
    check(downloaded, bits)
    assert downloaded.name == "texas"
    assert [path.name for path in (tmp_path / "downloaded").iterdir()] == ["dataset_texas.tgz"]
    check(load_texas(root=str(tmp_path / "downloaded"), url=NOWHERE), bits)
    extract(tmp_path / "extracted", files)
    population = load_texas(root=tmp_path / "extracted", url=NOWHERE, name="stays")
    check(population, bits)
    assert population.name == "stays"


def test_held_in_a_quarter_of_float32(tmp_path: Path, files: dict[str, bytes]) -> None:
    extract(tmp_path, files)
    population = load_texas(root=tmp_path)
    assert population.x_N.dtype == torch.uint8
    assert 4 * population.x_N.untyped_storage().nbytes() <= NUM_RECORDS * 6170 * 4
    assert population.records(torch.tensor([3])).dtype == torch.float32


def test_of_the_extracted_files_one_is_not_enough(tmp_path: Path, files: dict[str, bytes]) -> None:
    extract(tmp_path, {"texas/100/feats": files["texas/100/feats"]})
    absent = (tmp_path / "absent.tgz").as_uri()
    with pytest.raises(InputError, match=r"dataset_texas.tgz could not be downloaded from .*absent.tgz"):
        load_texas(root=tmp_path, url=absent)


@pytest.mark.parametrize(
    ("name", "old", "new", "found"),
    [
        ("labels", b"100\n", b"101\n", r"100 \(line 1, column 1 has '101', not a class from 1 to 100\)"),
        ("labels", b"\n1\n", b"\n2\n", r"\(class 1 has no record\)"),
        ("labels", b"100\n99\n", b"99\n", r"\(it has 128 records\)"),
        ("feats", b",0,", b",7,", r"6,170 binary features \(line 1, column \d+ has '7', not 0 or 1\)"),
        ("feats", b",0,", b",", r"\(line 1 has \d,\d{3} columns\)"),
    ],
)
def test_files_of_another_form(
    tmp_path: Path, files: dict[str, bytes], name: str, old: bytes, new: bytes, found: str
) -> None:
    path = f"texas/100/{name}"
    changed = files[path].replace(old, new)
    (tmp_path / texas.ARCHIVE).write_bytes(tgz({**files, path: changed}))
    with pytest.raises(InputError, match=rf"^'{path}' in .* of 130 records of .*{found}: delete the archive"):
        load_texas(root=tmp_path)


def test_checksum(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / texas.ARCHIVE).write_bytes(tgz(files))
    with pytest.raises(InputError, match=r"expected 0{64}\): delete it"):
        load_texas(root=tmp_path, checksum="sha256:" + "0" * 64)
