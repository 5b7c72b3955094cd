"""Your own recordings: a folder or a zip file of class folders, or a table that lists files."""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le

from mia_lightning.datasets.class_folders import (
    FileKind,
    check_has_classes,
    listing_of_paths,
    opened,
    paths_of,
    read_file,
)
from mia_lightning.datasets.doubts import by_side
from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.listing import Listing
from mia_lightning.datasets.marks import Mark, Mask
from mia_lightning.datasets.own.filling import room
from mia_lightning.datasets.population import Population
from mia_lightning.datasets.recordings import SUFFIXES, Recording, decoded
from mia_lightning.datasets.tables.labels import LabelColumns, Separator
from mia_lightning.datasets.tables.reading import read_table
from mia_lightning.datasets.tables.roles import listing_of_table, require
from mia_lightning.datasets.tables.text import Delimiter
from mia_lightning.errors import InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike, Positive, Text
from mia_lightning.tasks.interface import LabelTask, Task

_RECORDINGS = FileKind(one="a recording", several="recordings", suffixes=SUFFIXES)
_MOST_SAMPLES = 2**31
_NAMED = 5  # recordings that a sentence names

Read = Callable[[int], bytes]  # the file of a recording, by its number
SampleRate = Annotated[int, Ge(1), Le(1_000_000)]


@checked("dataset")
def load_audio(
    *,
    path: PathLike,
    folder: Text | None = None,
    path_column: Name | None = None,
    label_column: LabelColumns | None = None,
    label_separator: Separator | None = None,
    id_column: Name | None = None,
    member_column: Name | None = None,
    group_column: Name | None = None,
    delimiter: Delimiter | None = None,
    sample_rate: SampleRate = 16_000,
    seconds: Positive = 1.0,
    name: Name | None = None,
    task: LabelTask | None = None,
) -> Population:
    """Recordings, int16 `[samples]`, in the order of their paths or of the table; a network sees numbers in [-1, 1).

    Without `path_column`, the class of a recording is the name of the folder directly above it, as of images
    (`dataset=images`). With it, `path` is a table with one row a recording, of any form that
    `dataset=table` reads: CSV, JSON lines or parquet.

    WAV, FLAC, Ogg and MP3 files are mixed down to one channel (the mean), resampled to `sample_rate`, and cut or
    filled up with zeros to `seconds`. Nothing is fitted to the recordings, and none is made louder or softer. From
    256 MiB, the records are a mapped file without a name. The remarks count recordings that were cut, filled up or
    resampled, and those that are silent or clipped; where the table, or a file of members, says who is a member, the
    report says whether the two sides differ in it.

    Args:
        path: a folder, or a `.zip` file, which is read without being extracted; or the table.
        folder: of class folders, the subfolder of `path`, such as `train`, to which reading is limited; of a table, the
            folder from which its paths start, by default that of the table.
        path_column: of the table, the path of a recording's file.
        label_column: of the table; the sorted distinct values (numbers by value) name the classes. Several columns are
            the labels of `task=multilabel` or the numbers of `task=regression`, or one column holds lists of
            labels (`load_table`).
        label_separator: of a column of lists (`load_table`).
        id_column: of the table, what names a recording in reports and in a file of members; by default its path.
        member_column: of the table; 0, 1, true, false, yes or no: the records that a given target was trained on.
        group_column: of the table, text or numbers; the distinct values name groups, such as speakers, for which
            leakage is reported, too.
        delimiter: of a table in CSV, one character; None for the one of comma, semicolon, tab and bar of which the
            header line has most.
        sample_rate: of the records, in Hz. A public constant, and so is `seconds`.
        seconds: of a record.
        name: of the data set, in reports; by default that of the folder, or of the file without its ending.
        task: what a label is; by default a class. Tasks without classes need a table.

    Raises:
        InputError: `path` is missing or damaged, a file is no recording, holds no samples or is in no class folder,
            there are fewer than two classes, all recordings are silent, soundfile is not installed, or the labels are
            none of the task.
    """
    samples = round(seconds * sample_rate)
    if not 1 <= samples < _MOST_SAMPLES:
        raise InputError(
            f"`dataset.seconds` is {seconds}, which is {samples} samples at {sample_rate} Hz; a record has at least "
            f"one and fewer than {_MOST_SAMPLES}."
        )
    place = Path(path).expanduser().absolute()
    labels = {"label_column": label_column, "label_separator": label_separator}
    columns = {"id_column": id_column, "member_column": member_column, "group_column": group_column}
    with _listed(place, folder, path_column, labels, columns, delimiter, task) as (listing, read):
        x_N = room((len(listing.names), samples), torch.int16)
        recordings = _decoded_all(listing, read, x_N, sample_rate)
    of_recordings = _what_was_done(recordings, sample_rate, seconds)
    field = Field(kind="waveform", dtype=torch.int16, shape=(samples,), sample_rate=sample_rate)
    return listing.population(
        x_N,
        form=Form.of([field]),
        name=name if name is not None else place.name if place.is_dir() else place.stem,
        remarks=_remarks(listing, of_recordings),
        marks=[
            Mark(what=f"recordings that are {what.partition(';')[0]}", has_N=has_N)
            for what, has_N in of_recordings.items()
        ],
    )


def recording_names(
    *,
    path: PathLike,
    folder: str | None = None,
    path_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    label_separator: str | None = None,
    id_column: str | None = None,
    delimiter: str | None = None,
    task: Task | None = None,
    **_: object,
) -> tuple[str, ...]:
    """The names of the records of `load_audio` with the same arguments; nothing is decoded.

    Raises:
        InputError: as `load_audio`, as far as the names show it.
    """
    place = Path(path).expanduser().absolute()
    labels = {"label_column": label_column, "label_separator": label_separator}
    columns = {"id_column": id_column}
    with _listed(place, folder, path_column, labels, columns, delimiter, task) as (listing, _read):
        return listing.names


load_audio.record_names = recording_names  # type: ignore[attr-defined]  # which the command asks before it loads them


@contextmanager
def _listed(
    place: Path,
    folder: str | None,
    path_column: str | None,
    labels: Mapping[str, Any],
    columns: Mapping[str, str | None],
    delimiter: str | None,
    task: Task | None,
) -> Iterator[tuple[Listing, Read]]:
    """Which recordings there are, and what reads the file of one."""
    if path_column is not None:
        yield _of_table(place, folder, path_column, labels, columns, delimiter, task)
        return
    named = {**labels, **columns}
    given = [f"dataset.{setting}" for setting, column in named.items() if column is not None]
    if given:
        raise InputError(
            f"`{given[0]}` is set, but not `dataset.path_column`: name the column of a table that holds the paths of "
            "the recordings, or leave both out for a folder of class folders"
        )
    if place.is_file() and not zipfile.is_zipfile(place) and place.suffix.lower() != ".zip":
        raise InputError(
            f"'{place}' is neither a folder nor a zip file: set dataset.path to one, or, where it is a table, "
            "dataset.path_column and dataset.label_column to its columns"
        )
    check_has_classes(
        task, place, "set dataset.path to a table, dataset.path_column and dataset.label_column to its columns"
    )
    with opened(place, _RECORDINGS) as (names, read):
        paths = paths_of(names, folder, place, _RECORDINGS)
        listing = listing_of_paths(paths, place)
        listing.check_classes(_RECORDINGS.several)
        yield listing, lambda number: read(paths[number])


def _of_table(
    place: Path,
    folder: str | None,
    path_column: str,
    labels: Mapping[str, Any],
    columns: Mapping[str, str | None],
    delimiter: str | None,
    task: Task | None,
) -> tuple[Listing, Read]:
    table = read_table(place, delimiter=delimiter)
    require(table, path_column=path_column, label_column=labels["label_column"], **columns)
    group = columns.get("group_column")
    if labels["label_column"] is None:
        raise InputError(
            f"`dataset.label_column` is null; it must name the column of {table.place} that holds the labels."
        )
    paths = tuple(table.text(path_column).to_pylist())
    if "" in paths:
        raise table.refusal(path_column, bool, "give each record the path of its file, or leave the record out")
    listing = listing_of_table(
        table,
        **labels,
        id_column=columns["id_column"],
        member_column=columns.get("member_column"),
        groupings=() if group is None else (group,),
        task=task,
    )
    listing.check_classes(_RECORDINGS.several)
    start = place.parent if folder is None else place.parent / Path(folder).expanduser()
    return replace(listing, names=listing.names or paths), lambda number: read_file(start / paths[number])


def _decoded_all(listing: Listing, read: Read, x_N: torch.Tensor, sample_rate: int) -> list[Recording]:
    """Fill the rows of `x_N`; what is known of each recording beside its samples."""
    found = []
    for number, name in enumerate(listing.names):
        try:
            recording = decoded(read(number), sample_rate, x_N.shape[1])
        except InputError:
            raise
        except Exception as error:  # what zipfile raises for damaged bytes is almost anything
            raise _RECORDINGS.unreadable(name, listing.place, error) from error
        x_N[number] = torch.from_numpy(recording.sample)
        found.append(replace(recording, sample=np.empty(0, np.int16)))
    if all(each.is_silent for each in found):
        raise InputError(
            f"all {len(found)} recordings of {listing.place} are silent in what is read of them: see that they are the "
            "right files, and that `dataset.seconds` reaches what they hold"
        )
    return found


def _what_was_done(recordings: Sequence[Recording], sample_rate: int, seconds: float) -> dict[str, Mask]:
    """What was done to recordings, and which may not be what they are taken for: which records, by the words for it."""
    rate_of = Counter(each.rate for each in recordings if each.rate != sample_rate)
    rates = ", ".join(f"{rate} Hz ({count})" for rate, count in rate_of.most_common(_NAMED))
    rates += ", …" if len(rate_of) > _NAMED else ""
    length = f"{seconds:g} s (`dataset.seconds`)"
    flags = {
        f"longer than {length} and cut": [each.is_cut for each in recordings],
        f"shorter than {length} and filled up with zeros, which show a network how long they were": [
            each.is_filled for each in recordings
        ],
        f"resampled to {sample_rate} Hz (`dataset.sample_rate`), from {rates}": [
            each.rate != sample_rate for each in recordings
        ],
        "silent, with no sample above -60 dB of the full scale; leave out those that hold nothing": [
            each.is_silent for each in recordings
        ],
        "clipped, with samples in a row at the full scale": [each.is_clipped for each in recordings],
    }
    return {what: np.array(each, dtype=bool) for what, each in flags.items()}


def _remarks(listing: Listing, of_recordings: Mapping[str, Mask]) -> list[str]:
    """How many of the recordings, and, where a split is given, whether members differ from non-members in it."""
    is_named = ("silent", "clipped")
    remarks = []
    for what, has_N in of_recordings.items():
        if has_N.any():
            names = [name for name, flag in zip(listing.names, has_N, strict=True) if flag]
            shown = ", ".join(map(repr, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")
            count = f"{len(names)} of {len(has_N)} recordings {'is' if len(names) == 1 else 'are'} {what}"
            remarks.append(
                count + (f" ({shown})" if what.startswith(is_named) else "") + by_side(has_N, listing.member_N) + "."
            )
    return remarks
