"""Plain values out of what a file holds, with a mark in the place of each that only code could make."""

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mia_lightning.targets.inert import Inert, is_inert, name_of

_OF_LIGHTNING_CLI = {"class_path", "init_args", "dict_kwargs"}  # of an object that LightningCLI makes
_DEEPEST = 20
_MOST_VALUES = 100_000
_NAMESPACES, ATTRIBUTES = ("argparse.Namespace", "types.SimpleNamespace"), ".parsing.AttributeDict"
_DICTS, _LISTS = "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"
_PARTIAL = "functools.partial"

_SIMPLE = (str, bytes, int, float, bool, type(None))
_DOTTED = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class NeedsCode:
    """A value of a file that only code could make.

    Attributes:
        name: what code: its class or function, with its module.
        value: what stands for it; None where it was not read as an object.
    """

    name: str
    value: object = None

    def is_known(self, given: object) -> bool:
        """Whether a value in memory is surely the same."""
        return self.value is not None and _is_same(given, self.value)

    def differs_from(self, given: object) -> bool:
        """Whether a value in memory is surely another: both are classes or functions."""
        return isinstance(self.value, type) and hasattr(given, "__qualname__") and not self.is_known(given)

    def on_command_line(self, place: str, package: str) -> str:
        """How it is set there, as the setting `place`.

        Args:
            package: of the user's model; another's name is not repeated, since the file may be anybody's.
        """
        if " " in self.name:  # a list or a mapping
            return f"+{place}=..."
        name, is_partial = self.name, self.name == _PARTIAL
        if is_partial:
            made: Any = next(iter(getattr(self.value, "args", ())), None)
            name = name_of(made) if is_inert(made) else ""
        if not (_DOTTED.fullmatch(name) and name.startswith((f"{package}.", "torch.nn.", "torch.optim."))):
            name = "..."
        if isinstance(self.value, type):
            return f"+{place}._target_=hydra.utils.get_object +{place}.path={name}"
        return f"+{place}._target_={name}{f' +{place}._partial_=true' * is_partial} and its settings"


def _is_same(given: object, value: object) -> bool:
    """Whether a value in memory is surely what a file holds."""
    if isinstance(value, type) and issubclass(value, Inert):
        return f"{getattr(given, '__module__', '')}.{getattr(given, '__qualname__', '')}" == name_of(value)
    if isinstance(given, partial):
        held: Any = value.state if isinstance(value, Inert) and name_of(value) == _PARTIAL else None
        return (
            isinstance(held, tuple)
            and len(held) == 4
            and _is_same(given.func, held[0])
            and _is_same(given.args, held[1])
            and _is_same(given.keywords, held[2] or {})
        )
    if isinstance(given, dict) and isinstance(value, dict):
        return given.keys() == value.keys() and all(_is_same(each, value[name]) for name, each in given.items())
    if isinstance(given, list | tuple) and isinstance(value, list | tuple):
        return len(given) == len(value) and all(map(_is_same, given, value))
    return isinstance(given, _SIMPLE) and type(given) is type(value) and given == value


class Plain:
    """Plain values out of those of a file, at most so many; `NeedsCode` in the place of what only code could make."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES

    def of(self, value: Any, depth: int = 0, *, is_inside: bool = False) -> Any:
        """The value; of containers of OmegaConf, and namespaces, such again, but for those inside of one."""
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:  # a small file can hold one list in many places
            return NeedsCode("value of many parts")
        kind = value.name if isinstance(value, Inert) else ""
        within = is_inside or kind in (_DICTS, _LISTS)
        held = opened(value)
        if held is not None:
            if isinstance(held.get("class_path"), str) and held.keys() <= _OF_LIGHTNING_CLI:
                return NeedsCode(held["class_path"])
            named = {name: self.of(each, depth + 1, is_inside=within) for name, each in held.items()}
            return _coded(named.values(), "mapping", value) or (named if is_inside else held_in(kind, named))
        state: Any = value.state if isinstance(value, Inert) else None
        if isinstance(state, Mapping) and (kind == _LISTS or kind.startswith("omegaconf.nodes.")):
            value = state.get("_content" if kind == _LISTS else "_val")
        if isinstance(value, list | tuple):
            listed = [self.of(each, depth + 1, is_inside=within) for each in value]
            return _coded(listed, "list", value) or type(value)(listed)
        return NeedsCode(name_of(value), value) if is_inert(value) else value


def opened(value: Any) -> Mapping[Any, Any] | None:
    """A mapping, also one of OmegaConf, of Lightning or of argparse, as the values that it holds; else None."""
    if isinstance(value, Inert):
        state: Any = value.state
        if value.name == _DICTS:
            value = state.get("_content") if isinstance(state, Mapping) else None
        elif value.name in _NAMESPACES:
            value = state
        elif value.name.endswith(ATTRIBUTES):
            value = value.items
    return value if isinstance(value, Mapping) else None


def held_in(kind: str, named: Mapping[Any, Any]) -> Any:
    """The values in an object of the kind that held them."""
    if kind == _DICTS:
        from omegaconf import OmegaConf

        return OmegaConf.create(dict(named))
    if kind in _NAMESPACES:
        return Namespace(**{str(name): each for name, each in named.items()})
    if kind.endswith(ATTRIBUTES):
        from pytorch_lightning.utilities.parsing import AttributeDict

        return AttributeDict(named)
    return dict(named)


def _coded(values: Iterable[object], kind: str, held_by: object) -> NeedsCode | None:
    """For what holds values, if code would be needed for one of them."""
    found = next((each for each in values if isinstance(each, NeedsCode)), None)
    if found is None:
        return None
    return NeedsCode(found.name if " " in found.name else f"{kind} with a {found.name}", held_by)
