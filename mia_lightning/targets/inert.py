"""Pickles, read without running code of theirs.

A pickle names the classes and functions that rebuild its objects. Here tensors, plain values and a few classes of the
standard library are rebuilt by functions of this file; every other name becomes an `Inert`, which takes whatever a
pickle does with it, does nothing, and can be asked for its name.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import torch

from mia_lightning.targets.storages import DAMAGED, NotReadError, Storage, StorageType

_MOST_NAMES = 10_000  # of code, in one pickle
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))
_STORAGES = {
    **{"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Char": torch.int8, "Byte": torch.uint8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64},
    **{"Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8},
}


class Inert:
    """What a class or function of a pickle would have made, had it been called: its name, and what it was given.

    Attributes:
        name: of the class or function, with its module.
        args: that it was called with.
        state: that the object was to be given, such as its attributes.
        items: that it was to hold, by their keys.
        elements: that it was to hold, in order.
    """

    name = ""

    def __new__(cls, *args: object, **kwargs: object) -> "Inert":
        made = super().__new__(cls)
        made.args, made.state, made.items, made.elements = args, None, {}, []
        return made

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.args: tuple[object, ...]
        self.state: object
        self.items: dict[object, object]
        self.elements: list[object]

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(key, _PLAIN_KEYS):
            self.items[key] = value

    def append(self, value: object) -> None:
        self.elements.append(value)

    def __call__(self, *args: object, **kwargs: object) -> "Inert":
        return self

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("what stands for an object of a file is not written again")


def is_inert(value: object) -> bool:
    """Whether code would be needed to make it: an object, or the class or function itself."""
    return isinstance(value, Inert) or (isinstance(value, type) and issubclass(value, Inert))


def name_of(value: Any) -> str:
    """The name of what an inert value stands for, with its module."""
    return str(value.name)


class Unpickler(pickle._Unpickler):  # in Python, where each step can be replaced
    """Makes plain values and tensors, and `Inert` in the place of all else."""

    append: Callable[[Any], None]  # of the stack
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Any, storage: Callable[..., Storage]) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self._storage = storage
        self._inert: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What rebuilds objects of this name: a function of this file, or a class of its own for the name."""
        module = {"__builtin__": "builtins"}.get(module, module)  # as protocol 2 has it
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if (
            module in ("torch", "torch.storage", "torch.cuda")
            and name.removesuffix("Storage") in _STORAGES
            and "Storage" in name
        ):
            return StorageType(_STORAGES[name.removesuffix("Storage")])
        full = f"{module}.{name}"[:200]
        if full not in self._inert and len(self._inert) >= _MOST_NAMES:
            raise NotReadError(f"it names more than {_MOST_NAMES} classes and functions")
        return self._inert.setdefault(full, type("Inert", (Inert,), {"name": full}))

    def persistent_load(self, pid: object) -> Any:
        kind, *rest = pid if isinstance(pid, tuple) and pid else (None,)
        if kind == "module" and rest:  # a class, beside its source
            return rest[0]
        if kind != "storage" or len(rest) not in (4, 5) or type(rest[3]) is not int or rest[3] < 0:
            raise NotReadError(DAMAGED)
        return self._storage(rest[0], str(rest[1]), *rest[2:])

    def get_extension(self, code: int) -> None:
        self.append(self.find_class("copyreg", f"extension {code}"))

    def _build(self) -> None:
        """Give an inert object its state; what is made here has none."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [key, value])

    def _setitems(self) -> None:
        items = self.pop_mark()
        _put(self.stack[-1], items)

    def _appends(self) -> None:
        items = self.pop_mark()
        held = self.stack[-1]
        if isinstance(held, list):
            held.extend(items)
        elif isinstance(held, Inert):
            held.elements.extend(items)
        else:
            raise NotReadError(DAMAGED)

    def _reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_call(function, args))

    def _newobj(self) -> None:
        self._reduce()

    def _newobj_ex(self) -> None:
        kwargs, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(_call(function, args if not kwargs else (*args, kwargs)))

    def _set(self) -> None:
        self.stack.append([])

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def _dict(self) -> None:
        items, held = self.pop_mark(), dict[Any, Any]()
        _put(held, items)
        self.stack.append(held)

    def _instantiate(self, klass: Any, args: Any) -> None:  # of opcodes of the first protocols
        self.append(_call(klass, tuple(args)))

    def _refused(self) -> None:
        raise NotReadError(DAMAGED)

    for _opcode, _do in (
        (pickle.BUILD, _build),
        (pickle.SETITEM, _setitem),
        (pickle.SETITEMS, _setitems),
        (pickle.REDUCE, _reduce),
        (pickle.NEWOBJ, _newobj),
        (pickle.NEWOBJ_EX, _newobj_ex),
        (pickle.APPENDS, _appends),
        (pickle.ADDITEMS, _appends),
        (pickle.EMPTY_SET, _set),
        (pickle.DICT, _dict),
        (pickle.FROZENSET, _frozenset),
        (pickle.BYTEARRAY8, _refused),
        (pickle.NEXT_BUFFER, _refused),
        (pickle.READONLY_BUFFER, _refused),
    ):
        dispatch[_opcode[0]] = _do


def _put(held: Any, items: list[Any]) -> None:
    """Set items of a dict, or of what stands for one; a key that is not plain could be nested beyond all hashing."""
    if not isinstance(held, dict | Inert):
        raise NotReadError(DAMAGED)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, _PLAIN_KEYS) or (
            isinstance(key, tuple) and all(isinstance(each, _PLAIN_KEYS) for each in key)
        ):
            held[key] = value


def _call(function: Any, args: Any) -> Any:
    """What a pickle calls: a function of this file, or what stands for any other."""
    if not isinstance(args, tuple):
        raise NotReadError(DAMAGED)
    if isinstance(function, type) and issubclass(function, Inert):
        return function(*args)
    if isinstance(function, Inert):
        return function
    if not isinstance(function, FunctionType) or function not in _CALLED:  # of a nested tuple there is no hash
        raise NotReadError("it calls what is no function")
    return function(*args)


def _tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> Any:
    if not isinstance(storage, Storage):
        raise NotReadError("it has tensors without numbers")
    if len(rest) > 2 and rest[2]:  # bits of a view whose numbers are stored otherwise
        raise NotReadError("it has conjugated or negated views of tensors")
    return storage.tensor(storage.dtype, *_whole(offset, size, stride))


def _tensor_of_bytes(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    grad: object,
    hooks: object,
    dtype: object,
    *_: object,
) -> Any:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise NotReadError("it has tensors without numbers")
    return storage.tensor(dtype, *_whole(offset, size, stride))


def _whole(offset: object, size: object, stride: object) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    if type(offset) is not int or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise NotReadError("it has a tensor of a shape that is none")
    return offset, size, stride


def _first(value: object = None, *_: object) -> object:
    """A parameter as its tensor."""
    return value


def _of_type(function: object, kind: object, args: object, *_: object) -> object:
    """A tensor of a class of its own, as a plain one."""
    return _call(function, args)


def _mapping(*given: object) -> dict[object, object]:
    held: dict[object, object] = {}
    pairs = given[-1] if given and isinstance(given[-1], list | tuple | Mapping) else ()
    for pair in pairs.items() if isinstance(pairs, Mapping) else pairs:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            _put(held, list(pair))
    return held


def _sequence(given: object = (), *_: object) -> list[object]:
    return list(given) if isinstance(given, list | tuple) else []


def _size(given: object = ()) -> tuple[object, ...]:
    return tuple(given) if isinstance(given, list | tuple) else ()


def _path(*parts: object) -> str:
    return str(Path(*[str(part) for part in parts if isinstance(part, str)]))


def _dtype(name: object = "", *_: object) -> Any:
    return np.dtype(name) if isinstance(name, str) and re.fullmatch(r"[<>|=]?[biuf]\d{1,2}", name) else None


def _scalar(dtype: object = None, data: object = b"") -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        return None
    return np.frombuffer(data, dtype)[0].item()


def _encoded(text: object = "", encoding: object = "", *_: object) -> bytes:
    return text.encode("latin1") if isinstance(text, str) and encoding == "latin1" else b""


_KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_bytes,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _mapping,
    ("collections", "defaultdict"): _mapping,
    ("builtins", "dict"): _mapping,
    ("builtins", "list"): _sequence,
    ("builtins", "set"): _sequence,
    ("builtins", "frozenset"): _sequence,
    ("_codecs", "encode"): _encoded,
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"pathlib{local}", kind): _path for local in ("", "._local") for kind in ("PosixPath", "PurePosixPath")},
}
_CALLED = frozenset(_KNOWN.values())
