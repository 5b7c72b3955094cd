"""The check of settings: classes and functions whose parameters are what their annotations say, or one sentence."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError, validate_call
from pydantic.dataclasses import dataclass

from mia_lightning.errors import InputError, SettingError, is_storable, nearest, usable_files
from mia_lightning.settings.kinds import BecauseError, OneOf, Place
from mia_lightning.settings.words import in_words

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

# No type stands in for another: `"3"` is no number, `true` is no 1, infinity is no number, and a name that is unknown
# is refused.
_CONFIG = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False, extra="forbid")
_LONGEST = 80  # characters of a value that a sentence repeats


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def settings(section: str, *, eq: bool = True, repr: bool = True) -> Callable[[type[T]], type[T]]:
    """A frozen, keyword-only dataclass whose fields are checked when it is made.

    Args:
        section: of the configuration, which sentences name: `shadow`, or `attack.{name}` for the field `name` (for the
            class where that is empty).
        eq: whether two of equal fields are equal; False for what holds tensors.

    The class raises `SettingError` where a field is missing, unknown, of another type or out of its range. What two
    fields may not be together, the class checks in its `__post_init__`.
    """

    def make(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, kw_only=True, eq=eq, repr=repr, config=_CONFIG)(cls)
        checked_init = made.__init__

        @wraps(checked_init)
        def init(self: object, *args: Any, **kwargs: Any) -> None:
            given = {name: _plain(value) for name, value in kwargs.items()}
            _check_texts(made, section, given)
            try:
                checked_init(self, *args, **given)
            except ValidationError as error:
                raise _violation(error, made, section, given) from None

        made.__init__ = init
        made.__section__ = section
        return made  # type: ignore[no-any-return]

    return make


def checked(section: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function, or an `__init__`, whose arguments are checked as the fields of `settings` are."""

    def make(function: Callable[P, R]) -> Callable[P, R]:
        validated: Any = validate_call(config=_CONFIG)(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = {name: _plain(value) for name, value in kwargs.items()}
            _check_texts(function, section, given)
            try:
                with usable_files():
                    return validated(*map(_plain, args), **given)  # type: ignore[no-any-return]
            except ValidationError as error:
                raise _violation(error, function, section, given) from None

        call.__section__ = section  # type: ignore[attr-defined]
        return call

    return make


def _plain(value: Any) -> Any:
    """A scalar of numpy as Python's own; lists and mappings of such likewise."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(_plain(each) for each in value)
    if type(value) is dict:
        return {name: _plain(each) for name, each in value.items()}
    return value


def _check_texts(made: Any, section: str, given: Mapping[str, Any]) -> None:
    """Refuse text that no file and no system call takes.

    Raises:
        SettingError: naming the setting, or the setting within it.
    """
    for name, value in given.items():
        for within, text in _texts(value):
            if not is_storable(text):
                at = _place(made, section, given, name)
                rest = f"is {shown(text)}, with a character that no file can hold; leave it out, or rename the file."
                raise SettingError(at.section, at.name + within, rest)


def _texts(value: object) -> Iterator[tuple[str, str]]:
    """All texts in a value, each with its place within it."""
    if isinstance(value, str | Path):
        yield "", str(value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from ((f".{key}{within}", text) for within, text in _texts(each))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _violation(error: ValidationError, made: Any, section: str, given: Mapping[str, Any]) -> InputError:
    """The first thing that is wrong, in one sentence; an unknown name first, which may be a known one, mistyped."""
    errors = error.errors(include_url=False)
    first = next((each for each in errors if each["type"] == "unexpected_keyword_argument"), errors[0])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # two settings that exclude each other, or a setting within a setting
        return cause
    parameters = inspect.signature(made).parameters
    where = first["loc"][0]
    name = list(parameters)[where] if isinstance(where, int) else where
    hint = get_type_hints(made, include_extras=True).get(name)
    if name not in parameters or hint is None:
        known = [each for each in parameters if each != "self"]
        listed = f"the settings are {', '.join(known)}" if known else "there are none"
        return SettingError(_section(made, section, given), name, f"is no setting{nearest(name, known)}; {listed}.")
    at = _place(made, section, given, name)
    if name not in given and "missing" in first["type"]:
        return SettingError(at.section, at.name, f"is not set; give {in_words(hint)}.")
    value = given.get(name, first["input"])
    because = f" {cause}" if isinstance(cause, BecauseError) else ""
    rest = f"is {shown(value)}{_meant(value, hint)}{because}; it must be {in_words(hint)}."
    return SettingError(at.section, at.name, rest)


def _place(made: Any, section: str, given: Mapping[str, Any], name: str) -> Place:
    """Where a person sets what the parameter `name` is given."""
    hint = get_type_hints(made, include_extras=True).get(name)
    places = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Place)]
    return places[0] if places else Place(f"{_section(made, section, given)}.{name}".removeprefix("."))


def _section(made: Any, section: str, given: Mapping[str, Any]) -> str:
    parameters = inspect.signature(made).parameters
    own = parameters["name"].default if "name" in parameters else None
    names = [each for each in (given.get("name"), own) if isinstance(each, str) and each]
    return section.format(name=names[0] if names else made.__name__.lower())


def _meant(value: object, annotation: object) -> str:
    """The choice that a mistyped one may have meant."""

    def choices(each: object) -> list[str]:
        if get_origin(each) is Literal:
            return [str(one) for one in get_args(each)]
        if isinstance(each, OneOf):
            return list(each.choices)
        return [one for part in (*get_args(each), *getattr(each, "__metadata__", ())) for one in choices(part)]

    return nearest(value, choices(annotation)) if isinstance(value, str) else ""


def shown(value: object) -> str:
    """A value as a sentence repeats it: briefly, and of an object its class alone."""
    if isinstance(value, str | int | float | None | list | tuple | dict):
        text = " ".join(repr(list(value) if isinstance(value, tuple) else value).split("\n"))
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"
