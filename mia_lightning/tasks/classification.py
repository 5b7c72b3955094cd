"""A record has one of several classes; a model gives the probability of each."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.tasks.interface import OutputForm, OutputKind, Strata, Task, Wording

SMALLEST_PROBABILITY = torch.finfo(torch.float32).tiny
"""What stands for a smaller probability, such as 0, in the answers of somebody else's model.

The logarithm of 0 is infinite, which no attack could use. The value is the smallest normal float32 (-87.3 nats), so
that what a server says above 0 in single precision is kept.
"""

# Less is missing from 1 by rounding alone.
_SMALLEST_HIDDEN = 1e-5


@settings("task")
class Classification(Task):
    """Each record has one class; the log density of a record is the log probability of its class.

    Utility is accuracy, LiRA's statistic the scaled logit, and figures are reported for each class.
    """

    name: ClassVar[str] = "classification"
    utility: ClassVar[str] = "accuracy"
    stratum: ClassVar[str] = "class"
    strata_name: ClassVar[str] = "classes"
    seen: ClassVar[str] = "all probabilities"
    outputs: ClassVar[OutputKind] = "classes"
    has_classes: ClassVar[bool] = True
    fewest: ClassVar[int] = 2

    def check(self, label_N: Tensor, names: Sequence[str], name: str) -> None:
        num_classes = len(names)
        if label_N.dtype != torch.int64:
            mend = ", or use task=regression" if label_N.is_floating_point() else ""
            raise InputError(
                f"label of population {name!r} has dtype {label_N.dtype}: give class numbers as int64{mend}"
            )
        if num_classes < 2:
            raise InputError(
                f"population {name!r} has {num_classes} class: membership is audited on a classifier, "
                "so give records of at least two classes"
            )
        outside = (label_N < 0) | (label_N >= num_classes)
        if outside.any():
            row = int(outside.nonzero()[0])
            raise InputError(
                f"label {int(label_N[row])} of record {row} of population {name!r} is outside "
                f"0 to {num_classes - 1}: number the classes from 0, or name them all in class_names"
            )

    def takes(self, other: Task) -> bool:
        return other.has_classes

    def strata(self, label_N: Tensor, names: Sequence[str]) -> Strata:
        of_SN = label_N == torch.arange(len(names), device=label_N.device)[:, None]
        return Strata(names=tuple(names), of_SN=of_SN, number_N=label_N)

    def answers(self, output: Tensor, form: OutputForm) -> Tensor:
        output = output.double()
        if form == "probabilities":
            output = output.clamp(min=SMALLEST_PROBABILITY).log()
        elif form == "log_probabilities":
            output = output.clamp(min=math.log(SMALLEST_PROBABILITY))
        return output.log_softmax(-1).float()

    def log_density(self, answer: Tensor, label: Tensor) -> Tensor:
        """log p of the true class."""
        return answer.gather(-1, label).squeeze(-1).double()

    def normal(self, answer: Tensor, label: Tensor) -> Tensor:
        """φ = log p_y − log Σ_{y′≠y} p_{y′} (Carlini et al. 2022, section V-A)."""
        return self.one_number(answer, label).unsqueeze(-1)

    def one_number(self, answer: Tensor, label: Tensor) -> Tensor:
        others = answer.double().scatter(-1, label, -torch.inf)
        return self.log_density(answer, label) - others.logsumexp(-1)

    def log_likelihood(self, answer: Tensor, label: Tensor, *, temperature: float, soft_margin: float) -> Tensor:
        """log [e^(u_y − m) / (e^(u_y − m) + Σ_{y′≠y} e^(u_y′))] with u = log p / T.

        What an answer lacks to a sum of 1, since it hides classes, counts as one further class.

        Source: the code published with Zarifzadeh, Liu and Shokri (2024).
        """
        own = self.log_density(answer, label) / temperature - soft_margin
        others = (answer.double() / temperature).scatter(-1, label, -torch.inf).logsumexp(-1)
        hidden = 1 - answer.exp().sum(-1)
        hidden = hidden.where(hidden > _SMALLEST_HIDDEN, 0.0).double()
        others = torch.logaddexp(others, hidden.log() / temperature)
        return logsigmoid(own - others).where(own > -torch.inf, -torch.inf)

    def right(self, answer: Tensor, label: Tensor) -> Tensor:
        """Whether the most probable class, of tied ones that of lowest index, is the record's own."""
        own = answer.gather(-1, label)
        comes_first = torch.arange(answer.shape[-1], device=answer.device) < label
        return ~((answer > own) | ((answer == own) & comes_first)).any(-1)

    def features(self, label_B: Tensor, num_outputs: int) -> Tensor:
        return label_B[:, None] == torch.arange(num_outputs, device=label_B.device)

    def network_of(self, label_N: Tensor) -> Tensor:
        return label_N

    def num_networks(self, num_outputs: int) -> int:
        return num_outputs

    @property
    def wording(self) -> Wording:
        return Wording(
            loss="cross-entropy loss of the record",
            normal="scaled logit",
            no_closer="no higher a scaled logit",
            one_number="the scaled logit",
            right="whether the record is classified correctly",
            truth="true class",
            networks=" for each true class, on the vector of {values}",
        )

    def utility_of(self, answer_NC: Tensor, label_N: Tensor) -> float:
        """Share of the records whose most probable class is their own."""
        return float((answer_NC.argmax(-1) == label_N).double().mean())

    def utility_of_strata(self, answer_NC: Tensor, label_N: Tensor, of_SN: Tensor) -> Tensor:
        is_right_N = answer_NC.argmax(-1) == label_N
        return (of_SN & is_right_N).sum(1).double() / of_SN.sum(1)
