"""The sections of an experiment: a comparison, its variants and scales, and the entries of a series of experiments."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from mia_lightning.settings import settings
from mia_lightning.settings.kinds import FromList, Text
from mia_lightning.settings.words import Such, Words

Overrides = Annotated[
    Sequence[Text], FromList, Words("a list of settings as they are typed"), Such('["defense=[top_k]"]')
]
Variants = Annotated[
    Mapping[Any, Mapping[str, Any] | None], Words("the variants by their names"), Such("{plain:{set:[]}}")
]


@settings("comparison.variants")
class VariantForm:
    """A variant.

    Attributes:
        set: what is otherwise in it.
        x: its place on the axis of a picture.
    """

    set: Overrides | None = ()
    x: float | None = None


@settings("scales")
class ScaleForm:
    """What is otherwise on a scale: settings, and the variants in place of those of the comparison."""

    set: Overrides | None = ()
    variants: Variants | None = None


@settings("comparison")
class ComparisonForm:
    """A comparison: what stands above it, and what is compared."""

    title: Text
    question: Text
    source: Text
    variants: Variants | None = None
    findings: Annotated[Sequence[Any], FromList, Words("a list of findings by their `_target_`")] | None = None


@settings("experiments")
class EntryForm:
    """An experiment of a series, and what is otherwise in it."""

    experiment: Text
    set: Overrides = ()
