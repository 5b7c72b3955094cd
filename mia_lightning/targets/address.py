"""The address of a server in a setting: nothing secret may stand in it, since settings are kept in reports."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, ValidationInfo

from mia_lightning.errors import InputError
from mia_lightning.settings.words import Words

_EXAMPLE = "such as http://127.0.0.1:8700"


def _address(value: object, info: ValidationInfo) -> str:
    return checked_url(value, f"target.{info.field_name}")


def checked_url(url: object, setting: str) -> str:
    """An http or https address without a slash at its end.

    Args:
        setting: that it comes from, for messages, which do not repeat what may hold a password.

    Raises:
        InputError: it is none, or holds a user, a password, a query or a fragment.
    """
    text = str(url).strip()
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"`{setting}` is no address, or names no host and port; give one {_EXAMPLE}.") from None
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"`{setting}` holds a user or password (before the @ of {host}), which would stand in reports; take it "
            "out, and put a token into the environment variable that `target.token_variable` names."
        )
    if parts.query or parts.fragment:
        raise InputError(
            f"`{setting}` at {host} has a part behind a ? or #, which may be secret; give the address without it."
        )
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"`{setting}` is no address of http or https, or names no host and port; give one {_EXAMPLE}.")
    return text.rstrip("/")


Address = Annotated[str, BeforeValidator(_address), Words("the address of a server, of http or https")]
