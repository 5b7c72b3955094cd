"""What a Lightning checkpoint says beside its weights: the hyper-parameters of its module, and how long it trained."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mia_lightning.errors import InputError, one_line
from mia_lightning.lightning_names import base_named
from mia_lightning.settings.checking import shown
from mia_lightning.settings.free_nodes import about_call
from mia_lightning.targets.inert import Inert
from mia_lightning.targets.interface import Remarks
from mia_lightning.targets.plain_values import ATTRIBUTES, NeedsCode, Plain, held_in, opened
from mia_lightning.training.stack.architecture import bound_by

_OF_THE_RECORDS = ("input_shape", "num_classes")  # which the population fills in
_OF_LIGHTNING = ("_instantiator", "_class_path")
_LARGEST_YAML = 2**20  # bytes


class _Completed(partial):  # type: ignore[type-arg]
    """What makes networks, with values of a file, which an error about one of them names.

    Attributes:
        names: of the values.
        place: where they are from.
    """

    names: frozenset[str] = frozenset()
    place = ""

    @classmethod
    def of(cls, make: Callable[..., nn.Module], given: Mapping[str, Any], place: str) -> "_Completed":
        made = cls(make, **given)
        made.names, made.place = frozenset(given), place
        return made

    def __call__(self, *args: Any, **settings: Any) -> Any:
        try:
            return super().__call__(*args, **settings)
        except InputError:
            raise
        except Exception as error:  # the user's own code
            about = about_call(error, self, "model", filled=_OF_THE_RECORDS)
            if about.section == "model" and about.name not in self.names:
                raise
            named = {about.name} if about.section == "model" else self.names  # which of them cannot always be told
            raise InputError(
                f"{str(about).rstrip('.')}; {', '.join(sorted(named))} came from {self.place}: set it in `model`, or "
                "give another checkpoint."
            ) from error


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a checkpoint says beside its weights.

    Attributes:
        place: where the hyper-parameters are from, for sentences.
        hyper_parameters: by name; `NeedsCode` in the place of a value that only code could make.
        argument: the parameter of the module that takes all of them together; None where each is one.
        kind: of the object that held them, where it was none of Python's own.
        epochs: that were begun; None where it does not say.
    """

    place: str = ""
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    argument: str | None = None
    kind: str = ""
    epochs: int | None = None

    @classmethod
    def of(cls, content: object, path: Path) -> "Said":
        """What a file says, and the hparams.yaml beside it.

        Args:
            content: of the file, with `Inert` in the place of what needs code.

        Raises:
            InputError: the hparams.yaml is needed, and is none.
        """
        if not isinstance(content, Mapping) or "pytorch-lightning_version" not in content:
            return cls()
        held, place = content.get("hyper_parameters"), f"the hyper-parameters of {path.name}"
        argument = content.get("hparams_name")
        if not held:
            beside = _hparams_beside(path)
            held, argument = (None, None) if beside is None else (_of_yaml(beside), None)
            place = "" if beside is None else f"{beside.parent.name}/{beside.name}"
        top = opened(held)
        if top is None and held:  # an object of a class that is not known
            top = {argument: held} if isinstance(argument, str) else {}
            argument = None
        plain = Plain()
        return cls(
            place=place,
            hyper_parameters={
                str(name): plain.of(value) for name, value in (top or {}).items() if name not in _OF_LIGHTNING
            },
            argument=argument if isinstance(argument, str) else None,
            kind=held.name if isinstance(held, Inert) else "",
            epochs=_epochs(content),
        )

    def completed(self, make: Callable[..., nn.Module], num_classes: int) -> tuple[Callable[..., nn.Module], Remarks]:
        """`make` with the hyper-parameters filled in that it takes and leaves open.

        Returns:
            It, and remarks.

        Raises:
            InputError: it needs one that only code could make, or the checkpoint is of other classes.
        """
        if not self.hyper_parameters:
            return make, []
        own = self.hyper_parameters.get("num_classes")
        has_one = own == 1 and num_classes == 2  # one number a record
        if type(own) is int and own != num_classes and not has_one:
            raise InputError(
                f"`num_classes` is {own} in {self.place}, and the records have {num_classes} classes; give the data "
                "set that the checkpoint was trained on, or another checkpoint."
            )
        bound, parameters = bound_by(make), _parameters(make)
        whole = None if self.argument is None else parameters.get(self.argument)
        if whole is not None and whole.kind is not inspect.Parameter.VAR_KEYWORD:
            return self._whole(make, whole.name, bound)
        takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()) and _is_module(make)
        open_ = {
            name: value
            for name, value in self.hyper_parameters.items()
            if (name in parameters or takes_all) and name not in bound
            if name not in _OF_THE_RECORDS or (name == "num_classes" and has_one)
        }
        coded = {name: value for name, value in open_.items() if isinstance(value, NeedsCode)}
        for name, value in coded.items():
            if not value.is_known(_default(make, name)):
                raise InputError(self._needed(make, name, value))
        given = {name: value for name, value in open_.items() if name not in coded}
        said: Remarks = []
        if given:
            listed = ", ".join(f"{name}={_brief(value)}" for name, value in given.items())
            said.append(("note", f"`model` is made with {listed}, from {self.place}: target and shadow models."))
        said += [
            (
                "warning",
                f"`model.{name}` is {_brief(bound[name])} as you set it, and {_brief(value)} in {self.place}: yours is "
                "taken.",
            )
            for name, value in self.hyper_parameters.items()
            if name in bound and name not in _OF_THE_RECORDS and _differ(bound[name], value)
        ]
        return (_Completed.of(make, given, self.place) if given else make), said

    def _whole(
        self, make: Callable[..., nn.Module], argument: str, bound: Mapping[str, Any]
    ) -> tuple[Callable[..., nn.Module], Remarks]:
        """`make` with all hyper-parameters as one argument."""
        if argument in bound:
            return make, [("note", f"`model.{argument}` is as you set it, and not as in {self.place}.")]
        for name, value in self.hyper_parameters.items():
            if isinstance(value, NeedsCode):
                held = value if name == argument else NeedsCode(f"mapping with a {value.name}")
                raise InputError(self._needed(make, argument, held))
        sentence = f"`model` is made with {argument} from {self.place}: the target and its shadow models."
        whole = held_in(self.kind or ATTRIBUTES, self.hyper_parameters)
        return _Completed.of(make, {argument: whole}, self.place), [("note", sentence)]

    def _needed(self, make: Callable[..., nn.Module], name: str, value: NeedsCode) -> str:
        package = str(getattr(_made(make), "__module__", "")).partition(".")[0]
        return (
            f"{_name(make)} takes `{name}`, which is a {value.name} in {self.place}: to make it would run its code; "
            f"give it in `model`: {value.on_command_line(f'model.{name}', package)} on the command line, "
            f"functools.partial({_name(make)}, {name}=...) in Python."
        )


def _epochs(content: Mapping[Any, Any]) -> int | None:
    """The epochs that were begun: those of a checkpoint within an epoch count as whole ones."""
    place: Any = content.get("loops")
    for name in ("fit_loop", "epoch_progress", "current", "started"):
        place = place.get(name) if isinstance(place, Mapping) else None
    if type(place) is int and place >= 1:
        return place
    epoch = content.get("epoch")
    return epoch + 1 if type(epoch) is int and epoch >= 0 else None


def _hparams_beside(path: Path) -> Path | None:
    """The hparams.yaml of a logger, in the file's folder or in that around `checkpoints`."""
    folders = [path.parent, path.parent.parent] if path.parent.name == "checkpoints" else [path.parent]
    return next((each for folder in folders if (each := folder / "hparams.yaml").is_file()), None)


def _of_yaml(path: Path) -> Any:
    """The content of a YAML file; what it would make by code is inert."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # of a module without types
        pass

    def inert(loader: Any, suffix: str, node: Any) -> Inert | type[Inert]:
        kind, _, name = suffix.partition("python/")[2].partition(":")
        named: type[Inert] = type("Inert", (Inert,), {"name": (name or kind or suffix)[:200]})
        return named if kind == "name" else named()

    def as_tuple(loader: Any, node: Any) -> tuple[Any, ...]:
        return tuple(loader.construct_sequence(node, deep=True))

    Loader.add_multi_constructor("", inert)
    Loader.add_constructor("tag:yaml.org,2002:python/tuple", as_tuple)
    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise InputError(f"{path} is larger than {_LARGEST_YAML} bytes; no hparams.yaml of a logger is.")
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}, which has the hyper-parameters of `target.path`, is no YAML; mend it, or take it away and set "
            "them in `model`."
        ) from error


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return {}


def _default(make: Any, name: str) -> object:
    """Of a parameter, or of that to which a subclass hands on what it is given."""
    found = (_parameters(each).get(name) for each in (make, *getattr(_made(make), "__mro__", ())))
    return next((each.default for each in found if each is not None), inspect.Parameter.empty)


def _made(make: Any) -> Any:
    while isinstance(make, partial) or hasattr(make, "__wrapped__"):
        make = make.func if isinstance(make, partial) else make.__wrapped__
    return make


def _is_module(make: Any) -> bool:
    """Whether it is the class of a LightningModule, whose hyper-parameters are its own arguments."""
    made = _made(make)
    return isinstance(made, type) and base_named(made, "LightningModule") is not None


def _name(make: Any) -> str:
    return str(getattr(_made(make), "__name__", type(make).__name__))


def _differ(one: object, other: object) -> bool:
    """Whether two values are known to differ."""
    plain = (str, int, float, bool, type(None), list, tuple, dict)
    if isinstance(other, NeedsCode):
        return other.differs_from(one)
    if not isinstance(one, plain) or not isinstance(other, plain):
        return False
    as_lists = [list(each) if isinstance(each, tuple) else each for each in (one, other)]
    return bool(as_lists[0] != as_lists[1])


def _brief(value: object) -> str:
    return value.name if isinstance(value, NeedsCode) else one_line(shown(value))
