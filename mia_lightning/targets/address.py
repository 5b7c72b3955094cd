"""Addresses of servers and names of token variables in settings: nothing secret may stand there or in a message.

Settings are kept in reports, so a token belongs into an environment variable. A value that may hold a secret is never
repeated by a sentence.
"""

import re
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


def _variable(value: object, info: ValidationInfo) -> str:
    """The name of an environment variable; a token that stands in its place is not repeated."""
    if not isinstance(value, str) or re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", value) is None:
        raise InputError(
            f"`target.{info.field_name}` is no name of an environment variable (it is not shown, since it may be a "
            "token); export the token and give the name of its variable, or '' for none."
        )
    return value


TokenVariable = Annotated[
    str, BeforeValidator(_variable), Words("the name of an environment variable that holds a token, or '' for none")
]
