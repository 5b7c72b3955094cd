"""Records from a CSV file with a header line."""

from pathlib import Path

import numpy as np

from mia_lightning.datasets.doubts import (
    about_identifiers,
    about_rounding,
    are_few,
    is_coarse,
    looks_like_identifier,
)
from mia_lightning.datasets.population import Population
from mia_lightning.datasets.tables.labels import LabelColumns, Separator
from mia_lightning.datasets.tables.roles import ColumnNames, check_named, listing_of_table, never_numbers, require
from mia_lightning.datasets.tables.text import Delimiter, Table
from mia_lightning.datasets.tables.values import dropped, finite_numbers
from mia_lightning.errors import DataNotThereError, InputError
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike
from mia_lightning.tasks.interface import LabelTask


@checked("dataset")
def load_csv(
    *,
    path: PathLike,
    label_column: LabelColumns,
    label_separator: Separator | None = None,
    member_column: Name | None = None,
    group_column: Name | None = None,
    weight_column: Name | None = None,
    drop_columns: ColumnNames | None = None,
    delimiter: Delimiter | None = None,
    name: Name | None = None,
    task: LabelTask | None = None,
) -> Population:
    """A table of numbers: each column but those of label, member, group and weight is a float32 feature, in file order.

    Numbers may have decimal commas; true and false are 1 and 0. A column that looks like an identifier is remarked.

    Args:
        path: a file whose first line names the columns: UTF-8, or UTF-16 with a byte order mark, as it is or compressed
            (gzip, bzip2, xz, Zstandard, a zip file of one table).
        label_column: text or numbers; the sorted distinct values (numbers by value) name the classes. "1" and "1.0" are
            one class. Of a regression, numbers. Or several columns, or one of lists (`load_table`).
        label_separator: of a column of lists (`load_table`).
        member_column: 0, 1, true, false, yes or no: the records that a given target was trained on.
        group_column: text or numbers; the distinct values, sorted like labels, name groups for which leakage is
            reported, too.
        weight_column: numbers of at least 0: how much each record counts in the loss that models are trained with.
        drop_columns: those that are left out, such as a customer's number.
        delimiter: one character; None for the one of comma, semicolon, tab and bar of which the header line has most.
            The two characters `\\t` stand for a tab.
        name: of the data set, in reports; by default the file's name without its ending.
        task: what a label is; by default a class.

    Raises:
        InputError: the file is absent, empty, ragged or no such text, a column is unknown, a value is missing or no
            number, or the label is a measurement.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataNotThereError(f"'{file.absolute()}' is not a file: set dataset.path to the CSV file")
    aside = never_numbers(label_column, label_separator, drop_columns)
    table = Table(file, f"'{file.absolute()}'", delimiter, aside=aside)
    others = require(
        table,
        label_column=label_column,
        member_column=member_column,
        group_column=group_column,
        weight_column=weight_column,
        drop_columns=drop_columns,
    )
    used = [column for column in table.columns if column not in (drop_columns or ())]
    check_named(table, used)
    features = [column for column in used if column not in others]
    if not features:
        raise InputError(f"{table.place} has no column beside the label's: add the features")
    listing = listing_of_table(
        table,
        label_column=label_column,
        label_separator=label_separator,
        member_column=member_column,
        weight_column=weight_column,
        groupings=() if group_column is None else (group_column,),
        task=task,
        is_missing_said=False,
    )
    x = np.empty((len(table), len(features)), np.float32)
    identifiers, coarse = [], []
    for j, column in enumerate(features):
        values = finite_numbers(table, column)
        x[:, j] = values
        if looks_like_identifier(values, listing.stratum_N):
            identifiers.append(column)
        elif is_coarse(values):
            coarse.append(column)
    remarks = []
    if identifiers and are_few(len(identifiers), len(features)):
        columns = [f"The column {column!r}" for column in identifiers]
        remarks = [about_identifiers(columns, file.name, f"leave it out by {dropped(identifiers)}")]
    if coarse:
        names = [f"The column {column!r}" for column in coarse]
        remarks.append(about_rounding(names, file.name, f", or leave it out by {dropped(coarse)}"))
    return listing.population(x, form=None, name=file.stem if name is None else name, remarks=remarks)
