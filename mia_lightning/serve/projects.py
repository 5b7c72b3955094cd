"""The projects of a training service: jobs that customers upload, and the models that are trained on them."""

import secrets
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.serve.refusals import RefusedError
from mia_lightning.targets.services.interface import Service, ServiceJob

WAITING, TRAINING, DONE, FAILED = "waiting", "training", "done", "failed"


@dataclass(eq=False, kw_only=True)
class Project:
    """One customer's jobs, all of which are trained at once.

    Attributes:
        service: of this project, which does not know the models of other projects.
        jobs: by name; their records are dropped once they are trained.
        forms: of the jobs' records, by the names of the jobs: shape and type.
        state: waiting, training, done or failed.
        taken: how many jobs the training has begun.
        models: by the names of the jobs; None for a model that could not be trained.
        error: one sentence, where the training failed.
    """

    service: Service
    jobs: dict[str, ServiceJob] = field(default_factory=dict)
    forms: dict[str, tuple[tuple[int, ...], torch.dtype]] = field(default_factory=dict)
    state: str = WAITING
    taken: int = 0
    models: dict[str, str | None] = field(default_factory=dict)
    error: str | None = None
    # While a stack computes, it holds a model's parameters in place of its own.
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_bytes(self) -> int:
        """Of the records that the project holds."""
        return sum(job.x_N.nbytes + job.label_N.nbytes for job in list(self.jobs.values()))

    def to_json(self) -> dict[str, Any]:
        """Its state."""
        content: dict[str, Any] = {"state": self.state, "jobs": len(self.forms), "taken": self.taken}
        if self.state == DONE:
            content["models"] = self.models
        return content if self.error is None else {**content, "error": self.error}


class Projects:
    """All projects of a server; one of them trains at a time.

    Args:
        name: of the service.
        connect: makes the service of a project.
        max_projects: the most projects at once.
        max_bytes: the most bytes of records, over all projects.
    """

    def __init__(self, name: str, connect: Callable[[], Service], *, max_projects: int, max_bytes: int) -> None:
        self.name, self._connect = name, connect
        self._max_projects, self._max_bytes = max_projects, max_bytes
        self._projects: dict[str, Project] = {}
        self._lock, self._training = threading.Lock(), threading.Lock()

    def create(self) -> str:
        """Make a project; returns its name.

        Raises:
            RefusedError: there are too many.
        """
        with self._lock:
            if len(self._projects) >= self._max_projects:
                raise RefusedError(
                    409,
                    f"there are {self._max_projects} projects, the most that this server keeps (--max-projects); "
                    "delete one by DELETE /v1/projects/{project}",
                )
            name = secrets.token_hex(8)
            self._projects[name] = Project(service=self._connect())
        return name

    def find(self, name: str) -> Project:
        """The project.

        Raises:
            RefusedError: there is no project of this name.
        """
        try:
            return self._projects[name]
        except KeyError:
            raise RefusedError(404, f"there is no project {name[:100]!r}; make one by POST /v1/projects") from None

    def delete(self, name: str) -> None:
        """Delete a project, unless it trains.

        Raises:
            RefusedError: the project trains, or there is none of this name.
        """
        with self._lock:
            if self.find(name).state == TRAINING:
                raise RefusedError(409, f"the project {name} is training; delete it when the training is done")
            del self._projects[name]

    def add(self, name: str, job: ServiceJob) -> None:
        """Add a job; the same job a second time changes nothing.

        Raises:
            RefusedError: another job has its name, the project is trained already, or there is no room.
        """
        with self._lock:
            project = self.find(name)
            known = project.jobs.get(job.name)
            if known is not None and _are_equal(known, job):
                return
            if job.name in project.forms:
                raise RefusedError(409, f"the project has a job {job.name!r} already; give each job its own name")
            if project.state != WAITING:
                raise RefusedError(409, "the project is trained already; make another one for further jobs")
            held = sum(each.num_bytes for each in self._projects.values())
            if held + job.x_N.nbytes + job.label_N.nbytes > self._max_bytes:
                raise RefusedError(
                    413,
                    f"the jobs of all projects would take more than {self._max_bytes} bytes, the most that this server "
                    "keeps (--max-stored-bytes); train what is there, or delete projects",
                )
            project.jobs[job.name] = job
            project.forms[job.name] = tuple(job.x_N.shape[1:]), job.x_N.dtype

    def train(self, name: str) -> None:
        """Begin to train all jobs in the background, unless the training has begun already.

        Raises:
            RefusedError: there are no jobs.
        """
        with self._lock:
            project = self.find(name)
            if not project.forms:
                raise RefusedError(409, f"the project {name} has no jobs; upload some by POST /v1/projects/{name}/jobs")
            if project.state != WAITING:
                return
            project.state = TRAINING
        threading.Thread(target=self._run, args=(project,), daemon=True).start()

    def predict(self, name: str, model: str, x_B: Tensor) -> Tensor:
        """Probabilities `[B, C]`, float64, of a model of the project.

        Raises:
            RefusedError: there is no such model.
        """
        project = self.find(name)
        self.form_of(name, model)
        with project.lock:
            try:
                return project.service.predict(model, x_B).cpu()
            except InputError as error:
                raise RefusedError(404, str(error).rstrip(".")) from None

    def form_of(self, name: str, model: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and dtype of the records that a model answers for.

        Raises:
            RefusedError: there is no such model, or not yet.
        """
        project = self.find(name)
        if project.state != DONE:
            raise RefusedError(409, f"the project {name} is {project.state}; ask for predictions when it is done")
        if project.models.get(model) is None:
            raise RefusedError(404, f"the project {name} has no model {model[:100]!r}; its state lists those it has")
        return project.forms[model]

    def is_training(self) -> bool:
        """Whether any project is."""
        return any(project.state == TRAINING for project in list(self._projects.values()))

    def _run(self, project: Project) -> None:
        def uploaded() -> Iterator[ServiceJob]:
            for job in project.jobs.values():
                project.taken += 1
                yield job

        with self._training:
            try:
                names = project.service.train(uploaded())
                project.models = dict(zip(project.jobs, names, strict=True))
                state = DONE
            except InputError as error:
                project.error, state = str(error), FAILED
            except Exception:  # a bug: its traceback is for the server's log, not for customers
                traceback.print_exc(file=sys.stderr)
                project.error, state = "the server failed; its own log says why", FAILED
            project.jobs = {}
            project.state = state


def _are_equal(first: ServiceJob, second: ServiceJob) -> bool:
    return (
        first.num_classes == second.num_classes
        and first.x_N.dtype == second.x_N.dtype
        and torch.equal(first.x_N, second.x_N)
        and torch.equal(first.label_N, second.label_N)
    )
