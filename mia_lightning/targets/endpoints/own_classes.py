"""The classes of a model, and their places among those of the data set."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from mia_lightning.errors import InputError

Labels = Literal["auto", "names", "places"]

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")


class NoClassError(ValueError):
    """A label is no class of the data set; the message is the end of a sentence that begins with the label."""


class ClassNames:
    """The classes of the data set, found by name.

    Names are compared as they are, then without regard to case and outer blanks, then as numbers ("1.0" is "1"). Where
    two classes match equally well, neither is meant.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.are_whole = all(_WHOLE.fullmatch(name.strip()) for name in self.names)
        ways: tuple[Callable[[str], object], ...] = (str, folded, as_number)
        self._ways = [(way, _place_by(way, self.names)) for way in ways]

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: object) -> int | None:
        """The place of the class of this name, a text or a number; None where there is none."""
        exact = self._ways[0][1].get(name)
        if exact is not None:
            return exact
        for spelling in dict.fromkeys((str(name), str(key_of(name)))):
            for way, place_of in self._ways:
                place = place_of.get(way(spelling))
                if place is not None:
                    return place
        return None

    def of_label(self, label: object, labels: Labels = "auto", order: Sequence[int] | None = None) -> int:
        """The place of the class that a label means, whatever other labels the model has.

        Text is a name. A number is a name where all names are whole numbers; else it counts the classes from 0.

        Args:
            label: text or number.
            labels: what numbers are.
            order: the place of each class in the model's order; None where nobody said that it has one of its own.

        Raises:
            NoClassError: the label is no class, or could be two.
        """
        key, named = key_of(label), self.find(label)
        counted = _counted(key, range(len(self)) if order is None else order)
        are_names = self.are_whole or (named is not None and not isinstance(key, int))
        if labels == "auto" and not isinstance(key, str) and (order is not None or not self.are_whole):
            self._check_one(named, counted)
        if isinstance(key, str) or labels == "names" or (labels == "auto" and are_names):
            found, why = named, "is no class of the data set"
        else:
            found, why = counted, f"is no number of one of {len(self)} classes, from 0"
        if found is None:
            raise NoClassError(why)
        return found

    def _check_one(self, named: int | None, counted: int | None) -> None:
        if named is not None and counted is not None and named != counted:
            raise NoClassError(
                f"is the name of the class {self.names[named]!r} and the number, from 0, of {self.names[counted]!r}; "
                "set target.asking.labels=names or target.asking.labels=places"
            )


def folded(name: str) -> str:
    """Without regard to case and to blanks at the ends."""
    return name.strip().casefold()


def as_number(text: str) -> float | None:
    """The number that a text writes in full; None for other text."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def key_of(value: object) -> object:
    """Bools and whole floats as int, numbers of numpy as those of Python."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and float(value).is_integer():
        return int(float(value))
    return value.item() if hasattr(value, "item") else value


def places(classes: Sequence[object], class_names: Sequence[str], what: str, labels: Labels = "auto") -> list[int]:
    """Where each class of a model stands in `class_names`: by the names of all, else by their numbers from 0.

    Numbers are compared with names first, so that classes named "1" to "10" are found by the labels 1 to 10.

    Args:
        classes: all classes of the model, by their names or numbers.
        what: the model, for the message.
        labels: what numbers are.

    Raises:
        InputError: a class is none of the data set's or could be two of them, or two are the same.
    """
    known = ClassNames(class_names)
    if labels == "auto" and known.are_whole:
        labels = "names" if all(known.find(each) is not None for each in classes) else "places"
    found = [_place(each, known, what, labels) for each in classes]
    if len(set(found)) < len(found):
        twice = next(each for each, place in zip(classes, found, strict=True) if found.count(place) > 1)
        raise InputError(
            f"{what} has the class {twice!r} under two names; give it labels that are all names of classes, or all "
            "numbers."
        )
    return found


def label_places(label_B: Any, class_names: Sequence[str], what: str, labels: Labels = "auto") -> list[int]:
    """Where the class of each label stands in `class_names`; see `ClassNames.of_label`.

    Args:
        label_B: numpy array `[B]` of labels of a model whose other labels are not known.

    Raises:
        InputError: a label is no class of the data set, or could be two.
    """
    known = ClassNames(class_names)
    distinct, index_B = np.unique(label_B, return_inverse=True)
    found = [_place(each, known, what, labels) for each in distinct.tolist()]
    return [found[i] for i in index_B.tolist()]


def _place(label: object, known: ClassNames, what: str, labels: Labels) -> int:
    try:
        return known.of_label(label, labels)
    except NoClassError as error:
        key, class_names = key_of(label), known.names
        if ";" in str(error):  # with a mend of its own
            raise InputError(f"{what} has the class {key!r}, which {error}.") from None
    few = ", ".join(map(repr, class_names[:5])) + (", …" if len(class_names) > 5 else "")
    raise InputError(
        f"{what} has the class {key!r}, which is neither the name nor the number of one of the data set's "
        f"{len(class_names)} classes ({few}); train it on labels of the data set, name the classes in "
        "`target.asking.classes` in the model's own order, or say in `target.asking.labels` what numbers are."
    )


def _place_by(way: Callable[[str], object], names: Sequence[str]) -> dict[object, int]:
    """The place of each name that no other equals."""
    keys = [way(name) for name in names]
    count_of = Counter(keys)
    return {key: place for place, key in enumerate(keys) if key is not None and count_of[key] == 1}


def _counted(key: object, order: Sequence[int]) -> int | None:
    return order[key] if isinstance(key, int) and 0 <= key < len(order) else None
