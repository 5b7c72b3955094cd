"""What a person typed wrong, in one sentence: the errors of Hydra and OmegaConf, translated.

Hydra is imported inside the functions, so that Ctrl-C while it loads is caught by `main`.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mia_lightning.errors import InputError, SettingError, is_storable, nearest
from mia_lightning.store.run_folder import about_folder

_KEY = re.compile(r"[+~]{0,2}[\w@./:$-]+")
_NAMES = re.compile(r"(a list of )?(the )?(a name|names?|a path|paths|a folder|text)\b")

# Sections that name what they make.
_OF_ONES_OWN = {
    "model": "model=custom, or model=lightning for a LightningModule",
    "dataset": "dataset=datamodule",
}
NODES = ("dataset", "task", "membership", "model", "target", "shadow", "training", "trainer", "logger")


def config_directory() -> Path:
    """The folder `conf`: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def is_bad_input(error: Exception) -> bool:
    """Whether the input is at fault: our own word for it, or Hydra's or OmegaConf's."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(error, InputError | HydraException | OmegaConfBaseException)


def translate(error: Exception) -> str:
    """One sentence for an error of ours, of Hydra or of OmegaConf."""
    from hydra.errors import OverrideParseException

    if isinstance(error, SettingError):
        typed = {_key_of(each) for each in sys.argv[1:]}
        is_of_own = error.section in _OF_ONES_OWN and f"{error.section}._target_" in typed
        if "is no setting of" in error.rest and is_of_own and error.section not in typed:
            return f"`{error.section}._target_` is of your own; add {_OF_ONES_OWN[error.section]}."
        return f"{str(error).rstrip('.')}{_as_text(error, sys.argv[1:])}."
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and not is_bad_input(error):  # a missing choice of Hydra is an OSError too
        return about_folder(error)
    text = str(error)
    if "Config group override must be" in text:
        return _about_choice(sys.argv[1:])
    if match := re.search(r"Ambiguous value for argument '(.*)'$", text, re.MULTILINE):
        key, _, values = match.group(1).partition("=")
        return (
            f"`{key}={values}` holds several values; add --multirun to run each, or write {key}=[{values}] for a list; "
            f"one text is typed {_typed(key, values)}."
        )
    if match := re.search(r"Could not (?:find|load) '((?:hydra/)?\w+)/([^']*)'", text):
        group, choice = match.groups()
        listed = re.findall(r"^\t(\S+)$", text, re.MULTILINE)  # of all folders on the search path, where Hydra says so
        options = listed or sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
        longer = [each for each in options if choice and each.startswith(choice)]
        meant = (
            f" (did you mean {' or '.join(f'`{each}`' for each in longer)}?)" if longer else nearest(choice, options)
        )
        known = f" is not one of the choices {', '.join(options)}{meant}" if options else " is not known"
        return f"{group}={choice}{known}."
    if match := re.search(r"Could not override '([^']*)'", text):
        key = match.group(1).split("@")[0]
        known_keys = _known_keys(sys.argv[1:])
        if key in known_keys:
            section = key.split(".")[0]
            return (
                f"there is no setting `{key}` in this configuration, since the choice of `{section}` or a deletion "
                "leaves it out; see mia-lightning --help."
            )
        if (sentence := _of_another_choice(key, sys.argv[1:])) is not None:
            return sentence
        return f"there is no setting `{key}`{nearest(key, known_keys)}; see mia-lightning --help."
    if isinstance(error, OverrideParseException):
        return _about_syntax(str(error.override), sys.argv[1:])
    if "nterpolation" in type(error).__name__:
        return f"{_first_sentence(error)}{_without_interpolation(sys.argv[1:])}."
    return f"{_first_sentence(error)}."


def _of_another_choice(key: str, arguments: Sequence[str]) -> str | None:
    """Of a setting that an own class takes with a plus, or that other choices of its group have; None of any other."""
    group, _, name = key.partition(".")
    given = {_key_of(each): each.partition("=")[2] for each in arguments}
    made = given.get(f"{key.rpartition('.')[0]}._target_")
    if made is not None and name:
        value = given.get(key, "...")
        return f"`{key}` is no setting of ours; for an argument of {made} type a plus: +{key}={value}."
    if group not in NODES or group in given or not name:
        return None
    choices = [
        path.stem
        for path in sorted((config_directory() / group).glob("*.yaml"))
        if re.search(rf"^{re.escape(name.split('.')[0])}:", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    if not choices:
        return None
    listed = " or ".join(f"{group}={choice}" for choice in choices[:4])
    return f"`{key}` is a setting of {listed}{', for example' if len(choices) > 4 else ''}; add that choice."


def _about_syntax(argument: str, arguments: Sequence[str]) -> str:
    """Of what Hydra's grammar cannot read."""
    key, equals, value = argument.partition("=")
    if not equals:
        before = arguments[arguments.index(argument) - 1] if argument in arguments[1:] else ""
        key, equals, value = before.partition("=")
        if equals and _KEY.fullmatch(key):
            typed = _typed(key, f"{value} {argument}")
            return f"`{argument}` is no setting; if it belongs to the value before it, type {typed}."
        return f"`{argument}` is no setting; settings are given as key=value, see mia-lightning --help."
    if not _KEY.fullmatch(key):
        return f"`{argument}` cannot be read; settings are given as key=value, see mia-lightning --help."
    typed = _typed(key, value)
    if value.strip().startswith(("[", "{")):
        return f"`{argument}` cannot be read; close its brackets and quotes, or, if it is one text, type {typed}."
    return f"`{argument}` cannot be read, since some of its characters are syntax; as a text, type {typed}."


def _as_text(error: SettingError, arguments: Sequence[str]) -> str:
    """How a name that is read as a number, as true, false or null is typed; nothing where this is not the mistake."""
    must_be = error.rest.rpartition("it must be ")[2]
    place = f"{error.section}.{error.name}"
    value = next((each.partition("=")[2] for each in reversed(arguments) if _key_of(each) == place), None)
    if value is None or not _NAMES.match(must_be) or value.startswith(("'", '"', "{")):
        return ""
    is_list = must_be.startswith("a list") or ("a list of names" in must_be and value.startswith("["))
    if not is_list:
        return "" if _is_text(value) else f"; such a name is typed {_typed(place, value)}"
    parts = [part.strip() for part in value.strip("[]").split(",")]
    if all(map(_is_text, parts)):
        return ""
    return f"; such names are typed {_typed(place, parts)}"


def _typed(key: str, value: str | Sequence[str]) -> str:
    from mia_lightning.settings.overrides import override  # which takes its time

    return override(key, value)


def _is_text(value: str) -> bool:
    from mia_lightning.settings.overrides import of_hydra

    return of_hydra(value) == value


def _key_of(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+")


def _without_interpolation(arguments: Sequence[str]) -> str:
    """How the first argument with an interpolation is typed as plain text."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if "${" in value:
            return f"; if `{argument}` is plain text, type {_typed(key, value)}"
    return ""


def _about_choice(arguments: Sequence[str]) -> str:
    """The first override of a group by what is no name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        override = OverridesParser.create().parse_override(argument)
        group = override.key_or_group
        value = override.value()
        if isinstance(value, str | list) or override.is_sweep_override():
            continue
        if (config_directory() / group).is_dir():
            choices = sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
            return f"{argument} is no choice; choose from {', '.join(choices) or 'the files of that folder'}."
        if group == "hydra":
            return f"{argument} is no choice; leave it out."
    return "a group is set to what is no name of a choice; see mia-lightning --help."


def _known_keys(arguments: Sequence[str]) -> list[str]:
    """Groups, and the dotted keys of the default configuration and of the choices among the arguments."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    chosen = [each for each in arguments if (config_directory() / each.partition("=")[0]).is_dir()]
    configs = []
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        for overrides in ([], chosen):
            with contextlib.suppress(Exception):  # choices of a folder of one's own, which is not on the path here
                configs.append(OmegaConf.to_container(compose("config", overrides=overrides), resolve=False))

    def keys(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        return [k for name, value in node.items() for k in (f"{prefix}{name}", *keys(value, f"{prefix}{name}."))]

    return list(dict.fromkeys(key for config in configs for key in keys(config, "")))


def _first_sentence(error: BaseException) -> str:
    """The message of the innermost cause, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(("full_key:", "object_type=", "See https:"))]
    return " ".join(useful[:3]).rstrip(".") if useful else type(error).__name__


def check_choices(overrides: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse a list for what takes one choice: Hydra would lay the settings of the second over those of the first.

    Raises:
        InputError: one of `groups` is given a list, or a list names a choice twice.
    """
    for override in overrides:
        group, _, choice = override.partition("=")
        names = [each.strip() for each in choice.strip("[]").split(",")] if group in ("attack", "defense") else []
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{override} names {twice} twice; name it once.")
        if group in groups and choice.startswith("["):
            mend = "; for both of them there is logger=wandb_and_tensorboard" if group == "logger" else ""
            raise InputError(f"{override} names several, and `{group}` takes one choice{mend}.")


def given_twice(overrides: Sequence[str]) -> list[str]:
    """A sentence for each setting that the command line gives more than once."""
    last: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        last[key.lstrip("+")] = value
    keys = [_key_of(override) for override in overrides]
    return [
        f"{key} is given more than once; the last, {value}, counts"
        for key, value in last.items()
        if keys.count(key) > 1
    ]


def check_flags(arguments: Sequence[str]) -> None:
    """Hydra's own parser, with one sentence where argparse would print its usage.

    Raises:
        InputError: an argument is no text, an unknown flag, or one that reads a pickle out of a run's folder.
    """
    from hydra._internal.utils import get_args_parser

    for argument in arguments:
        if not is_storable(argument):
            raise InputError(
                f"{argument!r} holds bytes that are no text in UTF-8; rename what it names, or set PYTHONUTF8=1."
            )
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; settings are given as key=value, see mia-lightning --help.")

    parser.error = refuse  # type: ignore[method-assign]
    if parser.parse_args(arguments).experimental_rerun is not None:
        raise InputError(
            "--experimental-rerun reads a pickle, and reading one runs whatever code is in it; repeat the settings "
            "that stand in .hydra/overrides.yaml beside it."
        )


def about_node(error: BaseException, place: str, node: Any) -> InputError:
    """Why a node of the configuration cannot be made, and which setting of it is at fault where that is known."""
    from mia_lightning.settings.free_nodes import about_call  # which takes its time

    text, cause = str(error), error.__cause__
    inner = re.search(r"full_key: (\S+)", text)
    if inner is not None and inner.group(1) != place:
        place += "." + re.sub(r"(\d+)$", r"[\1]", inner.group(1))  # Hydra writes callbacks[0] as callbacks0
        node = _inner(node, inner.group(1))
    if isinstance(cause, SettingError):
        return cause.at(place)
    if isinstance(cause, InputError):
        return cause
    if isinstance(cause, Exception) and "Error in call to target" in text and isinstance(node, Mapping):
        return about_call(cause, _called(node), place)
    sentence = _absent(node) or _first_sentence(error)
    return InputError(f"`{place}` cannot be made: {sentence}; see conf/{place.split('.')[0]} or mia-lightning --help.")


def _absent(node: Any) -> str | None:
    """What a `_target_` lacks: its module, or the name in a module that is there; None where it lacks neither."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str):
        return None
    module, _, name = target.rpartition(".")
    if not module:
        return f"`_target_` is {target}, without its module; give both, as in my_package.{target}"
    found = sys.modules.get(module)
    if found is None or hasattr(found, name):
        return None
    names = [each for each in vars(found) if not each.startswith("_")]
    own = [each for each in names if f"{getattr(vars(found)[each], '__module__', None)}.".startswith(f"{module}.")]
    return f"{module} has no `{name}`{nearest(name, names)}{'; it has ' if own else ''}{', '.join(own[:10])}"


def _inner(node: Any, key: str) -> Any:
    """The node at a key as Hydra writes it, such as `callbacks0.schedule`, or `lr[0]`; None where there is none."""
    try:
        for part in re.sub(r"\[(\d+)\]", r".\1", key).split("."):
            if isinstance(node, Mapping) and part in node:
                node = node[part]
            else:
                name, place = re.fullmatch(r"(.*?)(\d*)", part).groups()  # type: ignore[union-attr]  # it always matches
                node = (node[name] if name else node)[int(place)]
    except (LookupError, ValueError, TypeError):
        return None
    return node


def _called(node: Mapping[str, Any]) -> "functools.partial[Any]":
    """What a node calls, with the arguments that it gives."""
    from hydra.utils import get_object

    given = {name: value for name, value in node.items() if not name.startswith("_")}
    return functools.partial(get_object(node["_target_"]), **given)
