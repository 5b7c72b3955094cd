"""The one reader of the JSON files that this package writes: a file is what was written, or it does not count."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # pydantic is imported where there is a document to read
    from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")

# Of the form of a document: no type stands in for another, and nothing that is unknown stands beside it.
EXACT: "ConfigDict" = {"strict": True, "extra": "forbid", "frozen": True, "allow_inf_nan": False}
_CHECK = "check"


class DamagedError(Exception):
    """A file is not what was written; the message says what it does instead, such as "cannot be read".

    Attributes:
        violation: the first thing that is against its form, such as "Field required at `run`"; else the message.
    """

    def __init__(self, message: str, violation: str | None = None) -> None:
        super().__init__(message)
        self.violation = violation or message


def read(path: Path, form: type[T], *, seal: str | None = None) -> T | None:
    """The document at `path`; None where there is none.

    Args:
        form: a model of pydantic, or a dataclass; `EXACT` is its configuration.
        seal: with which the document was sealed; None for one without a checksum.

    Raises:
        DamagedError: it is no such document, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror})") from None
    return understood(content if seal is None else unsealed(content, seal), form)


def understood(content: object, form: type[T]) -> T:
    """What the content is by its form.

    Args:
        content: bytes of JSON, or what is made of them.

    Raises:
        DamagedError: it is nothing of this form.
    """
    from pydantic import ValidationError

    text = content if isinstance(content, bytes) else json.dumps(content)
    adapter: TypeAdapter[T] = _adapter(form)  # type: ignore[arg-type]  # a type is hashable
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        violation = _first(error)
        raise DamagedError(f"is not of its form ({violation})", violation) from None


def sealed(content: Mapping[str, Any], seal: str, *, indent: int = 2) -> bytes:
    """The content as JSON with a checksum of it.

    Args:
        seal: a text that is part of the checksum, such as the place of the file, so that no other file passes for it.
    """
    plain = json.loads(json.dumps(content))  # as it will be read: JSON turns the keys of mappings into text
    plain[_CHECK] = _checksum(plain, seal)
    return json.dumps(plain, indent=indent, sort_keys=True).encode() + b"\n"


def unsealed(content: bytes, seal: str) -> dict[str, Any]:
    """What was sealed.

    Raises:
        DamagedError: it is no JSON, or not what was sealed.
    """
    try:
        found = json.loads(content)
        check = found.pop(_CHECK)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise DamagedError("cannot be read") from None
    if not isinstance(found, dict) or check != _checksum(found, seal):
        raise DamagedError("does not match its checksum")
    return found


def _first(error: "ValidationError") -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "its beginning"
    return f"{first['msg']} at `{place}`"


def _checksum(content: Mapping[str, Any], seal: str) -> str:
    return hashlib.sha256(f"{seal}\n{json.dumps(content, sort_keys=True)}".encode()).hexdigest()


@cache
def _adapter(form: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(form)
