"""What a setting is, in values that JSON keeps: equal for settings that act alike, other where code or numbers differ.

A class or function is its name and its code, without comments and line numbers, and that of every function, class and
constant that it names, so that an edited network is another network, and an edited script around it is not. Code of
libraries, and of this package but for its architectures, is known by its name.
"""

import dataclasses
import enum
import functools
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Identity = Any
"""None, bool, int, float, str, and lists and dicts of these."""

_PLAIN = (type(None), bool, int, float, str)
# Whose code is not looked into.
_LIBRARIES = frozenset(
    {*sys.stdlib_module_names, "torch", "torchvision", "numpy", "scipy", "sklearn", "pytorch_lightning"}
    | {"lightning_fabric", "lightning", "timm", "opacus", "hydra", "omegaconf", "pandas", "pyarrow", "PIL", __package__}
) - {"__main__"}
_ARCHITECTURES = f"{__package__}.models"


class NoIdentityError(Exception):
    """It cannot be said what a value is; the message names it."""


def digest(value: Identity) -> str:
    """40 hexadecimal digits of an identity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def identity(value: object) -> Identity:
    """What a value is.

    Raises:
        NoIdentityError: it holds something of which this cannot be said, such as an open file.
    """
    return _Described().of(value)


def digest_of_tensor(tensor: Tensor) -> str:
    """Of its type, shape and numbers."""
    flat = tensor.detach().cpu().contiguous()
    numbers = hashlib.blake2b(f"{flat.dtype}{tuple(flat.shape)}".encode(), digest_size=20)
    numbers.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return numbers.hexdigest()


class _Described:
    """One description, in which code that is met again, or what holds itself, is named only."""

    def __init__(self) -> None:
        self._met: dict[int, object] = {}  # kept alive, so that no other object gets its number

    def of(self, value: object) -> Identity:
        if isinstance(value, enum.Enum):
            return {"enum": _name(type(value)), "value": value.name}
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, bytes):
            return {"bytes": hashlib.blake2b(value, digest_size=20).hexdigest()}
        if isinstance(value, Tensor):
            return {"tensor": digest_of_tensor(value)}
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.hasobject:
                raise NoIdentityError("an array of objects")
            return {"array": digest_of_tensor(torch.from_numpy(np.ascontiguousarray(value)[None]))}
        if isinstance(value, Path | torch.dtype | torch.device | torch.Size | range | slice | complex):
            return str(value)
        if isinstance(value, ModuleType):
            return {"module": value.__name__}
        if id(value) in self._met:
            return {"again": getattr(value, "__qualname__", type(value).__qualname__)}
        self._met[id(value)] = value
        try:
            return self._of_many(value)
        finally:
            if not isinstance(value, FunctionType | type):  # equal values may be one object or two
                del self._met[id(value)]

    def _of_many(self, value: Any) -> Identity:
        if isinstance(value, Mapping):
            items = [[self.of(key), self.of(each)] for key, each in value.items()]
            return {"items": sorted(items, key=lambda item: json.dumps(item[0], sort_keys=True))}
        if isinstance(value, Set):
            return {"set": sorted((self.of(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True))}
        if isinstance(value, Sequence):
            return [self.of(each) for each in value]
        if isinstance(value, functools.partial):
            return {"call": self.of(value.func), "with": self.of(value.args), "named": self.of(value.keywords)}
        if isinstance(value, type):
            return self._of_class(value)
        if isinstance(value, FunctionType):
            return self._of_function(value)
        if isinstance(value, MethodType):
            return {"method": value.__name__, "of": self.of(value.__self__)}
        if isinstance(value, BuiltinFunctionType):
            return {"function": f"{value.__module__}.{value.__qualname__}"}
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__)
        if isinstance(value, property):
            return [self.of(each) for each in (value.fget, value.fset)]
        return self._of_object(value)

    def _of_object(self, value: Any) -> Identity:
        kind = self.of(type(value))
        if dataclasses.is_dataclass(value):
            held = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
            return {"object": kind, "state": {name: self.of(each) for name, each in held.items()}}
        try:
            reduced = value.__reduce_ex__(2)  # as it would be pickled: by its class, arguments and state
        except Exception as error:  # whatever it raises, it does not say what it is
            raise NoIdentityError(f"a {_name(type(value))}") from error
        if isinstance(reduced, str):
            return {"object": kind, "name": reduced}
        _, arguments, state, *items = (*reduced, None, None, None)[:5]
        if isinstance(value, nn.Module):  # what Lightning and hooks keep beside is of no consequence
            state = {
                name: each for name, each in state.items() if "_hooks" not in name and name != "_compiled_call_impl"
            }
        return {
            "object": kind,
            "from": [self.of(each) for each in arguments if each is not type(value)],
            "state": self.of(state),
            "items": [self.of(list(each)) for each in items if each is not None],
        }

    def _of_class(self, kind: type) -> Identity:
        if _is_of_library(kind):
            return {"class": _name(kind)}
        bases = [self.of(base) for base in kind.__bases__ if base is not object]
        own = {
            name: self.of(each)
            for name, each in sorted(vars(kind).items())
            if not (name.startswith("__") and name.endswith("__")) or isinstance(each, FunctionType)
            if not name.startswith(("_abc_", "__dataclass"))
        }
        return {"class": _name(kind), "bases": bases, "own": own}

    def _of_function(self, function: FunctionType) -> Identity:
        if _is_of_library(function):
            return {"function": _name(function)}
        cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        return {
            "function": _name(function),
            "code": _code(function.__code__),
            "defaults": self.of([function.__defaults__ or (), function.__kwdefaults__ or {}]),
            "closure": [self.of(cell) for cell in cells],
            "uses": self._named_in(function.__globals__, _names(function.__code__)),
        }

    def _named_in(self, known: Mapping[str, object], names: Set[str]) -> Identity:
        return {name: self._used(known[name], names) for name in sorted(names) if name in known}

    def _used(self, value: object, names: Set[str]) -> Identity:
        """A global that code names; of a module whatever of it may be named, of what has no identity its kind."""
        if isinstance(value, ModuleType):
            is_own = value.__name__.partition(".")[0] not in _LIBRARIES and id(value) not in self._met
            if not is_own:
                return {"module": value.__name__}
            self._met[id(value)] = value
            return {"module": value.__name__, "uses": self._named_in(vars(value), names)}
        try:
            return self.of(value)
        except NoIdentityError:
            return {"kind": _name(type(value))}


def _name(of: Any) -> str:
    module = getattr(of, "__module__", "") or ""
    return f"{module.replace('__mp_main__', '__main__')}.{getattr(of, '__qualname__', of)}"


def _is_of_library(of: Any) -> bool:
    module = getattr(of, "__module__", None) or "builtins"
    return module.partition(".")[0] in _LIBRARIES and not module.startswith(_ARCHITECTURES)


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _names(code: CodeType) -> set[str]:
    """Of everything that the code, and code within it, may take from outside of it."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*(_names(each) for each in inner))


def _code(code: CodeType) -> str:
    """A digest of what it does, wherever it stands."""

    def parts(code: CodeType) -> list[object]:
        constants = [parts(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
        return [code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars]

    return hashlib.blake2b(repr(parts(code)).encode(), digest_size=20).hexdigest()


def _constant(value: object) -> str:
    """The same in every process, unlike the order of a set."""
    return f"set {sorted(map(repr, value))}" if isinstance(value, frozenset) else repr(value)
