"""Errors of somebody else's classes: the sentence names the argument that is at fault, where this can be told."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import pytest

from mia_lightning.errors import SettingError
from mia_lightning.settings.free_nodes import about_call


class Known:
    """A class with annotations, as most are."""

    def __init__(
        self,
        given: object,
        rate: float = 0.1,
        steps: "Sequence[int]" = (),
        way: Literal["up", "down"] = "up",
        limit: int | None = None,
        hook: Callable[[], None] | None = None,
    ) -> None:
        if rate < 0:
            raise ValueError(f"Invalid speed: {rate}")
        if limit == 0:
            raise ZeroDivisionError("division by zero")
        if way == "down" and limit is None:
            raise ValueError("limit must be given to go down")
        if steps and min(steps) < 1:
            raise ValueError(f"Invalid step at index 0: {steps[0]}")
        if len(steps) > 2:
            raise RuntimeError("too many")


class Unknown:
    """A class without annotations."""

    def __init__(self, rate=0.1, name="a", is_fast=False, other=None):  # type: ignore[no-untyped-def]
        raise TypeError("bad operand")


class Anything:
    """A class that takes any name and says nothing."""

    def __init__(self, **settings: object) -> None:
        raise ValueError


class Misleading:
    """A class whose annotations cannot be resolved."""

    def __init__(self, rate: "Nowhere" = 0.1) -> None:  # type: ignore[name-defined]  # noqa: F821
        raise ValueError("no")


def sentence_of(make: Callable[..., object]) -> str:
    with pytest.raises((TypeError, ValueError, RuntimeError, ZeroDivisionError)) as failed:
        make()
    error = about_call(failed.value, make, "node", filled=("given",))
    assert isinstance(error, SettingError)
    return str(error)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"rat": 1},
            "`node.rat` is no setting of Known (did you mean `rate`?); its settings are rate, steps, way, limit",
        ),
        ({"rate": "fast"}, "`node.rate` is 'fast'; it must be a number."),
        ({"rate": -1}, "`node.rate` is -1, and Known refuses it: Invalid speed: -1; give another value."),
        ({"rate": -0.5, "limit": 5}, "`node.rate` is -0.5, and Known refuses it: Invalid speed: -0.5; give"),
        ({"rate": [1]}, "`node.rate` is [1]; it must be a number."),
        ({"steps": 5}, "`node.steps` is 5; it must be a list of whole numbers."),
        ({"steps": ["a"]}, "`node.steps` is ['a']; it must be a list of whole numbers."),
        (
            {"steps": [0, 4], "limit": 9},
            "`node.steps` is [0, 4], and Known refuses it: Invalid step at index 0: 0; give",
        ),
        ({"limit": 0}, "`node.limit` is 0, and Known refuses it: division by zero; give another value."),
        ({"limit": 0, "way": "side"}, "`node.way` is 'side'; it must be one of up, down."),
        (
            {"way": "down"},
            "`node.way` is 'down', and Known refuses it: limit must be given to go down; give another value.",
        ),
        (
            {"steps": [1, 2, 3], "rate": 1},
            "`node` is Known with steps=[1, 2, 3], rate=1, which fails: too many; change its settings or",
        ),
    ],
)
def test_the_argument_at_fault_is_named(settings: dict[str, object], sentence: str) -> None:
    assert sentence_of(partial(Known, None, **settings)).startswith(sentence)


def test_an_argument_that_is_missing_is_named() -> None:
    def make(given: object, *, rate: float, other: object) -> None: ...

    assert sentence_of(partial(make, None)).startswith("`node.rate` is not set, and make needs it; give a number.")
    assert sentence_of(partial(make, None, rate=1)).startswith(
        "`node.other` is not set, and make needs it; give a value."
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rate": "fast"}, "`node.rate` is 'fast'; it must be a number."),
        ({"rate": True}, "`node.rate` is True; it must be a number."),
        ({"name": 3}, "`node.name` is 3; it must be text."),
        ({"is_fast": "no"}, "`node.is_fast` is 'no'; it must be true or false."),
        ({"other": "x"}, "`node` is Unknown with other='x', which fails: bad operand; change"),
    ],
)
def test_without_annotations_the_defaults_say_what_an_argument_is(settings: dict[str, object], sentence: str) -> None:
    assert sentence_of(partial(Unknown, **settings)).startswith(sentence)


def test_where_nothing_is_known_the_sentence_names_all_that_was_given() -> None:
    assert sentence_of(partial(Anything, a=1)) == (
        "`node` is Anything with a=1, which fails: ValueError; change its settings or its `_target_`."
    )
    assert sentence_of(Anything).startswith("`node` is Anything, which fails: ValueError; change")
    assert sentence_of(partial(Misleading, rate="x")).startswith("`node.rate` is 'x'; it must be a number.")


def test_objects_and_nodes_within_the_node_are_not_judged() -> None:
    given = {"rate": -1, "steps": {"_target_": "somewhere.Else"}, "hook": print}
    assert sentence_of(partial(Known, None, **given)).startswith("`node.rate` is -1, and Known refuses it")


def test_a_long_message_is_cut() -> None:
    def fails() -> None:
        raise ValueError("x" * 1000)

    assert len(sentence_of(fails)) < 300


def test_a_partial_of_a_partial_is_one_call() -> None:
    class Deferred(partial):  # type: ignore[type-arg]  # as Hydra has them: they are not merged with what is around
        def __call__(self, *args: object, **kwargs: object) -> object:
            return super().__call__(*args, **kwargs)

    nested = partial(Deferred(Known, None, rate=-1, limit=3), limit=4)
    assert isinstance(nested.func, Deferred)
    assert sentence_of(nested).startswith("`node.rate` is -1, and Known refuses it")
