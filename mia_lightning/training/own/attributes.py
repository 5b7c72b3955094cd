"""Attributes of modules beside parameters, buffers and layers: what they hold, and which ones training reads."""

import dis
import inspect
import pickle
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mia_lightning.training.own.nothing import Nothing
from mia_lightning.training.stack.layers import CounterDropout

_LIBRARIES = ("torch.", "mia_lightning.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "builtins")
_REGISTRIES = frozenset(vars(nn.Module()))
_OURS = ("_trainer", "_fabric")
_NOT_CALLED = (
    *("on_train_batch_end", "on_train_epoch_end", "on_train_end", "on_fit_end", "on_before_", "on_after_backward"),
    *("validation_step", "test_step", "predict_step", "on_validation_", "on_test_", "on_predict_"),
    *("on_save_checkpoint", "on_load_checkpoint", "teardown"),
)
"""Methods, by how they begin, that a stack does not call while it trains, or whose changes are refused themselves."""
_OF_VALIDATION = ("validation_step", "on_validation_")
_ONCE = ("__init__", "setup", "configure_model")
_ADDING = ("append", "appendleft", "extend", "add", "clear")
_LARGE = 1_000_000  # elements of an array that is not compared by its numbers
_LONG, _DEPTH = 1000, 5  # elements of a container that are compared, from its end, and containers in containers


Held = dict[tuple[nn.Module, str], object]


def held_by(network: nn.Module) -> Held:
    """What the attributes of all modules of a network hold, in a form that `==` compares; changes inside are seen."""
    return {
        (module, name): _frozen(value)
        for module in network.modules()
        for name, value in {**_of_class(type(module)), **vars(module)}.items()
        if (name not in _REGISTRIES or name == "training")
        and name not in _OURS
        and not (name == "calls" and isinstance(module, CounterDropout))
    }


def _of_class(kind: type) -> dict[str, Any]:
    """The data that a user's class holds."""
    own = [each for each in reversed(kind.__mro__) if not _is_library(each)]
    data = {name: value for each in own for name, value in vars(each).items() if not name.startswith("__")}
    return {name: value for name, value in data.items() if not callable(value) and not hasattr(value, "__get__")}


def _frozen(value: Any, above: tuple[int, ...] = ()) -> object:
    """What a value holds; of long containers the end alone, of large arrays which one it is.

    Args:
        above: the ids of what holds it.
    """
    if isinstance(value, float):
        return repr(value)  # NaN is itself
    if isinstance(value, int | bool | str | bytes | type(None)):
        return value
    is_code = isinstance(value, nn.Module | FunctionType | type | ModuleType | Nothing)
    if is_code or id(value) in above or len(above) > _DEPTH:
        return None
    above = (*above, id(value))
    if isinstance(value, Tensor):
        return value.shape, value.dtype, id(value) if value.numel() > _LARGE else _bytes(value), value._version
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.shape, value.dtype.str, id(value) if value.size > _LARGE else value.tobytes()
    if isinstance(value, Mapping):
        some = islice(reversed(value.items()), _LONG) if isinstance(value, dict) else list(value.items())[:_LONG]
        return len(value), [(_frozen(key, above), _frozen(each, above)) for key, each in some]
    if isinstance(value, list | tuple | deque):
        return len(value), [_frozen(each, above) for each in islice(reversed(value), _LONG)]
    if isinstance(value, set | frozenset):
        return len(value), set(map(repr, value)) if len(value) <= _LONG else None
    if isinstance(value, torch.Generator):
        return _bytes(value.get_state())
    if hasattr(value, "__dict__"):
        return [type(value), *((name, _frozen(each, above)) for name, each in vars(value).items())]
    try:
        is_long = callable(value) or (hasattr(value, "__len__") and len(value) > _LONG)
        return id(value) if is_long else pickle.dumps(value)
    except Exception:  # it may hold anything
        return id(value)


def _bytes(tensor: Tensor) -> object:
    try:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except Exception:  # of a layout without bytes
        return id(tensor)


def reads(network: nn.Module, name: str) -> bool:
    """Whether code that trains mentions an attribute of this name otherwise than to set it or to add to it.

    Code are the methods of the user's modules, but for hooks that a stack does not call, and functions that they use.
    """
    names = {name, name.removeprefix("_")}  # what has the name of a property
    return any(_reads(code, names) for code in _training_code(network))


def _reads(code: CodeType, names: set[str]) -> bool:
    if names & {each for each in code.co_consts if isinstance(each, str)}:  # of getattr
        return True
    instructions = [*dis.get_instructions(code)]
    return any(
        each.opname.startswith(("LOAD_ATTR", "LOAD_METHOD"))
        and each.argval in names
        and not (then.opname.startswith(("LOAD_ATTR", "LOAD_METHOD")) and then.argval in _ADDING)
        for each, then in pairwise(instructions)
    )


def set_by_validation(network: nn.Module) -> dict[str, str]:
    """The attributes that training reads and methods of a validation set, each with its method."""
    found: dict[str, str] = {}
    for kind in dict.fromkeys(kind for module in network.modules() for kind in type(module).__mro__):
        for method, given in {} if _is_library(kind) else vars(kind).items():
            code = getattr(inspect.unwrap(given), "__code__", None) if callable(given) else None
            if isinstance(code, CodeType) and method.startswith(_OF_VALIDATION):
                inside = (each for part in _nested(code) for each in dis.get_instructions(part))
                found |= {each.argval: method for each in inside if each.opname == "STORE_ATTR"}
    return {name: method for name, method in found.items() if reads(network, name)}


def numbers_of(module: nn.Module) -> list[int]:
    """Whole numbers that a module's attributes and hyper-parameters hold and its methods name, up to 100 of them."""
    held = [*vars(module).values(), *(getattr(module, "hparams", None) or {}).values()]
    methods = [each for kind in type(module).__mro__ if not _is_library(kind) for each in vars(kind).values()]
    codes = [getattr(inspect.unwrap(each), "__code__", None) for each in methods if callable(each)]
    held += [each for code in codes if code is not None for inside in _nested(code) for each in inside.co_consts]
    lists = [each for value in held if isinstance(value, list | tuple) for each in value]
    return sorted({each for each in (*held, *lists) if type(each) is int})[:100]


def _is_library(kind: type) -> bool:
    return kind.__module__.startswith(_LIBRARIES)


def _training_code(network: nn.Module) -> Iterator[CodeType]:
    seen: set[int] = set()
    for module in network.modules():
        for kind in type(module).__mro__:
            if not _is_library(kind):
                yield from _code_of_class(kind, seen)
        for value in list(vars(module).values()):
            if isinstance(value, FunctionType):
                yield from _code_of(value, seen)


def _code_of_class(kind: type, seen: set[int]) -> Iterator[CodeType]:
    for name, given in list(vars(kind).items()):
        function = getattr(given, "fget", None) or getattr(given, "__func__", given)
        if name.startswith(_NOT_CALLED) or not callable(function) or isinstance(function, type):
            continue
        yield from _code_of(inspect.unwrap(function), seen, only_inside=name in _ONCE)


def _code_of(function: Any, seen: set[int], *, only_inside: bool = False) -> Iterator[CodeType]:
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or id(code) in seen:
        return
    seen.add(id(code))
    for each in _nested(code):
        if each is not code or not only_inside:
            yield each
            used = [function.__globals__.get(name) for name in each.co_names]
            for other in used:
                if isinstance(other, FunctionType) and not other.__module__.startswith(_LIBRARIES):
                    yield from _code_of(inspect.unwrap(other), seen)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _nested(each)
