"""Which argument of somebody else's class is at fault: optimisers, schedules and other free nodes. No torch.

The arguments of a free node are not ours to describe, so they are not checked before the call. Once the call has
failed, its error is held against what was given: an unknown or a missing name, a value of another type than the
parameter's annotation or default, a value or a name that the message repeats.
"""

import collections.abc
import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial, reduce
from operator import or_
from types import GenericAlias, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mia_lightning.errors import SettingError, first_line, nearest
from mia_lightning.settings.checking import shown
from mia_lightning.settings.words import in_words

_LONGEST = 160  # characters of an error that a sentence repeats
_CONFIG = ConfigDict(strict=True)
_LISTS = (list, tuple, Sequence, Iterable)
_NAMES = {name: getattr(collections.abc, name) for name in collections.abc.__all__}
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]\d)", re.IGNORECASE)


def about_call(
    error: Exception, make: Callable[..., object], place: str, *, filled: Collection[str] = ()
) -> SettingError:
    """The error of a call as one sentence, about the argument that is at fault where this can be told.

    Args:
        make: what was called; the keywords of a `functools.partial` are what a person set.
        place: of the node in the configuration, such as `training.optimizer`.
        filled: parameters that the program fills in, which no person sets.
    """
    function, given = make, dict[str, object]()
    while isinstance(function, partial) or hasattr(function, "__wrapped__"):
        if isinstance(function, partial):  # what Hydra makes is not merged with a partial around it
            given = {**function.keywords, **given}
        function = function.func if isinstance(function, partial) else function.__wrapped__
    given = {each: value for each, value in given.items() if each not in filled}
    name = getattr(function, "__name__", type(function).__name__)
    parameters = {each: value for each, value in _parameters(function).items() if each not in filled}
    reason = first_line(error)
    if (match := re.search(r"unexpected keyword argument '(\w+)'", reason)) and match[1] in given:
        known = list(parameters)
        rest = f"is no setting of {name}{nearest(match[1], known)}; its settings are {', '.join(known) or 'none'}."
        return SettingError(place, match[1], rest)
    if (match := re.search(r"missing \d+ required [\w-]+ arguments?: '(\w+)'", reason)) and match[1] in parameters:
        hint = _hint(parameters[match[1]])
        wanted = "a value" if hint is None else in_words(hint)
        return SettingError(place, match[1], f"is not set, and {name} needs it; give {wanted}.")
    for each, value in given.items():
        hint = _hint(parameters[each]) if each in parameters else None
        if hint is not None and not _fits(value, hint):
            return SettingError(place, each, f"is {shown(value)}; it must be {in_words(hint)}.")
    dotted = [each for each, value in given.items() if isinstance(value, str) and _DOTTED.fullmatch(value)]
    if "'str' object is not callable" in reason and len(dotted) == 1:
        typed = f"{place}.{dotted[0]}"
        rest = f"is the text {shown(given[dotted[0]])}, and {name} calls it; for the class or function of that name "
        rest += f"type +{typed}._target_=hydra.utils.get_object +{typed}.path={given[dotted[0]]}."
        return SettingError(place, dotted[0], rest)
    culprit = _in_message(error, given)
    if culprit is not None:
        rest = f"is {shown(given[culprit])}, and {name} refuses it: {_brief(reason)}; give another value."
        return SettingError(place, culprit, rest)
    settings = ", ".join(f"{each}={shown(value)}" for each, value in given.items())
    made = f"{name} with {settings}" if settings else name
    section, _, own = place.rpartition(".")
    rest = f"is {made}, which fails: {_brief(reason)}; change its settings or its `_target_`."
    return SettingError(section, own, rest)


def _parameters(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """By name, with their annotations resolved where this is possible; without `*args` and `**kwargs`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return {}
    annotated: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:  # with names that a module may import for its type checker alone
        hints = get_type_hints(annotated, localns=_NAMES)
    except Exception:  # annotations are anybody's code
        hints = {}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: each.replace(annotation=hints.get(name, inspect.Parameter.empty))
        for name, each in signature.parameters.items()
        if each.kind not in kinds
    }


def _hint(parameter: inspect.Parameter) -> Any:
    """The type that a person can give; None where nothing is known of it."""
    if parameter.annotation is not inspect.Parameter.empty:
        return _plain(parameter.annotation)
    if type(parameter.default) in (bool, str):
        return type(parameter.default)
    return float if type(parameter.default) in (int, float) else None


def _plain(hint: Any) -> Any:
    """The part of a type that a configuration can express; None where there is none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (bool, int, float, str, NoneType) or origin is Literal:
        return hint
    if origin in (Union, UnionType):
        kept = [plain for plain in map(_plain, arguments) if plain is not None]
        return reduce(or_, kept) if any(each is not NoneType for each in kept) else None
    if origin in _LISTS:
        element = _plain(arguments[0])
        return None if element is None else GenericAlias(Sequence, (element,))
    return None


def _fits(value: object, hint: Any) -> bool:
    """Whether the value is of the type; what no configuration can express is taken for granted."""
    if isinstance(value, list | tuple):
        if not all(isinstance(each, bool | int | float | str | None) for each in value):
            return True
    elif not isinstance(value, bool | int | float | str | None):
        return True
    try:
        TypeAdapter(hint, config=_CONFIG).validate_python(value)
    except ValidationError:
        return False
    return True


def _in_message(error: Exception, given: Mapping[str, object]) -> str | None:
    """The one argument that the message speaks of: by its name, by its value, or as what was divided by."""
    text = str(error)
    numbers = {float(each) for each in _NUMBER.findall(text)}

    def weight(name: str, value: object) -> int:
        by_name = re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)
        stem = re.search(rf"\b{re.escape(name.rstrip('s'))}\b", text, re.IGNORECASE)
        values = value if isinstance(value, list | tuple) else [value]
        by_value = isinstance(error, ValueError) and any(_is_in(each, text, numbers) for each in values)
        is_zero = isinstance(error, ZeroDivisionError) and type(value) in (int, float) and value == 0
        return 2 * bool(by_name or stem) + by_value + is_zero

    weights = {name: weight(name, value) for name, value in given.items()}
    best = max(weights.values(), default=0)
    found = [name for name, each in weights.items() if each == best]
    return found[0] if best > 0 and len(found) == 1 else None


def _is_in(value: object, text: str, numbers: Collection[float]) -> bool:
    if isinstance(value, str) or (isinstance(value, float) and not math.isfinite(value)):
        return value != "" and str(value) in text
    return type(value) in (int, float) and float(value) in numbers  # type: ignore[arg-type]


def _brief(reason: str) -> str:
    return reason if len(reason) <= _LONGEST else f"{reason[: _LONGEST - 4]} ..."
