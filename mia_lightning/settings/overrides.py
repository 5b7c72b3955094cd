"""Settings as they are typed on the command line: quoted for Hydra's grammar, and then for the shell."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence


def override(key: str, value: str | Sequence[str]) -> str:
    """The argument that sets `key` to a text, or to a list of texts, as it is typed in a shell.

    A text is quoted where Hydra would read it as something else. In a POSIX shell the argument is quoted where the
    shell would change it; on Windows it is quoted for its command line.
    """
    text = of_hydra(value) if isinstance(value, str) else f"[{','.join(of_hydra(each) for each in value)}]"
    return for_shell(f"{key}={text}")


def of_hydra(text: str) -> str:
    """The text in Hydra's grammar, quoted where it would not be read as it stands."""
    if text and not re.search(r"[,\[\]{}()]|\\$", text) and _read_as(text) == text:
        return text
    mark = '"' if "'" in text and '"' not in text else "'"
    # First for OmegaConf, which interpolates ${...}, then for Hydra; both halve backslashes before what they escape.
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    escaped = re.sub(rf"(\\*)({mark}|\Z)", lambda m: m[1] * 2 + ("\\" if m[2] else "") + m[2], escaped)
    return f"{mark}{escaped}{mark}"


def with_plain_paths(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Arguments of the command line in which files of the settings `keys` may have an equals sign in their names, as
    those of Lightning do: epoch=11-step=156.ckpt."""
    typed = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        is_plain = key.lstrip("+") in keys and "=" in value and not re.search(r"[,\[\]{}()'\"]", value)
        typed.append(f"{key}={of_hydra(value)}" if is_plain else argument)
    return typed


def for_shell(argument: str) -> str:
    """The argument as it is typed in this system's shell."""
    if os.name == "nt":  # for cmd and PowerShell
        return subprocess.list2cmdline([argument]) if '"' in argument else f'"{argument}"'
    if "'" in argument and not re.search(r'["$`\\!]', argument):
        return f'"{argument}"'
    return shlex.quote(argument)


def _read_as(text: str) -> object:
    """What Hydra makes of the text as a value; None where it cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return None
