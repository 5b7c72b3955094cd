"""What a setting may be: annotations from which the check, its sentence and the reference of settings are made.

@settings("shadow")
class Real:
    count: AtLeast1 = 64
    overlap: Share = 0.0
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, BeforeValidator, StringConstraints
from pydantic_core import CoreSchema, core_schema

from mia_lightning.settings.words import Such, Words

AtLeast0 = Annotated[int, Ge(0)]
AtLeast1 = Annotated[int, Ge(1)]
AtLeast2 = Annotated[int, Ge(2)]
LARGEST_LAYER = 1_000_000
Size = Annotated[int, Ge(1), Le(LARGEST_LAYER)]  # of a layer
Depth = Annotated[int, Ge(1), Le(1000)]  # layers, or blocks of them

Draws = Annotated[int, Ge(1), Le(1000)]  # each of them is a copy of all records
Shift = Annotated[int, Ge(0), Le(100)]  # of images, in pixels

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
ShareBelow1 = Annotated[float, Ge(0), Lt(1)]
ShareBelowHalf = Annotated[float, Ge(0), Lt(0.5)]
Between0And1 = Annotated[float, Gt(0), Lt(1)]

Auto = Literal["auto"]
CanaryKind = Literal["mislabelled", "uniform"]
OutputForm = Literal["auto", "logits", "probabilities", "log_probabilities"]


Text = Annotated[str, MinLen(1), Words("text", "texts")]


def _as_text(value: object) -> object:
    """A name that is a number is read as a number from YAML."""
    return str(value) if type(value) is int else value.strip() if isinstance(value, str) else value


AnyText = Annotated[str, BeforeValidator(_as_text), Words("text")]  # "" for none
Name = Annotated[str, BeforeValidator(_as_text), MinLen(1), Words("a name", "names")]


class BecauseError(ValueError):
    """Why a value is refused, where its kind alone does not say it: a clause for the sentence."""


def as_path(value: object) -> object:
    """A path, from `~` on; one whose name is a number is read as a number from YAML.

    Raises:
        ValueError: it is empty, or in a home folder that is not known.
    """
    text = str(value) if type(value) is int else value
    if not isinstance(text, str | Path):
        return text
    if not str(text).strip():
        raise ValueError("it is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BecauseError("and there is no such home folder") from None


PathLike = Annotated[str | Path, BeforeValidator(as_path), Words("a path", "paths")]
Folder = Annotated[str | Path, BeforeValidator(as_path), Words("a folder")]


def _a_list(value: object) -> object:
    """A tuple, from any sequence but text and bytes."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value


FromList = BeforeValidator(_a_list)  # of a `Sequence[X]`: kept as a tuple


AttackName = Annotated[
    str, StringConstraints(pattern=r"^[\w.-]+$"), Words("a word of letters, digits, dots and hyphens")
]


MOST_SHARDS = 10_000


def _of_a_sweep(shards: int) -> int:
    if shards > MOST_SHARDS:
        raise BecauseError(f"and a sweep has at most {MOST_SHARDS}")
    return shards


Shards = Annotated[AtLeast1, AfterValidator(_of_a_sweep)]


def _of_layers(widths: Sequence[int]) -> Sequence[int]:
    if any(width > LARGEST_LAYER for width in widths):
        raise BecauseError(f"and no layer is larger than {LARGEST_LAYER}")
    return widths


Widths = Annotated[Sequence[AtLeast1], FromList, AfterValidator(_of_layers), Such("[64]")]  # of hidden layers


ImageShape = Annotated[
    Sequence[AtLeast1],
    FromList,
    MinLen(2),
    Words("the shape of an image, rows and columns last"),
    Such("[1,28,28]"),
]


class Place:
    """In an `Annotated`: the setting that a person sets, where it is another than the field: `dataset.train_size`."""

    def __init__(self, place: str) -> None:
        self.section, _, self.name = place.rpartition(".")


class OneOf:
    """In an `Annotated`: one of some words that are listed elsewhere, where a `Literal` cannot list them."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)
        self.words = Words(f"one of {', '.join(self.choices)}")

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.chain_schema([handler(source), core_schema.literal_schema(list(self.choices))])


class Has:
    """In an `Annotated`: an object that is known by what it has, as one that somebody else wrote is.

    Args:
        attributes: that it must have.
        words: what it is.
    """

    def __init__(self, *attributes: str, words: Words) -> None:
        self._attributes, self.words = attributes, words

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._checked)

    def _checked(self, value: object) -> object:
        if isinstance(value, type) or not all(hasattr(value, name) for name in self._attributes):
            raise ValueError(f"it is not {self.words.one}")
        return value
