"""Records from a table of numbers and categories, with gaps."""

from dataclasses import replace
from pathlib import Path

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.tables.columns import Columns
from mia_lightning.datasets.tables.features import read_features
from mia_lightning.datasets.tables.parquet import MARK, ParquetTable
from mia_lightning.datasets.tables.roles import (
    ColumnNames,
    about_numbered,
    check_named,
    check_present,
    classes,
    finite_numbers,
    groups,
    names_of_records,
    require,
    truth,
)
from mia_lightning.datasets.tables.text import Delimiter, Table
from mia_lightning.errors import DataNotThereError, InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike


@checked("dataset")
def load_table(
    *,
    path: PathLike,
    label_column: Name,
    id_column: Name | None = None,
    member_column: Name | None = None,
    group_columns: ColumnNames | None = None,
    weight_column: Name | None = None,
    drop_columns: ColumnNames | None = None,
    keep_identifiers: bool = False,
    delimiter: Delimiter | None = None,
    name: Name | None = None,
) -> Population:
    """A table as people have them: each column that has no other part is a feature, a number or a category.

    A column of numbers, or of true and false, is part of the float32 tensor `numbers`, NaN where a number is missing.
    Any other is part of `categories`: code 0 where it is missing, else the place of its text among all of the column,
    sorted. A number with a zero in front, such as 007, is a code, and makes its column one of categories. The codes
    name what stands in the file, for attackers and targets alike, and depend on no membership; scales, and which
    categories are known, `model=tabular` fits on the training records of each model. Numbers without gaps or categories
    beside them are one tensor, as those of `dataset=csv`.

    Nothing, `?`, NA, N/A, NaN, null, none and <NA> stand for what is missing. Columns that are missing throughout are
    left out, and so are those that look like identifiers (whole numbers or texts that nearly all differ) or free text.

    Args:
        path: a parquet file; or a text as of `dataset=csv`, comma, semicolon, tab or bar between columns, decimal
            points or commas, UTF-8 or UTF-16 with a byte order mark, compressed or not.
        label_column: text or numbers; the sorted distinct values (numbers by value) name the classes.
        id_column: names each record in reports, and in a file of members; no feature.
        member_column: 0, 1, true, false, yes or no: the records that a given target was trained on.
        group_columns: leakage is reported for each value of each of these columns, too; no features.
        weight_column: numbers of at least 0: how much each record counts in the loss that models are trained with; no
            feature.
        drop_columns: those that are left out.
        keep_identifiers: whether to train on columns that look like identifiers or free text.
        delimiter: one character; None for the one of comma, semicolon, tab and bar of which the header line has most.
            The two characters `\\t` stand for a tab.
        name: of the data set, in reports; by default the file's name without its ending.

    Raises:
        InputError: the file is absent, empty, ragged or of another form, a column is unknown, holds dates, or text
            among numbers, a record has no label, group or identifier, or the label is a measurement.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataNotThereError(f"'{file.absolute()}' is not a file: set dataset.path to the table")
    table = read_table(file, delimiter)
    if not len(table):
        raise InputError(f"{table.place} has no records: give one line a record")
    grouping, left_out = tuple(group_columns or ()), tuple(drop_columns or ())
    named = [("label_column", label_column), ("id_column", id_column), ("member_column", member_column)]
    named.append(("weight_column", weight_column))
    named += [("group_columns", each) for each in grouping] + [("drop_columns", each) for each in left_out]
    for argument, column in named:
        if column is not None:
            require(table, column, argument)
    others = {column for _, column in named}
    check_named(table, [each for each in table.columns if each not in left_out])
    check_present(table, label_column, "label")
    class_names, label_N = classes(table, label_column)
    group_names, group_N = groups(table, grouping) if grouping else (None, None)
    found = read_features(
        table,
        [each for each in table.columns if each not in others],
        label_N,
        file.name,
        keep_identifiers=keep_identifiers,
    )
    x_N, form = found.stored()
    population = make_population(
        x_N,
        label_N,
        name=file.stem if name is None else name,
        class_names=class_names,
        member=None if member_column is None else truth(table, member_column),
        group=group_N,
        group_names=group_names,
        weight=None if weight_column is None else finite_numbers(table, weight_column),
        form=form,
        remarks=[*found.remarks, *about_numbered(class_names, f"column {label_column!r} of {file.name}")],
    )
    return replace(population, record_names=() if id_column is None else names_of_records(table, id_column))


def read_table(file: Path, delimiter: str | None = None) -> Columns:
    """The columns of a file that is there, parquet or text.

    Raises:
        InputError: as `ParquetTable` and `Table`.
    """
    with file.open("rb") as stream:
        is_parquet = stream.read(len(MARK)) == MARK
    place = f"'{file.absolute()}'"
    return ParquetTable(file, place) if is_parquet else Table(file, place, delimiter)
