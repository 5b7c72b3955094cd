"""The launcher of sweeps: takes the jobs of Hydra's multirun, gives their runs to a backend and collects every outcome.

With any backend a finished run is not run again, a failed one has a reason, and the command exits with the worst exit
code of its runs.
"""

import contextlib
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from mia_lightning.errors import InputError
from mia_lightning.settings.kinds import MOST_SHARDS
from mia_lightning.sweep.folders import assign, digest
from mia_lightning.sweep.local import Local
from mia_lightning.sweep.rows import has_result
from mia_lightning.sweep.runs import Backend, Outcome, Run, claim, digest_of, lost
from mia_lightning.terminal.entry import let_through
from mia_lightning.terminal.exit_codes import worst
from mia_lightning.terminal.results import nothing_on_stdout

# Settings that concern the sweep and not its runs.
OF_THE_SWEEP = ("hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweep", "hydra.mode", "hydra.run")


def register(codes: list[int]) -> None:
    """Register the launcher with Hydra, for this process alone.

    Hydra looks launchers up by name in the package `hydra_plugins`; a file in that package would be imported by every
    other application of Hydra in the environment.

    Args:
        codes: receives the exit code of each run of a sweep.
    """
    plugin: Any = ModuleType("hydra_plugins.mia_lightning")
    plugin.SweepLauncher = type("SweepLauncher", (SweepLauncher,), {"__module__": plugin.__name__, "codes": codes})
    if "hydra_plugins" not in sys.modules and find_spec("hydra_plugins") is None:
        package: Any = ModuleType("hydra_plugins")
        package.__path__ = []
        sys.modules[package.__name__] = package
    sys.modules[plugin.__name__] = plugin
    Plugins.instance().register(plugin.SweepLauncher)


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        run: of the job.
        shards: the runs before it, each of which trains a part of its shadow models (`shadow.shards`).
        output: how its result is printed, as `output` says.
        objective: the figures of its report that the sweeper is given; none for its exit code.
    """

    run: Run
    shards: tuple[Run, ...]
    output: str = "text"
    objective: tuple[str, ...] = ()


class SweepLauncher(Launcher):
    """The launcher that `conf/hydra/launcher/*.yaml` names.

    Args:
        backend: the class that executes the runs, or `local` for this process.
        settings: of the backend.
    """

    codes: list[int]

    def __init__(self, backend: str, **settings: Any) -> None:
        self._backend = backend
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config
        self._seen: dict[Path, SweepJob] = {}  # of all batches of a sweeper

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs that are not finished; when it returns, every job has an outcome.

        Raises:
            InputError: the backend cannot be used.
        """
        let_through()
        setup_globals()
        folder = Path(self._config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        of_each = self._jobs(job_overrides, initial_job_idx, folder)
        jobs = list({job.run.folder: job for job in of_each}.values())
        self._seen |= {job.run.folder: job for job in jobs}
        to_do = [job for job in jobs if not _is_finished(job)]
        if len(to_do) < len(jobs):
            print(f"{len(jobs) - len(to_do)} of {len(jobs)} runs are finished already, in {folder}", file=sys.stderr)
        try:
            self._run(to_do, folder)
            outcomes = [Outcome.of(job.run.folder) or lost(job.run, "it left no outcome") for job in jobs]
        finally:
            if any(Outcome.of(job.run.folder) for job in jobs):  # else nothing was run at all
                _show(list(self._seen.values()), folder)
        self.codes.extend(outcome.exit_code for outcome in outcomes)
        by_folder = {job.run.folder: outcome for job, outcome in zip(jobs, outcomes, strict=True)}
        return [_returned(job, by_folder[job.run.folder]) for job in of_each]

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int, folder: Path) -> list[SweepJob]:
        """The job of each of `job_overrides`, with its folder; those of equal configuration are the same."""
        configs = [self._compose(overrides, first + i) for i, overrides in enumerate(job_overrides)]
        digests = [digest(config) for config in configs]
        wanted = [_folder_of(config) for config in configs]
        folders = assign(list(zip(digests, wanted, strict=True)), folder)
        common = set.intersection(*(set(overrides) for overrides in job_overrides))
        jobs: dict[Path, SweepJob] = {}
        for i, own in enumerate(folders):
            run = Run(
                number=first + i,
                overrides=tuple(job_overrides[i]),
                flags=self._flags(),
                label=" ".join(each for each in job_overrides[i] if each not in common),
                folder=own,
                directory=Path.cwd(),
                digest=digests[i],
            )
            if own in jobs:
                print(f"Run {run.number} is the same as run {jobs[own].run.number}", file=sys.stderr)
                continue
            if own != wanted[i]:
                is_known = digest_of(own) == digests[i]
                why = "as before" if is_known else f"since {wanted[i].name} holds a run with other settings"
                print(f"Run {run.number} ({run.label}) is in {own}, {why}", file=sys.stderr)
            output = str(OmegaConf.select(configs[i], "output", default="text"))
            jobs[own] = SweepJob(
                run=run, shards=self._shards(run, configs[i]), output=output, objective=_objective(configs[i])
            )
        return [jobs[own] for own in folders]

    def _shards(self, run: Run, config: DictConfig) -> tuple[Run, ...]:
        shards = OmegaConf.select(config, "shadow.shards", default=1)
        if not isinstance(shards, int) or not 2 <= shards <= MOST_SHARDS:  # the job says why
            return ()
        more = [f"shadow.shard={i}" for i in range(shards)]
        return tuple(
            replace(
                run,
                overrides=(*run.overrides, own),
                label=f"{run.label} shard {i}".strip(),
                folder=run.folder / f"shard_{i}",
                digest=digest(self._compose((*run.overrides, own), run.number)),
            )
            for i, own in enumerate(more)
        )

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _flags(self) -> tuple[str, ...]:
        """The flags of the sweep's command line that its runs take over, beside the settings of their jobs."""
        typed = get_args_parser().parse_args(sys.argv[1:])
        named = {name: getattr(typed, name) for name in ("config_dir", "config_path", "config_name")}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in named.items() if value is not None]
        of_hydra = [
            each for each in self._config.hydra.overrides.hydra if not each.lstrip("+~").startswith(OF_THE_SWEEP)
        ]
        return (*flags, *of_hydra)

    def _run(self, jobs: Sequence[SweepJob], folder: Path) -> None:
        """Shards, and jobs without shards, run first; then the jobs whose shards have all succeeded."""
        if not jobs:
            return
        backend = self._made()
        for job in jobs:
            claim(job.run)
        shards = [shard for job in jobs for shard in job.shards if not _has_ended_well(shard)]
        # On this machine the runs print their results themselves.
        aside = nullcontext() if self._backend == "local" else nothing_on_stdout()
        with aside:
            backend.run([*shards, *(job.run for job in jobs if not job.shards)], folder=folder)
            joined = [job.run for job in jobs if job.shards and _is_joined(job)]
            if joined:
                backend.run(joined, folder=folder)

    def _made(self) -> Backend:
        if self._backend == "local":
            return Local(compose=self._compose, sweep=self._config, context=self._context, task=self._task)
        try:
            made: Backend = get_class(self._backend)(**self._settings)
        except (TypeError, ImportError) as error:
            raise InputError(f"hydra.launcher cannot be made: {error}; see conf/hydra/launcher.") from error
        return made


def _folder_of(config: DictConfig) -> Path:
    """The folder that Hydra would give a job."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        return Path(config.hydra.sweep.dir).absolute() / str(config.hydra.sweep.subdir)
    finally:
        HydraConfig.instance().cfg = before


def _is_finished(job: SweepJob) -> bool:
    """Whether the job has a result, whatever its outcome says."""
    return _has_ended_well(job.run) and has_result(job.run.folder)


def _has_ended_well(run: Run) -> bool:
    outcome = Outcome.of(run.folder)
    return outcome is not None and outcome.is_finished


def _is_joined(job: SweepJob) -> bool:
    """Whether all shards have succeeded; if not, the outcome of the job says which has failed, and why."""
    outcomes = [Outcome.of(shard.folder) or lost(shard, "it left no outcome") for shard in job.shards]
    failed = [i for i, outcome in enumerate(outcomes) if not outcome.is_finished]
    if failed:
        told = "; ".join(f"shard {i} of its shadow models failed: {outcomes[i].reason}" for i in failed)
        Outcome(exit_code=worst(outcomes[i].exit_code for i in failed), reason=told).keep(job.run.folder)
    return not failed


def _objective(config: DictConfig) -> tuple[str, ...]:
    figures = OmegaConf.select(config, "sweep.objective")
    if figures is None:
        return ()
    return tuple(figures) if isinstance(figures, ListConfig) else (str(figures),)


def _returned(job: SweepJob, outcome: Outcome) -> JobReturn:
    """What the sweeper is given; a run without the figures that are wanted has failed."""
    returned = JobReturn()
    returned.status, returned.return_value = JobStatus.COMPLETED, outcome.exit_code
    if job.objective:
        from mia_lightning.sweep.objective import objective_of

        try:
            if not outcome.is_finished:
                raise InputError(outcome.reason or f"the run in {job.run.folder} has no result.")
            returned.return_value = objective_of(job.run.folder, job.objective)
        except InputError as error:
            returned.status, returned.return_value = JobStatus.FAILED, error
    return returned


def _show(jobs: Sequence[SweepJob], folder: Path) -> None:
    """Show results and failures of the runs: a table, documents where `output` wants such, and `sweep.parquet`.

    The table goes to stdout unless a document does.
    """
    from mia_lightning.sweep.documents import print_results
    from mia_lightning.sweep.summary import render_rows, save_summary, summarise
    from mia_lightning.terminal.tables import printer

    rows = summarise([job.run.folder for job in jobs])
    outputs = dict.fromkeys(job.output for job in jobs)
    printer(stderr=list(outputs) != ["text"]).print(render_rows(rows), crop=False)
    for output in outputs:
        print_results([job.run.folder for job in jobs if job.output == output], output, in_sweep=True)
    with contextlib.suppress(InputError):  # the folder cannot be written, as the runs have already said
        save_summary(rows, folder)
