"""Runs on Slurm, through submitit: one array of tasks for each sweep.

submitit writes the batch script and queues a task again that ran into its time limit. How the tasks are doing is read
by `slurm_queue`, and how a run ended from the run's own `outcome.json`; submitit's own view of both needs accounting,
and waits for ever without.
"""

import contextlib
import importlib.util
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mia_lightning.errors import InputError
from mia_lightning.store.atomic import write_whole
from mia_lightning.sweep.runs import FINISHED, Outcome, Run, execute, lost
from mia_lightning.sweep.slurm_queue import CUT_SHORT, OVER, Queue, cancel, check_commands, patience, undisturbed

LARGEST_ARRAY = 1000  # tasks; Slurm's `MaxArraySize` is 1001 where nobody has changed it
SECONDS_FOR_FILES = 10.0  # until what a node wrote is seen here


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a task of the array does; submitit pickles it, and asks it for a `checkpoint` before it queues it again.

    Attributes:
        limit: of its time, for a person to read.
    """

    limit: str

    def __call__(self, run: Run) -> None:
        """Run it; the task ends with the exit code of the run, so that Slurm knows as well whether it failed."""
        from submitit.core.utils import UncompletedJobError

        try:
            code = execute(run)
        except UncompletedJobError:  # out of submitit's signal handler: it is not queued again
            lost(run, f"it timed out: it ran longer than {self.limit}")
            raise
        if code not in FINISHED:
            sys.exit(code)

    def checkpoint(self, run: Run) -> Any:
        """The same again: what is trained already is in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run)


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """The settings of `conf/hydra/launcher/slurm.yaml`, which says what each means.

    Raises:
        InputError: a setting cannot be used, submitit or Slurm is not installed, or Slurm refuses the sweep or does not
            answer.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    timeout_minutes: int = 60
    retries: int = 3
    gpus: int = 1
    cpus: int = 4
    memory_gb: float | None = 16
    parallel: int = 64
    notice_seconds: int = 90
    poll_seconds: float = 5.0
    setup: Sequence[str] = ()
    sbatch: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"timeout_minutes": 1, "retries": 0, "gpus": 0, "cpus": 1, "parallel": 1, "notice_seconds": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < smallest:
                raise InputError(f"`hydra.launcher.{name}` is {value!r}; it must be a whole number from {smallest} on.")
        for name in ("memory_gb", "poll_seconds"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or value <= 0):
                raise InputError(f"`hydra.launcher.{name}` is {value!r}; it must be a positive number.")
        if importlib.util.find_spec("submitit") is None:
            raise InputError(
                "hydra/launcher=slurm needs submitit, which is not installed; pip install 'mia-lightning[slurm]'."
            )
        check_commands()

    def run(self, runs: Sequence[Run], *, folder: Path) -> None:
        """Hand over what an earlier start has not, and wait for all.

        Whatever interrupts it cancels the tasks; a client that is killed leaves them to the next start of the sweep,
        which finds their ids in `sweep.json`.
        """
        kept = folder / "sweep.json"
        queue = Queue()
        tasks = self._taken_up(runs, kept, queue)
        new = [run for run in runs if run not in tasks]
        try:
            for start in range(0, len(new), LARGEST_ARRAY):
                chunk = new[start : start + LARGEST_ARRAY]
                with undisturbed():
                    tasks |= zip(chunk, self._submit(chunk, folder / ".slurm"), strict=True)
                    _keep(kept, _kept(kept) | {str(run.folder): task for run, task in tasks.items()})
            self._wait(dict(tasks), queue, folder / ".slurm")
        except InputError:
            raise
        except BaseException:
            if self._withdraw(tasks, _kept(kept).values(), queue):
                _keep(kept, {})
            raise
        ended = {str(run.folder) for run in runs}
        _keep(kept, {place: task for place, task in _kept(kept).items() if place not in ended})

    def _taken_up(self, runs: Sequence[Run], kept: Path, queue: Queue) -> dict[Run, str]:
        """Tasks of an earlier start that are still queued or running."""
        earlier = _kept(kept)
        tasks = {run: earlier[str(run.folder)] for run in runs if str(run.folder) in earlier}
        states = self._states(list(tasks.values()), queue)  # where there are none, whether the controller answers
        active = {run: task for run, task in tasks.items() if states[task] not in OVER}
        if active:
            print(f"Slurm: taken up from an earlier start: {', '.join(sorted(active.values()))}", file=sys.stderr)
        return active

    def _states(self, tasks: Sequence[str], queue: Queue) -> dict[str, str]:
        while (states := queue.states(tasks)) is None:
            time.sleep(1)
        return states

    def _submit(self, runs: Sequence[Run], folder: Path) -> list[str]:
        """The ids of the tasks of a new array, one for each run."""
        import submitit

        for run in runs:
            (run.folder / "outcome.json").unlink(missing_ok=True)
        times = f"{self.timeout_minutes} minutes" + (f", {self.retries + 1} times" if self.retries else "")
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), patience():
                executor = submitit.SlurmExecutor(folder, max_num_timeout=self.retries)
                executor.update_parameters(**self._parameters())
                jobs = executor.map_array(Task(limit=times), runs)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise InputError(self._refusal(error)) from error
        ids = [str(job.job_id) for job in jobs]
        job = ids[0].partition("_")[0]
        print(f"Slurm: handed over as job {job}, {len(ids)} in number; logs in {folder}", file=sys.stderr)
        return ids

    def _parameters(self) -> dict[str, Any]:
        """As submitit names them, without those that are not set."""
        given = {
            "job_name": "mia-lightning",
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.timeout_minutes,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": None if self.memory_gb is None else f"{int(self.memory_gb * 1024)}M",
            "array_parallelism": self.parallel,
            "signal_delay_s": self.notice_seconds,
            # Where a node does not bind tasks to their processors, each would use all of them.
            "setup": [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{self.cpus}}}", *self.setup],
            "srun_args": [f"--cpus-per-task={self.cpus}"],  # which srun no longer takes over from sbatch
            "additional_parameters": {"requeue": True, **self.sbatch},
        }
        return {name: value for name, value in given.items() if value is not None}

    def _refusal(self, error: Exception) -> str:
        if isinstance(error.__cause__, TimeoutError):
            return "Slurm's controller does not answer; nothing was handed over, start the same command again later."
        lines = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if line.strip()]
        given = {name: getattr(self, name) for name in ("partition", "account", "qos", "gpus", "cpus", "memory_gb")}
        told = ", ".join(f"hydra.launcher.{name}={value}" for name, value in given.items() if value is not None)
        return f"Slurm refuses the sweep: {lines[-1] if lines else 'it does not say why'}; it was given {told}."

    def _wait(self, tasks: dict[Run, str], queue: Queue, logs: Path) -> None:
        """Until every task is over and every run has an outcome."""
        ended: Counter[str] = Counter()
        told = ""
        while tasks:
            states = self._states(list(tasks.values()), queue)
            if (line := _line(ended + Counter(states.values()))) != told:
                print(line, file=sys.stderr)
                told = line
            for run, task in list(tasks.items()):
                if states[task] in OVER:
                    _conclude(run, task, states[task], logs)
                    ended[states[task]] += 1
                    del tasks[run]
            if tasks:
                time.sleep(self.poll_seconds)

    def _withdraw(self, tasks: Mapping[Run, str], queued: Collection[str], queue: Queue) -> bool:
        """Cancel all tasks and wait until they are gone; False where that could not be seen, so that the next start
        has to look for them."""
        are_gone = False
        cancel(queued)
        with contextlib.suppress(TimeoutError, InputError), patience():
            while set(self._states(list(queued), queue).values()) - OVER:
                time.sleep(0.5)
            are_gone = True
        for run in tasks:
            outcome = Outcome.of(run.folder)
            if outcome is None or not outcome.is_finished:
                lost(run, "it was cancelled, since the sweep was interrupted")
        return are_gone


def _line(states: Mapping[str, int]) -> str:
    return "Slurm: " + ", ".join(f"{number} {state.lower()}" for state, number in sorted(states.items()))


def _kept(kept: Path) -> dict[str, str]:
    """The tasks of the sweep that nobody has seen the end of, by the folders of their runs."""
    try:
        tasks: dict[str, str] = json.loads(kept.read_text())["slurm"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return tasks


def _keep(kept: Path, tasks: Mapping[str, str]) -> None:
    write_whole(kept, json.dumps({"slurm": dict(tasks)}, indent=2).encode())


def _conclude(run: Run, task: str, state: str, logs: Path) -> None:
    """The outcome of a run whose task is over: its own, unless Slurm cut it short before it had an answer."""
    latest = time.monotonic() + (SECONDS_FOR_FILES if state in ("COMPLETED", "FAILED") else 0)
    while (outcome := Outcome.of(run.folder)) is None and time.monotonic() < latest:
        time.sleep(0.5)
    if outcome is not None and (outcome.is_finished or state not in CUT_SHORT):
        return
    reason = CUT_SHORT.get(state, f"it left no outcome, and Slurm says {state}; see {logs / task}_0_log.err")
    lost(run, f"{reason}; it was task {task} of Slurm")
