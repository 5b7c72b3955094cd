import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import torch
from archives import tgz

from mia_lightning.datasets import purchase
from mia_lightning.datasets.population import Population
from mia_lightning.datasets.purchase import load_purchase
from mia_lightning.errors import InputError
from mia_lightning.seeds import derive

NUM_RECORDS = 400


@pytest.fixture(autouse=True)
def _few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purchase, "NUM_RECORDS", NUM_RECORDS)


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """The class, 1 to 100, then 600 bits."""
    value = np.random.default_rng(0).integers(0, 2, (NUM_RECORDS, 601))
    value[:, 0] = np.arange(NUM_RECORDS) * 7 % 100 + 1
    return value


def as_csv(table: np.ndarray) -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in table.tolist()).encode()


@pytest.fixture
def root(tmp_path: Path, table: np.ndarray) -> Path:
    """A folder that holds the extracted file."""
    (tmp_path / "dataset_purchase").write_bytes(as_csv(table))
    return tmp_path


@pytest.fixture
def archive(table: np.ndarray) -> bytes:
    return tgz({"dataset_purchase": as_csv(table)})


def check(population: Population, table: np.ndarray) -> None:
    np.testing.assert_array_equal(population.x_N.numpy(), table[:, 1:])
    np.testing.assert_array_equal(population.label_N.numpy(), table[:, 0] - 1)
    assert population.class_names == tuple(str(c) for c in range(1, 101))


def test_published_labels(root: Path, table: np.ndarray) -> None:
    population = load_purchase(root=root)
    check(population, table)
    assert population.name == "purchase"
    assert [path.name for path in root.iterdir()] == ["dataset_purchase"]


def test_held_in_a_quarter_of_float32(root: Path) -> None:
    for num_classes in (100, 2):
        population = load_purchase(root=root, num_classes=num_classes)
        assert population.x_N.dtype == torch.uint8
        assert 4 * population.x_N.untyped_storage().nbytes() <= NUM_RECORDS * 600 * 4


@pytest.fixture
def url(archive: bytes, tmp_path: Path) -> str:
    mirror = tmp_path / "mirror.tgz"
    mirror.write_bytes(archive)
    return mirror.as_uri()


@pytest.mark.parametrize("with_checksum", [True, False])
def test_download(tmp_path: Path, url: str, archive: bytes, table: np.ndarray, with_checksum: bool) -> None:
    checksum = f"sha256:{hashlib.sha256(archive).hexdigest()}" if with_checksum else None
    root = tmp_path / "not" / "there"
    check(load_purchase(root=root, url=url, checksum=checksum), table)
    assert [path.name for path in root.iterdir()] == ["dataset_purchase.tgz"]
    check(load_purchase(root=root, url="http://127.0.0.1:9/never-asked", checksum=checksum), table)


def test_download_of_another_checksum(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"is not the published dataset_purchase.tgz \(MD5 "):
        load_purchase(root=tmp_path, url=url, checksum="md5:" + "0" * 32)
    assert not (tmp_path / "dataset_purchase.tgz").exists()


@pytest.mark.costly
@pytest.mark.parametrize("num_classes", [2, 10, 20, 50])
def test_clusters_are_those_of_k_means(root: Path, table: np.ndarray, num_classes: int) -> None:
    random_state = derive(3, "purchase", "clusters", num_classes) % 2**32
    expected = sklearn.cluster.KMeans(num_classes, n_init=1, random_state=random_state).fit(
        table[:, 1:].astype(np.float32)
    )
    population = load_purchase(root=root, num_classes=num_classes, seed=3)
    assert population.label_N.tolist() == expected.labels_.tolist()
    assert population.class_names == tuple(str(c) for c in range(1, num_classes + 1))
    np.testing.assert_array_equal(population.x_N.numpy(), table[:, 1:])


def clusters(root: Path, seed: int = 0) -> list[int]:
    labels: list[int] = load_purchase(root=root, num_classes=10, seed=seed).label_N.tolist()
    return labels


def caches(root: Path) -> list[Path]:
    return sorted(root.glob("*.npy"))


def test_other_seed_gives_other_clusters(root: Path) -> None:
    assert clusters(root, seed=0) != clusters(root, seed=1)
    assert len(caches(root)) == 2


def no_k_means(*_: Any, **__: Any) -> None:
    raise AssertionError("fitted again")


def test_second_call_reads_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = clusters(root)
    (cache,) = caches(root)
    assert np.load(cache).tolist() == first
    monkeypatch.setattr(sklearn.cluster, "KMeans", no_k_means)
    assert clusters(root) == first
    with pytest.raises(AssertionError, match="fitted again"):
        clusters(root, seed=1)


def test_same_clusters_without_the_cache(root: Path) -> None:
    first = clusters(root)
    caches(root)[0].unlink()
    assert clusters(root) == first


def test_altered_records_take_no_stale_cache(root: Path, table: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    clusters(root)
    altered = table.copy()
    altered[5, 5] ^= 1
    (root / "dataset_purchase").write_bytes(as_csv(altered))
    with monkeypatch.context() as patched:
        patched.setattr(sklearn.cluster, "KMeans", no_k_means)
        with pytest.raises(AssertionError, match="fitted again"):
            clusters(root)
    clusters(root)
    assert len(caches(root)) == 2


def flipped(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


def saved(array: np.ndarray, **options: bool) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue() + hashlib.sha256(array.tobytes()).digest()


DAMAGED = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-100],
    "without its checksum": lambda content: content[:-32],
    "a flipped bit": flipped,
    "text": lambda content: b"<html>",
    "a pickle": lambda content: saved(np.array([print], dtype=object)),
    "other length": lambda content: saved(np.zeros(7, np.uint8)),
    "other type": lambda content: saved(np.zeros(NUM_RECORDS)),
    "other clusters": lambda content: saved(np.full(NUM_RECORDS, 10, np.uint8)),
}


@pytest.mark.costly
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_cache_is_replaced(root: Path, damage: str) -> None:
    first = clusters(root)
    (cache,) = caches(root)
    content = cache.read_bytes()
    cache.write_bytes(DAMAGED[damage](content))
    assert clusters(root) == first
    assert cache.read_bytes() == content
    assert sorted(path.name for path in root.iterdir()) == sorted(["dataset_purchase", cache.name])


def test_folder_that_cannot_be_written_has_no_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(purchase, "write_whole", refuse)
    first = clusters(root)
    assert clusters(root) == first
    assert caches(root) == []


def test_records_too_alike_for_clusters(root: Path, table: np.ndarray) -> None:
    alike = table.copy()
    alike[:, 1:] = alike[:1, 1:]
    (root / "dataset_purchase").write_bytes(as_csv(alike))
    with pytest.raises(InputError, match=r"^the records of purchase make 1 clusters, not 10: set dataset.num_classes"):
        clusters(root)
    assert caches(root) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (b"\n8,", b"\n0,", r"line 2, column 1 has '0', not a class from 1 to 100"),
        (b"\n8,", b"\n101,", r"line 2, column 1 has '101', not a class from 1 to 100"),
        (b"\n8,", b"\nx,", r"line 2, column 1 has 'x', not a class from 1 to 100"),
        (b"\n8,", b"\n8,1,", r"line 2 has 602 columns"),
        (b"\n8,", b"\n8,1,1\n8,", r"line 2 has 3 columns"),
    ],
)
def test_file_of_another_form(root: Path, old: bytes, new: bytes, found: str) -> None:
    path = root / "dataset_purchase"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    sentence = rf"^'{path}' is not the published file of 400 records of .* 600 binary features \({found}\): delete it"
    with pytest.raises(InputError, match=sentence):
        load_purchase(root=root)
