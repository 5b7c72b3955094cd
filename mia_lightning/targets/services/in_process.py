"""A prediction service that runs in this process; customers reach only its two endpoints."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import derive
from mia_lightning.targets.services.interface import ServiceJob
from mia_lightning.targets.steady import steadily
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack

# The network that the service trains for a job, chosen by its records and number of classes. Jobs share a stack where
# the second value is equal, so it must differ between networks that cannot stand in one stack.
Choose = Callable[[ServiceJob], tuple[MakeNetwork, object]]

# Bytes of training records held at once: bounds memory, not results.
_RECORD_BYTES = 2**29


class InProcessService:
    """Trains the networks of its choice; a model is a function of the run's seed, its job's name and its records.

    It has an engine of its own, which shares device, precision and store with the customer's. The run shows neither
    its losses nor its models nor its settings.

    Args:
        name: of the service.
        engine: of the run.
        choose: the network for a job.
        recipe: how every network is trained.
    """

    def __init__(self, name: str, engine: Engine, *, choose: Choose, recipe: Recipe) -> None:
        self._name = name
        self._engine = Engine(
            seed=derive(engine.seed, "service", name),
            settings=replace(engine.settings, callbacks=(), options={}),
            stages=Stages(),
            store=engine.store,
        )
        self._choose = choose
        self._recipe = recipe
        self._models: dict[str, tuple[TrainedStack, int]] = {}

    @property
    def name(self) -> str:
        return self._name

    def train(self, jobs: Iterable[ServiceJob]) -> list[str | None]:
        """Train a model for each job.

        Returns:
            The models' names, which are those of the jobs; None for a job whose loss became infinite or NaN.

        Raises:
            InputError: a name is taken, or a job has no records.
        """
        names: list[str | None] = []
        for some in _in_portions(jobs):
            for job in some:
                self._check(job, {*self._models, *names})
                names.append(job.name)
            for alike in self._alike(some):
                self._train_stack(alike)
        return [name if name in self._models else None for name in names]

    def predict(self, model: str, x_B: Tensor) -> Tensor:
        """The probabilities `[B, C]`, float64, of a model for records in the form of its training records.

        Raises:
            InputError: there is no such model.
        """
        if model not in self._models:
            raise InputError(f"The service {self._name} has no model {model!r}; ask for one that its training named.")
        trained, k = self._models[model]
        stack = trained.stack.eval()
        state = stack.state_of(k)
        with torch.inference_mode():
            logits_BC = steadily(lambda x_B: stack.call_one(state, x_B), x_B.to(stack.device, stack.dtype))
            return logits_BC.double().softmax(-1).to(x_B.device)

    def _check(self, job: ServiceJob, taken: set[str | None]) -> None:
        if job.name in taken:
            raise InputError(f"The service {self._name} has a model {job.name!r} already; give each job its own name.")
        if len(job.x_N) == 0:
            raise InputError(f"The job {job.name!r} of the service {self._name} has no records; give it at least one.")

    def _alike(self, jobs: list[ServiceJob]) -> list[list[ServiceJob]]:
        """The jobs whose networks can stand in one stack."""
        groups: dict[object, list[ServiceJob]] = {}
        for job in jobs:
            key = (job.x_N.shape[1:], job.x_N.dtype, job.num_classes, self._choose(job)[1])
            groups.setdefault(key, []).append(job)
        return list(groups.values())

    def _train_stack(self, jobs: list[ServiceJob]) -> None:
        records = Population(
            name=f"the jobs of {self._name}",
            x_N=torch.cat([job.x_N for job in jobs]),
            label_N=torch.cat([job.label_N for job in jobs]),
            class_names=tuple(str(c) for c in range(jobs[0].num_classes)),
        )
        trained = self._engine.run(
            TrainingJob(
                seed=self._engine.seed,
                role="service",
                make_network=self._choose(jobs[0])[0],
                population=records.to(self._engine.device),
                records_K=torch.arange(len(records)).split([len(job.x_N) for job in jobs]),
                recipe=self._recipe,
                models=[derive(self._engine.seed, job.name) for job in jobs],
                keep=True,
            )
        )
        for k, (job, failed_epoch) in enumerate(zip(jobs, trained.failed_epoch_K.tolist(), strict=True)):
            if failed_epoch < 0:
                self._models[job.name] = (trained, k)


def _in_portions(jobs: Iterable[ServiceJob]) -> Iterator[list[ServiceJob]]:
    """Jobs as they come, as many at a time as memory should hold."""
    portion: list[ServiceJob] = []
    held = 0
    for job in jobs:
        size = job.x_N.numel() * job.x_N.element_size()
        if portion and held + size > _RECORD_BYTES:
            yield portion
            portion, held = [], 0
        portion.append(job)
        held += size
    if portion:
        yield portion
