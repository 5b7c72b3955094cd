"""Records from a table of numbers and categories, with gaps."""

from pathlib import Path

from mia_lightning.datasets.population import Population
from mia_lightning.datasets.tables.features import read_features
from mia_lightning.datasets.tables.labels import LabelColumns, Separator
from mia_lightning.datasets.tables.reading import read_table
from mia_lightning.datasets.tables.roles import ColumnNames, check_named, listing_of_table, never_numbers, require
from mia_lightning.datasets.tables.text import Delimiter
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike
from mia_lightning.tasks.interface import LabelTask


@checked("dataset")
def load_table(
    *,
    path: PathLike,
    label_column: LabelColumns,
    label_separator: Separator | None = None,
    id_column: Name | None = None,
    member_column: Name | None = None,
    group_columns: ColumnNames | None = None,
    weight_column: Name | None = None,
    drop_columns: ColumnNames | None = None,
    keep_identifiers: bool = False,
    delimiter: Delimiter | None = None,
    name: Name | None = None,
    task: LabelTask | None = None,
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
        path: a parquet file; JSON lines (`.jsonl`, `.ndjson` or `.json`, one object a line); or a text as of
            `dataset=csv`, comma, semicolon, tab or bar between columns, decimal points or commas. Texts are UTF-8, or
            UTF-16 with a byte order mark, compressed or not.
        label_column: text or numbers; the sorted distinct values (numbers by value) name the classes. Of a regression,
            numbers. A list of columns is one label each under `task=multilabel` (0 or 1, true or false, yes or no, or
            any two values, of which the second, sorted, is the label), one number each under `task=regression`. One
            column of lists holds all labels of `task=multilabel`: lists of JSON lines or parquet, or texts such as
            `["a", "b"]`.
        label_separator: of a column of lists as text without brackets, what stands between the labels of a record, such
            as `;`; an empty cell is a record without labels.
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
        task: what a label is; by default a class.

    Raises:
        InputError: the file is absent, empty, ragged or of another form, a column is unknown, holds dates, or text
            among numbers, a record has no label, group or identifier, or the label is a measurement.
    """
    file = Path(path).expanduser()
    aside = never_numbers(label_column, label_separator, drop_columns)
    table = read_table(file, delimiter=delimiter, aside=aside)
    others = require(
        table,
        label_column=label_column,
        id_column=id_column,
        member_column=member_column,
        group_columns=group_columns,
        weight_column=weight_column,
        drop_columns=drop_columns,
    )
    check_named(table, [each for each in table.columns if each not in (drop_columns or ())])
    listing = listing_of_table(
        table,
        label_column=label_column,
        label_separator=label_separator,
        id_column=id_column,
        member_column=member_column,
        weight_column=weight_column,
        groupings=group_columns or (),
        task=task,
    )
    found = read_features(
        table,
        [each for each in table.columns if each not in others],
        listing.stratum_N,
        file.name,
        keep_identifiers=keep_identifiers,
    )
    x_N, form = found.stored()
    return listing.population(x_N, form=form, name=file.stem if name is None else name, remarks=found.remarks)
