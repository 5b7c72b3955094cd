"""A record has any number of labels; a model gives the probability of each."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.tasks.classification import SMALLEST_PROBABILITY
from mia_lightning.tasks.interface import LabelReading, Objective, OutputForm, OutputKind, Strata, Task, Wording

_TINY = torch.finfo(torch.float64).tiny


def label_loss(logits_KBL: Tensor, label_KBL: Tensor) -> Tensor:
    """The loss of each record, `[K, B]` in nats: the sum over labels of the binary cross-entropy."""
    return binary_cross_entropy_with_logits(logits_KBL, label_KBL.to(logits_KBL), reduction="none").sum(-1)


@settings("task")
class Multilabel(LabelReading, Task):
    """Each record has any of several labels; its log density is the sum over labels of Bernoulli log probabilities.

    Utility is the mean over labels of the AUROC, of the labels that have records with and without them. LiRA's
    statistic is the logit of each label, with the sign of the truth: one normal for each, log likelihoods added up.
    Figures are reported for the records with each label.
    """

    name: ClassVar[str] = "multilabel"
    utility: ClassVar[str] = "mean AUROC"
    nothing: ClassVar[tuple[float, str]] = (0.5, "chance")
    stratum: ClassVar[str] = "label"
    strata_name: ClassVar[str] = "labels"
    stratum_utility: ClassVar[str | None] = "AUROC"
    seen: ClassVar[str] = "the probabilities of all labels"
    outputs: ClassVar[OutputKind] = "labels"

    @property
    def reading(self) -> LabelReading:
        return self

    def read(self, label: Tensor, what: str) -> Tensor:
        if label.ndim != 2:
            raise InputError(
                f"{what} has shape {tuple(label.shape)}: task=multilabel takes [records, labels] of 0 and 1; for one "
                "class a record use task=classification"
            )
        odd = (label != 0) & (label != 1)
        if bool(odd.any()):
            row, column = odd.nonzero()[0].tolist()
            raise InputError(
                f"{what} holds {label[row, column].item():g} for label {column} of record {row}: task=multilabel takes "
                "0 and 1, so give each label as one of these"
            )
        return label.to(torch.uint8)

    def names(self, label_N: Tensor) -> tuple[str, ...]:
        return tuple(str(each) for each in range(label_N.shape[1]))

    def check(self, label_N: Tensor, names: Sequence[str], name: str) -> None:
        if label_N.dtype not in (torch.uint8, torch.bool) or label_N.shape[1:] != (len(names),):
            raise InputError(
                f"label of population {name!r} has dtype {label_N.dtype} and shape {tuple(label_N.shape)}: task="
                f"multilabel takes uint8 of 0 and 1, [records, {len(names)}]"
            )

    def check_all(self, label_N: Tensor, names: Sequence[str], name: str) -> None:
        count_L = label_N.sum(0, dtype=torch.int64)
        for state, wrong_L in (("on", count_L == 0), ("off", count_L == len(label_N))):
            if bool(wrong_L.any()):
                label = names[int(wrong_L.nonzero()[0])]
                raise InputError(
                    f"label {label!r} of population {name!r} is never {state}, so that nothing can be learnt of it: "
                    "leave it out"
                )

    def strata(self, label_N: Tensor, names: Sequence[str]) -> Strata:
        of_SN = label_N.bool().T
        first_N = label_N.to(torch.int64).argmax(1)  # of equal ones the first
        number_N = first_N.where(label_N.bool().any(1), -1)
        return Strata(names=tuple(names), of_SN=of_SN, number_N=number_N, overlap=True)

    @property
    def objective(self) -> Objective:
        return label_loss

    def truth(self, label_N: Tensor) -> Tensor:
        return label_N.float()

    def answers(self, output: Tensor, form: OutputForm) -> Tensor:
        """log p of each label that is on; log (1 − p) follows without a loss of digits."""
        output = output.double()
        if form == "probabilities":
            return output.clamp(SMALLEST_PROBABILITY, 1.0).log().float().clamp(max=-SMALLEST_PROBABILITY)
        if form == "log_probabilities":
            return output.clamp(min=math.log(SMALLEST_PROBABILITY), max=-SMALLEST_PROBABILITY).float()
        return logsigmoid(output).float().clamp(max=-SMALLEST_PROBABILITY)

    def _own(self, answer: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities of what each label is, and of what it is not."""
        on = answer.double()
        off = torch.log(-torch.expm1(on).clamp(max=-_TINY))
        is_on = label != 0
        return on.where(is_on, off), off.where(is_on, on)

    def log_density(self, answer: Tensor, label: Tensor) -> Tensor:
        """Σ over labels of the log probability of what the label is."""
        return self._own(answer, label)[0].sum(-1)

    def normal(self, answer: Tensor, label: Tensor) -> Tensor:
        """For each label the logit, its sign turned where the label is off."""
        own, other = self._own(answer, label)
        return own - other

    def one_number(self, answer: Tensor, label: Tensor) -> Tensor:
        return self.normal(answer, label).sum(-1)

    def log_likelihood(self, answer: Tensor, label: Tensor, *, temperature: float, soft_margin: float) -> Tensor:
        """Σ over labels of log σ(z / T − m), z the logit of what the label is."""
        return logsigmoid(self.normal(answer, label) / temperature - soft_margin).sum(-1)

    def right(self, answer: Tensor, label: Tensor) -> Tensor:
        """The share of the labels whose more probable state is their own; of equal ones a label is predicted off."""
        on, off = self._own(answer, torch.ones_like(label))
        return ((on > off) == (label != 0)).double().mean(-1)

    def states(self, num_outputs: int) -> int:
        return 2

    def said(self, answer: Tensor) -> Tensor:
        """The sum of the logits."""
        return self.normal(answer, torch.ones_like(answer)).sum(-1)

    def vectors(self, answer: Tensor, label: Tensor) -> Tensor:
        """The log probabilities of the labels, and of what each of them is."""
        return torch.cat([answer.double(), self._own(answer, label)[0]], -1).float()

    @property
    def wording(self) -> Wording:
        return Wording(
            loss="cross-entropy loss of the record, summed over the labels",
            normal="logit of each label, turned where the label is off,",
            no_closer="no higher a logit of each label, turned where the label is off",
            one_number="the sum of the logits of the labels, turned where a label is off,",
            right="the share of the record's labels that are predicted right, flagged where all are",
            truth="labels, all of them",
            networks=", on the {values} of all labels and of what each of them is",
        )

    def utility_of(self, answer_NC: Tensor, label_N: Tensor) -> float:
        """Mean AUROC over the labels that some of these records have, and some have not."""
        found = [each for each in self._areas(answer_NC, label_N) if not math.isnan(each)]
        return sum(found) / len(found) if found else math.nan

    def utility_of_strata(self, answer_NC: Tensor, label_N: Tensor, of_SN: Tensor) -> Tensor:
        """The AUROC of each label, among all of these records."""
        return torch.tensor(self._areas(answer_NC, label_N), dtype=torch.float64)

    def _areas(self, answer_NC: Tensor, label_N: Tensor) -> list[float]:
        areas = []
        for score_N, label_n in zip(answer_NC.double().T, label_N.T, strict=True):
            is_on_N = label_n != 0
            n1, n0 = int(is_on_N.sum()), int((~is_on_N).sum())
            won = float(_ranks(score_N)[is_on_N].sum()) - n1 * (n1 + 1) / 2
            areas.append(won / (n1 * n0) if n1 and n0 else math.nan)
        return areas


def _ranks(value_N: Tensor) -> Tensor:
    """Ranks from 1, ties at their mean, float64."""
    place_N: Tensor
    count_U: Tensor
    _, place_N, count_U = value_N.unique(return_inverse=True, return_counts=True)
    last_U = count_U.cumsum(0).double()
    return (last_U - (count_U.double() - 1) / 2)[place_N]
