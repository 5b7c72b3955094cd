"""The reference of settings, made from conf/ and from the fields that the settings fill; nothing of it is stored.

Of each setting it says what it may be (the annotation of the field, in words), its default (the YAML file) and what it
means (the docstring of the class or function that takes it, or else the comment in the YAML file).
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from mia_lightning.command.configuration import CanarySettings, Configuration, GuessSettings
from mia_lightning.gate import Gate
from mia_lightning.membership import Disjoint
from mia_lightning.run.about import About
from mia_lightning.settings.words import in_words
from mia_lightning.shadows.shard import Shard
from mia_lightning.store.artefacts import Store
from mia_lightning.sweep.objective import SweepSettings

CONF = Path(__file__).parents[2] / "conf"
GROUPS = {
    "dataset": "Data sets",
    "task": "Tasks",
    "membership": "Membership: who trains on what",
    "model": "Architectures",
    "target": "Targets",
    "target/asking": "Asking a served model",
    "shadow": "Shadow models and their records",
    "attack": "Attacks",
    "defense": "Defences",
    "training": "Training",
    "trainer": "Trainer",
    "logger": "Loggers",
    "hydra/launcher": "Launchers of sweeps",
}
# Sections of config.yaml, and what their settings fill.
SECTIONS: dict[str, type] = {
    "": Configuration,
    "guess": GuessSettings,
    "canary": CanarySettings,
    "store": Store,
    "gate": Gate,
    "report": About,
    "sweep": SweepSettings,
    "shadow": Shard,
    "model": Configuration,
}
_COMMENT = re.compile(
    r"^(?P<indent> *)(?P<key>[\w.]+):(?P<value>(?:[^#\"']|\"[^\"]*\"|'[^']*'|(?<! )#)*?)(?: +# (?P<comment>.*))?$"
)
_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+),([^}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of a table; all fields but the name are Markdown."""

    name: str
    may_be: str
    default: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """One choice of a group.

    Attributes:
        commands: that choose it, each with what it gives.
        notes: what else the head of its file says.
        summary: of the class or function that it makes.
        settings: in the order of the file.
    """

    name: str
    commands: tuple[str, ...]
    notes: str
    summary: str
    settings: tuple[Setting, ...]


def options(group: str) -> list[Option]:
    """The choices of a group, in the order of their names."""
    return [_option(path, group) for path in sorted((CONF / group).glob("*.yaml"))]


def section_notes() -> dict[str, str]:
    """What config.yaml says of each section, above it."""
    return {name: text for name, text in _comments(CONF / "config.yaml").items() if "." not in name and "\n" in text}


def sections() -> dict[str, tuple[Setting, ...]]:
    """The settings of config.yaml that no group has, by section."""
    path = CONF / "config.yaml"
    content, comments = yaml.safe_load(path.read_text()), _comments(path)
    found: dict[str, list[Setting]] = {name: [] for name in SECTIONS}
    for name, value in content.items():
        if name in ("defaults", "hydra"):
            continue
        section = name if isinstance(value, Mapping) else ""
        of_section = value.items() if section else [(name, value)]
        for key, default in of_section:
            place = f"{section}.{key}".removeprefix(".")
            filled = _FILLED_ELSEWHERE.get(place) or SECTIONS.get(section)
            fields = _Fields.of(filled) if filled is not None else _Fields.none()
            may_be = "true or false" if type(default) is bool else fields.may_be(_FIELD_OF.get(place, key))
            if default is None and "null" not in may_be and may_be != "Any value":
                may_be += ", or null"
            meaning = comments.get(place) or fields.meanings.get(key, "")
            setting = Setting(name=place, may_be=may_be, default=_default(default), meaning=_markdown(meaning))
            found.setdefault(section, []).append(setting)
    return {name: tuple(of) for name, of in found.items()}


_OF_DATA_SETS = {"name": "What reports call the data set.", "train_size": "Records that the target trains on."}
# What fills the settings of a choice that makes somebody's own class.
_FILLED = {("dataset", "datamodule"): "mia_lightning.datasets.own.reading.read_own"}
_FILLED_ELSEWHERE = {"shadow.estimator": Configuration}
_FIELD_OF = {"shadow.shards": "count", "shadow.shard": "number", "model.output": "model_output"}


def _option(path: Path, group: str) -> Option:
    content, comments = yaml.safe_load(path.read_text()), _comments(path)
    head = [line[2:] for line in head_of(path) if not line.startswith("# @package")]
    commands = tuple(line for line in head if line.startswith(("mia-lightning ", "pip install ", "tensorboard ")))
    notes = " ".join(line for line in head if line not in commands)
    made = _named(_FILLED.get((group, path.stem)) or content.get("backend")) or _named(content.get("_target_"))
    settings = tuple(_settings(content, comments, made, group))
    return Option(name=path.stem, commands=commands, notes=_markdown(notes), summary=_summary(made), settings=settings)


def _settings(content: Mapping[str, Any], comments: Mapping[str, str], made: Any, group: str) -> Iterator[Setting]:
    fields = _Fields.of(made)
    for name, value in content.items():
        if name in ("_target_", "_partial_", "defaults", "backend", "name" if group == "attack" else ""):
            continue
        may_be, meaning = fields.may_be(name), fields.meanings.get(name) or comments.get(name, "")
        if group == "dataset" and name in _OF_DATA_SETS:
            may_be, meaning = may_be or _Fields.of(Disjoint).may_be(name), meaning or _OF_DATA_SETS[name]
        if name in Configuration.__dataclass_fields__ and not made:  # a list of options that sets it
            of_run = next(each for each in sections()[""] if each.name == name)
            may_be, meaning = of_run.may_be, of_run.meaning
        target = value.get("_target_") if isinstance(value, Mapping) else None
        default = _default(value if target is None else target)
        yield Setting(name=name, may_be=may_be, default=default, meaning=_markdown(meaning))
        if target is None:
            continue
        inner = {key.removeprefix(f"{name}."): text for key, text in comments.items()}
        theirs = f"as `{target}` takes it"
        for each in _settings(value, inner, _named(target), group):
            yield replace(
                each, name=f"{name}.{each.name}", may_be=each.may_be or theirs, meaning=each.meaning or theirs
            )


@dataclass(frozen=True)
class _Fields:
    """What a class or function takes: the annotations of its parameters, and what its docstring says of them."""

    annotations: Mapping[str, Any]
    meanings: Mapping[str, str]

    @classmethod
    def of(cls, made: Any) -> "_Fields":
        if made is None or not _is_ours(made):
            return cls.none()
        meanings: dict[str, str] = {}
        for each in reversed(inspect.getmro(made) if inspect.isclass(made) else [made]):
            if _is_ours(each):
                meanings |= meanings_in(each.__doc__ or "")
                meanings |= meanings_in(getattr(vars(each).get("__init__"), "__doc__", None) or "")
        has_fields = not inspect.isclass(made) or is_dataclass(made)
        return cls(get_type_hints(made if has_fields else made.__init__, include_extras=True), meanings)

    @classmethod
    def none(cls) -> "_Fields":
        return cls({}, {})

    def may_be(self, name: str) -> str:
        return _markdown(in_words(self.annotations[name])) if name in self.annotations else ""


def meanings_in(docstring: str) -> dict[str, str]:
    """What a docstring says under "Attributes:" or "Args:", by name."""
    found: dict[str, str] = {}
    names: list[str] = []
    is_inside = False
    for line in inspect.cleandoc(docstring).splitlines():
        if not line.startswith(" "):
            is_inside = line in ("Attributes:", "Args:")
        elif is_inside and (match := re.match(r" {4}([\w, ]+?): (.*)$", line)):
            names = [name.strip() for name in match[1].split(",")]
            found |= dict.fromkeys(names, match[2])
        elif is_inside and line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _is_ours(made: Any) -> bool:
    return str(getattr(made, "__module__", "")).startswith("mia_lightning")


def _named(path: object) -> Any:
    """The class or function of that dotted name; None for what is no such name."""
    if not isinstance(path, str) or not path.startswith("mia_lightning."):
        return None
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _summary(made: Any) -> str:
    text = inspect.cleandoc(made.__doc__ or "") if made is not None else ""
    return _markdown(text.split("\n\n")[0].replace("\n", " "))


def head_of(path: Path) -> list[str]:
    """The comments that a file begins with."""
    lines = path.read_text().splitlines()
    return lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]


def _comments(path: Path) -> dict[str, str]:
    """The comment behind each key, or the lines of comment above it, by the key's place."""
    found: dict[str, str] = {}
    parents: list[str] = []
    above: list[str] = []
    for line in path.read_text().splitlines()[len(head_of(path)) :]:
        match = _COMMENT.match(line)
        if match is None:
            above = [*above, line.strip()[2:]] if line.strip().startswith("# ") else []
            continue
        depth = len(match["indent"]) // 2
        parents = [*parents[:depth], match["key"]]
        text = match["comment"] or "".join(f"{each}\n" for each in above)
        above = []
        if text:
            found[".".join(parents)] = text
    return found


def _default(value: Any) -> str:
    if value == "???":
        return "must be given"
    if isinstance(value, str) and (match := _ENVIRONMENT.search(value)):
        name, otherwise = match.groups()
        return f"`{_ENVIRONMENT.sub(otherwise, value)}`, or the environment variable `{name}` in place of `{otherwise}`"
    if isinstance(value, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        return f"that of `{match[1]}`"
    if value is None or type(value) is bool:
        return f"`{str(value).lower() if value is not None else 'null'}`"
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("...").strip()
    return f"`{text}`"


def _markdown(text: str) -> str:
    """A docstring's or a comment's words on a page: YAML's words for Python's, and nothing that Markdown would read."""
    parts = re.split(r"(`[^`]*`)", text.replace("\n", " ").strip())
    for i in range(0, len(parts), 2):
        part = re.sub(r"\bNone\b", "null", parts[i])
        part = re.sub(r"\bTrue\b", "true", re.sub(r"\bFalse\b", "false", part))
        parts[i] = re.sub(r"([\[\]<>*_])", r"\\\1", part)
    joined = "".join(parts).replace("|", "\\|")
    is_word = re.match(r"(?:a|[a-z]{2,})[ ,;]", joined)  # and no name that is written small, as in `json: ...`
    return joined[:1].upper() + joined[1:] if is_word else joined
