"""A fitted estimator of numbers or of several labels, at hand in this process: asked as those that are fitted here."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, first_line
from mia_lightning.membership import Membership
from mia_lightning.training.estimators.answers import Votes
from mia_lightning.training.estimators.fitting import way_without_classes
from mia_lightning.training.estimators.table import given_records
from mia_lightning.training.models import ModelKind, Models
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals

_AT_ONCE = 16_384  # records: bounds memory, not results


class FittedEstimator(Models):
    """One estimator that somebody has fitted.

    Args:
        estimator: with `predict_proba`, `decision_function` or `predict`, as the task asks.
        name: what reports call it.
        population, membership: the records, and which of them it was trained on.
        kind: what it is.
        normalised: whether it takes records as networks do.
        smooths: whether shares of votes are smoothed, as those of shadow models that are estimators.

    Raises:
        InputError: it does not take the records, or its answers are not those of the task.
    """

    def __init__(
        self,
        estimator: Any,
        name: str,
        population: Population,
        membership: Membership,
        *,
        kind: ModelKind,
        normalised: bool = False,
        smooths: bool = False,
    ) -> None:
        self._estimator, self._name, self._kind, self._normalised = estimator, name, kind, normalised
        self.failed_epoch_K = torch.tensor([-1])  # answers that are not finite are refused
        members = population.chosen(membership.member_KN[0].to(population.device)).to("cpu")
        x_n = given_records(members, normalised=normalised)
        outputs, label_n = population.task.outputs, members.label_N.numpy()
        way = self._asked(x_n, partial(way_without_classes, outputs, estimator, x_n, label_n))
        self._way = way if smooths else replace(way, votes=Votes())

    @property
    def num_models(self) -> int:
        return 1

    @property
    def architecture_name(self) -> str:
        return self._name

    @property
    def kind(self) -> ModelKind:
        return self._kind

    def _observed(
        self, population: Population, wanted_KN: Tensor, room: Room, answered: Callable[[int], object]
    ) -> Signals:
        """Its answers; NaN for records that it is not asked about.

        Raises:
            InputError: it does not take the records, or the answers fit neither memory nor disk.
        """
        num_outputs = population.num_classes
        answer_KANC = room.empty((1, 1, len(population), num_outputs), device=population.device).fill_(torch.nan)
        index_n = wanted_KN[0].nonzero().squeeze(1)
        if len(index_n):
            x_n = given_records(population.chosen(wanted_KN[0]), normalised=self._normalised)
            for start in range(0, len(index_n), _AT_ONCE):
                x_B = x_n[start : start + _AT_ONCE]
                answer_BC = self._asked(x_B, partial(self._way.answers, self._estimator, x_B, num_outputs, ()))
                answer_KANC[0, 0, index_n[start : start + _AT_ONCE]] = torch.from_numpy(answer_BC).to(answer_KANC)
        answered(len(index_n))
        return Signals(log_probability_KANC=answer_KANC, room=room, atoms=self._way.votes.atoms, task=population.task)

    def _asked(self, x_B: Any, ask: Callable[[], Any]) -> Any:
        """What `ask` returns; what the estimator raises is a sentence about these records."""
        try:
            return ask()
        except InputError:
            raise
        except Exception as error:  # an estimator may raise anything
            raise InputError(
                f"The estimator {self._name} does not take records of {x_B.shape[1]} columns ({type(error).__name__}: "
                f"{first_line(error)}); fit it on records of the data set, as they are in memory."
            ) from error

    def select(self, kept_K: Tensor) -> "FittedEstimator":
        """This estimator, which is the only one and never fails."""
        assert kept_K.tolist() == [True], "there is one model, and it never fails"
        return self

    def save(self, path: Path) -> None:
        """Refuses: an estimator has no weights for safetensors."""
        raise InputError(f"`save_models` is true, but estimators cannot be written to {path.name}; set it to false.")
