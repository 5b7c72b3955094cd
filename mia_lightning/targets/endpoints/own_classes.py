"""Classes as a model in this process calls them, and their places among those of the data set."""

from collections.abc import Sequence
from numbers import Integral, Real

from mia_lightning.errors import InputError


def places(classes: Sequence[object], class_names: Sequence[str], what: str) -> list[int]:
    """Where each class of a model stands in `class_names`: by its name, else by its number from 0.

    Numbers are taken as text first, so that classes named "1" to "10" are found by the labels 1 to 10.

    Args:
        classes: names, or numbers that stand for them.
        what: has these classes, for the message.

    Raises:
        InputError: one is none of them, or two are the same one.
    """
    keys = [_key(each) for each in classes]
    names = {name: number for number, name in enumerate(class_names)}
    if all(str(key) in names for key in keys):
        found = [names[str(key)] for key in keys]
    else:
        found = [_by_number(key, class_names, what) for key in keys]
    if len(set(found)) < len(found):
        twice = next(each for each in classes if found.count(found[list(classes).index(each)]) > 1)
        raise InputError(
            f"{what} has the class {twice!r} under two names: give it labels that are all names of classes "
            "or all their numbers."
        )
    return found


def _key(value: object) -> object:
    """Bools and whole floats as the int that they are, numbers of numpy as those of Python."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and float(value).is_integer():
        return int(float(value))
    return value.item() if hasattr(value, "item") else value


def _by_number(key: object, class_names: Sequence[str], what: str) -> int:
    if isinstance(key, int) and 0 <= key < len(class_names):
        return key
    few = ", ".join(map(repr, class_names[:5])) + (", …" if len(class_names) > 5 else "")
    raise InputError(
        f"{what} has the class {key!r}, which is none of the data set's {len(class_names)} ({few}) nor a number of "
        "one: train it on labels of the data set, or name the classes in `target.asking.classes` in the "
        "model's own order."
    )
