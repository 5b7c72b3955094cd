"""Annotations in words: what a setting may be, as sentences and the reference of settings say it."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, Lt

_WORDS: dict[object, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
    NoneType: ("null", "null"),
    Any: ("any value", "values"),
}


@dataclass(frozen=True)
class Words:
    """In an `Annotated`: what such a value is called, in place of the words for its type.

    Attributes:
        one: "the name of a model".
        many: of several, in a list; `one` where it is never in a list.
    """

    one: str
    many: str = ""


@dataclass(frozen=True)
class Such:
    """In an `Annotated`: an example, for the end of the sentence.

    Attributes:
        example: as it is typed on the command line.
    """

    example: str


def in_words(annotation: Any) -> str:
    """What a value of this type is: "a whole number of at least 1, or null"."""
    if get_origin(annotation) in (Union, UnionType):
        return _any_of([in_words(each) for each in _null_last(get_args(annotation))])
    examples = [each.example for each in _metadata(annotation) if isinstance(each, Such)]
    return f"{_one(annotation)}, such as {examples[0]}" if examples else _one(annotation)


def _one(annotation: Any) -> str:
    return _words(annotation)[0]


def _words(annotation: Any) -> tuple[str, str]:
    """For one value, and for several in a list."""
    metadata = _metadata(annotation)
    for each in reversed(metadata):  # the outermost
        own = each if isinstance(each, Words) else getattr(each, "words", None)
        if isinstance(own, Words):
            return own.one, own.many or own.one
    if get_origin(annotation) is Annotated:
        one, many = _words(get_args(annotation)[0])
        range_of = _range(metadata)
        return one + range_of, many + range_of
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _any_of([_one(each) for each in _null_last(arguments)]), _any_of([_words(e)[1] for e in arguments])
    if origin is Literal:
        choices = ", ".join(str(each) for each in dict.fromkeys(map(str, arguments)))
        named = choices if len(arguments) == 1 else f"one of {choices}"
        return named, f"any of {choices}"
    if origin in (tuple, list, Sequence, set, frozenset, Set):
        return f"a list of {_words(arguments[0])[1]}", "lists"
    if origin is Callable or annotation is Callable:
        return "a function or class", "functions or classes"
    if origin is Mapping or origin is dict or annotation in (Mapping, dict):
        return "names and values", "names and values"
    if annotation in _WORDS:
        return _WORDS[annotation]
    name = getattr(annotation, "__name__", str(annotation))
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}", f"{name}s"


def _metadata(annotation: Any) -> list[Any]:
    if get_origin(annotation) is not Annotated:
        return []
    found: list[Any] = []
    for each in get_args(annotation)[1:]:
        found += list(each) if isinstance(each, GroupedMetadata) and isinstance(each, BaseMetadata) else [each]
    return found


def _range(metadata: Sequence[Any]) -> str:
    low = next((each for each in metadata if isinstance(each, Ge | Gt)), None)
    high = next((each for each in metadata if isinstance(each, Le | Lt)), None)
    if isinstance(low, Ge) and isinstance(high, Le):
        return f" from {low.ge} to {high.le}"
    parts = []
    if low is not None:
        parts.append(f"of at least {low.ge}" if isinstance(low, Ge) else f"above {low.gt}")
    if high is not None:
        parts.append(f"at most {high.le}" if isinstance(high, Le) else f"below {high.lt}")
    return " " + " and ".join(parts) if parts else ""


def _null_last(arguments: Sequence[Any]) -> list[Any]:
    return [each for each in arguments if each is not NoneType] + [each for each in arguments if each is NoneType]


def _any_of(phrases: Sequence[str]) -> str:
    phrases = list(dict.fromkeys(phrases))
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])}, or {phrases[-1]}"
