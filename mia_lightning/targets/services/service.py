"""Targets that a prediction service trains, and shadow models of the same service (Shokri et al. 2017, VI-C)."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1
from mia_lightning.targets.address import Address, TokenVariable
from mia_lightning.targets.interface import Target
from mia_lightning.targets.services.http import HttpService
from mia_lightning.targets.services.interface import Service, ServiceJob
from mia_lightning.training.engine import Engine
from mia_lightning.training.models import Models
from mia_lightning.training.plan.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import SMALLEST_PROBABILITY, Signals

_LARGEST_SUM_ERROR = 1e-3

# Numbers in one request for predictions: bounds memory, not results.
_REQUEST_NUMBERS = 2**22


class ServiceModels(Models):
    """K models that a service has trained, of which only the answers are known.

    Args:
        service: which answers for them.
        names: of the models; None for one that could not be trained.
        remark: is given a sentence for the report, once.

    Attributes:
        num_queries: how many records the models were asked about so far.
    """

    def __init__(
        self,
        service: Service,
        names: Sequence[str | None],
        *,
        num_queries: int = 0,
        remark: Callable[[str], object] = print,
    ) -> None:
        self._service = service
        self._names = tuple(names)
        self._remark, self._has_remarked = remark, False
        self.num_queries = num_queries
        # The service does not say when a model failed.
        self.failed_epoch_K = torch.tensor([0 if name is None else -1 for name in self._names])

    @property
    def num_models(self) -> int:
        return len(self._names)

    @property
    def trained_by(self) -> Literal["service"]:
        return "service"

    @property
    def architecture_name(self) -> str:
        return f"unknown ({self._service.name})"

    def _observed(
        self, population: Population, wanted_KN: Tensor, room: Room, answered: Callable[[int], object]
    ) -> Signals:
        """The logarithms of the service's answers; NaN for a model that could not be trained, and for other records.

        Each probability is raised to at least `SMALLEST_PROBABILITY`. One for each record is that of the second of two
        classes.

        Raises:
            InputError: an answer is no probability distribution over the classes, or the answers fit neither memory nor
                disk.
        """
        shape = (self.num_models, 1, len(population), population.num_classes)
        log_probability_KANC = room.empty(shape, device=population.device).fill_(torch.nan)
        size = max(1, _REQUEST_NUMBERS // max(128, population.num_classes, population.x_N[0].numel()))
        for k, name in enumerate(self._names):
            if name is None:
                continue
            for index_B in wanted_KN[k].to(population.device).nonzero().squeeze(1).split(size):
                probability_BC = self._of_both(self._service.predict(name, population.x_N[index_B]), population)
                self.num_queries += len(index_B)
                _check_answer(probability_BC, index_B, population.num_classes, self._service.name)
                log_BC = probability_BC.double().clamp(SMALLEST_PROBABILITY, 1.0).log()
                log_probability_KANC[k, 0, index_B] = log_BC.to(log_probability_KANC)
                answered(len(index_B))
        return Signals(log_probability_KANC=log_probability_KANC, room=room)

    def _of_both(self, probability: Tensor, population: Population) -> Tensor:
        """`[B, 2]` of one probability for each record, that of the second of two classes; other answers as they are."""
        is_one = isinstance(probability, Tensor) and (probability.ndim == 1 or tuple(probability.shape[1:]) == (1,))
        if not is_one or population.num_classes != 2 or not probability.is_floating_point():
            return probability
        if not self._has_remarked:
            self._has_remarked = True
            self._remark(
                f"The service {self._service.name} gives one number for each record: it is taken for the probability "
                f"of {population.class_names[1]!r}, the second of two classes."
            )
        probability_B = probability.reshape(-1)
        return torch.stack([1 - probability_B, probability_B], 1)

    def select(self, kept_K: Tensor) -> "ServiceModels":
        """The models where the bool mask is True, with all queries so far; this object is not to be used again."""
        names = [name for name, kept in zip(self._names, kept_K.tolist(), strict=True) if kept]
        return ServiceModels(self._service, names, num_queries=self.num_queries, remark=self._remark)

    def save(self, path: Path) -> None:
        """Refuses: the weights never leave the service."""
        raise InputError(
            f"The models of target={self._service.name} cannot be saved to {path.name}, since their weights never "
            "leave the service; set save_models=false."
        )


def _check_answer(probability_BC: object, index_B: Tensor, num_classes: int, service: str) -> None:
    """Refuse an answer that has no distribution for each record; `index_B` are the numbers of the records."""
    shape = (len(index_B), num_classes)

    def refused(row: int, received: str) -> InputError:
        return InputError(
            f"The service {service} answered {received} for record {int(index_B[row])}, which is no probability "
            f"distribution over {num_classes} classes; let its predict endpoint give {num_classes} probabilities that "
            "add up to 1."
        )

    if not isinstance(probability_BC, Tensor):
        raise refused(0, f"a {type(probability_BC).__name__} instead of a tensor")
    if tuple(probability_BC.shape) != shape or not probability_BC.is_floating_point():
        found = f"{str(probability_BC.dtype).removeprefix('torch.')} of shape {list(probability_BC.shape)}"
        raise refused(0, f"{found} instead of floating-point numbers of shape {list(shape)}")
    wide_BC = probability_BC.detach().double()
    wrong_BC = ~wide_BC.isfinite() | (wide_BC < 0)
    if bool(wrong_BC.any()):
        row, column = wrong_BC.nonzero()[0].tolist()
        raise refused(row, f"{float(wide_BC[row, column]):g} for class {column}")
    wrong_B = (wide_BC.sum(1) - 1).abs() > _LARGEST_SUM_ERROR
    if bool(wrong_B.any()):
        row = int(wrong_B.nonzero()[0])
        raise refused(row, f"probabilities that add up to {float(wide_BC[row].sum()):.6g}")


@settings("target")
class ServiceTarget(Target):
    """`count` targets that a service trained, and shadow models of the same service.

    Attributes:
        count: T; figures are means over them.
        shadows: `service` trains the shadow models through the service's train endpoint, as Shokri et al. (2017) do;
            `guessed` trains networks of the configured `model` by the configured recipe instead, which goes beyond
            their experiments.
        url: of the server that is the service (`mia-serve google_prediction`); None for one in this process, which is
            trained from the run's seed. A server of the same seed gives the same models.
        token_variable: the name of the environment variable that holds the server's token; "" for none.
    """

    count: AtLeast1 = 1
    shadows: Literal["service", "guessed"] = "service"
    url: Address | None = None
    token_variable: TokenVariable = ""
    takes_recipe: ClassVar[bool] = False
    takes_other_tasks: ClassVar[bool] = False
    takes_guess: ClassVar[bool] = False
    has_weights: ClassVar[bool] = False

    @property
    def trains_shadows(self) -> bool:
        return self.shadows == "service"

    def cost(self, num_records: int, *, makes_records: bool) -> str:
        return "What a service trains is not estimated."

    @abstractmethod
    def connect(self, engine: Engine) -> Service:
        """The service; a service in this process trains on the engine's device, from the run's seed."""

    def remote(self, name: str, url: str, engine: Engine) -> Service:
        """The service of this name on a server."""
        return HttpService(name, url, token_variable=self.token_variable, note=engine.stages.note)

    def obtain(self, setup: Setup) -> ServiceModels:
        """Let the service train a model on each target's members.

        Raises:
            InputError: the service could not train one.
        """
        form = setup.population.form
        if form is not None and (not form.is_quantity):
            raise InputError(
                f"The services of `target` train on one tensor of numbers for a record, and a record here is "
                f"{form.words}; use target=trained."
            )
        service = self.connect(setup.engine)
        names = service.train(_jobs(setup, setup.membership.targets, "target"))
        if None in names:
            raise InputError(
                f"The service {service.name} could not train target {names.index(None)} on its records; choose other "
                "settings of `target`, or another `dataset`."
            )
        if self.shadows == "service":
            remark = (
                "the service trains targets and shadow models its own way, so `model` and `training` have no effect"
            )
        else:
            remark = (
                "the service trains targets its own way, so `model` and `training` have an effect on the shadow models "
                "alone, whose architecture and recipe are guesses (target.shadows=guessed); this goes beyond the "
                "experiments of Shokri et al. (2017), where the service trains the shadow models, too"
            )
        setup.engine.stages.remark(f"target={service.name}: {remark}.")
        return ServiceModels(service, names, remark=setup.engine.stages.remark)

    def train_shadows(self, setup: Setup) -> Models:
        """Shadow models: of the service that trained the targets or, where they are guessed, of `model`."""
        if self.shadows == "guessed":
            return setup.train(setup.membership.shadows, "shadow")
        service = self.connect(setup.engine)
        names = service.train(_jobs(setup, setup.membership.shadows, "shadow"))
        return ServiceModels(service, names, remark=lambda _: None)  # the targets' remarks hold for them


def _jobs(setup: Setup, rows: slice, role: str) -> Iterator[ServiceJob]:
    """The jobs one after the other, since the records of all shadow models may be many times the population."""
    population = setup.population
    for k, index_n in enumerate(setup.membership.records_of(rows)):
        index_n = index_n.to(population.device)
        yield ServiceJob(
            name=f"{role} {k}",
            x_N=population.x_N[index_n],
            label_N=population.label_N[index_n],
            num_classes=population.num_classes,
        )
