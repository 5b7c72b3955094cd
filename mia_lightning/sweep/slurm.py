"""Runs on Slurm, through submitit: one array of tasks for each sweep.

submitit writes the batch script, and queues a task again that reached its time limit. The states of the tasks are read
by `slurm_queue`, and how a run ended is read from its own `outcome.json`: submitit's own view of both needs accounting,
and waits for ever without it.
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
from typing import Annotated, Any

from pydantic import BaseModel, Field

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, FromList, Name, Positive, Text
from mia_lightning.settings.words import Such, Words
from mia_lightning.store.atomic import write_whole
from mia_lightning.store.documents import EXACT, DamagedError, read
from mia_lightning.sweep.runs import FINISHED, Outcome, Run, execute, lost
from mia_lightning.sweep.slurm_queue import CUT_SHORT, OVER, Queue, cancel, check_commands, patience, undisturbed

LARGEST_ARRAY = 1000  # tasks; Slurm's `MaxArraySize` is 1001 by default
SECONDS_FOR_FILES = 10.0  # until a file that a node wrote is visible here


@dataclass(frozen=True, kw_only=True)
class SlurmTask:
    """A task of the array; submitit pickles it, and calls its `checkpoint` before it queues the task again.

    Attributes:
        limit: of the task's time, for a person to read.
    """

    limit: str

    def __call__(self, run: Run) -> None:
        """Execute the run; the task ends with its exit code, so that Slurm, too, knows whether it failed."""
        from submitit.core.utils import UncompletedJobError

        try:
            code = execute(run)
        except UncompletedJobError:  # raised by submitit's signal handler: the task is not queued again
            lost(run, f"it timed out: it ran longer than {self.limit}")
            raise
        if code not in FINISHED:
            sys.exit(code)

    def checkpoint(self, run: Run) -> Any:
        """The same task again: the models that are trained already are in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run)


@settings("hydra.launcher")
class Slurm:
    """A sweep whose runs are tasks of Slurm.

    Attributes:
        partition, account, qos: of the cluster; None for its default.
        timeout_minutes: time limit of a task.
        retries: how often a task that reached the limit is queued again; it goes on where it stopped.
        gpus, cpus: of a task.
        memory_gb: of a task; None for the cluster's default.
        parallel: the most tasks that run at the same time.
        notice_seconds: how long before its limit a task is told to end and to leave what it has trained in the store.
        poll_seconds: between two looks at the queue.
        setup: lines of shell that a task begins with.
        sbatch: further options of sbatch, by their names.

    Raises:
        InputError: submitit or Slurm is not installed.
    """

    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    timeout_minutes: AtLeast1 = 60
    retries: AtLeast0 = 3
    gpus: AtLeast0 = 1
    cpus: AtLeast1 = 4
    memory_gb: Positive | None = 16
    parallel: AtLeast1 = 64
    notice_seconds: AtLeast0 = 90
    poll_seconds: Positive = 5.0
    setup: Annotated[Sequence[Text], FromList, Words("a list of shell commands"), Such('["module load cuda"]')] = ()
    sbatch: Annotated[Mapping[str, Any], Words("options of sbatch by their names"), Such("{constraint: a100}")] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise InputError(
                "hydra/launcher=slurm needs submitit, which is not installed; pip install 'mia-lightning[slurm]'."
            )
        check_commands()

    def run(self, runs: Sequence[Run], *, folder: Path) -> None:
        """Submit the runs that an earlier start has not submitted, and wait for all.

        An interruption cancels the tasks. A client that is killed leaves its tasks to the next start of the sweep,
        which finds their ids in `sweep.json`.

        Raises:
            InputError: Slurm refuses the sweep, or does not answer.
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
        """The tasks of an earlier start that are still queued or running."""
        earlier = _kept(kept, tell=True)
        tasks = {run: earlier[str(run.folder)] for run in runs if str(run.folder) in earlier}
        states = self._states(list(tasks.values()), queue)  # also without tasks, to see that the controller answers
        active = {run: task for run, task in tasks.items() if states[task] not in OVER}
        if active:
            print(
                f"Slurm: waiting for tasks of an earlier start: {', '.join(sorted(active.values()))}", file=sys.stderr
            )
        return active

    def _states(self, tasks: Sequence[str], queue: Queue) -> dict[str, str]:
        while (states := queue.states(tasks)) is None:
            time.sleep(1)
        return states

    def _submit(self, runs: Sequence[Run], folder: Path) -> list[str]:
        """Submit an array with a task for each run; returns the ids of the tasks."""
        import submitit

        for run in runs:
            (run.folder / "outcome.json").unlink(missing_ok=True)
        times = f"{self.timeout_minutes} minutes" + (f", {self.retries + 1} times" if self.retries else "")
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), patience():
                executor = submitit.SlurmExecutor(folder, max_num_timeout=self.retries)
                executor.update_parameters(**self._parameters())
                jobs = executor.map_array(SlurmTask(limit=times), runs)
        except (
            submitit.core.utils.FailedJobError,
            submitit.core.utils.FailedSubmissionError,
            TimeoutError,  # before submitit asked the controller, such as on a slow disk
        ) as error:
            raise InputError(self._refusal(error)) from error
        ids = [str(job.job_id) for job in jobs]
        job = ids[0].partition("_")[0]
        print(f"Slurm: submitted as job {job} with {len(ids)} tasks; logs in {folder}", file=sys.stderr)
        return ids

    def _parameters(self) -> dict[str, Any]:
        """The parameters of submitit, without those that are not set."""
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
            # On a node that does not bind tasks to their processors, each task would use all of them.
            "setup": [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{self.cpus}}}", *self.setup],
            "srun_args": [f"--cpus-per-task={self.cpus}"],  # srun does not inherit it from sbatch
            "additional_parameters": {"requeue": True, **self.sbatch},
        }
        return {name: value for name, value in given.items() if value is not None}

    def _refusal(self, error: Exception) -> str:
        if isinstance(error.__cause__ or error, TimeoutError):
            return "Slurm's controller does not answer; nothing was submitted, start the same command again later."
        lines = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if line.strip()]
        names = ("partition", "account", "qos", "gpus", "cpus", "memory_gb")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        told = ", ".join(
            f"hydra.launcher.{name}={value if isinstance(value, str) else f'{value:g}'}"
            for name, value in given.items()
        )
        return f"Slurm refuses the sweep: {lines[-1] if lines else 'it gives no reason'}; it was given {told}."

    def _wait(self, tasks: dict[Run, str], queue: Queue, logs: Path) -> None:
        """Wait until every task is over and every run has an outcome."""
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
        """Cancel all tasks and wait until they are gone; False where the controller did not confirm it, so that the
        next start has to look for them."""
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


class _Tasks(BaseModel):
    """The content of `sweep.json`."""

    model_config = EXACT

    slurm: dict[str, Annotated[str, Field(pattern=r"^\d+(_\d+)?$")]]


def _kept(kept: Path, *, tell: bool = False) -> dict[str, str]:
    """The tasks of the sweep whose end was not seen, by the folders of their runs.

    Args:
        tell: whether it is said that the file is damaged.
    """
    try:
        found = read(kept, _Tasks)
    except DamagedError as damage:
        if tell:
            print(
                f"Slurm: {kept} cannot be used, since it {damage}; cancel tasks of an earlier start by scancel, or "
                "their runs are run twice.",
                file=sys.stderr,
            )
        return {}
    return {} if found is None else found.slurm


def _keep(kept: Path, tasks: Mapping[str, str]) -> None:
    write_whole(kept, json.dumps({"slurm": dict(tasks)}, indent=2).encode())


def _conclude(run: Run, task: str, state: str, logs: Path) -> None:
    """Settle the outcome of a run whose task is over: its own, unless Slurm ended the task before the run was done."""
    latest = time.monotonic() + (SECONDS_FOR_FILES if state in ("COMPLETED", "FAILED") else 0)
    while (outcome := Outcome.of(run.folder)) is None and time.monotonic() < latest:
        time.sleep(0.5)
    if outcome is not None and (outcome.is_finished or state not in CUT_SHORT):
        return
    reason = CUT_SHORT.get(state, f"it left no outcome, and Slurm says {state}; see {logs / task}_0_log.err")
    lost(run, f"{reason}; it was task {task} of Slurm")
