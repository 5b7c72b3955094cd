"""Experiments: several audits side by side, each a variant of one configuration, and what they say together."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from mia_lightning.command.forms import ComparisonForm, EntryForm, ScaleForm, VariantForm
from mia_lightning.command.job import Job, instantiate
from mia_lightning.command.mistakes import config_directory, is_bad_input, translate
from mia_lightning.comparison.assemble import compare, skipped_variant, variant_of
from mia_lightning.comparison.differences.variants import KeptVariants
from mia_lightning.comparison.files import save_comparison, save_index
from mia_lightning.comparison.matrix import defense_matrix, render_matrix
from mia_lightning.comparison.schema import ComparisonReport, Variant
from mia_lightning.comparison.tables import render_comparison
from mia_lightning.errors import DataNotThereError, InputError, nearest
from mia_lightning.settings.checking import shown
from mia_lightning.terminal.exit_codes import BAD_INPUT, worst
from mia_lightning.terminal.results import nothing_on_stdout
from mia_lightning.terminal.tables import printer

if TYPE_CHECKING:
    from mia_lightning.datasets.population import Population
    from mia_lightning.run.definition import Audit
    from mia_lightning.run.observation import Observation


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One audit of a comparison.

    Attributes:
        name, x: of the variant; x where it stands on a numeric axis, such as a number of classes.
        job: its whole configuration.
    """

    name: str
    x: float | None
    job: Job


def run_experiment(job: Job, overrides: Sequence[str], folder: Path) -> int:
    """Run the comparison, or the series of comparisons, that the configuration holds, and print what it found.

    Args:
        overrides: what was typed; it goes before what the experiment says, but not before what it varies.

    Returns:
        The exit code: 0, 2 where a variant could not be run for another reason than data that is not there, or the
        worst that the gate gave a variant.

    Raises:
        InputError: settings that cannot be composed, or nothing at all could be run.
    """
    settings = job.configuration
    console, progress = printer(stderr=settings.output != "text"), Console(stderr=True)
    if settings.experiments is None:
        comparison, code = _run_comparison(job, overrides, folder, progress, _Kept())
        if all(variant.skipped for variant in comparison.variants):
            raise InputError(comparison.variants[0].skipped or "")
        _show(comparison, console)
        console.print(f"\nResults: {folder / 'comparison.html'}", highlight=False, soft_wrap=True)
        return code
    if not isinstance(settings.experiments, list):
        raise InputError(f"`experiments` is {shown(settings.experiments)}; give a list of [{{experiment: name}}].")
    entries = [_named(each, "experiments") for each in settings.experiments]
    return _run_series(entries, overrides, folder, console, progress)


def _run_series(
    experiments: Sequence[Mapping[str, Any]],
    overrides: Sequence[str],
    folder: Path,
    console: Console,
    progress: Console,
) -> int:
    """One comparison after another, and a page that lists them."""
    kept = [each for each in overrides if _key(each) != "experiment"]
    series = []
    for each in experiments:  # all are composed before the first is run: a mistake shows at once
        entry = EntryForm(**each)
        own = [f"experiment={entry.experiment}", *entry.set, *kept]
        series.append((re.sub(r"[^\w.-]+", "_", "_".join(own[: len(own) - len(kept)])[len("experiment=") :]), own))
        plan(_composed(own), own)
    done: list[tuple[Path, ComparisonReport]] = []
    code = 0
    shared = _Kept()
    for number, (slug, own) in enumerate(series, 1):
        title = f"[{number}/{len(series)}] {' '.join(own)}"
        progress.rule(escape(title), style="dim", align="left")
        comparison, own_code = _run_comparison(_composed(own), own, folder / slug, progress, shared)
        code = worst((code, own_code))
        done.append((folder / slug, comparison))
        save_index(done, folder)
        _show(comparison, console)
    if all(variant.skipped for _, comparison in done for variant in comparison.variants):
        raise InputError(done[0][1].variants[0].skipped or "")
    console.print(f"\nResults: {folder / 'index.html'}", highlight=False, soft_wrap=True)
    return code


def _show(comparison: ComparisonReport, console: Console) -> None:
    console.print(render_comparison(comparison), crop=False)
    matrix = defense_matrix(comparison)
    if matrix is not None:
        console.print()
        console.print(render_matrix(matrix), crop=False)


def _run_comparison(
    job: Job, overrides: Sequence[str], folder: Path, console: Console, kept: "_Kept"
) -> tuple[ComparisonReport, int]:
    """Run all variants; what several of them have in common is loaded and trained once."""
    with nothing_on_stdout():
        return _compared(job, overrides, folder, console, kept)


def _compared(
    job: Job, overrides: Sequence[str], folder: Path, console: Console, kept: "_Kept"
) -> tuple[ComparisonReport, int]:
    from mia_lightning.audit import attack_observed

    started = time.perf_counter()
    planned = plan(job, overrides)
    settings = job.configuration.comparison
    experiment = name_of(overrides) or settings["title"]
    findings = [instantiate(node, f"comparison.findings[{i}]") for i, node in enumerate(settings.get("findings") or ())]
    variants: list[Variant] = []
    code = 0
    for number, each in enumerate(planned, 1):
        console.print(f"[{number}/{len(planned)}] {each.name}", highlight=False, markup=False)
        own = folder / re.sub(r"[^\w.-]+", "_", each.name)
        try:
            population = kept.population(each.job)
            named = each.job.named(experiment, each.name)
            audit = named.audit(population, folder=own, console=console)
            observation = kept.observation(each.job, audit, console)
            named.keep(own)
            report = attack_observed(observation, audit)
        except Exception as error:
            if not is_bad_input(error):
                raise
            is_absent = isinstance(error, DataNotThereError)
            code = code if is_absent else worst((code, BAD_INPUT))
            variants.append(skipped_variant(each.name, translate(error), each.x))
            style = "yellow" if is_absent else "red"
            console.print(f"  not run: {translate(error)}", style=style, highlight=False, markup=False)
            continue
        variants.append(variant_of(each.name, report, own.relative_to(folder), each.x))
        verdict = report.gate
        if verdict is not None:
            console.print(f"  {verdict.sentence}", highlight=False, markup=False, soft_wrap=True)
            code = worst((code, verdict.exit_code))
    kept_variants = KeptVariants(variants, folder)
    comparison = compare(
        variants,
        findings,
        title=settings["title"],
        question=settings["question"],
        source=settings["source"],
        command=" ".join(["mia-lightning", *overrides]),
        seconds=time.perf_counter() - started,
        differences=kept_variants.differences(),
        correlation=kept_variants.correlation,
    )
    save_comparison(comparison, folder)
    return comparison, code


class _Kept:
    """The last data set and the last observed models: variants that share them stand one after another.

    A data set that is not there is looked for once, since a network that does not answer takes its time.
    """

    def __init__(self) -> None:
        self._population: tuple[str, Population] | None = None
        self._observation: tuple[str, Observation] | None = None
        self._absent: dict[str, DataNotThereError] = {}

    def population(self, job: Job) -> "Population":
        """The data set.

        Raises:
            DataNotThereError: it is neither on disk nor to be had.
            InputError: it cannot be used.
        """
        settings = {name: value for name, value in job.content["dataset"].items() if name != "train_size"}
        key = _canonical([settings, job.content["task"]])
        place = _canonical([settings["_target_"], settings.get("root"), settings.get("path")])
        if place in self._absent:
            raise self._absent[place]
        if self._population is None or self._population[0] != key:
            self._population = self._observation = None  # freed before the next is loaded
            try:
                self._population = (key, job.population())
            except DataNotThereError as error:
                self._absent[place] = error
                raise
        return self._population[1]

    def observation(self, job: Job, audit: "Audit", console: Console) -> "Observation":
        """The trained and observed models, reused where nothing that they depend on differs."""
        from mia_lightning.audit import observe

        key = _canonical(depends_on(job))
        if self._observation is None or self._observation[0] != key:
            self._observation = None
            self._observation = (key, observe(audit))
        else:
            console.print("  the models of the variant before serve this one, too", style="dim")
        return self._observation[1]


# Settings that trained and observed models depend on, beside defences.
_OF_MODELS = (
    *("seed", "dataset", "task", "canary", "membership", "model", "model_output", "target", "shadow", "estimator"),
    *("training", "trainer", "guess"),
)


def depends_on(job: Job) -> dict[str, Any]:
    """The settings that trained and observed models depend on.

    Output defences are among them only where the shadow records are made from the target's answers, and of attacks it
    matters alone whether one needs records that are reserved for it.
    """
    from mia_lightning.attacks.interface import needs_of
    from mia_lightning.defenses.interface import split_defenses

    content, configuration = job.content, job.configuration
    trainings = {each.name for each in split_defenses(job.defenses)[1]}
    asks = "real.Real" not in content["shadow"]["_target_"]
    made = {name: node for name, node in configuration.defenses.items() if asks or name in trainings}
    return {
        **{name: content.get(name) for name in _OF_MODELS},
        "defense": made,
        "adaptive": configuration.defense["adaptive"] if trainings else None,
        "population": needs_of(job.attacks).population,
    }


def plan(job: Job, overrides: Sequence[str]) -> list[Planned]:
    """The variants of a comparison, composed and checked.

    What was typed goes before what the scale sets, and may not touch what the experiment varies.

    Raises:
        InputError: an unknown scale, a comparison without variants, or a setting that the experiment varies.
    """
    comparison, scale = job.configuration.comparison, job.configuration.scale
    if not isinstance(comparison, Mapping):
        raise InputError(
            f"`comparison` is {comparison!r}; an experiment gives its title, question, source and variants."
        )
    scales = job.configuration.scales or {}
    if scale != "paper" and scale not in scales:
        known = ["paper", *scales]
        raise InputError(f"`scale` is {scale!r}{nearest(scale, known)}; this experiment has {', '.join(known)}.")
    chosen = ScaleForm(**_named(scales.get(scale) or {}, f"scales.{scale}"))
    variants = chosen.variants or comparison.get("variants")
    if not variants:
        raise InputError("`comparison.variants` is empty; give at least one, such as variants: {plain: {set: []}}.")
    variants = ComparisonForm(**{**comparison, "variants": variants}).variants or {}
    typed = [_key(each) for each in overrides]
    planned = []
    for name, settings in variants.items():
        variant = VariantForm(**(settings or {}))
        varied = list(variant.set or ())
        clash = sorted({_key(each) for each in varied} & set(typed))
        if clash:
            raise InputError(
                f"`{clash[0]}` is what this experiment varies; leave it out, or run without experiment=... ."
            )
        scaled = [each for each in chosen.set or () if _key(each) not in (*typed, *map(_key, varied))]
        planned.append(Planned(name=str(name), x=variant.x, job=_composed([*scaled, *varied, *overrides])))
    return planned


def _named(section: object, place: str) -> Mapping[str, Any]:
    """A section whose settings have names.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(section, Mapping):
        raise InputError(f"`{place}` is {shown(section)}; it must be names and values.")
    return section


def name_of(overrides: Sequence[str]) -> str | None:
    """What was typed behind `experiment=`; None where nothing was."""
    names = [each.partition("=")[2] for each in overrides if _key(each) == "experiment"]
    return names[-1] if names else None


def _composed(overrides: Sequence[str]) -> Job:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    context: AbstractContextManager[Any] = nullcontext()
    if not GlobalHydra.instance().is_initialized():  # a launcher's own process
        context = initialize_config_dir(str(config_directory()), version_base="1.3")
    with context:
        return Job.of(compose("config", overrides=list(overrides)), overrides)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
