import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from mia_lightning.datasets import mnist
from mia_lightning.datasets.mnist import load_mnist
from mia_lightning.errors import InputError

NEVER = "http://127.0.0.1:9/never-asked"
NUM_RECORDS = {"train": 20, "t10k": 8}
NAMES = [file for file, _ in datasets.MNIST.resources]


@pytest.mark.slow
def test_real_files_against_their_bytes(shared_data: Path) -> None:
    population = load_mnist(root=shared_data, url=NEVER)
    assert (len(population), population.input_shape, population.num_classes) == (70_000, (1, 28, 28), 10)
    assert population.x_N.dtype == torch.uint8
    raw = shared_data / "MNIST" / "raw"
    images = b"".join(gzip.decompress((raw / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:] for part in NUM_RECORDS)
    labels = b"".join(gzip.decompress((raw / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:] for part in NUM_RECORDS)
    assert population.x_N.numpy().tobytes() == images
    assert population.label_N.tolist() == list(labels)
    # Whatever their order, these are the counts and the brightness that the originals are known for.
    assert population.label_N[:60_000].bincount().tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert population.label_N[60_000:].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert population.x_N[:60_000].double().mean() / 255 == pytest.approx(0.1307, abs=5e-5)


def idx(values: np.ndarray) -> bytes:
    """As the format is described: two zeros, 8 for bytes, the number of axes, their lengths, the bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The four files, not gzipped, by their published names."""
    generator = np.random.default_rng(0)
    found = {}
    for part, count in NUM_RECORDS.items():
        found[f"{part}-images-idx3-ubyte.gz"] = idx(generator.integers(0, 256, (count, 28, 28)))
        found[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(count) % 10)
    return found


@pytest.fixture
def raw(tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mnist, "NUM_RECORDS", NUM_RECORDS)
    return write(tmp_path / "root", files)


def write(root: Path, files: dict[str, bytes]) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        (raw / name).write_bytes(gzip.compress(content, mtime=0))
    return raw


@pytest.fixture
def published(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that serves the four files, whose checksums are the expected ones."""
    checksums = {name: f"md5:{hashlib.md5((raw / name).read_bytes()).hexdigest()}" for name in NAMES}
    monkeypatch.setattr(mnist, "_CHECKSUMS", checksums)
    return raw


def root_of(raw: Path) -> Path:
    return raw.parents[1]


def test_gzipped_and_plain_files_against_torchvision(raw: Path) -> None:
    gzipped = load_mnist(root=str(root_of(raw)), name="digits")
    for name in NAMES:
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress((raw / name).read_bytes()))
        (raw / name).unlink()
    plain = load_mnist(root=root_of(raw))
    parts = [datasets.MNIST(root_of(raw), train=train) for train in (True, False)]
    for population in (gzipped, plain):
        assert torch.equal(population.x_N[:, 0], torch.cat([part.data for part in parts]))
        assert torch.equal(population.label_N, torch.cat([part.targets for part in parts]))
    assert (gzipped.name, gzipped.class_names) == ("digits", tuple("0123456789"))


def test_normalised_by_public_constants(raw: Path) -> None:
    population = load_mnist(root=root_of(raw))
    expected = (population.x_N.double() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(population.records(torch.arange(28)).double(), expected, rtol=1e-5, atol=1e-5)


def test_folder_that_cannot_be_written(raw: Path) -> None:
    raw.chmod(0o555)
    assert len(load_mnist(root=root_of(raw))) == 28
    raw.chmod(0o755)


def test_download_where_they_are_absent(published: Path, tmp_path: Path) -> None:
    population = load_mnist(root=tmp_path / "new", url=f"{published.as_uri()}/")
    assert torch.equal(population.x_N, load_mnist(root=root_of(published)).x_N)
    assert sorted(path.name for path in (tmp_path / "new/MNIST/raw").iterdir()) == sorted(NAMES)


def test_second_mirror(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{NEVER}/", f"{published.as_uri()}/"])
    assert len(load_mnist(root=tmp_path / "new")) == 28


def test_interrupted_download_is_completed(published: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "MNIST" / "raw"
    new.mkdir(parents=True)
    (new / NAMES[1]).write_bytes((published / NAMES[1]).read_bytes())
    assert len(load_mnist(root=root_of(new), url=published.as_uri())) == 28


def test_files_of_two_origins_are_not_mixed(published: Path, tmp_path: Path, files: dict[str, bytes]) -> None:
    others = {**files, NAMES[0]: idx(np.zeros((20, 28, 28)))}
    raw = write(tmp_path / "new", others)
    (raw / NAMES[1]).unlink()
    sentence = (
        rf"{NAMES[1]}' is missing and '{NAMES[0]}' beside it is not the published gzipped file, .*: add the missing"
    )
    with pytest.raises(InputError, match=sentence):
        load_mnist(root=root_of(raw), url=published.as_uri())
    assert not (raw / NAMES[1]).exists()


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{NEVER}/1", f"{NEVER}/2"])
    sentence = rf"{NAMES[0]} could not be downloaded from {NEVER}/1/{NAMES[0]} \(.*\): put the file {NAMES[0]} into"
    with pytest.raises(InputError, match=sentence):
        load_mnist(root=tmp_path)


def test_download_of_something_else(published: Path, tmp_path: Path) -> None:
    (published / NAMES[2]).write_bytes(b"<html>")
    with pytest.raises(InputError, match=f"is not the published {NAMES[2]}"):
        load_mnist(root=tmp_path / "new", url=published.as_uri())
    assert not (tmp_path / "new" / "MNIST" / "raw" / NAMES[2]).exists()


def with_header(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + struct.pack(">I", value) + content[at + 4 :]


IMAGES, LABELS = NAMES[0], NAMES[1]
MALFORMED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "empty": (IMAGES, lambda content: b"", "it is too short for a header"),
    "header cut off": (IMAGES, lambda content: content[:10], "it is too short for a header"),
    "magic": (IMAGES, lambda content: with_header(content, 0, 0x0801), "its header is 00000801 .*, not 00000803 .*"),
    "labels for images": (LABELS, lambda content: with_header(content, 0, 0x0803), "its header is 00000803"),
    "fewer images": (IMAGES, lambda content: with_header(content, 4, 19), "its header is 00000803 00000013"),
    "other width": (IMAGES, lambda content: with_header(content, 12, 29), "its header is .* 0000001d, not"),
    "labels not as many as images": (LABELS, lambda content: idx(np.zeros(19)), "its header is 00000801 00000013"),
    "truncated": (IMAGES, lambda content: content[:-1], "15679 bytes follow the header where 15680 belong"),
    "oversized": (IMAGES, lambda content: content + b"0", "more bytes follow the header where 15680 belong"),
    "label": (LABELS, lambda content: content[:-1] + b"\x0a", "label 10 of record 19 is not a digit from 0 to 9"),
}


@pytest.mark.parametrize("plain", [False, True], ids=["gzipped", "plain"])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file(case: str, plain: bool, raw: Path, files: dict[str, bytes]) -> None:
    name, change, found = MALFORMED[case]
    content = change(files[name])
    path = raw / (name.removesuffix(".gz") if plain else name)
    path.write_bytes(content if plain else gzip.compress(content))
    with pytest.raises(
        InputError, match=rf"'{path}' cannot be read as the IDX file of that name \({found}.*\): delete"
    ):
        load_mnist(root=root_of(raw), url=NEVER)


@pytest.mark.parametrize("damage", ["truncated", "altered", "not gzip"])
def test_damaged_gzip(damage: str, raw: Path) -> None:
    path = raw / NAMES[3]
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[:-9], "altered": whole[:12] + b"\xff" * 4 + whole[16:], "not gzip": b"<html>"}[damage]
    )
    with pytest.raises(
        InputError, match=rf"'{path}' cannot be read as the IDX file of that name \(.+\): delete it"
    ) as caught:
        load_mnist(root=root_of(raw), url=NEVER)
    assert "\n" not in str(caught.value)
