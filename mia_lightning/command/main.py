"""`mia-lightning`: Hydra composes, `audit` runs, every mistake is one sentence.

Nothing heavy is imported here: Hydra is imported inside `main`, where Ctrl-C is caught already, and torch and its
friends when a job starts, so that `--help` and a mistyped override answer at once.
"""

import contextlib
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mia_lightning.command.mistakes import (
    NODES,
    check_choices,
    check_flags,
    config_directory,
    given_twice,
    is_bad_input,
    translate,
)
from mia_lightning.errors import InputError, usable_files
from mia_lightning.store.atomic import write_whole
from mia_lightning.store.run_folder import written_to_run
from mia_lightning.terminal.entry import Terminated, held_back, ignored, import_from_here, let_through, run, way_of
from mia_lightning.terminal.exit_codes import ABOVE, BAD_INPUT, BELOW, BUG, INTERRUPTED, TERMINATED, UNDETERMINED, worst
from mia_lightning.terminal.parser import tell
from mia_lightning.terminal.results import nothing_on_stdout, print_json
from mia_lightning.training.plan.cores import prepare_for_sharing

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mia_lightning.command.job import Job

PROGRAM = "mia-lightning"
RESULTS = (
    *(
        "report.json",
        "report.html",
        "scores.parquet",
        "per_class.csv",
        "vulnerable_records.parquet",
        "per_group.csv",
        "target.safetensors",
        "shadow.safetensors",
        "members.csv",
    ),
    *(
        "comparison.json",
        "comparison.html",
        "comparison.csv",
        "summary.json",
        "index.html",
        "remedies.json",
        "remedies.html",
        "remedies.csv",
        "gate.json",
        "outcome.json",
    ),
)
EXPERIMENT_REASONS = {
    BAD_INPUT: "some variants could not be run; comparison.json says why",
    ABOVE: "some variants exceed the limit of the gate; their gate.json says which attacks do",
    UNDETERMINED: "of some variants it cannot be told whether they exceed the limit of the gate; see their gate.json",
}


def main() -> NoReturn:
    """The command `mia-lightning`; ends the process with 0, 1 (a bug), 2 (bad input), 130 or 143.

    Where there is a gate, also with 3 (above the limit) or 4 (undetermined). Of several jobs it is the worst of their
    codes, in the order of `exit_codes.OF_RUNS`.
    """
    prepare_for_sharing()
    run(PROGRAM, _jobs, loss="; no report was written for this run", closed=None)


def _jobs() -> int:
    """The worst exit code of the jobs of the command line."""
    if "--version" in sys.argv[1:]:
        from mia_lightning import __version__

        print(f"{PROGRAM} {__version__}")
        return BELOW
    import_from_here()  # for model._target_=my_package.Net
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing several lines
    codes: list[int] = []

    def job(config: "DictConfig") -> None:
        codes.append(run_job(config))

    try:
        with held_back():  # until the folder of a run is known, which then says how it ended
            import hydra

            check_flags(sys.argv[1:])
            if any(argument.count("=") > 1 for argument in sys.argv[1:]):
                from mia_lightning.settings.overrides import with_plain_paths

                sys.argv[1:] = with_plain_paths(sys.argv[1:], ["target.path"])
            from mia_lightning.sweep.launcher import register

            register(codes)
            hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")(job)()
    except SystemExit as error:
        if not _is_termination(error):
            raise
        raise Terminated from error
    except Exception as error:
        # What goes wrong in a job ends in `run_job`: a ValueError or OSError is Hydra's, about the command line.
        if not (is_bad_input(error) or isinstance(error, ValueError | OSError)):
            raise
        codes.append(_complain(translate(error)))
    return worst(codes)


def run_job(config: "DictConfig") -> int:
    """Run one audit and print its summary.

    Returns:
        The exit code: 0, 2 for bad input, 3 or 4 of the gate. `outcome.json` in the job's folder says the same, with
        the reason.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        let_through()
        from mia_lightning.command.job import Job

        if hydra_config.mode is RunMode.MULTIRUN:
            print(f"\nJob {hydra_config.job.num}: {' '.join(hydra_config.overrides.task)}", file=sys.stderr)
        if config.get("estimate") is not True:
            _forget_earlier_run(folder)
        check_choices(hydra_config.overrides.task, NODES)
        with usable_files():
            code, reason = _run(Job.of(config, hydra_config.overrides.task), hydra_config, folder)
        # After the run: what ends a run is one sentence, and a setting without effect does not end it.
        sizes = any(override.lstrip("+").startswith("dataset.train_size=") for override in hydra_config.overrides.task)
        plan = hydra_config.runtime.choices.get("membership")
        if sizes and plan in ("halves", "given"):
            tell(PROGRAM, f"dataset.train_size has no effect under membership={plan}")
        for sentence in given_twice(hydra_config.overrides.task):
            tell(PROGRAM, sentence)
    except KeyboardInterrupt as error:
        _record_end(folder, error)
        raise
    except (Exception, SystemExit) as error:
        if _is_termination(error):
            _record_end(folder, Terminated())
            raise
        if isinstance(error, Exception) and is_bad_input(error):
            sentence = translate(error)
            _record(folder, BAD_INPUT, sentence)
            code = _complain(sentence)
            if config.get("output") == "junit":
                _print_result(config, folder)
            return code
        # A bug (SystemExit: of the user's code): it keeps its traceback, and the other jobs of a sweep still run.
        _record(folder, BUG, f"{type(error).__name__}: {error}")
        traceback.print_exc()
        if config.get("output") == "junit":
            _print_result(config, folder)
        return BUG
    _record(folder, code, reason)
    _print_result(config, folder)
    return code


def _print_result(config: "DictConfig", folder: Path) -> None:
    """As a document, if one is wanted; that of a sweep is printed by its launcher, with those of an earlier start."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    output = config.get("output", "text")
    if HydraConfig.get().mode is RunMode.RUN and config.get("estimate") is not True and config.shadow.shard is None:
        from mia_lightning.sweep.documents import print_results

        print_results([folder], output, in_sweep=False)


def _run(job: "Job", hydra_config: Any, folder: Path) -> tuple[int, str | None]:
    """An audit, a comparison of several, or a series of comparisons, as the configuration says; its result is printed.

    Returns:
        The exit code, with the reason where it is not 0.
    """
    from hydra.types import RunMode

    settings = job.configuration
    in_sweep = hydra_config.mode is RunMode.MULTIRUN
    if settings.remedies is not None:
        from mia_lightning.command.remedies import check, run_remedies

        check(job, in_sweep=in_sweep)
        if settings.estimate:
            _estimate(job, in_sweep=in_sweep)
        else:
            run_remedies(job, list(hydra_config.overrides.task), folder)
        return 0, None
    is_experiment = settings.experiments is not None or settings.comparison is not None
    if settings.estimate:
        if is_experiment:
            raise InputError(
                "`estimate` is true, and an experiment compares several runs, of which some share their models; ask "
                "for the estimate of one of them, with its settings in the place of experiment=... ."
            )
        _estimate(job, in_sweep=in_sweep)
        return 0, None
    if is_experiment:
        from mia_lightning.command.experiment import run_experiment

        code = run_experiment(job, list(hydra_config.overrides.task), folder)
        reason = EXPERIMENT_REASONS.get(code)
    else:
        experiment = hydra_config.runtime.choices.get("experiment")
        code, reason = _audit(job if experiment is None else job.named(experiment, None), folder)
    return code, reason


def _estimate(job: "Job", *, in_sweep: bool) -> None:
    """Print what the run would take."""
    output = job.configuration.output
    if output == "junit":
        raise InputError("`output` is 'junit', and an estimate tests nothing; set it to text, json or markdown.")
    with nothing_on_stdout():
        sentences = _sentences(job)
    if output == "json":
        print_json({"estimates": sentences}, on_a_line=in_sweep)
    else:
        print("\n".join(f"- {each}" if output == "markdown" else each for each in sentences))


def _sentences(job: "Job") -> list[str]:
    if job.configuration.remedies is not None:
        from mia_lightning.command.remedies import estimated

        return estimated(job)
    from mia_lightning.audit import estimate

    return estimate(job.audit())


def _audit(job: "Job", folder: Path) -> tuple[int, str | None]:
    """One audit, or one of the jobs that train its shadow models, with its summary unless another output is wanted."""
    settings = job.configuration
    if settings.scale != "paper":
        raise InputError(f"`scale` is {settings.scale!r}, which only experiments have; add experiment=... or leave it.")
    from rich.console import Console

    from mia_lightning.reports.console import render_summary
    from mia_lightning.terminal.tables import printer

    progress, console = Console(stderr=True), printer(stderr=settings.output != "text")
    if settings.shard is not None:
        with nothing_on_stdout():
            sentence = job.train_shard(folder, progress)
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
        return 0, None
    with nothing_on_stdout():
        report = job.run(folder, progress)
    if settings.shards["count"] > 1 and "shadow" in report.run.store and report.run.store["shadow"].trained:
        sentence = "shadow.shards divides shadow models among the runs of a sweep (--multirun); this run trained them"
        tell(PROGRAM, f"{sentence} itself")
    verdict = report.gate
    console.print(render_summary(report), crop=False)
    if verdict is not None:
        console.print(f"\n{verdict.sentence}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nResults: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    return (0, None) if verdict is None or verdict.exit_code == 0 else (verdict.exit_code, verdict.sentence)


def _forget_earlier_run(folder: Path) -> None:
    """A run in the folder of an earlier one must not leave that one's result beside its own failure."""
    with written_to_run():
        for name in RESULTS:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "figures", ignore_errors=True)


def _is_termination(error: BaseException) -> bool:
    """Whether it is Lightning's answer to SIGTERM while it trains: a SystemExit whose code would be 0."""
    lightning = sys.modules.get("pytorch_lightning.utilities.exceptions")
    return lightning is not None and isinstance(error, lightning.SIGTERMException)


def _record_end(folder: Path, error: KeyboardInterrupt) -> None:
    with ignored():
        _record(folder, INTERRUPTED if type(error) is KeyboardInterrupt else TERMINATED, way_of(error))


def _record(folder: Path, code: int, reason: str | None) -> None:
    if folder.is_dir():
        # A folder that cannot be written is complained about already.
        with contextlib.suppress(OSError):
            write_whole(folder / "outcome.json", json.dumps({"exit_code": code, "reason": reason}, indent=2).encode())


def _complain(sentence: str) -> int:
    tell(PROGRAM, sentence)
    return BAD_INPUT
