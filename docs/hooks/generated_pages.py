"""The pages of the site that are made when it is built: settings, experiments, commands, the API, and files of the
repository that are pages of the site too."""

import contextlib
import importlib
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import settings_reference as reference
import yaml

import mia_lightning

ROOT = Path(__file__).parents[2]

# Pages of the API: title, introduction, the folders of the package whose public names it has, and whole modules.
API = {
    "audit": (
        "The audit",
        "One call runs an audit; `observe` and `attack` are its expensive and its cheap half.",
        ("audit", "run", "remedies"),
        (),
    ),
    "data": (
        "Records and membership",
        "Which records there are, and which model trained on which.",
        ("datasets", "tasks", "membership"),
        (),
    ),
    "models": (
        "Targets and shadow models",
        "What is attacked, and how the attacker imitates it.",
        ("targets", "shadows"),
        (),
    ),
    "attacks": (
        "Attacks",
        "What an attacker does with the answers; [the definitions](../../explanation/attacks.md) in formulas.",
        ("attacks",),
        (),
    ),
    "defenses": ("Defences", "Changes to the answers of a model, or to its training.", ("defenses",), ()),
    "training": ("Training", "How target and shadow models are trained.", ("training",), ()),
    "callbacks": (
        "Leakage while training",
        "Callbacks for your own `trainer.fit`, and what they leave behind.",
        ("callbacks",),
        (
            "mia_lightning.callbacks.look",
            "mia_lightning.callbacks.trace",
            "mia_lightning.callbacks.screening",
            "mia_lightning.callbacks.picture",
        ),
    ),
    "reports": (
        "Reports, gate, loggers, store",
        "What an audit returns and writes. `report.json` has exactly the fields below.",
        ("reports", "comparison", "gate", "loggers", "store", "errors"),
        (
            "mia_lightning.metrics.figures",
            "mia_lightning.reports.schema",
            "mia_lightning.reports.scores",
            "mia_lightning.comparison.differences.schema",
        ),
    ),
    "metrics": (
        "Metrics",
        "Pure functions of scores and memberships; [figures and intervals](../figures.md) derives them.",
        (),
        ("mia_lightning.metrics.roc", "mia_lightning.metrics.leakage", "mia_lightning.metrics.privacy_bounds"),
    ),
    "interfaces": (
        "Interfaces",
        "What an attack, a defence, a plan, a target, a source of shadow records and a logger of your own must be.",
        (),
        (
            "mia_lightning.axes",
            "mia_lightning.attacks.interface",
            "mia_lightning.training.signals",
            "mia_lightning.defenses.interface",
            "mia_lightning.membership.plan",
            "mia_lightning.targets.interface",
            "mia_lightning.shadows.interface",
            "mia_lightning.loggers.interface",
        ),
    ),
}
COMMANDS = {
    "mia-store": "mia_lightning.store.command",
    "mia-store ls": "mia_lightning.store.command",
    "mia-store verify": "mia_lightning.store.command",
    "mia-store prune": "mia_lightning.store.command",
    "mia-dashboard": "mia_lightning.dashboard.command",
    "mia-compare": "mia_lightning.comparison.differences.command",
    "mia-serve": "mia_lightning.serve.command",
    "mia-serve google_prediction": "mia_lightning.serve.command",
    "mia-serve amazon_ml": "mia_lightning.serve.command",
}
# Files of the repository that are pages, by their address on the site.
REPOSITORY = {
    "explanation/design.md": "ARCHITECTURE.md",
    "results/speed.md": "benchmarks/RESULTS.md",  # whose wide tables have the whole page
    "project/contributing.md": "CONTRIBUTING.md",
    "project/security.md": "SECURITY.md",
    "project/changelog.md": "CHANGELOG.md",
}


def pages() -> dict[str, str]:
    """The text of each page that is made, by its address."""
    return {
        "reference/settings/index.md": _settings_index(),
        **{f"reference/settings/{group.replace('/', '-')}.md": _group_page(group) for group in reference.GROUPS},
        "reference/experiments.md": _experiments_page(),
        "reference/commands.md": _commands_page(),
        **{f"reference/api/{name}.md": _api_page(name) for name in API},
        **{page: _of_repository(page, file) for page, file in REPOSITORY.items()},
    }


def _table(settings: Iterable[reference.Setting]) -> list[str]:
    lines = ["| setting | may be | default | meaning |", "| --- | --- | --- | --- |"]
    return [*lines, *(f"| `{s.name}` | {s.may_be} | {s.default} | {s.meaning} |" for s in settings), ""]


def _commands(commands: Iterable[str]) -> list[str]:
    """Commands as they stand in YAML files, `command      -> what it gives`, each below what it gives."""
    lines = []
    for command in commands:
        typed, _, gives = command.partition("-> ")
        lines += [*([f"# {gives}"] if gives else []), typed.strip()]
    return ["```text", *lines, "```", ""] if lines else []


def _settings_index() -> str:
    groups = [f"| `{group}=` | [{title}]({group.replace('/', '-')}.md) |" for group, title in reference.GROUPS.items()]
    lines = [
        "# Settings",
        "",
        "A choice is `group=option`, a value `group.setting=value`; `mia-lightning --help` lists both. These pages are",
        "made from the settings themselves: from `conf/`, and from the fields that the settings fill.",
        "",
        "| group | choices |",
        "| --- | --- |",
        *groups,
        "| `experiment=` | [Experiments](../experiments.md) |",
        "",
        "A value that a setting cannot have is refused before anything runs, in one sentence that names the setting,",
        "the value and what it must be. Options of your own stand in a folder with the same groups, named by",
        "`--config-dir my_conf`.",
        "",
    ]
    notes = reference.section_notes()
    for section, settings in reference.sections().items():
        lines += [f"## {f'`{section}`' if section else 'The run'}", ""]
        of_section = notes.get(section, "").splitlines()
        commands = [line for line in of_section if line.startswith("mia-lightning ")]
        lines += [line for line in of_section if line not in commands]
        lines += ["", *_commands(commands), *_table(settings)]
    return "\n".join(lines)


def _group_page(group: str) -> str:
    lines = [f"# {reference.GROUPS[group]}", ""]
    is_list = group in ("attack", "defense")
    prefix = group.replace("/", ".")
    for option in reference.options(group):
        lines += [f"## `{option.name}` {{ #{option.name} }}", "", *([option.summary, ""] if option.summary else [])]
        lines += [*([option.notes, ""] if option.notes else [])]
        if option.commands:
            lines += _commands(option.commands)
        if option.settings:
            of_option = f"{prefix}.{option.name}" if is_list else prefix
            lines += [f"Settings of `{of_option}`:", "", *_table(option.settings)]
    if group == "target":
        lines += ["How a served model is asked, `target.asking`: see [asking](target-asking.md).", ""]
    return "\n".join(lines)


def _experiments_page() -> str:
    lines = [
        "# Experiments",
        "",
        "`experiment=<name>` runs several audits that differ in a few settings, and holds findings against what they",
        "measured. What was measured stands in [the paper's experiments](../results/paper.md).",
        "",
    ]
    folder = reference.CONF / "experiment"
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        head = [line.removeprefix("#").strip() for line in reference.head_of(path) if "@package" not in line]
        commands = [line for line in head if line.startswith(("mia-lightning ", "MIA_DATA="))]
        content = yaml.safe_load(path.read_text())
        comparison = content.get("comparison") or {}
        lines += [f"## `{name}` {{ #{name.replace('/', '-')} }}", ""]
        if comparison:
            lines += [f"**{comparison['title']}.** {comparison['question']} Source: {comparison['source']}.", ""]
        lines += [" ".join(line for line in head if line not in commands).removeprefix("-> "), "", *_commands(commands)]
        if comparison:
            variants = [f"`{variant}`" for variant in comparison["variants"]]
            lines += [f"Variants: {', '.join(variants)}.", ""]
            lines += [f"- {finding['text']}" for finding in comparison.get("findings", [])]
            lines += [""]
    return "\n".join(lines)


def _commands_page() -> str:
    lines = [
        "# Commands",
        "",
        "`mia-lightning --help` lists choices and settings, for which see [settings](settings/index.md).",
        "",
    ]
    for command, module in COMMANDS.items():
        main: Callable[[list[str]], None] = importlib.import_module(module).main
        lines += [f"## `{command}`", "", "```text", _help(main, command.split()[1:]), "```", ""]
    return "\n".join(lines)


def _help(main: Callable[[list[str]], None], arguments: list[str]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return printed.getvalue().rstrip()


def _api_page(name: str) -> str:
    title, introduction, folders, modules = API[name]
    lines = [f"# {title}", "", introduction, ""]
    for public, path in public_names().items():
        if path.split(".")[1] in folders:
            options = [f"heading: mia.{public}", f"toc_label: {public}"]
            lines += [f"::: {path}", "    options:", *(f"      {option}" for option in options), ""]
    for module in modules:
        lines += [
            f"## `{module.partition('.')[2]}`",
            "",
            f"::: {module}",
            "    options:",
            "      show_root_heading: false",
        ]
        lines += ["      show_root_toc_entry: false", "      heading_level: 3", ""]
    return "\n".join(lines)


def public_names() -> dict[str, str]:
    """Where each public class and function of the package is defined.

    Raises:
        ValueError: a name belongs on none of the pages of the API.
    """
    found = {}
    for name in mia_lightning.__all__:
        value = getattr(mia_lightning, name)
        if not hasattr(value, "__qualname__"):  # the version, and unions of types
            continue
        found[name] = f"{value.__module__}.{value.__qualname__}"
        if not any(found[name].split(".")[1] in folders for _, _, folders, _ in API.values()):
            raise ValueError(f"mia_lightning.{name} belongs on none of the pages of the API in {__file__}.")
    return found


def _of_repository(page: str, file: str) -> str:
    """A file of the repository, with its links as they are on the site."""
    places = {made: address for address, made in REPOSITORY.items()}
    depth = "../" * page.count("/")

    def there(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = (ROOT / file).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        address = places.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        return f"[{text}]({depth}{address}{anchor or ''})" if address else text

    text = re.sub(r"\[([^\]]+)\]\((?!https?:|#|mailto:)([^)#]+)(#[^)]*)?\)", there, (ROOT / file).read_text())
    return f"---\nhide: [toc]\n---\n{text}" if page.startswith("results/") else text
