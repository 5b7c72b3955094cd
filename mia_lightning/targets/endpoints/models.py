"""A target that is served somewhere: one model, of which only the answers are known."""

import math
import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Share
from mia_lightning.targets.endpoints.answers import Reading
from mia_lightning.targets.endpoints.asker import Asker
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.interface import Endpoint
from mia_lightning.targets.endpoints.seen import Seen
from mia_lightning.targets.endpoints.sentinels import Sentinels, Testimony
from mia_lightning.targets.interface import Target
from mia_lightning.training.models import ModelKind, Models
from mia_lightning.training.plan.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import Signals, rounded

_BLOCK = 4096  # records whose answers are read at once: bounds memory, not results


@settings("target")
class EndpointTarget(Target):
    """A trained model of unknown architecture; its members must be given.

    Attributes:
        asking: how it is asked.
        expected_accuracy: on records that it was not trained on, as it was seen elsewhere; None for unknown.
        kind: what was trained; None for what can be told of it. Networks as shadow models understate what anything
            else than a network leaks.
        labels_are_places: whether its endpoint gives labels as places in the order of the classes.
    """

    asking: Asking = field(default_factory=Asking)
    expected_accuracy: Share | None = None
    kind: ModelKind | None = None
    count: ClassVar[int] = 1
    is_trained_here: ClassVar[bool] = False
    takes_other_tasks: ClassVar[bool] = False
    takes_recipe: ClassVar[bool] = False
    labels_are_places: ClassVar[bool] = False
    has_weights: ClassVar[bool] = False

    def cost(self, num_records: int, *, makes_records: bool) -> str:
        num = num_records + 2 * self.asking.sentinels
        price = self.asking.price_per_thousand
        cost = "" if price is None else f", at a cost of about {num / 1000 * price:,.2f}"
        more = ", and further ones to make shadow records" if makes_records else ""
        return f"The served model is asked about at most {num:,} records{cost}{more}; kept answers cost nothing."

    @abstractmethod
    def connect(self, setup: Setup) -> Endpoint:
        """The endpoint of the model; nothing is asked yet."""

    takes_named: ClassVar[bool] = False
    """Whether it can be sent records of several named tensors."""

    @property
    def takes_gaps(self) -> bool:
        """Whether it can be sent NaN for a number that is missing."""
        return False

    def check_records(self, setup: Setup) -> None:
        """Refuse records that cannot be sent.

        Raises:
            InputError: they are several tensors, and the protocol has one; or they lack numbers, which it cannot say.
        """
        form, name = setup.population.form, setup.population.name
        if form is None:
            return
        if not self.takes_named:
            form.check_one(
                "This `target`", "use target=open_inference, which sends several, or the answers by target=predictions"
            )
        lacking = None if self.takes_gaps else form.lacking(setup.population.x_N)
        if lacking is not None:
            raise InputError(
                f"Records of {name} have gaps (NaN) in their {lacking.named_words}, which JSON cannot send; fill them "
                "in, or give the answers by target=predictions."
            )

    def known_kind(self, endpoint: Endpoint) -> ModelKind:
        """What was trained, as far as it can be told."""
        return "unknown"

    @property
    def sees_normalised(self) -> bool:
        return False

    def asked_again(self, models: Models, setup: Setup) -> Models | None:
        return models if self.asking.repairs else None

    def names_classes(self, class_names: Sequence[str]) -> bool:
        return self.asking.classes is not None

    def class_mend(self, class_names: Sequence[str], order: Sequence[int]) -> str:
        own = class_names if self.asking.classes is None else self.asking.classes
        classes = [class_names[order[class_names.index(name)]] for name in own]
        return f"set target.asking.classes=[{','.join(classes)}]"

    def obtain(self, setup: Setup) -> Models:
        """The model, of which only answers are known; nothing is asked yet.

        Raises:
            InputError: settings do not fit the data set.
        """
        self.check_records(setup)
        endpoint = self.connect(setup)
        return EndpointModels(
            endpoint,
            self.asking,
            setup.population.class_names,
            kind=self.kind or self.known_kind(endpoint),
            labels_are_places=self.labels_are_places,
            seed=setup.engine.seed,
            remark=setup.engine.stages.remark,
            note=setup.engine.stages.note,
            asking_about=setup.engine.stages.asking,
        )


class EndpointModels(Models):
    """One model behind an endpoint.

    Args:
        endpoint: what is asked.
        asking: how.
        class_names: of the data set.
        kind: what was trained.
        labels_are_places: whether the endpoint gives labels as places in the order of the classes.
        seed: of the draw of sentinels.
        remark, note, asking_about: as of `Asker`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        asking: Asking,
        class_names: tuple[str, ...],
        *,
        kind: ModelKind = "unknown",
        labels_are_places: bool = False,
        seed: int = 0,
        remark: Callable[[str], object] = print,
        note: Callable[[str], object] = lambda _: None,
        asking_about: Callable[[int], Callable[[int], object]] = lambda _: lambda _: None,
    ) -> None:
        self._kind = kind
        self._endpoint, self._asking, self._seed, self._remark = endpoint, asking, seed, remark
        self._reading = Reading(
            place=endpoint.place,
            class_names=class_names,
            classes=None if asking.classes is None else tuple(asking.classes),
            answer=asking.answer,
            labels="places" if labels_are_places else asking.labels,
        )
        self._asker = Asker(
            endpoint, asking, self._reading, seed=seed, remark=remark, note=note, asking_about=asking_about
        )
        # A run does not close its models: connections are closed when nothing refers to these any more.
        self._finish = weakref.finalize(self, self._asker.close)
        self.failed_epoch_K = torch.tensor([-1])  # answers that are not finite are refused
        self._seen: Seen | None = None
        self._sentinels: Sentinels | None = None
        self._counts: dict[str, Any] = {}

    @property
    def num_models(self) -> int:
        return 1

    @property
    def architecture_name(self) -> str:
        return f"unknown ({self._endpoint.protocol})"

    @property
    def kind(self) -> ModelKind:
        return self._kind

    @property
    def num_queries(self) -> int:
        """How many records this run has asked about so far."""
        return self._asker.num_sent

    def _observed(
        self, population: Population, wanted_KN: Tensor, room: Room, answered: Callable[[int], object]
    ) -> Signals:
        """The logarithms of the answers, each record being asked about once; `Signals.form` says in which form they
        came.

        Some of the first records are asked about again (`Asking.sentinels`). Records that are not wanted, which no
        attack reads, get equal probabilities of all classes. `answered` is not called: an endpoint counts its answers
        itself (`asking_about`).

        Raises:
            InputError: the budget has too few records left, the model gives no answer or no distribution over the
                classes, or the answers fit neither memory nor disk.
        """
        N, C = len(population), population.num_classes
        number_M = wanted_KN[0].nonzero()[:, 0]
        x_M = population.x_N[number_M.to(population.device)]
        key_M = self._asker.ask(x_M, number_M.tolist())
        self._look_for_single(key_M)
        log_KANC = room.empty((1, 1, N, C), device=population.device).fill_(-math.log(C))
        log_NC = log_KANC[0, 0]
        seen: Seen | None = None
        for number_B, start in zip(number_M.split(_BLOCK), range(0, len(key_M), _BLOCK), strict=True):
            answers = self._asker.answers(key_M[start : start + _BLOCK])
            log_BC, part = self._reading.read(answers, number_B.tolist())
            log_NC[number_B.to(log_NC.device)] = log_BC.to(log_NC.device)
            seen = part if seen is None else self._reading.join(seen, part)
        assert seen is not None  # there are records, and some of them are wanted
        digits = self._digits(seen)
        self._reading.check_sums(seen, digits)
        if digits is not None:
            for number_B in number_M.to(log_NC.device).split(_BLOCK):
                log_NC[number_B] = rounded(log_NC[number_B], digits)
        if self._seen is None:
            self._seen = seen
            self._watch(x_M, key_M, number_M.tolist())
        return Signals(log_probability_KANC=log_KANC, form=replace(seen.form, digits=digits), room=room)

    def testimony(self) -> Testimony:
        """How the model was asked, at the end of the run: asks about the sentinels once more."""
        asker, asking = self._asker, self._asking
        if self._sentinels is not None:
            self._counts |= self._sentinels.ask_at_end()
        price = asking.price_per_thousand
        return Testimony(
            protocol=self._endpoint.protocol,
            place=self._endpoint.place,
            form=None if self._seen is None else replace(self._seen.form, digits=self._seen.digits),
            num_records=asker.num_answered,
            num_found=asker.num_found,
            num_sent=asker.num_sent,
            num_repeated=asker.num_repeated,
            num_spent=asker.responses.asked,
            budget=asking.budget,
            cost=None if price is None else asker.num_sent / 1000 * price,
            num_wanted=asking.sentinels,
            largest_difference=None if self._sentinels is None else self._sentinels.largest_difference,
            **self._counts,
        )

    def select(self, kept_K: Tensor) -> "EndpointModels":
        """This model, which is the only one and never fails."""
        assert kept_K.tolist() == [True], "there is one model, and it never fails"
        return self

    def save(self, path: Path) -> None:
        """Refuses: the weights are somebody else's."""
        raise InputError(
            f"The model at {self._endpoint.place} cannot be saved to {path.name}, since its weights never leave the "
            "server; set save_models=false."
        )

    def close(self) -> None:
        """Close connections and files; this happens by itself when nothing refers to these models any more."""
        self._finish()

    def _look_for_single(self, key_N: Sequence[bytes]) -> None:
        """Whether numbers alone are probabilities shows in any of them: a forest's may mostly be 0 and 1."""
        if self._seen is not None or len(self._reading.class_names) != 2:
            return
        blocks = (key_N[start : start + _BLOCK] for start in range(0, len(key_N), _BLOCK))
        if any(self._reading.shows_single(self._asker.answers(block)) for block in blocks):
            self._reading = replace(self._reading, is_single=True)
            name = (self._reading.classes or self._reading.class_names)[1]
            what = "logit" if self._asking.answer == "logits" else "probability"
            self._remark(
                f"The model at {self._endpoint.place} gives one number for each record: it is taken for the {what} of "
                f"{name!r}, the second of two classes; target.asking.classes gives them another order."
            )

    def _digits(self, seen: Seen) -> int | None:
        """To how many digits all answers so far are rounded; None where they are not."""
        if self._seen is None:
            return seen.digits
        known = self._reading.join(self._seen, seen)
        return known.digits if self._seen.digits is not None else None

    def _watch(self, x_N: Tensor, key_N: list[bytes], number_N: list[int]) -> None:
        wanted = self._asking.sentinels
        if wanted == 0:
            return
        self._sentinels = Sentinels(self._asker, self._reading, x_N, key_N, number_N, wanted=wanted, seed=self._seed)
        if len(self._sentinels) < min(wanted, len(x_N)):
            self._remark(
                f"The budget of {self._asking.budget} records leaves {self._asker.left}, so that "
                f"{len(self._sentinels)} of {wanted} sentinels are asked about again, at once and at the end."
            )
        self._counts = dict(self._sentinels.ask_at_once())
