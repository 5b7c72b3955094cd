import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import as_folder, as_zip
from PIL import Image

from mia_lightning.datasets import class_folders
from mia_lightning.datasets.images import image_names, load_images
from mia_lightning.errors import InputError


def encoded(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, form, **options)
    return packed.getvalue()


def picture(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (4, 6, 3), dtype=np.uint8)


# Sorted by path; PNG keeps every pixel.
TREE = {
    "test/cat/b.png": encoded(picture(0)),
    "test/dog/a.png": encoded(picture(1)),
    "train/ant/z.PNG": encoded(picture(2)),
    "train/cat/10.png": encoded(picture(3)),
    "train/cat/9.png": encoded(picture(4)),
}
PASSED_OVER = {
    ".DS_Store": b"",
    "train/cat/._9.png": b"fork",
    "__MACOSX/train/cat/9.png": b"fork",
    ".git/hooks/x.sh": b"",
}


packings = pytest.mark.parametrize("pack", [as_folder, as_zip], ids=["folder", "zip"])
Pack = Callable[[Path, dict[str, bytes]], Path]


@packings
def test_tree(pack: Pack, tmp_path: Path) -> None:
    population = load_images(path=pack(tmp_path / "pets", {**TREE, **PASSED_OVER}))
    assert (population.name, population.class_names) == ("pets", ("ant", "cat", "dog"))
    assert population.label_N.tolist() == [1, 2, 0, 1, 1]
    assert population.x_N.dtype == torch.uint8
    expected = np.stack([picture(seed) for seed in range(5)]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(population.x_N.numpy(), expected)
    assert (population.scale, population.mean, population.std) == (1 / 255, None, None)
    names = ["pets.zip"] if pack is as_zip else ["pets"]
    assert [path.name for path in tmp_path.iterdir()] == names


@packings
def test_subfolder(pack: Pack, tmp_path: Path) -> None:
    tree = {**TREE, "README.txt": b"outside", "training/elk/a.png": TREE["test/cat/b.png"]}
    population = load_images(path=str(pack(tmp_path / "pets", tree)), folder="train/", name="mine")
    assert (population.name, population.class_names) == ("mine", ("ant", "cat"))
    assert population.label_N.tolist() == [0, 1, 1]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_forms(form: str, tmp_path: Path) -> None:
    pixels = picture(0, 16, 16, 3)
    suffix = {"JPEG": "jpg"}.get(form, form.lower())
    tree = {f"{c}/1.{suffix}": encoded(pixels, form) for c in "ab"}
    found = load_images(path=as_folder(tmp_path / "x", tree)).x_N[0].permute(1, 2, 0).numpy()
    with Image.open(io.BytesIO(tree[f"a/1.{suffix}"])) as image:
        np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("size", [3, [3, 5], (3, 5)])
@pytest.mark.parametrize("grayscale", [False, True])
def test_resized(size: Any, grayscale: bool, tmp_path: Path) -> None:
    tree = {
        "a/1.png": encoded(picture(0)),
        "b/1.png": encoded(picture(1, 9, 2, 3)),
        "b/2.png": encoded(picture(2, 7, 7)),
    }
    population = load_images(path=as_folder(tmp_path / "x", tree), size=size, grayscale=grayscale)
    h, w = (3, 3) if size == 3 else (3, 5)
    assert population.input_shape == (1 if grayscale else 3, h, w)
    for content, found in zip(tree.values(), population.x_N.numpy(), strict=True):
        image = Image.open(io.BytesIO(content)).convert("L" if grayscale else "RGB")
        expected = np.atleast_3d(np.asarray(image.resize((w, h), Image.Resampling.BILINEAR)))
        np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_grey_one_bit_palette_and_transparent_images_become_colour(tmp_path: Path) -> None:
    grey = picture(0, 4, 6)
    palette = Image.fromarray(picture(1)).quantize(7)
    packed = io.BytesIO()
    palette.save(packed, "PNG", transparency=bytes([0, 128, 255, 255, 255, 255, 255]))
    tree = {
        "a/1.png": encoded(grey),
        "a/2.png": encoded(grey > 127),
        "b/3.png": packed.getvalue(),
        "b/4.png": encoded(picture(2, 4, 6, 4)),
    }
    x_N = load_images(path=as_folder(tmp_path / "x", tree)).x_N.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(x_N[0], np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(x_N[1], np.stack([(grey > 127) * 255] * 3, -1))
    np.testing.assert_array_equal(x_N[2], np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(x_N[3], picture(2, 4, 6, 4)[..., :3])


def test_what_is_left_out_of_images_is_counted(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    see_through = np.full((4, 6, 4), 255, np.uint8)
    see_through[0, 0, 3] = 254
    tree = {
        "cat/a.jpg": encoded(picture(0), "JPEG", exif=turned),
        "cat/b.png": encoded(see_through),
        "dog/c.png": encoded(np.full((4, 6, 4), 255, np.uint8)),
        "dog/d.jpg": encoded(picture(1), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff"),  # damaged, which is no matter
    }
    population = load_images(path=as_folder(tmp_path / "pets", tree))
    first, second = population.remarks
    assert "1 of 4" in first
    assert "EXIF" in first
    assert "1 of 4" in second
    assert "transparen" in second
    assert [each.has_N.tolist() for each in population.marks] == [[True, *[False] * 3], [False, True, False, False]]


def test_name_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(as_folder(tmp_path / "my.pets", TREE))
    assert load_images(path=".").name == "my.pets"


def test_class_folder_that_is_a_link(tmp_path: Path) -> None:
    place = as_folder(tmp_path / "x", TREE)
    (place / "train" / "eel").symlink_to(place / "test" / "dog")
    assert load_images(path=place, folder="train").class_names == ("ant", "cat", "eel")


@packings
def test_another_size_names_both(pack: Pack, tmp_path: Path) -> None:
    place = pack(tmp_path / "x", {**TREE, "train/cat/95.png": encoded(picture(0, 5, 6, 3))})
    sentence = rf"'train/cat/95\.png' in '{place}' has 5 x 6 pixels but 'test/cat/b\.png' has 4 x 6: set dataset"
    with pytest.raises(InputError, match=sentence):
        load_images(path=place)


def bomb() -> bytes:
    """A PNG file that announces 20,000 x 20,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1 << 16) + b"IDAT" + bytes(100)


WHOLE = TREE["test/cat/b.png"]
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot identify image file"),
    "text": (b"<html>", "cannot identify image file"),
    "truncated": (WHOLE[:-30], ".+"),
    "altered": (WHOLE[:45] + b"????" + WHOLE[49:], ".+"),
    "another format": (encoded(picture(0), "TIFF"), "cannot identify image file"),
    "16 bits": (encoded(picture(0, 4, 6).astype(np.uint16) * 200), "it has more than 8 bits for each channel"),
    "bomb": (bomb(), "Image size .* exceeds limit"),
}


@packings
@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_image(case: str, pack: Pack, tmp_path: Path) -> None:
    content, reason = UNREADABLE[case]
    place = pack(tmp_path / "x", {**TREE, "train/cat/bad.png": content})
    with pytest.raises(
        InputError, match=rf"'train/cat/bad\.png' in '{place}' cannot be read as an image \({reason}"
    ) as e:
        load_images(path=place)
    assert "\n" not in str(e.value)
    assert "0x" not in str(e.value)


def test_what_pillow_only_warns_of_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings(record=True) as caught, pytest.raises(InputError, match=r"\(Image size \(24 pixels\)"):
        load_images(path=as_folder(tmp_path / "x", TREE))
    assert not caught


@packings
def test_file_too_large(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_folders, "_LARGEST_FILE", 1000)
    place = pack(tmp_path / "x", {**TREE, "train/cat/bad.png": bytes(1001)})
    with pytest.raises(InputError, match=r"bad\.png' .*\(it has 1001 bytes, more than 1000\): replace it"):
        load_images(path=place)


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    place = as_folder(tmp_path / "x", TREE)
    os.mkfifo(place / "train" / "cat" / "pipe.png")
    with pytest.raises(InputError, match=r"'train/cat/pipe\.png' .*\(it is no plain file\)"):
        load_images(path=place)


MISPLACED: dict[str, tuple[dict[str, bytes], dict[str, Any], str]] = {
    "other file": (
        {**TREE, "train/cat/notes.txt": b""},
        {},
        r"'train/cat/notes\.txt' in '.*' is none of \.png, .*: convert",
    ),
    "no ending": ({**TREE, "LICENSE": b""}, {}, "'LICENSE' in '.*' is none of .* take it out, or set dataset.folder"),
    "no class": ({**TREE, "a.png": WHOLE}, {}, r"'a\.png' in '.*' lies in no class folder: put it into"),
    "no class below": (TREE, {"folder": "train/cat"}, r"'train/cat/10\.png' in '.*' lies in no class folder"),
    "no images": (PASSED_OVER, {}, "'.*' has no images: give each class a folder"),
    "no such folder": (TREE, {"folder": "val"}, r"has no images below the folder 'val' \(dataset\.folder\): give"),
    "folder above": (TREE, {"folder": "../x"}, "has no images below"),
    "one class": ({"a/1.png": WHOLE, "a/2.png": WHOLE}, {}, "population 'x' has 1 class"),
}


@packings
@pytest.mark.parametrize("case", MISPLACED)
def test_misplaced(case: str, pack: Pack, tmp_path: Path) -> None:
    tree, arguments, sentence = MISPLACED[case]
    with pytest.raises(InputError, match=sentence):
        load_images(path=pack(tmp_path / "x", tree), **arguments)


@pytest.mark.parametrize("size", [[3], [3, 4, 5], [3, 0], [3, 2.5], 20_000])
def test_size_that_is_none(size: Any, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"`dataset\.size` is .*; it must be a whole number of pixels from 1 to 16384, or"
    ):
        load_images(path=as_folder(tmp_path / "x", TREE), size=size)


def test_absent_path_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"'{tmp_path}/no.zip' is not there: set dataset.path"):
        load_images(path="no.zip")


def test_link_in_a_circle(tmp_path: Path) -> None:
    place = as_folder(tmp_path / "x", TREE)
    (place / "train" / "all").symlink_to(place)
    with pytest.raises(InputError, match=rf"'{place}/train/all' is a link to a folder above it: remove the link"):
        load_images(path=place)


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = as_folder(tmp_path / "x", TREE)
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        InputError, match=rf"'{place}/(test|train)/cat' cannot be read \(.*Permission denied.*\): make it"
    ):
        load_images(path=place)


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a/b.png", "..\\a\\b.png", "a/.."])
def test_paths_that_lead_out_of_a_zip_file(name: str, tmp_path: Path) -> None:
    place = as_zip(tmp_path / "x", {**TREE, name: WHOLE})
    with pytest.raises(InputError, match=r"x\.zip' has the entry '.*', which leads out of it: pack it again"):
        load_images(path=place)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_entry_that_is_there_twice(tmp_path: Path) -> None:
    place = as_zip(tmp_path / "x", TREE)
    with zipfile.ZipFile(place, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("train/cat/9.png", WHOLE)
    with pytest.raises(InputError, match=r"has the entry 'train/cat/9\.png' twice: pack it again"):
        load_images(path=place)


def test_encrypted_entry(tmp_path: Path) -> None:
    place = as_zip(tmp_path / "x", TREE)
    content = bytearray(place.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(signature) + at] |= 1
    place.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as an image \(it is encrypted\): replace it"):
        load_images(path=place)


@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_file_that_is_no_zip(damage: str, tmp_path: Path) -> None:
    place = as_zip(tmp_path / "x", TREE)
    whole = place.read_bytes()
    place.write_bytes({"empty": b"", "truncated": whole[:-100], "text": b"images"}[damage])
    with pytest.raises(
        InputError, match=rf"'{place}' is neither a folder nor a whole zip file \(.+\): set dataset.path"
    ):
        load_images(path=place)


def test_altered_entry(tmp_path: Path) -> None:
    place = as_zip(tmp_path / "x", TREE)
    whole = place.read_bytes()
    at = whole.index(WHOLE) + 50
    place.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(
        InputError, match=r"'test/cat/b\.png' in .* cannot be read as an image \(Bad CRC-32.*\): replace"
    ):
        load_images(path=place)


@pytest.mark.slow
def test_real_pictures_against_pillow(shared_data: Path) -> None:
    path = shared_data / "cifar10" / "cifar10-30k-images.zip"
    population = load_images(path=path, folder="test", size=16, grayscale=True)
    assert (len(population), population.input_shape) == (5000, (1, 16, 16))
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("test/") and name.endswith(".jpg"))
        assert [population.class_names[c] for c in population.label_N] == [name.split("/")[1] for name in names]
        for number in range(0, 5000, 250):
            image = Image.open(io.BytesIO(archive.read(names[number]))).convert("L").resize((16, 16), 2)
            assert int(population.x_N[number].sum()) == int(np.asarray(image, np.int64).sum())


def test_a_mean_and_a_deviation_for_each_channel(tmp_path: Path) -> None:
    population = load_images(path=as_folder(tmp_path / "pets", TREE), mean=[0.1, 0.2, 0.3], std=0.5)
    pixels = np.stack([picture(seed) for seed in range(5)]).transpose(0, 3, 1, 2)
    expected = (pixels / 255 - np.array([0.1, 0.2, 0.3])[:, None, None]) / 0.5
    np.testing.assert_allclose(population.records(torch.arange(5)).numpy(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"dataset.std has 2 numbers but the records .* shape \(1, 4, 6\)"):
        load_images(path=tmp_path / "pets", grayscale=True, std=[0.5, 0.5])


def test_records_are_named_by_their_paths_before_anything_is_decoded(tmp_path: Path) -> None:
    for name, content in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert load_images(path=tmp_path).record_names == tuple(sorted(TREE))
    for name in TREE:
        (tmp_path / name).write_bytes(b"no image")
    assert image_names(path=tmp_path, size=4) == tuple(sorted(TREE))
    assert image_names(path=tmp_path, folder="train") == ("train/ant/z.PNG", "train/cat/10.png", "train/cat/9.png")
    with pytest.raises(InputError, match=r"has no images below the folder 'none'"):
        image_names(path=tmp_path, folder="none")
