import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mia_lightning.datasets.npz import load_npz
from mia_lightning.errors import InputError

LABEL = np.array([0, 1, 2, 1])


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "records.npz"
    np.savez(path, **{"x": np.arange(8.0).reshape(4, 2), "label": LABEL, **arrays})
    return path


def test_floats(tmp_path: Path) -> None:
    population = load_npz(path=save(tmp_path))
    assert (population.name, population.class_names) == ("records", ("0", "1", "2"))
    assert population.x_N.dtype == torch.float32
    assert population.x_N.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert population.label_N.tolist() == LABEL.tolist()
    assert population.member_N is None
    assert population.scale == 1.0


def test_own_keys_names_and_members(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    member = np.array([True, False, False, True])
    np.savez_compressed(path, a=np.eye(4, dtype=np.int32), b=LABEL.astype(np.int8), c=member)
    population = load_npz(
        path=str(path), x_key="a", label_key="b", member_key="c", name="mine", class_names=list("pqrs")
    )
    assert (population.name, population.class_names) == ("mine", ("p", "q", "r", "s"))
    assert population.x_N.dtype == torch.int32
    assert population.member_N is not None
    assert population.member_N.tolist() == member.tolist()


def test_several_arrays_are_named_tensors(tmp_path: Path) -> None:
    ids, numbers = np.array([[3, 1], [2, 0], [1, 0], [3, 3]]), np.array([[0.5], [1], [2], [4]])
    path = save(tmp_path, ids=ids, numbers=numbers)
    kinds = {"ids": {"kind": "tokens", "padding": 0, "mask": "real"}}
    (tmp_path / "folder").mkdir()
    for key, array in {"ids": ids, "numbers": numbers, "label": LABEL}.items():
        np.save(tmp_path / "folder" / f"{key}.npy", array)
    for place in (path, tmp_path / "folder"):
        population = load_npz(path=place, x_key=["ids", "numbers"], kinds=kinds)
        found = population.records(torch.arange(4))
        assert {name: value.tolist() for name, value in found.items()} == {
            "ids": ids.tolist(),
            "real": [[1, 1], [1, 0], [1, 0], [1, 1]],
            "numbers": numbers.tolist(),
        }
        assert population.label_N.tolist() == LABEL.tolist()


def test_one_array_of_a_kind(tmp_path: Path) -> None:
    ids = np.array([[3, 1], [2, 0], [1, 0], [3, 3]])
    population = load_npz(path=save(tmp_path, x=ids), kinds="tokens")
    assert population.form is not None
    assert population.form.fields[0].kind == "tokens"
    assert population.records(torch.arange(4)).tolist() == ids.tolist()
    one_name = load_npz(path=save(tmp_path, ids=ids), x_key=["ids"], kinds={"ids": "tokens"})
    assert set(one_name.records(torch.arange(4))) == {"ids"}


def test_several_arrays_that_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, ids=np.ones((4, 2), int), short=np.ones(3))
    for options, sentence in (
        ({"x_key": ["ids", "x"]}, "'ids' of population 'records' has whole numbers .*say which in kinds"),
        ({"x_key": ["x", "no"]}, "has no array 'no' .*dataset.x_key"),
        ({"x_key": ["x", "short"]}, "'x' of population 'records' has 4 records and 'short' has 3"),
        ({"x_key": []}, r"`dataset.x_key` is \[\]; it must be a name, or a list of names"),
        ({"kinds": 3.5}, r"`dataset.kinds` is 3.5; it must be a kind, or a mapping .*such as \{ids:tokens"),
        ({"x_key": ["x"], "mean": 0.5}, "mean of population 'records' has no effect"),
    ):
        with pytest.raises(InputError, match=sentence):
            load_npz(path=path, **options)


def test_images_stay_uint8_with_a_mean_for_each_channel(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 2), dtype=np.uint8)
    population = load_npz(path=save(tmp_path, x=x), mean=[0.1, 0.2, 0.3], std=0.5)
    assert population.x_N.dtype == torch.uint8
    expected = (x / 255 - np.array([0.1, 0.2, 0.3])[None, :, None, None]) / 0.5
    found = population.records(torch.arange(4), torch.float64)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "shape", "scale"),
    [
        ("uint8", (4, 2), 1.0),
        ("uint8", (4, 2, 2), 1 / 255),
        ("int16", (4, 2, 2), 1.0),
        ("f4", (4, 2, 2), 1.0),
    ],
)
def test_default_scale(tmp_path: Path, dtype: str, shape: tuple[int, ...], scale: float) -> None:
    path = save(tmp_path, x=np.full(shape, 200, dtype))
    assert load_npz(path=path).scale == scale
    assert load_npz(path=path, scale=0.25).scale == 0.25


def test_absent_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"'{tmp_path}/no.npz' is not a file: set dataset.path"):
        load_npz(path="no.npz")


@pytest.mark.parametrize("argument", ["x_key", "label_key", "member_key"])
def test_missing_key_lists_what_is_there(tmp_path: Path, argument: str) -> None:
    path = save(tmp_path)
    keys: dict[str, Any] = {argument: "y"}
    with pytest.raises(InputError, match=rf"no array 'y' \(it has 'x', 'label'\): set dataset.{argument} to"):
        load_npz(path=path, **keys)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    objects = np.empty(4, object)
    objects[:] = [Trap() for _ in range(4)]
    path = save(tmp_path, label=objects)
    with pytest.raises(InputError, match=r"cannot be read as an \.npz file without pickled objects .*: write it"):
        load_npz(path=path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "flipped", "plain npy"])
def test_damaged_file(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path)
    whole = path.read_bytes()
    if damage == "plain npy":
        with path.open("wb") as handle:
            np.save(handle, LABEL)
    else:
        middle = whole.index(b"\x93NUMPY") + 140  # inside the values of the first array
        path.write_bytes(
            {
                "empty": b"",
                "truncated": whole[: len(whole) // 2],
                "text": b"x,label\n1,2\n",
                "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            }[damage]
        )
    with pytest.raises(InputError, match=f"'{path}' cannot be read as an .npz file"):
        load_npz(path=path)


def test_labels_as_floats_are_taken_where_they_are_whole(tmp_path: Path) -> None:
    assert load_npz(path=save(tmp_path, label=LABEL.astype(float))).label_N.tolist() == LABEL.tolist()
    with pytest.raises(InputError, match=r"label of population 'records' has dtype float64 .*astype\('int64'\)"):
        load_npz(path=save(tmp_path, label=LABEL + 0.5))


def test_mean_must_fit_the_channels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset.mean has 3 numbers but the records .* shape \(2,\): give one"):
        load_npz(path=save(tmp_path), mean=[1, 2, 3])
    with pytest.raises(InputError, match=r"dataset.std has 2 numbers but .* shape \(\)"):
        load_npz(path=save(tmp_path, x=np.arange(4)), std=[1, 2])


def test_an_array_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**13, 500)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("label.npy", header.getvalue())
    with pytest.raises(InputError, match=r"huge\.npz' cannot be read as an \.npz file"):
        load_npz(path=path)
