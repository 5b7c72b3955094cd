"""The columns of a table of answers, and the classes that they name."""

import re
from collections.abc import Mapping, Sequence

from mia_lightning.targets.endpoints.own_classes import ClassNames, folded

_KINDS = "p|pr|prob|proba|probability|class|score|logit"


def matched(columns: Sequence[str], known: ClassNames) -> dict[str, int] | None:
    """The class of each column: by name, by name with an addition that all columns share, or by number.

    Numbers count the classes from 0, or from 1 where the classes are not named by numbers, and leave none out.
    """
    found = {column: place for column in columns if (place := known.find(column)) is not None}
    if len(found) == len(columns):
        return found if len(set(found.values())) == len(columns) else None
    if len(columns) != len(known):
        return None
    column_of = {folded(column): column for column in columns}
    if len(column_of) < len(columns):
        return None
    return _with_addition(column_of, known) or _numbered(column_of, known)


def _with_addition(column_of: Mapping[str, str], known: ClassNames) -> dict[str, int] | None:
    names = [folded(name) for name in known.names]
    for first in column_of:
        for at in (match.start() for match in re.finditer(f"(?={re.escape(names[0])})", first)):
            before, after = first[:at], first[at + len(names[0]) :]
            place_of = {f"{before}{name}{after}": place for place, name in enumerate(names)}
            if place_of.keys() == column_of.keys():
                return {column_of[key]: place for key, place in place_of.items()}
    return None


def _numbered(column_of: Mapping[str, str], known: ClassNames) -> dict[str, int] | None:
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", key) for key in column_of]
    if None in parts or len({(part[1], part[3]) for part in parts if part}) != 1:
        return None
    numbers = [int(part[2]) for part in parts if part]
    for start in (0,) if known.are_whole else (0, 1):
        if sorted(numbers) == list(range(start, start + len(numbers))):
            return {column: number - start for column, number in zip(column_of.values(), numbers, strict=True)}
    return None


def matched_alone(column: str, known: ClassNames) -> int | None:
    """The class that the only column of numbers is named by, alone or beside other words; None where it names none."""
    place = known.find(column)
    if place is not None:
        return place
    number = re.fullmatch(rf"({_KINDS})[\W_]*(\d+)", folded(column))
    if number is not None:
        place = known.find(number[2])
        return place if place is not None else int(number[2]) if int(number[2]) < len(known) else None
    words, names = _words(column), [_words(name) for name in known.names]
    found = [place for place, name in enumerate(names) if name.strip() and name in words]
    return found[0] if len(found) == 1 else None


def _words(text: str) -> str:
    """The words of a text, each between blanks."""
    return " ".join(["", *re.findall(r"[^_\W]+", folded(text)), ""])
