"""Your own texts: a table with a column of texts, or a folder of class folders."""

import codecs
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator

from mia_lightning.datasets.class_folders import FileKind, check_has_classes, listing_of_paths, opened, paths_of
from mia_lightning.datasets.doubts import by_side
from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.listing import Listing
from mia_lightning.datasets.marks import Mark
from mia_lightning.datasets.population import Population
from mia_lightning.datasets.tables.columns import Columns
from mia_lightning.datasets.tables.labels import LabelColumns, Separator
from mia_lightning.datasets.tables.packing import encoding_of
from mia_lightning.datasets.tables.reading import read_table
from mia_lightning.datasets.tables.roles import listing_of_table, require
from mia_lightning.datasets.tables.text import Delimiter
from mia_lightning.datasets.tokens import HASHED, padded, tokenizer_of
from mia_lightning.errors import DataNotThereError, InputError, first_line
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, AtLeast2, Name, PathLike, Text
from mia_lightning.settings.words import Such, Words
from mia_lightning.tasks.interface import LabelTask, Task

_ENCODING = "set dataset.encoding to that of the file, such as latin-1 or cp1252"


def _known_encoding(value: str) -> str:
    try:
        is_text = codecs.lookup(value)._is_text_encoding
    except (LookupError, ValueError):
        is_text = False
    if not is_text:
        raise ValueError("it is none")
    return value


Encoding = Annotated[
    Text, AfterValidator(_known_encoding), Words("an encoding of text that Python knows"), Such("latin-1")
]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Texts:
    """What is read of files: the texts, what is listed of each, and what a record is called in messages."""

    listing: Listing
    text_N: Sequence[str]
    where_N: Sequence[str]


@checked("dataset")
def load_text(
    *,
    path: PathLike,
    text_column: Name = "text",
    label_column: LabelColumns = "label",
    label_separator: Separator | None = None,
    member_column: Name | None = None,
    group_column: Name | None = None,
    id_column: Name | None = None,
    delimiter: Delimiter | None = None,
    encoding: Encoding | None = None,
    files: Text | None = None,
    tokenizer: PathLike = HASHED,
    vocabulary_size: AtLeast2 | None = None,
    max_tokens: AtLeast1 = 256,
    empty: Literal["refuse", "leave_out"] = "refuse",
    name: Name | None = None,
    task: LabelTask | None = None,
) -> Population:
    """Texts as token ids `[max_tokens]` for networks with embeddings, such as `text_cnn` and `text_transformer`.

    A table is CSV (as `dataset=csv` reads it), JSON lines (`.jsonl`, `.ndjson` or `.json`, one object a line) or
    parquet. In a folder each file is a text, and its class is the name of the folder directly above it; records are in
    the order of their paths, by which a file of members may name them. Hidden files are skipped.

    Hashing is a public constant: nothing is fitted. A tokenizer file is taken for public, too; what it gives away of
    records that it was trained on is in no figure, which the report says.

    Args:
        path: of the table or the folder.
        text_column: of a table.
        label_column: of a table: text or numbers; the sorted distinct values (numbers by value) name the classes.
            Several columns are the labels of `task=multilabel` or the numbers of `task=regression`, or one column holds
            lists of labels (`load_table`).
        label_separator: of a column of lists (`load_table`).
        member_column: 0, 1, true, false, yes or no: the records that a given target was trained on.
        group_column: text or numbers, such as the author of a text: groups for which leakage is reported, too.
        id_column: distinct names of the records, by which the report and a file of members name them.
        delimiter: of CSV: one character; None for the one of comma, semicolon, tab and bar of which the header line has
            most.
        encoding: of the files; None for UTF-8, or UTF-16 with a byte order mark.
        files: of a folder: which are read, by a pattern of their names such as `*.txt`; None for all.
        tokenizer: `hashed` for words by a hash, or the path of a file that the package `tokenizers` wrote
            (`tokenizer.json`).
        vocabulary_size: number of token ids; None for 4096 hashed ones, or those of the tokenizer.
        max_tokens: of a record: shorter texts are padded, longer ones cut, which is remarked.
        empty: what to do with texts without a token: refuse them, or leave them out, which is remarked.
        name: of the data set, in reports; by default that of the file without its ending, or of the folder.
        task: what a label is; by default a class. Tasks without classes need a table.

    Raises:
        InputError: the files are absent, empty, ragged, of another form or encoding, a column is unknown, a label is
            missing, all records are of one class, a text has no token, the tokenizer does not fit, or the labels are
            none of the task.
    """
    place = Path(path).expanduser().absolute()
    columns = {
        "label_separator": label_separator,
        "member_column": member_column,
        "group_column": group_column,
        "id_column": id_column,
    }
    if place.is_dir():
        _refuse_given(columns, f"'{place}' is a folder", "leave it out, or set dataset.path to a table")
        check_has_classes(task, place, "set dataset.path to a table, and dataset.label_column to its column of labels")
        found = _of_folder(place, files, encoding)
    elif place.is_file():
        _refuse_given({"files": files}, f"'{place}' is a table", "leave it out, or set dataset.path to a folder")
        table = read_table(place, delimiter=delimiter, encoding=encoding, mend=_ENCODING)
        found = _of_table(table, text_column, label_column, task, **columns)
    else:
        raise DataNotThereError(f"'{place}' is not there: set dataset.path to a table or a folder of class folders")
    found.listing.check_classes("texts")
    chosen = tokenizer_of(tokenizer, vocabulary_size)
    size = chosen.size if vocabulary_size is None else vocabulary_size
    id_NL, length_N = padded(chosen, found.text_N, max_tokens, size)
    kept_N, remarks = _without_empty(found, length_N, empty)
    listing = found.listing.kept(kept_N)
    is_cut_N = length_N[kept_N] > max_tokens
    remarks += _about_cut(is_cut_N, listing.member_N, max_tokens)
    if str(tokenizer) != HASHED:
        remarks.append(
            f"The tokenizer '{Path(tokenizer).name}' is taken for public; what it gives away of records that it was "
            "trained on is in no figure."
        )
    x_N = torch.from_numpy(id_NL[kept_N])
    field = Field(kind="tokens", dtype=x_N.dtype, shape=tuple(x_N.shape[1:]), padding=chosen.padding, sizes=(size,))
    return listing.population(
        x_N,
        form=Form.of([field]),
        name=place.stem if name is None else name,
        remarks=remarks,
        marks=[Mark(what=f"texts of more than {max_tokens} tokens, which were cut", has_N=is_cut_N)],
    )


def _refuse_given(settings: Mapping[str, str | None], what: str, mend: str) -> None:
    """Refuse settings that would have no effect."""
    given = [name for name, value in settings.items() if value is not None]
    if given:
        raise InputError(f"`dataset.{given[0]}` is set, but {what}: {mend}")


def _of_table(
    table: Columns,
    text_column: str,
    label_column: str | Sequence[str],
    task: Task | None,
    label_separator: str | None,
    member_column: str | None,
    group_column: str | None,
    id_column: str | None,
) -> _Texts:
    require(
        table,
        text_column=text_column,
        label_column=label_column,
        member_column=member_column,
        group_column=group_column,
        id_column=id_column,
    )
    listing = listing_of_table(
        table,
        label_column=label_column,
        label_separator=label_separator,
        id_column=id_column,
        member_column=member_column,
        groupings=() if group_column is None else (group_column,),
        task=task,
    )
    return _Texts(
        listing=listing,
        text_N=table.text(text_column).to_pylist(),
        where_N=[f"row {i}" for i in range(len(table))],
    )


def _of_folder(place: Path, pattern: str | None, encoding: str | None) -> _Texts:
    kind = FileKind(one="a text", several="texts", pattern=pattern)
    with opened(place, kind) as (names, read):
        paths = paths_of(names, None, place, kind)
        text_N = [_decoded(name, place, read, kind, encoding) for name in paths]
    return _Texts(listing=listing_of_paths(paths, place), text_N=text_N, where_N=[f"'{each}'" for each in paths])


def _decoded(name: str, place: Path, read: Callable[[str], bytes], kind: FileKind, encoding: str | None) -> str:
    try:
        content = read(name)
        text = content.decode(encoding_of(content, encoding))
    except UnicodeError as error:
        raise InputError(
            f"'{name}' in '{place}' is no text in {encoding or 'UTF-8'} ({first_line(error)}): {_ENCODING}"
        ) from error
    except (OSError, ValueError) as error:
        raise kind.unreadable(name, f"'{place}'", error) from error
    if "\0" in text:
        raise InputError(
            f"'{name}' in '{place}' has a NUL character and is no text: take it out, {kind.limit}, or set "
            "dataset.encoding"
        )
    return text


def _without_empty(
    found: _Texts, length_N: "np.ndarray[Any, Any]", empty: str
) -> tuple["np.ndarray[Any, Any]", list[str]]:
    """Which records have a token, and what to say of the others."""
    kept_N = length_N > 0
    missing = (~kept_N).nonzero()[0]
    if not len(missing):
        return kept_N, []
    listing, place = found.listing, found.listing.place
    shown = ", ".join(found.where_N[i] for i in missing[:5]) + (", …" if len(missing) > 5 else "")
    if empty == "refuse":
        raise InputError(
            f"{len(missing)} of {len(kept_N)} texts of {place} have no word ({shown}): take them out, or leave "
            "them out by dataset.empty=leave_out"
        )
    if listing.has_classes and len(set(listing.label_N[kept_N].tolist())) < 2:
        raise InputError(f"{place} has texts with words in fewer than two classes: give each class some")
    return kept_N, [
        f"{len(missing)} of {len(kept_N)} texts have no word and were left out ({shown}); the row numbers in a file "
        "of members count the texts that remain."
    ]


def _about_cut(is_cut_N: "np.ndarray[Any, Any]", member_N: "np.ndarray[Any, Any] | None", max_tokens: int) -> list[str]:
    """How many texts were cut, and whether members differ in it from non-members where a split is given."""
    if not is_cut_N.any():
        return []
    said = f"{is_cut_N.sum()} of {len(is_cut_N)} texts have more than {max_tokens} tokens and were cut"
    return [f"{said} (dataset.max_tokens){by_side(is_cut_N, member_N)}."]
