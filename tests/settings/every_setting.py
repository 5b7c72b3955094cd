"""All classes and functions whose parameters are checked, found by walking through the package."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import SkipValidation
from sklearn.dummy import DummyClassifier
from torch import nn

import mia_lightning
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.settings.kinds import Has, OneOf, Place

# What is given where a value of the right type alone will not do.
IMAGES = ("models.cnn.CNN", "models.resnet.ResNet18", "models.vit.VisionTransformer", "models.wide_resnet.WideResNet")
GIVEN: dict[str, dict[str, Any]] = {
    "training.step.recipe.Recipe": {"batch_size": 1, "optimizer": torch.optim.Adam},
    "run.definition.Audit": {"model": nn.Identity},
    "targets.estimator.Estimator": {"estimator": DummyClassifier},
    **{name: {"input_shape": [1, 8, 8]} for name in IMAGES},
    "models.text_cnn.TextCNN": {"vocabulary_size": 100},
    "models.text_transformer.TextTransformer": {"vocabulary_size": 100, "input_shape": [8]},
    "models.audio_cnn.AudioCNN": {"input_shape": [8000], "sample_rate": 8000},
}


@dataclass(frozen=True)
class Checked:
    """A class, a function or the `__init__` of a network, with the section of its settings."""

    make: Callable[..., Any]
    section: str

    @property
    def name(self) -> str:
        return f"{self.make.__module__.removeprefix('mia_lightning.')}.{self.make.__qualname__}"

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return {name: each for name, each in inspect.signature(self.make).parameters.items() if name in self.hints}

    @cached_property
    def hints(self) -> dict[str, Any]:
        of = self.make if not isinstance(self.make, type) or is_settings(self.make) else self.make.__init__
        return {name: each for name, each in get_type_hints(of, include_extras=True).items() if name != "return"}

    def place(self, name: str) -> str:
        """What sentences call a setting."""
        for each in getattr(self.hints[name], "__metadata__", ()):
            if isinstance(each, Place):
                return f"{each.section}.{each.name}".removeprefix(".")
        return f"{self.section}.{name}".removeprefix(".")

    @property
    def without_default(self) -> list[str]:
        return [name for name, each in self.parameters.items() if each.default is each.empty]

    def required(self) -> dict[str, Any]:
        """Values that will do for what has no default."""
        return {**{name: fitting(self.hints[name]) for name in self.without_default}, **GIVEN.get(self.name, {})}


def is_settings(made: Any) -> bool:
    return isinstance(made, type) and "__section__" in vars(made)


@cache
def all_checked() -> tuple[Checked, ...]:
    found = {}
    for module in walked():
        for made in vars(module).values():
            if getattr(made, "__module__", None) != module.__name__ or inspect.isabstract(made):
                continue
            of_init = vars(made).get("__init__") if isinstance(made, type) else None
            section = vars(made).get("__section__") if hasattr(made, "__dict__") else None
            section = section if section is not None else getattr(of_init, "__section__", None)
            if section is not None:
                default = inspect.signature(made).parameters.get("name")
                section = section.replace("{name}", (default and default.default) or made.__name__.lower())
                found[f"{made.__module__}.{made.__qualname__}"] = Checked(made, section)
    return tuple(found[name] for name in sorted(found))


def walked() -> Iterator[Any]:
    folder = Path(mia_lightning.__file__).parent
    for each in pkgutil.walk_packages([str(folder)], "mia_lightning."):
        if not each.name.endswith("__main__"):
            yield importlib.import_module(each.name)


def parts_of(hint: Any) -> tuple[Any, list[Any]]:
    """The bare type of an annotation, and its metadata."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[0], list(hint.__metadata__)
    return hint, []


def fitting(hint: Any) -> Any:
    """A value that the annotation allows."""
    bare, metadata = parts_of(hint)
    origin = get_origin(bare)
    for each in metadata:
        if isinstance(each, OneOf):
            return each.choices[0]
        if isinstance(each, Has):
            return type("Fits", (), dict.fromkeys(each._attributes, "fits"))()
    if bare is Any:
        return None
    if bare is Population:
        return make_population([[0.0], [1.0]], [0, 1])
    if is_union(bare):
        return fitting(next(each for each in get_args(bare) if each is not type(None)))
    if origin is Literal:
        return get_args(bare)[0]
    if bare in (int, float):
        low = next((each.ge if isinstance(each, Ge) else each.gt for each in metadata if isinstance(each, Ge | Gt)), 0)
        high = next(
            (each.le if isinstance(each, Le) else each.lt for each in metadata if isinstance(each, Le | Lt)), None
        )
        return bare(low + 1) if high is None else bare(low + high) / 2
    if bare is bool:
        return True
    if bare is str:
        return "http://127.0.0.1" if any("server" in getattr(each, "one", "") for each in metadata) else "text"
    if bare is Path:
        return Path("path")
    if origin in (Sequence, tuple, list):
        inner = fitting(get_args(bare)[0])
        least = next((each.min_length for each in metadata if isinstance(each, MinLen)), 1)
        return [inner] * max(1, least)
    if origin in (dict, Mapping) or bare in (dict, Mapping):
        return {"a": 1}
    if origin is Callable or bare is Callable or origin is type(Callable) or "Callable" in str(bare):
        return lambda *_: None
    for each in all_checked():
        if each.make is bare:
            return bare(**each.required())
    return bare() if isinstance(bare, type) else None


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, type(int | str))


def is_checked(hint: Any) -> bool:
    """Whether anything is refused at all."""
    bare, metadata = parts_of(hint)
    if any(isinstance(each, Has | OneOf) for each in metadata):
        return True
    if any(
        isinstance(each, type(SkipValidation)) or each is SkipValidation or type(each).__name__ == "SkipValidation"
        for each in metadata
    ):
        return False
    if is_union(bare):
        return all(is_checked(each) for each in get_args(bare))
    return bare is not Any


def outside(hint: Any) -> list[Any]:
    """Values of the right type that are out of range, or no choice."""
    bare, metadata = parts_of(hint)
    if is_union(bare):
        parts = [each for each in get_args(bare) if each is not type(None)]
        found = [value for each in parts for value in outside(each)]
        if any(parts_of(each)[0] in (int, float) for each in parts):
            found = [
                value for value in found if not isinstance(value, str) or str not in [parts_of(p)[0] for p in parts]
            ]
        return [value for value in found if not any(allows(each, value) for each in parts)]
    if get_origin(bare) is Literal or any(isinstance(each, OneOf) for each in metadata):
        return ["no_such_choice"]
    values: list[Any] = []
    for each in metadata:
        if isinstance(each, Ge):
            values.append(each.ge - 1)
        elif isinstance(each, Gt):
            values.append(each.gt)
        elif isinstance(each, Le):
            values.append(each.le + 1)
        elif isinstance(each, Lt):
            values.append(each.lt)
    if bare is float:
        values.append(float("nan"))
    return [bare(value) for value in values] if bare in (int, float) else []


def allows(hint: Any, value: Any) -> bool:
    """Whether a part of a union takes a value of another part's type."""
    bare, _ = parts_of(hint)
    return bare in (str, Any) and isinstance(value, str)
