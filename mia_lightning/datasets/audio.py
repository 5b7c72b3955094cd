"""Your own recordings: a folder or a zip file of class folders, or a table that lists files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le

from mia_lightning.datasets.class_folders import FileKind, classes_of, opened, paths_of, read_file
from mia_lightning.datasets.doubts import by_side
from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.manifest import read_manifest
from mia_lightning.datasets.own.filling import room
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.recordings import SUFFIXES, Recording, decoded
from mia_lightning.errors import InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike, Positive, Text

_RECORDINGS = FileKind(several="recordings", suffixes=SUFFIXES)
_MOST_SAMPLES = 2**31
_NAMED = 5  # recordings that a sentence names

SampleRate = Annotated[int, Ge(1), Le(1_000_000)]


@checked("dataset")
def load_audio(
    *,
    path: PathLike,
    folder: Text | None = None,
    path_column: Name | None = None,
    label_column: Name | None = None,
    id_column: Name | None = None,
    member_column: Name | None = None,
    group_column: Name | None = None,
    sample_rate: SampleRate = 16_000,
    seconds: Positive = 1.0,
    name: Name | None = None,
) -> Population:
    """Recordings, int16 `[samples]`, in the order of their paths or of the table; a network sees numbers in [-1, 1).

    Without `path_column`, the class of a recording is the name of the folder directly above it, as of images
    (`dataset=images`). With it, `path` is a table with one row a recording: CSV, or JSON lines (`.jsonl`, `.ndjson`).

    WAV, FLAC, Ogg and MP3 files are mixed down to one channel (the mean), resampled to `sample_rate`, and cut or
    filled up with zeros to `seconds`. Nothing is fitted to the recordings, and none is made louder or softer. From
    256 MiB, the records are a mapped file without a name. The remarks count recordings that were cut, filled up or
    resampled, and those that are silent or clipped; where the table says who is a member, they say whether the two
    sides differ in it.

    Args:
        path: a folder, or a `.zip` file, which is read without being extracted; or the table.
        folder: of class folders, the subfolder of `path`, such as `train`, to which reading is limited; of a table, the
            folder from which its paths start, by default that of the table.
        path_column: of the table, the path of a recording's file.
        label_column: of the table; the sorted distinct values (numbers by value) name the classes.
        id_column: of the table, what names a recording in reports and in a file of members; by default its path.
        member_column: of the table; 0, 1, true, false, yes or no: the records that a given target was trained on.
        group_column: of the table, text or numbers; the distinct values name groups, such as speakers, for which
            leakage is reported, too.
        sample_rate: of the records, in Hz. A public constant, and so is `seconds`.
        seconds: of a record.
        name: of the data set, in reports; by default that of the folder, or of the file without its ending.

    Raises:
        InputError: `path` is missing or damaged, a file is no recording, holds no samples or is in no class folder,
            there are fewer than two classes, all recordings are silent, or soundfile is not installed.
    """
    samples = round(seconds * sample_rate)
    if not 1 <= samples < _MOST_SAMPLES:
        raise InputError(
            f"`dataset.seconds` is {seconds}, which is {samples} samples at {sample_rate} Hz; a record has at least "
            f"one and fewer than {_MOST_SAMPLES}."
        )
    place = Path(path).expanduser().absolute()
    columns = {"label": label_column, "id": id_column, "member": member_column, "group": group_column}
    with _listing(place, folder, path_column, columns) as listing:
        x_N = room((len(listing.names), samples), torch.int16)
        recordings = _decoded_all(listing, x_N, sample_rate)
    field = Field(kind="waveform", dtype=torch.int16, shape=(samples,), sample_rate=sample_rate)
    population = make_population(
        x_N,
        listing.label_N,
        form=Form.of([field]),
        name=name if name is not None else place.name if place.is_dir() else place.stem,
        class_names=listing.class_names,
        member=listing.member_N,
        group=listing.group_N,
        group_names=listing.group_names,
        remarks=_remarks(listing, recordings, sample_rate, seconds),
    )
    return replace(population, record_names=listing.names)


def recording_names(
    *,
    path: PathLike,
    folder: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    **_: object,
) -> tuple[str, ...]:
    """The names of the records of `load_audio` with the same arguments; nothing is decoded.

    Raises:
        InputError: as `load_audio`, as far as the names show it.
    """
    columns = {"label": label_column, "id": id_column}
    with _listing(Path(path).expanduser().absolute(), folder, path_column, columns) as listing:
        return listing.names


load_audio.record_names = recording_names  # type: ignore[attr-defined]  # which the command asks before it loads them


@dataclass(frozen=True, eq=False, kw_only=True)
class _Listing:
    """Which recordings there are.

    Attributes:
        place: where they are listed, for messages.
        names: one for each.
        read: the content of the file of one, by its number; raises a `ValueError` with the reason.
        label_N: int64.
        class_names: in the order of the labels.
        member_N, group_N, group_names: as `make_population` takes them.
    """

    place: str
    names: tuple[str, ...]
    read: Callable[[int], bytes]
    label_N: np.ndarray[Any, Any]
    class_names: Sequence[str]
    member_N: np.ndarray[Any, Any] | None = None
    group_N: np.ndarray[Any, Any] | None = None
    group_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise InputError(
                f"{self.place} has recordings of one class alone, {self.class_names[0]!r}: membership is audited on a "
                "classifier, so give recordings of at least two classes"
            )


@contextmanager
def _listing(
    place: Path, folder: str | None, path_column: str | None, columns: dict[str, str | None]
) -> Iterator[_Listing]:
    if path_column is not None:
        yield _of_table(place, folder, path_column, columns)
        return
    given = [f"dataset.{what}_column" for what, column in columns.items() if column is not None]
    if given:
        raise InputError(
            f"`{given[0]}` is set, but not `dataset.path_column`: name the column of a table that holds the paths of "
            "the recordings, or leave both out for a folder of class folders"
        )
    with opened(place, _RECORDINGS) as (names, read):
        paths = paths_of(names, folder, place, _RECORDINGS)
        class_names, label_N = classes_of(paths)
        yield _Listing(
            place=f"'{place}'",
            names=tuple(paths),
            read=lambda number: read(paths[number]),
            label_N=label_N,
            class_names=class_names,
        )


def _of_table(place: Path, folder: str | None, path_column: str, columns: dict[str, str | None]) -> _Listing:
    found = read_manifest(place, path_column, columns)
    start = place.parent if folder is None else place.parent / Path(folder).expanduser()
    return _Listing(
        place=f"'{place}'",
        names=found.names,
        read=lambda number: read_file(start / found.paths[number]),
        label_N=found.label_N,
        class_names=found.class_names,
        member_N=found.member_N,
        group_N=found.group_N,
        group_names=found.group_names,
    )


def _decoded_all(listing: _Listing, x_N: torch.Tensor, sample_rate: int) -> list[Recording]:
    """Fill the rows of `x_N`; what is known of each recording beside its samples."""
    found = []
    for number, name in enumerate(listing.names):
        try:
            recording = decoded(listing.read(number), sample_rate, x_N.shape[1])
        except InputError:
            raise
        except Exception as error:  # what zipfile raises for damaged bytes is almost anything
            raise InputError(
                f"'{name}' in {listing.place} cannot be read as a recording ({_reason(error)}): replace it or take it "
                "out"
            ) from error
        x_N[number] = torch.from_numpy(recording.sample)
        found.append(replace(recording, sample=np.empty(0, np.int16)))
    if all(each.is_silent for each in found):
        raise InputError(
            f"all {len(found)} recordings of {listing.place} are silent in what is read of them: see that they are the "
            "right files, and that `dataset.seconds` reaches what they hold"
        )
    return found


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0] or type(error).__name__


def _remarks(listing: _Listing, recordings: Sequence[Recording], sample_rate: int, seconds: float) -> list[str]:
    """What was done to the recordings, and which may not be what they are taken for."""
    rate_of = Counter(each.rate for each in recordings if each.rate != sample_rate)
    rates = ", ".join(f"{rate} Hz ({count})" for rate, count in rate_of.most_common(_NAMED))
    rates += ", …" if len(rate_of) > _NAMED else ""
    length = f"{seconds:g} s (`dataset.seconds`)"
    said = {
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
    is_named = ("silent", "clipped")
    remarks = []
    for what, flags in said.items():
        if any(flags):
            has_N = np.array(flags)
            names = [name for name, flag in zip(listing.names, flags, strict=True) if flag]
            shown = ", ".join(map(repr, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")
            count = f"{len(names)} of {len(recordings)} recordings {'is' if len(names) == 1 else 'are'} {what}"
            remarks.append(
                count + (f" ({shown})" if what.startswith(is_named) else "") + by_side(has_N, listing.member_N) + "."
            )
    return remarks
