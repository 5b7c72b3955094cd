"""The identity of a setting, in values that JSON can hold: equal for settings that act alike, different where code or
numbers differ.

The identity of a class or function is its name and its code, without comments and line numbers, and the identities of
the functions, classes and constants that the code uses, from its own module or from one that it imports. So an edited
network has another identity, and an edited script around it has not. Code of libraries, and of this package apart from
its architectures, counts by its name. The identity of any other object is what pickle would store of it.
"""

import contextlib
import copyreg
import dataclasses
import enum
import functools
import hashlib
import importlib
import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mia_lightning.settings import checking
from mia_lightning.store.bytecode import attributes, digest_of_code, global_names, imports

Identity = Any
"""None, bool, int, float, str, and lists and dicts of these."""

_PLAIN = (type(None), bool, int, float, str)
# Their code counts by its name alone.
_LIBRARIES = frozenset(
    (
        *sys.stdlib_module_names,
        *("torch", "torchvision", "numpy", "scipy", "sklearn", "pandas", "pyarrow", "PIL", "timm", "opacus"),
        *(
            "pytorch_lightning",
            "lightning_fabric",
            "lightning",
            "torchmetrics",
            "hydra",
            "omegaconf",
            "pydantic",
            "pydantic_core",
        ),
        "mia_lightning",
    )
) - {"__main__"}
_ARCHITECTURES = "mia_lightning.models"
# Of a module's attributes: the hooks that change its steps, its children, and the rest, which changes nothing.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_CHILDREN = ("_parameters", "_buffers", "_modules")
_BESIDE = frozenset(vars(nn.Module())) - {*_CHILDREN, "training", "_non_persistent_buffers_set"}


class NoIdentityError(Exception):
    """A value has no identity; the message names it."""


def digest(value: Identity) -> str:
    """The hash of an identity, 40 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def identity(value: object) -> Identity:
    """The identity of a value.

    Raises:
        NoIdentityError: the value holds something without identity, such as an open file.
    """
    try:
        return _Described().of(value)
    except RecursionError:
        raise NoIdentityError(f"a {_name(type(value))} that is nested too deeply") from None


def digest_of_tensor(tensor: Tensor) -> str:
    """The hash of a tensor's type, shape and numbers."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    numbers = hashlib.blake2b(f"{flat.dtype}{tuple(flat.shape)}".encode(), digest_size=20)
    numbers.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return numbers.hexdigest()


class _Described:
    """One description; code that it meets again, and a value that holds itself, are described once and then named."""

    def __init__(self) -> None:
        # By the `id` of an object: how many were met before it, and the object itself, so that no other gets its `id`.
        self._met: dict[int, tuple[int, object]] = {}
        self._count = 0

    def of(self, value: object) -> Identity:
        if isinstance(value, enum.Enum):
            return {"enum": _name(type(value)), "value": value.name, "is": self.of(value.value)}
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, bytes):
            return {"bytes": hashlib.blake2b(value, digest_size=20).hexdigest()}
        if isinstance(value, Tensor):
            return {"tensor": _tensor(value)}
        if isinstance(value, np.ndarray | np.generic):
            return {"array": _array(np.asarray(value))}
        if isinstance(value, Path | torch.dtype | torch.device | torch.Size | range | slice | complex):
            return str(value)
        if isinstance(value, ModuleType):
            return {"module": value.__name__}
        return self._once(value, lambda: self._of_many(value))

    def _once(self, value: object, describe: Callable[[], Identity]) -> Identity:
        if id(value) in self._met:
            return {"again": [getattr(value, "__qualname__", type(value).__qualname__), self._met[id(value)][0]]}
        self._met[id(value)] = (self._count, value)
        self._count += 1
        kept = False
        try:
            described = describe()
            kept = isinstance(value, FunctionType | type)  # of other values, equal ones may be one object or two
            return described
        finally:
            if not kept:
                del self._met[id(value)]

    def _of_many(self, value: Any) -> Identity:
        if isinstance(value, Mapping):
            items = [(_Described().of(key), each) for key, each in value.items()]
            if not isinstance(value, OrderedDict):  # the one mapping whose order counts when two are compared
                items.sort(key=lambda item: _text(item[0]))
            return {"items": [[key, self.of(each)] for key, each in items]}
        if isinstance(value, Set):  # each element on its own, since their order differs between processes
            return {"set": sorted((_Described().of(each) for each in value), key=_text)}
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
            owner = value.__self__
            named = owner is None or isinstance(owner, ModuleType | type)
            return {"function": _name(value)} if named else {"function": _name(value), "of": self.of(owner)}
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__)
        if isinstance(value, property):
            return [self.of(each) for each in (value.fget, value.fset)]
        if isinstance(value, functools.cached_property):
            return self.of(value.func)
        if isinstance(value, functools._lru_cache_wrapper):
            return self.of(value.__wrapped__)
        return self._of_object(value)

    def _of_object(self, value: Any) -> Identity:
        kind = self.of(type(value))
        if isinstance(value, nn.Module):
            held = {name: each for name, each in vars(value).items() if name not in _BESIDE}
            held["order"] = [list(held[name]) for name in _CHILDREN]
            held |= {name: list(vars(value)[name].values()) for name in _HOOKS if vars(value).get(name)}
        elif dataclasses.is_dataclass(value):
            held = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        else:
            return {"object": kind, **self._pickled(value)}
        return {"object": kind, "state": {name: self.of(each) for name, each in sorted(held.items())}}

    def _pickled(self, value: Any) -> dict[str, Identity]:
        """What pickle would rebuild the value from; a value that pickle refuses has no identity."""
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            made: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception as error:
            raise NoIdentityError(f"a {_name(type(value))}") from error
        if isinstance(made, str):
            return {"global": made}
        function, arguments, state, *items = made[:5] if len(made) > 2 else (*made, None)
        described: dict[str, Identity] = {}
        if function is not copyreg.__newobj__ or len(arguments) > 1:  # type: ignore[attr-defined]
            described["made"] = [self.of(function), self.of(arguments)]
        if items := [list(each) for each in items if each is not None]:
            described["holds"] = self.of(items)
        if not isinstance(state, dict):
            return described | {"state": self.of(state)}
        return described | {"state": {str(name): self.of(each) for name, each in sorted(state.items())}}

    def _of_class(self, kind: type) -> Identity:
        if _is_of_library(kind):
            return {"class": _name(kind)}
        bases = [self.of(base) for base in kind.__bases__ if base is not object]
        own = {
            name: self.of(each)
            for name, each in sorted(vars(kind).items())
            if not (name.startswith("__") and name.endswith("__")) or isinstance(each, FunctionType)
            if not name.startswith(("_abc_", "__dataclass"))
            and not isinstance(each, MemberDescriptorType | GetSetDescriptorType)
        }
        return {"class": _name(kind), "bases": bases, "own": own}

    def _of_function(self, function: FunctionType) -> Identity:
        if _is_of_library(function):
            return {"function": _name(function)}
        if function.__globals__ is vars(checking):  # `checked`, around another function
            return self.of(function.__wrapped__)  # type: ignore[attr-defined]
        inside, taken = function.__globals__, attributes(function.__code__)
        used = {name: inside[name] for name in sorted(global_names(function.__code__)) if name in inside}
        used |= _imported(function)
        cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        return {
            "function": _name(function),
            "code": digest_of_code(function.__code__),
            "defaults": self.of([function.__defaults__ or (), function.__kwdefaults__ or {}]),
            "closure": [self.of(cell) for cell in cells],
            "uses": {name: self._used(each, taken) for name, each in used.items()},
        }

    def _used(self, value: object, names: set[str]) -> Identity:
        """A global that code uses: its identity, or its type where it has none; of a module, what the code may use."""
        if isinstance(value, ModuleType):
            if _is_library(value.__name__):
                return self.of(value)
            taken = {name: each for name, each in sorted(vars(value).items()) if name in names}
            return self._once(value, lambda: {name: self._used(each, names) for name, each in taken.items()})
        try:
            return self.of(value)
        except NoIdentityError:
            return {"kind": _name(type(value))}


def _text(value: Identity) -> str:
    return json.dumps(value, sort_keys=True)


def _tensor(tensor: Tensor) -> str:
    try:
        return digest_of_tensor(tensor)
    except (RuntimeError, TypeError) as error:  # such as a sparse tensor, or one on the meta device
        raise NoIdentityError(f"a {tensor.layout} tensor on {tensor.device}") from error


def _array(array: np.ndarray[Any, Any]) -> str:
    if array.dtype.hasobject:
        raise NoIdentityError("an array of objects")
    return hashlib.blake2b(f"{array.dtype}{array.shape}".encode() + array.tobytes(), digest_size=20).hexdigest()


def _name(of: Any) -> str:
    module = getattr(of, "__module__", "") or ""
    return f"{module.replace('__mp_main__', '__main__')}.{getattr(of, '__qualname__', of)}"


def _is_of_library(of: Any) -> bool:
    modules = [getattr(of, "__module__", None) or "builtins"]
    if isinstance(of, FunctionType):  # functools.wraps sets `__module__` to another module's name
        modules.append(of.__globals__.get("__name__") or "builtins")
    return all(map(_is_library, modules))


def _is_library(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES and not module.startswith(_ARCHITECTURES)


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _imported(function: FunctionType) -> dict[str, ModuleType]:
    """The modules, libraries apart, that the function imports when it runs."""
    found = {}
    for name in sorted(imports(function.__code__)):
        if name.startswith(".") or not _is_library(name):
            with contextlib.suppress(Exception):  # the function may never reach an import that fails
                found[name] = importlib.import_module(name, function.__globals__.get("__package__"))
    return found
