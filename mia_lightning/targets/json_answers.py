"""JSON of somebody else's server, read within limits of size and depth that hold before anything is made of it."""

import json
from typing import Any

_MOST_VALUES = 2**22  # of which each takes up to some 200 bytes in memory
_DEEPEST = 32  # lists and objects within each other


def read_json(content: bytes) -> Any:
    """What the JSON says; whole numbers of 20 digits and more become floats.

    Raises:
        ValueError: it is no JSON, has more values than any answer, or is nested deeper than any answer.
    """
    check_amount(content)
    try:
        found = json.loads(content, parse_int=_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    level = [found]
    for _ in range(_DEEPEST):
        level = [inner for each in level if isinstance(each, list | dict) for inner in _inside(each)]
        if not level:
            return found
    raise ValueError("it is nested too deep")


def check_amount(content: bytes) -> None:
    """Refuse a text of more values than any answer has.

    Raises:
        ValueError: it has more.
    """
    if sum(map(content.count, (b",", b"[", b"{", b"\n"))) > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES} values")


def _inside(container: list[Any] | dict[str, Any]) -> Any:
    return container if isinstance(container, list) else container.values()


def _number(text: str) -> int | float:
    return int(text) if len(text) < 20 else float(text)
