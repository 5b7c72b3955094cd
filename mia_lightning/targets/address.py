"""The address of a server in a setting: nothing secret may stand in it, since settings are kept in reports."""

from urllib.parse import urlsplit

from mia_lightning.errors import InputError


def checked_address(value: object, place: str) -> str:
    """An http or https address without a slash at its end.

    Args:
        place: the setting, for messages, which do not repeat an address that may hold a password.

    Raises:
        InputError: it is none, or holds a user, a password, a query or a fragment.
    """
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise InputError(f"`{place}` is no address; give one such as http://127.0.0.1:8700.")
    try:
        parts = urlsplit(value)
        has_host, _ = bool(parts.hostname), parts.port
    except ValueError:
        has_host = False
    if not has_host:
        raise InputError(f"`{place}` names no host and port; give an address such as http://127.0.0.1:8700.")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"`{place}` holds a user or a password, which settings and reports would keep; put a token into an "
            "environment variable and name that."
        )
    if parts.query or parts.fragment:
        raise InputError(f"`{place}` has a query or a fragment; give the address of the server alone.")
    return value.rstrip("/")
