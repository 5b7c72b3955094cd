"""Recordings from files that the tests write, against what was written and scipy's resampling."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import scipy.signal
import soundfile
import torch
from archives import as_folder, as_zip
from torch import Tensor

from mia_lightning.datasets.audio import load_audio, recording_names
from mia_lightning.datasets.own import filling
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.tasks import Regression

RATE = 8000


def noise(seed: int, frames: int, channels: int = 1) -> np.ndarray:
    """int16 `[frames, channels]`, far from the full scale."""
    return np.random.default_rng(seed).integers(-9000, 9000, (frames, channels), dtype=np.int16)


def encoded(sample: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    packed = io.BytesIO()
    soundfile.write(packed, sample, rate, format=form, subtype=subtype)
    return packed.getvalue()


TREE = {
    "test/no/b.wav": encoded(noise(0, 800)),
    "train/maybe/a.FLAC": encoded(noise(1, 800), form="FLAC"),
    "train/no/10.wav": encoded(noise(2, 800)),
    "train/no/9.wav": encoded(noise(3, 800)),
}
PASSED_OVER = {".DS_Store": b"", "__MACOSX/train/no/9.wav": b"fork"}


def load(path: Path, **settings: Any) -> Population:
    return load_audio(**{"path": path, "sample_rate": RATE, "seconds": 0.1, **settings})


def load_tree(tmp_path: Path, tree: dict[str, bytes], **settings: Any) -> Population:
    """Two classes of the files, with one more recording of each."""
    usual = {"no/quiet.wav": encoded(noise(7, 800)), "yes/quiet.wav": encoded(noise(8, 800))}
    return load(as_folder(tmp_path / "x", {**usual, **tree}), **settings)


def row(population: Population, name: str) -> np.ndarray:
    return population.x_N[population.record_names.index(name)].numpy()


@pytest.mark.parametrize("pack", [as_folder, as_zip])
def test_class_folders(pack: Any, tmp_path: Path) -> None:
    place = pack(tmp_path / "words", {**TREE, **PASSED_OVER})
    population = load(place)
    assert (population.name, population.class_names) == ("words", ("maybe", "no"))
    assert population.label_N.tolist() == [1, 0, 1, 1]
    assert population.record_names == recording_names(path=place) == tuple(TREE)
    np.testing.assert_array_equal(population.x_N.numpy(), [noise(seed, 800)[:, 0] for seed in range(4)])
    assert population.remarks == ()
    assert population.form is not None
    (field,) = population.form.fields
    assert (field.kind, field.dtype, field.shape, field.sample_rate) == ("waveform", torch.int16, (800,), RATE)
    seen = population.records(torch.tensor([2]))
    assert isinstance(seen, Tensor)
    np.testing.assert_array_equal(seen[0].numpy(), (noise(2, 800)[:, 0] / 2**15).astype(np.float32))


def test_a_subfolder_and_a_name(tmp_path: Path) -> None:
    tree = {**TREE, "README.txt": b"outside", "train/yes/a.wav": TREE["test/no/b.wav"]}
    population = load(as_folder(tmp_path / "words", tree), folder="train/", name="mine")
    assert (population.name, population.class_names) == ("mine", ("maybe", "no", "yes"))
    assert len(population) == 4


def test_channels_are_averaged(tmp_path: Path) -> None:
    population = load_tree(tmp_path, {"no/two.wav": encoded(noise(1, 800, 2))})
    np.testing.assert_array_equal(row(population, "no/two.wav"), np.rint(noise(1, 800, 2).astype(float).mean(1)))


@pytest.mark.parametrize("rate", [44100, 11025, 7999, 4000])
@pytest.mark.parametrize("frames", [20_000, 900])
def test_resampled_as_by_scipy_and_then_cut_or_filled_up(rate: int, frames: int, tmp_path: Path) -> None:
    sample = noise(5, frames)
    population = load_tree(tmp_path, {"no/other.wav": encoded(sample, rate)}, seconds=0.15)
    shared = np.gcd(rate, RATE)
    whole = scipy.signal.resample_poly(sample[:, 0] / 2**15, RATE // shared, rate // shared) * 2**15
    expected = np.zeros(1200)
    expected[: min(1200, len(whole))] = np.rint(whole[:1200])
    np.testing.assert_array_equal(row(population, "no/other.wav"), expected)
    told = "longer than 0.15 s" if len(whole) > 1200 else "shorter than 0.15 s"
    (about,) = [remark for remark in population.remarks if told in remark]
    assert about.startswith("1 of 3" if len(whole) > 1200 else "3 of 3")
    (about,) = [remark for remark in population.remarks if "resampled" in remark]
    assert about.startswith("1 of 3 recordings is resampled to 8000 Hz (`dataset.sample_rate`), from ")
    assert f"{rate} Hz (1)" in about


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_forms(form: str, subtype: str, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    name = f"no/tone.{form.lower()}"
    population = load_tree(tmp_path, {name: encoded(tone, form=form, subtype=subtype)}, seconds=1.0)
    spectrum = np.abs(np.fft.rfft(row(population, name) / 2**15)) / RATE
    assert int(spectrum.argmax()) == 440
    assert spectrum.max() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ALAW"])
def test_other_widths_of_samples(subtype: str, tmp_path: Path) -> None:
    sample = noise(4, 800).astype(np.float64) / 2**15
    population = load_tree(tmp_path, {"no/wide.wav": encoded(sample, subtype=subtype)})
    tolerance = {"PCM_U8": 2**8, "ALAW": 2**9}.get(subtype, 1)
    np.testing.assert_allclose(row(population, "no/wide.wav"), noise(4, 800)[:, 0], atol=tolerance)


def test_what_is_beyond_the_full_scale_stays_at_its_ends(tmp_path: Path) -> None:
    sample = np.tile([1.5, -1.5], 400)
    population = load_tree(tmp_path, {"no/loud.wav": encoded(sample, subtype="FLOAT")})
    assert set(row(population, "no/loud.wav").tolist()) == {2**15 - 1, -(2**15)}


def wave(peak: float, frames: int = 800) -> np.ndarray:
    return peak * np.sin(2 * np.pi * 50 * np.arange(frames) / RATE)


REMARKED: dict[str, tuple[np.ndarray, str | None]] = {
    "silent": (np.zeros(800), r"1 of 3 recordings is silent, .* \('no/it\.wav'\)\.$"),
    "nearly silent": (wave(2**-11), "1 of 3 recordings is silent"),
    "quiet": (wave(2**-9), None),
    "silent in what is read": (np.concatenate([np.zeros(800), wave(0.5)]), "1 of 3 recordings is silent"),
    "channels that cancel out": (np.stack([wave(0.5), -wave(0.5)], 1), "1 of 3 recordings is silent"),
    "clipped": (wave(2.0).clip(-1, 1), r"1 of 3 recordings is clipped, .* \('no/it\.wav'\)\.$"),
    "a peak at the full scale": (np.concatenate([[1.0, -1.0], wave(0.5, 798)]), None),
    "of two samples": (np.array([1.0, 1.0]), None),
}


@pytest.mark.parametrize("case", REMARKED)
def test_recordings_that_are_silent_or_clipped_are_named(case: str, tmp_path: Path) -> None:
    sample, sentence = REMARKED[case]
    population = load_tree(tmp_path, {"no/it.wav": encoded(sample)})
    found = [each for each in population.remarks if "silent" in each or "clipped" in each]
    assert len(found) == (sentence is not None)
    if sentence is not None:
        with pytest.raises(InputError, match=sentence):
            raise InputError(found[0])


def test_silence_alone_is_refused(tmp_path: Path) -> None:
    tree = {f"{c}/1.wav": encoded(np.zeros(800)) for c in ("no", "yes")}
    with pytest.raises(InputError, match=r"all 2 recordings of '.*/x' are silent .*`dataset\.seconds`"):
        load(as_folder(tmp_path / "x", tree))


WHOLE = encoded(noise(0, 8000), form="FLAC")
WAV = encoded(noise(0, 800))
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "Format not recognised"),
    "text": (b"<html>", "Format not recognised"),
    "truncated": (WHOLE[:4000], ".+"),
    "a truncated WAV": (WAV[:1000], "it ends after 956 of 1600 bytes of sound"),
    "no samples": (encoded(noise(0, 0)), "it holds no samples"),
    "no number": (encoded(np.array([0.1, np.nan]), subtype="FLOAT"), "it has a sample that is no finite number"),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("pack", [as_folder, as_zip])
def test_what_is_no_recording_is_refused(case: str, pack: Any, tmp_path: Path) -> None:
    content, reason = UNREADABLE[case]
    place = pack(tmp_path / "x", {**TREE, "train/no/bad.wav": content})
    with pytest.raises(
        InputError, match=rf"'train/no/bad\.wav' in '{place}' cannot be read as a recording \({reason}.*\): replace it"
    ) as e:
        load(place, seconds=1.0)
    assert "\n" not in str(e.value)
    assert "0x" not in str(e.value)


def test_a_recording_that_was_written_to_a_pipe_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    piped = WAV[:40] + b"\xff" * 4 + WAV[44:]
    population = load_tree(tmp_path, {"no/whole.wav": WAV, "no/piped.wav": piped})
    assert np.array_equal(row(population, "no/piped.wav"), row(population, "no/whole.wav"))


def test_a_file_that_is_not_there_is_named_where_it_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,word\n0.wav,a\n1.wav,b\n")
    with pytest.raises(InputError, match=r"'0\.wav' in .*since '.*/sounds/0\.wav' is not there"):
        load(tmp_path / "list.csv", path_column="file", label_column="word", folder="sounds")


MISPLACED: dict[str, tuple[dict[str, bytes], dict[str, Any], str]] = {
    "other file": ({**TREE, "train/no/a.txt": b""}, {}, r"'train/no/a\.txt' in '.*' is none of \.wav, .* recordings"),
    "no class": ({**TREE, "a.wav": b""}, {}, r"'a\.wav' in '.*' lies in no class folder"),
    "no recordings": (PASSED_OVER, {}, "has no recordings: give each class a folder of recordings"),
    "one class": ({"no/1.wav": WHOLE}, {}, "has recordings of one class alone, 'no'"),
    "too short": (TREE, {"seconds": 1e-5}, r"`dataset\.seconds` is 1e-05, which is 0 samples at 8000 Hz"),
    "too long": (TREE, {"seconds": 1e9}, r"`dataset\.seconds` is 1000000000\.0, which is .* samples"),
    "no rate": (TREE, {"sample_rate": 0}, r"`dataset\.sample_rate` is 0"),
    "a column of no table": (
        TREE,
        {"label_column": "word"},
        r"`dataset\.label_column` is set, but not `dataset\.path_",
    ),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_folders_and_settings_that_do_not_fit(case: str, tmp_path: Path) -> None:
    tree, settings, sentence = MISPLACED[case]
    with pytest.raises(InputError, match=sentence):
        load(as_folder(tmp_path / "x", tree), **settings)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not there: set dataset\.path to a folder or a \.zip file of recordings"):
        load(tmp_path / "none")
    with pytest.raises(InputError, match=r"is not a file: set dataset\.path to the table"):
        load(tmp_path / "none.csv", path_column="file", label_column="word")
    table = tmp_path / "list.csv"
    table.write_text("file,word\n0.wav,a\n")
    with pytest.raises(InputError, match=r"list\.csv' is neither .*dataset\.path_column"):
        load(table)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(InputError, match=r"dataset=audio needs soundfile.*pip install 'mia-lightning\[audio\]'"):
        load(as_folder(tmp_path / "x", TREE))


def mapping_of(x: Tensor) -> str:
    """The line of the system's list of mapped memory in which a tensor lies."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        if start <= x.data_ptr() < end:
            return line
    raise LookupError


def test_large_sets_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = as_folder(tmp_path / "x", TREE)
    in_memory = load(place)
    monkeypatch.setattr(filling, "MAPPED_BYTES", 1000)
    mapped = load(place)
    assert torch.equal(mapped.x_N, in_memory.x_N)
    assert "(deleted)" in mapping_of(mapped.x_N)
    assert "(deleted)" not in mapping_of(in_memory.x_N)


ROWS = [
    {"file": "test/no/b.wav", "word": "no", "who": "eve", "used": "1", "key": "k0"},
    {"file": "train/maybe/a.FLAC", "word": "maybe", "who": "bob", "used": "0", "key": "k1"},
    {"file": "train/no/9.wav", "word": "no", "who": "eve", "used": "1", "key": "k2"},
    {"file": "train/no/10.wav", "word": "no", "who": "ann", "used": "0", "key": "k3"},
]
COLUMNS = {"path_column": "file", "label_column": "word"}
ALL_COLUMNS = {**COLUMNS, "group_column": "who", "member_column": "used", "id_column": "key"}


def as_csv(place: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    with place.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=";")
        table.writeheader()
        table.writerows(rows)
    return Path(file.name)


def as_json_lines(place: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    place = place.with_suffix(".jsonl")
    place.write_text("\ufeff\n" + "\n\n".join(json.dumps(row) for row in rows) + "\n")
    return place


def as_packed_json_lines(place: Path) -> Path:
    packed = place.with_suffix(".ndjson.gz")
    packed.write_bytes(gzip.compress(as_json_lines(place).read_bytes()))
    return packed


def as_parquet(place: Path) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), place)
    return place


tables = pytest.mark.parametrize("write", [as_csv, as_json_lines, as_packed_json_lines, as_parquet])


@tables
def test_a_table_lists_files_labels_groups_members_and_names(write: Any, tmp_path: Path) -> None:
    place = write(as_folder(tmp_path, TREE) / "list")
    population = load(place, **ALL_COLUMNS)
    assert population.name == place.stem
    assert population.class_names == ("maybe", "no")
    assert population.label_N.tolist() == [1, 0, 1, 1]
    assert population.group_names == ("ann", "bob", "eve")
    assert population.group_N is not None
    assert population.group_N.tolist() == [2, 1, 2, 0]
    assert population.member_N is not None
    assert population.member_N.tolist() == [True, False, True, False]
    assert population.record_names == recording_names(path=place, **ALL_COLUMNS) == ("k0", "k1", "k2", "k3")
    np.testing.assert_array_equal(population.x_N.numpy(), [noise(seed, 800)[:, 0] for seed in (0, 1, 3, 2)])


@tables
def test_paths_start_at_the_table_or_at_a_folder(write: Any, tmp_path: Path) -> None:
    place = write(tmp_path / "list")
    as_folder(tmp_path / "elsewhere" / "deep", TREE)
    by_name = load(place, folder="elsewhere/deep", **COLUMNS)
    by_path = load(place, folder=str(tmp_path / "elsewhere" / "deep"), **COLUMNS)
    assert by_name.record_names == tuple(each["file"] for each in ROWS)
    assert torch.equal(by_name.x_N, by_path.x_N)
    with pytest.raises(
        InputError, match=rf"'test/no/b\.wav' in '{place}' cannot be read as a recording \(it is no plain"
    ):
        load(place, **COLUMNS)


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    as_folder(tmp_path, TREE)
    rows = [{"file": name, "word": number, "ok": number > 3} for name, number in zip(TREE, (10, 9, 9, 0), strict=True)]
    population = load(as_json_lines(tmp_path / "x", rows), **COLUMNS, member_column="ok")
    assert population.class_names == ("0", "9", "10")
    assert population.member_N is not None
    assert population.member_N.tolist() == [True, True, True, False]


MISTAKEN: dict[str, tuple[str, str]] = {
    "no JSON": ('{"file": "a.wav", "word": "no"}\n{"file"', r"line 2 of '.*' is no JSON"),
    "no object": ("[1]", "line 1 of '.*' is a list and no object"),
    "nested": ('\n{"file": ["a.wav"], "word": "no"}', "line 2 of '.*' has a list or an object in 'file'"),
    "empty": ("\n \n", "'.*' is empty"),
    "no such column": ('{"fiel": "a.wav", "word": "no"}', r"has no column 'file' .*near it: 'fiel'"),
    "no path": (
        '{"file": "a", "word": "no"}\n{"word": "no"}',
        "line 2 of '.*' has '' in column 'file': give each record",
    ),
    "no label": ('{"file": "a", "word": "no"}\n\n{"file": "b"}', "line 3 of '.*' has '' in column 'word': .*give each"),
    "one class": ('{"file": "a", "word": "no"}', "has recordings of one class alone, 'no'"),
}


@pytest.mark.parametrize("case", MISTAKEN)
def test_mistakes_in_json_lines(case: str, tmp_path: Path) -> None:
    text, sentence = MISTAKEN[case]
    place = tmp_path / "list.jsonl"
    place.write_text(text)
    with pytest.raises(InputError, match=sentence):
        load(place, **COLUMNS)


def test_json_lines_in_another_encoding(tmp_path: Path) -> None:
    place = as_json_lines(as_folder(tmp_path, TREE) / "list", [{**each, "who": "Zoë"} for each in ROWS])
    plain = load(place, **COLUMNS, group_column="who")
    text = place.read_text().removeprefix("\ufeff")
    place.write_bytes(text.encode("utf-16"))
    wide = load(place, **COLUMNS, group_column="who")
    assert torch.equal(wide.x_N, plain.x_N)
    assert wide.group_names == plain.group_names == ("Zoë",)
    place.write_bytes(text.replace("\\u00eb", "ë").encode("latin-1"))
    with pytest.raises(InputError, match=r"cannot be read as text .* in UTF-8"):
        load(place, **COLUMNS)


def test_the_delimiter_of_a_table(tmp_path: Path) -> None:
    place = as_csv(
        as_folder(tmp_path, TREE) / "list", [{",".join("abcdefg"): ",".join("1234567"), **each} for each in ROWS]
    )
    with pytest.raises(InputError, match=r"has no column 'file'.*dataset\.delimiter"):
        load(place, **COLUMNS)
    assert recording_names(path=place, **COLUMNS, delimiter=";") == tuple(each["file"] for each in ROWS)
    assert load(place, **COLUMNS, delimiter=";").label_N.tolist() == [1, 0, 1, 1]


def test_a_table_without_a_label(tmp_path: Path) -> None:
    place = as_csv(as_folder(tmp_path, TREE) / "list")
    with pytest.raises(InputError, match=r"`dataset\.label_column` is null; it must name the column"):
        load(place, path_column="file")
    with pytest.raises(InputError, match=r"has no column 'speaker' .* set dataset\.group_column"):
        load(place, **COLUMNS, group_column="speaker")


def test_whether_members_are_longer_than_non_members_is_said(tmp_path: Path) -> None:
    tree = {f"{i}.wav": encoded(noise(i, 900 if i < 9 else 800)) for i in range(40)}
    as_folder(tmp_path, tree)
    rows = [{"file": name, "word": "ab"[i % 2], "used": int(i < 20)} for i, name in enumerate(tree)]
    place = as_csv(tmp_path / "list", rows)
    (apart,) = load(place, **COLUMNS, member_column="used").remarks
    assert apart.startswith(
        "9 of 40 recordings are longer than 0.1 s (`dataset.seconds`) and cut: 45.0 % of the members"
    )
    assert "0.0 % of the non-members, which is more than chance explains" in apart
    (unknown,) = load(place, **COLUMNS).remarks
    assert unknown.endswith("and cut.")
    (mark,) = load(place, **COLUMNS).marks
    assert "longer than 0.1 s" in mark.what
    assert mark.has_N.tolist() == [i < 9 for i in range(40)]
    for i, each in enumerate(rows):
        each["used"] = i % 2
    (alike,) = load(as_csv(tmp_path / "list", rows), **COLUMNS, member_column="used").remarks
    assert alike.endswith("20.0 % of the members and 25.0 % of the non-members.")


def test_the_labels_of_a_regression_are_the_numbers_of_a_column(tmp_path: Path) -> None:
    as_folder(tmp_path, TREE)
    rows = [{"file": name, "word": number} for name, number in zip(TREE, (10, 9.5, 9, -1), strict=True)]
    place = as_json_lines(tmp_path / "x", rows)
    population = load(place, **COLUMNS, task=Regression())
    assert population.label_N.tolist() == [10, 9.5, 9, -1]
    assert population.class_names == ("word",)
    assert torch.equal(population.x_N, load(place, **COLUMNS).x_N)
    assert recording_names(path=place, **COLUMNS, task=Regression()) == tuple(TREE)


def test_a_folder_has_classes_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder of classes.*task=regression.*dataset\.path_column"):
        load_tree(tmp_path, TREE, task=Regression())
    with pytest.raises(InputError, match="'no' in column 'word'"):
        load(as_csv(as_folder(tmp_path, TREE) / "list"), **COLUMNS, task=Regression())
