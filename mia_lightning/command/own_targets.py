"""What a configuration may have made that came with a run's folder: the choices that `conf/` itself offers.

A run's folder is data. A `_target_` in it could name any function on this machine, among them some of this package, or
of what its modules import, that read a pickle. So a list of names decides, and not a prefix.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from mia_lightning.command.mistakes import config_directory
from mia_lightning.errors import InputError

_DEEPEST = 20
_MEND = (
    "a run's folder is read as data, and what it names would run with your rights on this machine; where you trust the "
    "folder as you trust a program, add --trust"
)


def check_own(node: Any, place: str) -> None:
    """Refuse a node of which something is not one of the package's own choices.

    Args:
        node: of a configuration, as plain values.
        place: of the node in it, such as `defense.rounding`; its first part is the folder of `conf/`.

    Raises:
        InputError: a `_target_` at any depth is none that `conf/` names for the section; it is called in another way
            than there; a text is an interpolation; or an address for downloads is not the published one.
    """
    own = own_choices(place.removeprefix("guess.").partition(".")[0])
    for where, value in _walk(node, place):
        if isinstance(value, str) and "${" in value:
            raise InputError(f"`{where}` is {value[:100]!r}, which stands for another value; {_MEND}.")
        if not isinstance(value, Mapping) or "_target_" not in value:
            continue
        target = value["_target_"]
        choice = own.get(target) if isinstance(target, str) else None
        if choice is None:
            raise InputError(f"`{where}._target_` is {str(target)[:100]!r}, none of mia_lightning's own; {_MEND}.")
        odd = next((key for key in value if key.startswith("_") and key not in choice), None)
        if odd is not None:
            raise InputError(f"`{where}` has {odd[:100]!r}, which changes how {target} is called; {_MEND}.")
        if value.get("url", choice.get("url")) != choice.get("url"):
            raise InputError(
                f"`{where}.url` is {str(value['url'])[:100]!r}, another address than the published one; {_MEND}."
            )


@cache
def own_choices(section: str) -> Mapping[str, Mapping[str, Any]]:
    """What the files of a folder of `conf/` make, by `_target_`, with its settings there."""
    from omegaconf import OmegaConf

    files = sorted((config_directory() / section).glob("*.yaml"))
    nodes = (value for path in files for _, value in _walk(OmegaConf.to_container(OmegaConf.load(path)), ""))
    made = (node for node in nodes if isinstance(node, Mapping))
    return {node["_target_"]: node for node in made if node.get("_target_", "???") != "???"}


def _walk(node: Any, place: str, level: int = 0) -> Iterator[tuple[str, Any]]:
    """The node and all that is in it, each with its place.

    Raises:
        InputError: it is nested more deeply than any setting.
    """
    if level > _DEEPEST:
        raise InputError(f"`{place}` stands more than {_DEEPEST} levels deep, where no setting does; {_MEND}.")
    yield place, node
    inner = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, value in inner:
        yield from _walk(value, f"{place}[{name}]" if isinstance(name, int) else f"{place}.{name}", level + 1)
