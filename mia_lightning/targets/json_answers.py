"""JSON of somebody else's server, read within limits of size and depth that hold before anything is made of it."""

import json
from typing import Any

_MOST_VALUES = 2**22  # of which each takes up to some 200 bytes in memory
_DEEPEST = 32  # lists and objects within each other


class TooMuchError(ValueError):
    """An answer that is larger or deeper than any; the message says of what it has too much, and the mend."""


def read_json(content: bytes) -> Any:
    """What the JSON says; whole numbers of 20 digits and more become floats.

    Raises:
        TooMuchError: it has more values than any answer, or is nested deeper.
        ValueError: it is no JSON.
    """
    check_amount(content)
    try:
        found = json.loads(content, parse_int=_number)
    except RecursionError:
        raise _too_deep() from None
    level = [found]
    for _ in range(_DEEPEST):
        level = [inner for each in level if isinstance(each, list | dict) for inner in _inside(each)]
        if not level:
            return found
    raise _too_deep()


def check_amount(content: bytes) -> None:
    """Refuse a text of more values than any answer has.

    Raises:
        TooMuchError: it has more.
    """
    if sum(map(content.count, (b",", b"[", b"{", b"\n"))) > _MOST_VALUES:
        raise TooMuchError(f"it has more than {_MOST_VALUES:,} values; lower target.asking.batch_size")


def _too_deep() -> TooMuchError:
    return TooMuchError(f"it has more than {_DEEPEST} lists within each other; let the server send plain ones")


def _inside(container: list[Any] | dict[str, Any]) -> Any:
    return container if isinstance(container, list) else container.values()


def _number(text: str) -> int | float:
    return int(text) if len(text) < 20 else float(text)
