"""What a task says of its records' answers, so that no other code asks which task it is.

An *answer* is what a model gives for a record: the last axis C of the one array of signals holds the log probabilities
of classes, those of labels, or predicted numbers. A *label* is the truth: a class number, a row of 0 and 1, or numbers.
Statistics are given both in float64 where they need it, numbers in units of the residuals of shadow models
(`Task.unit`), so that no score depends on the unit of the target value.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from mia_lightning.settings.words import Words

Objective = Callable[[Tensor, Tensor], Tensor]
OutputKind = Literal["classes", "labels", "numbers"]
OutputForm = Literal["logits", "probabilities", "log_probabilities"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Strata:
    """The parts of the records for which figures are reported beside those of all: classes, labels, or ranges.

    Attributes:
        names: one for each.
        of_SN: bool `[S, N]`; whether a record belongs to each. Those of several labels overlap.
        number_N: int64 `[N]`; the one under which a record is listed, the first of several; -1 where it has none.
        overlap: whether a record can be in several, or in none.
    """

    names: tuple[str, ...]
    of_SN: Tensor
    number_N: Tensor
    overlap: bool = False

    def name_of(self, record: int) -> str:
        """The names of those that a record is in."""
        return ", ".join(compress(self.names, self.of_SN[:, record].tolist())) or "none"


@dataclass(frozen=True, eq=False, kw_only=True)
class Response:
    """What K models are trained on in the place of labels, and what they hold of it.

    Attributes:
        truth_KN: floating point `[K, N, ...]`, what the objective compares the outputs of model k for record n with.
        buffers: by name, `[K, ...]`.
    """

    truth_KN: Tensor
    buffers: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What the statistics of a task are called in the descriptions of attacks.

    Attributes:
        loss: of a record, minus its log density.
        normal: what `Task.normal` gives.
        no_closer: what `Task.log_tail` is the probability of, that models without the record have it.
        one_number: what `Task.one_number` gives.
        right: what `Task.right` gives.
        truth: what the label of a record is called.
        networks: behind "One network": for what, on what; `{values}` stands for (log) probabilities.
    """

    loss: str
    normal: str
    no_closer: str
    one_number: str
    right: str
    truth: str
    networks: str


class Task(ABC):
    """What a record's answer is.

    Attributes:
        name: as in `conf/task`.
        utility: what says how well a model does, in words; larger is better, at most 1.
        nothing: the utility of a model that has learnt nothing, and what that is, for a sentence.
        stratum, strata_name: what figures of parts are about, one and several.
        stratum_utility: what says how well a model does on one part, where that is not `utility`.
        seen: what an answer is, for a sentence.
        outputs: what the outputs of a network stand for.
        has_classes: whether each record has one of several classes, whose probabilities a model gives.
        fewest: how many outputs there must be.
        can_be_right: whether an answer is right or wrong, as a class is, and not near or far, as a number is.
        factor: by which RMIA's ratio of a record must exceed that of another, where nobody has set it.
    """

    name: ClassVar[str]
    utility: ClassVar[str]
    nothing: ClassVar[tuple[float, str]] = (0.0, "chance")
    stratum: ClassVar[str]
    strata_name: ClassVar[str]
    stratum_utility: ClassVar[str | None] = None
    seen: ClassVar[str]
    outputs: ClassVar[OutputKind]
    has_classes: ClassVar[bool] = False
    fewest: ClassVar[int] = 1
    can_be_right: ClassVar[bool] = True
    factor: ClassVar[float] = 2.0

    # Labels

    @property
    def reading(self) -> "LabelReading | None":
        """How labels are read; None for class numbers (`datasets.labels.as_classes`)."""
        return None

    @abstractmethod
    def check(self, label_N: Tensor, names: Sequence[str], name: str) -> None:
        """Refuse labels that are none of this task.

        Args:
            names: of the C outputs.
            name: of the population, in sentences.

        Raises:
            InputError: what is wrong, with the mend.
        """

    def check_all(self, label_N: Tensor, names: Sequence[str], name: str) -> None:  # noqa: B027 (classes may be empty)
        """Refuse labels of all records together of which something could not be learnt; arguments as of `check`.

        Raises:
            InputError: what is wrong, with the mend.
        """

    def takes(self, other: "Task") -> bool:
        """Whether records that were read under another task can be audited under this one."""
        return other.name == self.name

    @abstractmethod
    def strata(self, label_N: Tensor, names: Sequence[str]) -> Strata:
        """The parts of the records that have figures of their own."""

    # Training

    @property
    def objective(self) -> Objective | None:
        """Loss of each record `[K, B]` from outputs `[K, B, C]` and truth `[K, B, ...]`; None for cross-entropy."""
        return None

    def truth(self, label_N: Tensor) -> Tensor:
        """The labels as the objective takes them."""
        return label_N

    def response(self, label_N: Tensor, records_K: Sequence[Tensor]) -> Response | None:
        """What models with these training records are trained on; None for the labels as they are."""
        return None

    def compared(self, label_N: Tensor) -> Tensor:
        """What the objective compares the outputs of one model with that trains on just these records."""
        response = self.response(label_N, [torch.arange(len(label_N))])
        return self.truth(label_N) if response is None else response.truth_KN[0]

    @property
    def public_settings(self) -> tuple[str, ...]:
        """Settings in whose place a model takes something of its own training records before it trains."""
        return ()

    def buffers(self, num_outputs: int) -> dict[str, Tensor]:
        """Buffers of one untrained network, by name, that `scaled` reads."""
        return {}

    def scaled(self, output: Tensor, buffers: Callable[[str], Tensor]) -> Tensor:
        """What a network gives, from what its layers give."""
        return output

    # Answers

    @abstractmethod
    def answers(self, output: Tensor, form: OutputForm) -> Tensor:
        """Answers `[..., C]`, float32, of outputs `[..., C]` of this form."""

    def unit(self, answer_KNC: Tensor, label_NX: Tensor, out_KN: Tensor) -> Tensor | None:
        """The unit of each answer, float64 `[C]`, from what models say of records that they did not train on.

        None for answers without a unit.
        """
        return None

    # Statistics of answers [..., N, C] and labels [..., N, X], larger for members

    @abstractmethod
    def log_density(self, answer: Tensor, label: Tensor) -> Tensor:
        """Log density of the label under the model's own likelihood, in nats, `[..., N]`: minus the loss."""

    @abstractmethod
    def normal(self, answer: Tensor, label: Tensor) -> Tensor:
        """S numbers `[..., N, S]` that are nearly normal over models, for LiRA, which adds up over S."""

    def log_tail(self, value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Log probability that a model that did not train on a record looks less like one that did.

        Args:
            value, mean, std: of `normal`, any shapes that broadcast.
        """
        below: Tensor = torch.special.log_ndtr((value - mean) / std)
        return below

    @abstractmethod
    def log_likelihood(self, answer: Tensor, label: Tensor, *, temperature: float, soft_margin: float) -> Tensor:
        """Log of a likelihood in [0, 1] without a unit, `[..., N]`, for RMIA."""

    @abstractmethod
    def one_number(self, answer: Tensor, label: Tensor) -> Tensor:
        """One number `[..., N]` that is nearly normal over records, larger for members, for a regressor."""

    @abstractmethod
    def right(self, answer: Tensor, label: Tensor) -> Tensor:
        """Which share of what the label says is predicted right, in [0, 1], `[..., N]`."""

    def states(self, num_outputs: int) -> int:
        """How many states there are of which a vote of an estimator names one: classes, or both of each label."""
        return num_outputs

    def said(self, answer: Tensor) -> Tensor:
        """One number `[..., N]` of an answer alone, which models of the same records agree on more than by chance."""
        return answer.double().sum(-1)

    def features(self, label_B: Tensor, num_outputs: int) -> Tensor:
        """What a regressor is told of the labels, `[B, F]`."""
        return label_B.reshape(len(label_B), -1)

    def vectors(self, answer: Tensor, label: Tensor) -> Tensor:
        """What an attack network is given of answers and labels, `[..., N, V]` float32."""
        return answer

    def network_of(self, label_N: Tensor) -> Tensor:
        """The attack network of each record, int64 `[N]`."""
        return torch.zeros(len(label_N), dtype=torch.int64, device=label_N.device)

    def num_networks(self, num_outputs: int) -> int:
        """How many attack networks there are at most."""
        return 1

    # Sentences

    @property
    @abstractmethod
    def wording(self) -> Wording:
        """What the statistics are called."""

    # Utility

    @abstractmethod
    def utility_of(self, answer_NC: Tensor, label_N: Tensor) -> float:
        """How well a model does on these records; NaN where that is not defined."""

    @abstractmethod
    def utility_of_strata(self, answer_NC: Tensor, label_N: Tensor, of_SN: Tensor) -> Tensor:
        """The same of each part of these records, float64 `[S]`; NaN likewise."""


class LabelReading(ABC):
    """How the labels of a task without classes are read."""

    @abstractmethod
    def read(self, label: Tensor, what: str) -> Tensor:
        """The labels of records as the task holds them, from a tensor of any type.

        Args:
            what: the labels, in a sentence.

        Raises:
            InputError: they are none of this task.
        """

    @abstractmethod
    def names(self, label_N: Tensor) -> tuple[str, ...]:
        """Names of the C outputs, where the user gives none."""


LabelTask = Annotated[Task, Words("one of those in conf/task, or a `Task` like them")]
"""Of a setting: a task."""
