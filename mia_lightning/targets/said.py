"""What a server said, as a message may repeat it: without secrets, in one line that a terminal can show, and cut."""

import logging
import re

from mia_lightning.errors import one_line

_SHORTEST_SECRET = 4  # shorter ones would be found in any text
_TELLING = 8  # first characters of a secret, which are hidden without the others, too
_LONGEST_LOOKED_AT = 1_000_000  # characters
# Loggers of httpx, which repeat the words beside a status and, for debugging, all headers.
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")

_secrets: dict[str, re.Pattern[str]] = {}  # by the secret


def keep_secret(secret: str) -> None:
    """Hide it, from now on, in all that a server says, and in the log of the HTTP library."""
    if len(secret) < _SHORTEST_SECRET or secret in _secrets:
        return
    _secrets[secret] = _echo_of(secret)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_without_secrets)  # once, however often it is added


def said(raw: object, longest: int = 60) -> str:
    """A text as it is, anything else as Python writes it.

    Args:
        longest: characters; more are cut, where no part of a secret is left.
    """
    text = " ".join((raw if isinstance(raw, str) else repr(raw)).split())[:_LONGEST_LOOKED_AT]
    text = one_line(_hidden(text))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _hidden(text: str) -> str:
    for secret in sorted(_secrets, key=len, reverse=True):
        text = _secrets[secret].sub("…", text)
    return text


def _without_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(_hidden(record.getMessage())), ()
    return True


def _echo_of(secret: str) -> re.Pattern[str]:
    """The secret, or its beginning and what follows, in upper or lower case; addresses, JSON, Python and HTML write a
    character in their own ways."""
    ways = [rf"\\{{0,4}}(?:{re.escape(each)}|%{ord(each):02x}|u00{ord(each):02x}|&#?\w+;)" for each in secret]
    whole, beginning = "".join(ways), "".join(ways[:_TELLING])
    if len(secret) < _TELLING:  # which may be a part of words
        return re.compile(rf"(?<!\w){whole}(?!\w)", re.IGNORECASE)
    return re.compile(rf"{whole}|{beginning}\S*", re.IGNORECASE)
