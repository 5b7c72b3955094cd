import hashlib
import io
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from archives import tgz
from PIL import Image
from torchvision import datasets

from mia_lightning.datasets.cifar import CLASS_NAMES, load_cifar10, load_cifar100
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError

NEVER = "http://127.0.0.1:9/never-asked"
LOADERS = {"cifar10": (load_cifar10, datasets.CIFAR10), "cifar100": (load_cifar100, datasets.CIFAR100)}
both = pytest.mark.parametrize("which", LOADERS)


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and numpy 1 wrote: text as bytes, a dtype's flags as integers, `numpy.core`."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_text(self, text: str | bytes) -> None:
        text = text.encode("latin1") if isinstance(text, str) else text
        short = len(text) < 256
        self.write((b"U" + bytes([len(text)]) if short else b"T" + len(text).to_bytes(4, "little")) + text)  # type: ignore[attr-defined]
        self.memoize(text)  # type: ignore[attr-defined]

    def save_flag(self, flag: bool) -> None:
        self.save(int(flag))

    dispatch[str] = dispatch[bytes] = save_text
    dispatch[bool] = save_flag


def pickled(content: Any) -> bytes:
    packed = io.BytesIO()
    Python2Pickler(packed, 2).dump(content)
    return packed.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(seed: int, count: int, num_classes: int, **others: Any) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
        "filenames": [f"{i}.png" for i in range(count)],
        "batch_label": f"batch {seed}",
        **others,
    }


def files_of(which: str) -> dict[str, bytes]:
    if which == "cifar10":
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        content = {
            name: batch(seed, 4, 10, labels=[(seed + i) % 10 for i in range(4)]) for seed, name in enumerate(names)
        }
        meta = {"batches.meta": {"label_names": list(CLASS_NAMES), "num_cases_per_batch": 4, "num_vis": 3072}}
    else:
        content = {
            name: batch(
                *(seed, count, 100),
                fine_labels=[(seed + i) % 100 for i in range(count)],
                coarse_labels=[(seed + i) % 20 for i in range(count)],
            )
            for seed, (name, count) in enumerate({"train": 9, "test": 4}.items())
        }
        coarse = {"coarse_label_names": [f"c{i}" for i in range(20)]}
        meta = {"meta": {"fine_label_names": [f"f{i}" for i in range(100)], **coarse}}
    return {name: pickled(each) for name, each in {**content, **meta}.items()}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def archive_of(folder: str, files: dict[str, bytes]) -> bytes:
    return tgz({f"{folder}/{name}": content for name, content in {**files, "readme.html": b"<html>"}.items()}, folder)


def trust(published: Any, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Small files of the published form become the published ones; the archive of them."""
    archive = archive_of(published.base_folder, files)
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(published, part, [[name, md5(files[name])] for name, _ in getattr(published, part)])
    monkeypatch.setattr(published, "meta", {**published.meta, "md5": md5(files[published.meta["filename"]])})
    monkeypatch.setattr(published, "tgz_md5", md5(archive))
    return archive


def extract(archive: bytes, root: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extraction_filter = lambda member, _: member  # Python 3.11.3 and before have no `filter` for `extractall`
        tar.extractall(root)


def check_against_torchvision(population: Population, published: Any, archive: bytes, scratch: Path) -> None:
    extract(archive, scratch)
    parts = [published(scratch, train=train) for train in (True, False)]
    expected = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(population.x_N.numpy(), expected)
    assert population.label_N.tolist() == [label for part in parts for label in part.targets]
    assert list(population.class_names) == parts[0].classes
    assert population.x_N.dtype == torch.uint8


old_dtype = pytest.mark.filterwarnings("ignore:dtype.. align:Warning")  # torchvision reads them with this warning


@both
@old_dtype
def test_archive_is_read_without_being_extracted(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, published = LOADERS[which]
    archive = trust(published, files_of(which), monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    (root / published.filename).write_bytes(archive)
    population = load(root=str(root), url=NEVER)
    check_against_torchvision(population, published, archive, tmp_path / "scratch")
    assert [path.name for path in root.iterdir()] == [published.filename]
    assert population.name == which


@both
@old_dtype
def test_extracted_folder(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, published = LOADERS[which]
    archive = trust(published, files_of(which), monkeypatch)
    extract(archive, tmp_path)
    check_against_torchvision(load(root=tmp_path, url=NEVER), published, archive, tmp_path / "scratch")


@both
def test_download_where_it_is_absent(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, published = LOADERS[which]
    archive = trust(published, files_of(which), monkeypatch)
    source = tmp_path / "mirror.tgz"
    source.write_bytes(archive)
    root = tmp_path / "new" / "root"
    population = load(root=root, url=source.as_uri(), name="mine")
    assert (population.name, len(population)) == ("mine", {"cifar10": 24, "cifar100": 13}[which])
    assert [path.name for path in root.iterdir()] == [published.filename]
    (root / published.filename).unlink()
    source.write_bytes(archive[:-1])
    with pytest.raises(InputError, match=f"is not the published {published.filename}"):
        load(root=root, url=source.as_uri())
    assert not (root / published.filename).exists()


@both
def test_offline(which: str, tmp_path: Path) -> None:
    load, published = LOADERS[which]
    with pytest.raises(InputError, match=f"{published.filename} could not be downloaded from {NEVER} .*: put the file"):
        load(root=tmp_path, url=NEVER)


def test_coarse_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of("cifar100")
    (tmp_path / datasets.CIFAR100.filename).write_bytes(trust(datasets.CIFAR100, files, monkeypatch))
    population = load_cifar100(root=tmp_path, labels="coarse")
    assert population.class_names == tuple(f"c{i}" for i in range(20))
    assert population.label_N.tolist() == [*range(9), 1, 2, 3, 4]
    assert load_cifar100(root=tmp_path).num_classes == 100


def test_normalised_by_public_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / datasets.CIFAR10.filename).write_bytes(trust(datasets.CIFAR10, files_of("cifar10"), monkeypatch))
    population = load_cifar10(root=tmp_path)
    green = (population.x_N[:, 1].double() / 255 - 0.4822) / 0.2435
    torch.testing.assert_close(population.records(torch.arange(24))[:, 1].double(), green, rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize("change", ["empty", "truncated", "oversized", "text"])
def test_archive_that_is_not_the_published_one(
    which: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, published = LOADERS[which]
    archive = trust(published, files_of(which), monkeypatch)
    content = {"empty": b"", "truncated": archive[:-9], "oversized": archive + b"0", "text": b"<html>"}[change]
    path = tmp_path / published.filename
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"'{path}' is truncated or altered .*: delete it"):
        load(root=tmp_path, url=NEVER)
    assert [each.name for each in tmp_path.iterdir()] == [published.filename]


@pytest.mark.parametrize("change", ["no tar", "cut off", "other batch", "no batch"])
def test_archive_of_another_form(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = datasets.CIFAR10
    files = files_of("cifar10")
    archive = trust(published, files, monkeypatch)
    without = {name: content for name, content in files.items() if name != "data_batch_3"}
    content, found = {
        "no tar": (b"<html>", "not a gzip file"),
        "cut off": (archive[: len(archive) // 2], ".+"),
        "other batch": (
            archive_of(published.base_folder, {**files, "data_batch_3": b"."}),
            "'data_batch_3' is truncated",
        ),
        "no batch": (archive_of(published.base_folder, without), "'data_batch_3' is missing"),
    }[change]
    monkeypatch.setattr(published, "tgz_md5", md5(content))
    path = tmp_path / published.filename
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"'{path}' is not the published one \({found}.*\): delete it so that"):
        load_cifar10(root=tmp_path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


@both
@pytest.mark.parametrize("change", ["altered", "missing", "trap"])
def test_extracted_folder_of_something_else(
    which: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, published = LOADERS[which]
    monkeypatch.chdir(tmp_path)
    extract(trust(published, files_of(which), monkeypatch), tmp_path)
    name = published.test_list[0][0]
    path = tmp_path / published.base_folder / name
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes({"altered": path.read_bytes() + b"0", "trap": pickle.dumps(Trap())}[change])
    found = f"'{name}' cannot be read: .*" if change == "missing" else f"'{name}' is truncated or altered"
    with pytest.raises(InputError, match=rf"'{path.parent}' is not the published one \({found}\): delete it so that"):
        load(root=tmp_path, url=NEVER)
    assert not (tmp_path / "sprung").exists()


def jpeg(seed: int, side: int = 32) -> bytes:
    packed = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(packed, "JPEG")
    return packed.getvalue()


def zipped(path: Path, tree: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    return path


TREE = {
    f"{part}/{c}/0.jpg": jpeg(i) for i, (part, c) in enumerate((p, c) for p in ("test", "train") for c in CLASS_NAMES)
}


def test_zip_of_class_folders_has_the_training_part_first(tmp_path: Path) -> None:
    zipped(tmp_path / "small.zip", TREE)
    population = load_cifar10(root=tmp_path, url=NEVER)
    assert population.class_names == CLASS_NAMES
    assert population.label_N.tolist() == [*range(10), *range(10)]
    for row, name in ((0, "train/airplane"), (9, "train/truck"), (10, "test/airplane"), (19, "test/truck")):
        pixels = np.asarray(Image.open(io.BytesIO(TREE[f"{name}/0.jpg"]))).transpose(2, 0, 1)
        np.testing.assert_array_equal(population.x_N[row].numpy(), pixels)
    assert population.mean is not None
    assert population.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])


def test_published_files_go_before_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(tmp_path / "small.zip", TREE)
    (tmp_path / datasets.CIFAR10.filename).write_bytes(trust(datasets.CIFAR10, files_of("cifar10"), monkeypatch))
    assert len(load_cifar10(root=tmp_path)) == 24


def test_two_zips(tmp_path: Path) -> None:
    shutil.copy(zipped(tmp_path / "a.zip", TREE), tmp_path / "b.zip")
    with pytest.raises(InputError, match=rf"'{tmp_path}' holds 2 zip files \(a\.zip, b\.zip\): leave the one"):
        load_cifar10(root=tmp_path)


def test_zip_of_other_classes(tmp_path: Path) -> None:
    tree = {name.replace("truck", "lorry"): content for name, content in TREE.items()}
    with pytest.raises(
        InputError, match=r"has the class folders .*lorry.* and not those of CIFAR-10 \(.*truck\): rename"
    ):
        load_cifar10(root=zipped(tmp_path / "a.zip", tree).parent)


def test_zip_of_other_sizes(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", {name: jpeg(0, 28) for name in TREE})
    with pytest.raises(InputError, match="has images of 28 x 28 pixels where CIFAR-10 has 32 x 32: use dataset=images"):
        load_cifar10(root=tmp_path)
    zipped(tmp_path / "a.zip", {**TREE, "train/truck/1.jpg": jpeg(0, 28)})
    with pytest.raises(InputError, match=r"'train/truck/1\.jpg' in .* has 28 x 28 pixels but .* has 32 x 32"):
        load_cifar10(root=tmp_path)


@pytest.mark.slow
def test_real_zip_against_pillow(shared_data: Path) -> None:
    path = shared_data / "cifar10" / "cifar10-30k-images.zip"
    population = load_cifar10(root=path.parent, url=NEVER)
    assert (len(population), population.input_shape) == (30_000, (3, 32, 32))
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        names = [name for part in ("train", "test") for name in sorted(names) if name.startswith(part)]
        assert len(names) == 30_000
        assert [name.split("/")[1] for name in names] == [population.class_names[c] for c in population.label_N]
        for row in range(0, 30_000, 997):
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(names[row]))).convert("RGB"))
            assert population.x_N[row].long().sum() == pixels.astype(np.int64).sum()
            np.testing.assert_array_equal(population.x_N[row].numpy(), pixels.transpose(2, 0, 1))
