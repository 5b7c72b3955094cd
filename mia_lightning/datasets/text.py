"""Your own texts: a table with a column of texts, or a folder of class folders."""

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator

from mia_lightning.datasets.csv import Delimiter, _distinct, _number, _require, _truth
from mia_lightning.datasets.doubts import check_classes
from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.images import _names_in_folder
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.table import WIDE, Table
from mia_lightning.datasets.tokens import HASHED, Tokenizer, padded, tokenizer_of
from mia_lightning.datasets.typed_table import PARQUET, JsonLines, ParquetTable
from mia_lightning.errors import DataNotThereError, InputError, first_line
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, AtLeast2, Name, PathLike, Text
from mia_lightning.settings.words import Such, Words

_JSON = (".jsonl", ".ndjson", ".json")
_ENCODING = "set dataset.encoding to that of the file, such as latin-1 or cp1252"
_SIGNIFICANT = 0.01  # p-value


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
    """What is read of files: texts, labels, and what else there is, of each record."""

    place: str
    text_N: Sequence[str]
    label_N: "np.ndarray[Any, Any]"
    class_names: Sequence[str]
    where_N: Sequence[str]  # the record, in messages
    name_N: tuple[str, ...] = ()
    member_N: "np.ndarray[Any, Any] | None" = None
    group_N: "np.ndarray[Any, Any] | None" = None
    group_names: Sequence[str] | None = None


@checked("dataset")
def load_text(
    *,
    path: PathLike,
    text_column: Name = "text",
    label_column: Name = "label",
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

    Raises:
        InputError: the files are absent, empty, ragged, of another form or encoding, a column is unknown, a label is
            missing, all records are of one class, a text has no token, or the tokenizer does not fit.
    """
    place = Path(path).expanduser().absolute()
    if place.is_dir():
        found = _of_folder(place, files, encoding)
    elif place.is_file():
        table = _table(place, delimiter, encoding)
        found = _of_table(table, text_column, label_column, member_column, group_column, id_column)
    else:
        raise DataNotThereError(f"'{place}' is not there: set dataset.path to a table or a folder of class folders")
    if len(found.class_names) < 2:
        raise InputError(
            f"{found.place} has texts of one class alone, {', '.join(map(repr, found.class_names))}: give each class a "
            "label, or a folder, of its own"
        )
    chosen = tokenizer_of(tokenizer, vocabulary_size)
    size = chosen.size if vocabulary_size is None else vocabulary_size
    id_NL, length_N = padded(chosen, found.text_N, max_tokens, size)
    kept_N, remarks = _without_empty(found, length_N, empty)
    remarks += _about_cut(length_N[kept_N] > max_tokens, _of(found.member_N, kept_N), max_tokens)
    if str(tokenizer) != HASHED:
        remarks.append(
            f"The tokenizer '{Path(tokenizer).name}' is taken for public; what it gives away of records that it was "
            "trained on is in no figure."
        )
    return _population(found, id_NL, kept_N, chosen, size, remarks, place.stem if name is None else name)


def _population(
    found: _Texts,
    id_NL: "np.ndarray[Any, Any]",
    kept_N: "np.ndarray[Any, Any]",
    tokenizer: Tokenizer,
    size: int,
    remarks: Sequence[str],
    name: str,
) -> Population:
    x_N = torch.from_numpy(id_NL[kept_N])
    field = Field(kind="tokens", dtype=x_N.dtype, shape=tuple(x_N.shape[1:]), padding=tokenizer.padding, sizes=(size,))
    population = make_population(
        x_N,
        found.label_N[kept_N],
        name=name,
        class_names=found.class_names,
        member=_of(found.member_N, kept_N),
        group=_of(found.group_N, kept_N),
        group_names=found.group_names,
        form=Form.of([field]),
        remarks=remarks,
    )
    names = tuple(found.name_N[i] for i in kept_N.nonzero()[0]) if found.name_N else ()
    return replace(population, record_names=names)


def _of(value_N: "np.ndarray[Any, Any] | None", kept_N: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any] | None":
    return None if value_N is None else value_N[kept_N]


def _table(file: Path, delimiter: str | None, encoding: str | None) -> Table:
    """The table of a file, whatever its form."""
    place = f"'{file}'"
    with file.open("rb") as stream:
        is_parquet = stream.read(len(PARQUET)) == PARQUET
    if is_parquet:
        return ParquetTable(file, place)
    if any(suffix.lower() in _JSON for suffix in file.suffixes):
        return JsonLines(file, place, encoding)
    return Table(file, place, delimiter, encoding, mend=_ENCODING)


def _of_table(
    table: Table, text: str, label: str, member: str | None, group: str | None, identifier: str | None
) -> _Texts:
    named = {"text": text, "label": label, "member": member, "group": group, "id": identifier}
    for role, column in named.items():
        if column is not None:
            _require(table, column, f"{role}_column")
    class_names, label_N = _distinct(table, label, "label")
    name_C = [number if math.isfinite(number := _number(each)) else None for each in class_names]
    check_classes(name_C, label_N, f"column {label!r} of {table.place}")
    group_names, group_N = (None, None) if group is None else _distinct(table, group, "group")
    return _Texts(
        place=table.place,
        text_N=table.text(text).to_pylist(),
        label_N=label_N,
        class_names=class_names,
        where_N=[f"row {i}" for i in range(len(table))],
        name_N=() if identifier is None else _identifiers(table, identifier),
        member_N=None if member is None else _truth(table, member),
        group_N=group_N,
        group_names=group_names,
    )


def _identifiers(table: Table, column: str) -> tuple[str, ...]:
    names = table.text(column).to_pylist()
    seen: set[str] = set()
    usable = [bool(each) and not (each in seen or seen.add(each)) for each in names]  # type: ignore[func-returns-value]
    if not all(usable):
        wrong = names[usable.index(False)]
        what = f"{wrong!r} twice" if wrong else "a record without a name"
        raise InputError(
            f"column {column!r} of {table.place} has {what}: give each record a name of its own, or leave "
            "dataset.id_column null"
        )
    return tuple(names)


def _of_folder(place: Path, pattern: str | None, encoding: str | None) -> _Texts:
    paths = [
        path
        for path in sorted(map(PurePosixPath, _names_in_folder(place)))
        if not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        and (pattern is None or fnmatchcase(path.name, pattern))
    ]
    if not paths:
        which = "" if pattern is None else f" whose name fits {pattern!r} (dataset.files)"
        raise InputError(f"'{place}' has no file{which}: give each class a folder of texts")
    outside = [each for each in paths if len(each.parts) < 2]
    if outside:
        raise InputError(
            f"'{outside[0]}' in '{place}' lies in no class folder: put it into that of its class, or limit "
            "dataset.files to the names of the texts, such as '*.txt'"
        )
    classes = [each.parent.name for each in paths]
    class_names = sorted(set(classes))
    return _Texts(
        place=f"'{place}'",
        text_N=[_read(place, each, encoding) for each in paths],
        label_N=np.array([class_names.index(each) for each in classes], np.int64),
        class_names=class_names,
        where_N=[f"'{each}'" for each in paths],
        name_N=tuple(map(str, paths)),
    )


def _read(place: Path, path: PurePosixPath, encoding: str | None) -> str:
    try:
        content = (place / path).read_bytes()
        text = content.decode(encoding or ("utf-16" if content.startswith(WIDE) else "utf-8-sig"))
    except UnicodeError as error:
        raise InputError(
            f"'{path}' in '{place}' is no text in {encoding or 'UTF-8'} ({first_line(error)}): {_ENCODING}"
        ) from error
    except OSError as error:
        raise InputError(f"'{path}' in '{place}' cannot be read ({error.strerror}): make it readable") from error
    if "\0" in text:
        raise InputError(
            f"'{path}' in '{place}' has a NUL character and is no text: take it out, limit dataset.files to the names "
            "of the texts, such as '*.txt', or set dataset.encoding"
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
    listed = ", ".join(found.where_N[i] for i in missing[:5]) + (", …" if len(missing) > 5 else "")
    if empty == "refuse":
        raise InputError(
            f"{len(missing)} of {len(kept_N)} texts of {found.place} have no word ({listed}): take them out, or leave "
            "them out by dataset.empty=leave_out"
        )
    if len(set(found.label_N[kept_N].tolist())) < 2:
        raise InputError(f"{found.place} has texts with words in fewer than two classes: give each class some")
    return kept_N, [
        f"{len(missing)} of {len(kept_N)} texts have no word and were left out ({listed}); in a file of members, row "
        "numbers count the others."
    ]


def _about_cut(is_cut_N: "np.ndarray[Any, Any]", member_N: "np.ndarray[Any, Any] | None", max_tokens: int) -> list[str]:
    """How many texts were cut, and whether members differ in it from non-members where a split is given."""
    cut = int(is_cut_N.sum())
    if not cut:
        return []
    said = f"{cut} of {len(is_cut_N)} texts have more than {max_tokens} tokens and were cut (dataset.max_tokens)"
    if member_N is None or member_N.all() or not member_N.any():
        return [f"{said}."]
    from scipy.stats import fisher_exact

    of_members, of_others = is_cut_N[member_N], is_cut_N[~member_N]
    sides = f"{of_members.mean():.1%} of the members and {of_others.mean():.1%} of the non-members"
    table = [[int(each.sum()), int((~each).sum())] for each in (of_members, of_others)]
    differ = fisher_exact(table).pvalue < _SIGNIFICANT
    rest = "so that members and non-members differ in length alone" if differ else "no more than chance explains"
    return [f"{said}: {sides}, {rest}."]
