"""A record has a number, or several; a model predicts them."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import FromList, Positive
from mia_lightning.settings.words import Such
from mia_lightning.tasks.interface import (
    LabelReading,
    Objective,
    OutputForm,
    OutputKind,
    Response,
    Strata,
    Task,
    Wording,
)

_RANGES = 4  # of the target value, with equally many records
MEAN, STD = "label_mean", "label_std"
Numbers = Annotated[Sequence[float], FromList, Such("[0.5]")]
Widths = Annotated[Sequence[Positive], FromList, Such("[2.0]")]


def squared_loss(output_KBD: Tensor, truth_KBE: Tensor) -> Tensor:
    """Half the sum of squares of (ŷ − y) / std, `[K, B]`; the truth holds y and std, side by side."""
    return _standardised(output_KBD, truth_KBE).square().sum(-1) / 2


def absolute_loss(output_KBD: Tensor, truth_KBE: Tensor) -> Tensor:
    """The sum of |ŷ − y| / std, `[K, B]`; the truth holds y and std, side by side."""
    return _standardised(output_KBD, truth_KBE).abs().sum(-1)


def _standardised(output_KBD: Tensor, truth_KBE: Tensor) -> Tensor:
    label_KBD, std_KBD = truth_KBE.to(output_KBD.dtype).chunk(2, dim=-1)
    return (output_KBD - label_KBD) / std_KBD


@settings("task")
class Regression(LabelReading, Task):
    """Each record has D numbers; its log density is log N(y; ŷ, s²), in units of s, added up over the numbers.

    s, one for all models, is the deviation of the residuals of shadow models on records that they did not train on.
    Networks give ŷ = label_mean + label_std × what their layers give: two buffers that each model holds, by default the
    mean and the deviation of its own training records' values. So training goes in standard units, whatever the unit
    of the values. Utility is R², LiRA's statistic the signed residual, and figures are reported for four ranges of the
    (first) value with equally many records.

    Attributes:
        likelihood: `gaussian`, or `laplace`: squares, or absolute values, of residuals in the loss of training and in
            the signal of a record.
        label_mean, label_std: public constants in place of those of a model's own training records, one for each
            number; null for the latter. They are given together.
    """

    likelihood: Literal["gaussian", "laplace"] = "gaussian"
    label_mean: Numbers | None = None
    label_std: Widths | None = None

    name: ClassVar[str] = "regression"
    utility: ClassVar[str] = "R²"
    nothing: ClassVar[tuple[float, str]] = (0.0, "the mean of the values")
    stratum: ClassVar[str] = "range"
    strata_name: ClassVar[str] = "ranges"
    seen: ClassVar[str] = "the predicted numbers"
    outputs: ClassVar[OutputKind] = "numbers"
    can_be_right: ClassVar[bool] = False
    factor: ClassVar[float] = 1.0  # likelihoods are of one size: hardly a ratio is twice another, and most records tied

    def __post_init__(self) -> None:
        if (self.label_mean is None) != (self.label_std is None):
            missing, given = (MEAN, STD) if self.label_mean is None else (STD, MEAN)
            raise InputError(f"`task.{given}` is given, and `task.{missing}` is not; give both, or neither.")

    @property
    def reading(self) -> LabelReading:
        return self

    def read(self, label: Tensor, what: str) -> Tensor:
        if label.ndim not in (1, 2):
            raise InputError(
                f"{what} has shape {tuple(label.shape)}: task=regression takes one number for each record, or "
                "[records, numbers]"
            )
        label = label.to(torch.float32)
        return label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label

    def names(self, label_N: Tensor) -> tuple[str, ...]:
        return ("value",) if label_N.ndim == 1 else tuple(f"value {each}" for each in range(label_N.shape[1]))

    def check(self, label_N: Tensor, names: Sequence[str], name: str) -> None:
        count = 1 if label_N.ndim == 1 else label_N.shape[1]
        if label_N.dtype != torch.float32 or label_N.ndim > 2 or count != len(names):
            raise InputError(
                f"label of population {name!r} has dtype {label_N.dtype} and shape {tuple(label_N.shape)}: "
                f"task=regression takes float32, one number for each of {list(names)}"
            )
        for label, value_N in zip(names, label_N.view(len(label_N), -1).T, strict=True):
            odd_N = ~value_N.isfinite()
            if bool(odd_N.any()):
                row = int(odd_N.nonzero()[0])
                raise InputError(
                    f"label {label!r} of record {row} of population {name!r} is {float(value_N[row])}: give a finite "
                    "number, or leave the record out"
                )
        if self.label_mean is not None and len(self.label_mean) != count:
            raise InputError(
                f"`task.{MEAN}` has {len(self.label_mean)} numbers, and a record of population {name!r} has {count} "
                "values; give one for each."
            )
        if self.label_std is not None and len(self.label_std) != count:
            raise InputError(
                f"`task.{STD}` has {len(self.label_std)} numbers, and a record of population {name!r} has {count} "
                "values; give one for each."
            )

    def check_all(self, label_N: Tensor, names: Sequence[str], name: str) -> None:
        for label, value_N in zip(names, label_N.view(len(label_N), -1).T, strict=True):
            if bool((value_N == value_N[0]).all()):
                raise InputError(
                    f"label {label!r} of population {name!r} is {float(value_N[0]):g} for all records, so that there "
                    "is nothing to predict: give a value that varies"
                )

    def strata(self, label_N: Tensor, names: Sequence[str]) -> Strata:
        value_N = label_N.reshape(len(label_N), -1)[:, 0].double()
        edges = value_N.quantile(torch.linspace(0, 1, _RANGES + 1, dtype=torch.float64, device=value_N.device))
        inner = edges[1:-1].unique()
        inner = inner[inner > edges[0]]  # a range without a record is none
        number_N = torch.bucketize(value_N, inner, right=True)
        bounds = [float(each) for each in (edges[0], *inner, edges[-1])]
        first, digits = f"{names[0]} ", _digits(bounds)
        ranges = tuple(f"{first}{low:.{digits}g} to {high:.{digits}g}" for low, high in pairwise(bounds))
        of_SN = number_N == torch.arange(len(ranges), device=number_N.device)[:, None]
        return Strata(names=ranges, of_SN=of_SN, number_N=number_N)

    @property
    def objective(self) -> Objective:
        return squared_loss if self.likelihood == "gaussian" else absolute_loss

    def response(self, label_N: Tensor, records_K: Sequence[Tensor]) -> Response:
        """The values, and the deviation in which each model measures them; what each model adds and multiplies."""
        label_ND = label_N.view(len(label_N), -1)
        if self.label_mean is not None and self.label_std is not None:
            constant = label_ND.new_tensor([list(self.label_mean), list(self.label_std)])
            mean_KD, std_KD = constant[:, None].expand(2, len(records_K), -1).clone()
        else:
            parts = [label_ND[records.to(label_ND.device)].double() for records in records_K]
            mean_KD = torch.stack([part.mean(0) for part in parts]).float()
            std_KD = torch.stack([part.std(0, correction=0) for part in parts]).float()
            std_KD = std_KD.where(std_KD > 0, 1.0)  # a model of one record, or of equal ones
        N = len(label_ND)
        truth = torch.cat([label_ND.expand(len(records_K), N, -1), std_KD[:, None].expand(-1, N, -1)], -1)
        return Response(truth_KN=truth, buffers={MEAN: mean_KD, STD: std_KD})

    @property
    def public_settings(self) -> tuple[str, ...]:
        return (MEAN, STD) if self.label_mean is None else ()

    def buffers(self, num_outputs: int) -> dict[str, Tensor]:
        return {MEAN: torch.zeros(num_outputs), STD: torch.ones(num_outputs)}

    def scaled(self, output: Tensor, buffers: Callable[[str], Tensor]) -> Tensor:
        return output * buffers(STD) + buffers(MEAN)

    def answers(self, output: Tensor, form: OutputForm) -> Tensor:
        return output.float()

    def unit(self, answer_KNC: Tensor, label_NX: Tensor, out_KN: Tensor) -> Tensor:
        """Root mean square (gaussian) or mean absolute value (laplace) of the residuals; 1 where all are 0."""
        total_D, count = torch.zeros(answer_KNC.shape[-1], dtype=torch.float64, device=answer_KNC.device), 0
        for answer_ND, out_N in zip(answer_KNC, out_KN, strict=True):
            residual_MD = answer_ND[out_N].double() - label_NX[out_N].double()
            residual_MD = residual_MD[residual_MD.isfinite().all(-1)]
            total_D += (residual_MD.square() if self.likelihood == "gaussian" else residual_MD.abs()).sum(0)
            count += len(residual_MD)
        unit_D = total_D / max(count, 1)
        unit_D = unit_D.sqrt() if self.likelihood == "gaussian" else unit_D
        return unit_D.where(unit_D > 0, 1.0)

    def _residual(self, answer: Tensor, label: Tensor) -> Tensor:
        return label.double() - answer.double()

    def log_density(self, answer: Tensor, label: Tensor) -> Tensor:
        """log N(r; 0, 1), or the log of Laplace's density, of the residual r in units of s."""
        residual = self._residual(answer, label)
        if self.likelihood == "gaussian":
            return (-residual.square() / 2 - math.log(2 * math.pi) / 2).sum(-1)
        return (-residual.abs() - math.log(2)).sum(-1)

    def normal(self, answer: Tensor, label: Tensor) -> Tensor:
        """The signed residual y − ŷ: exactly normal over models under least squares."""
        return self._residual(answer, label)

    def log_tail(self, value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """log P(|R| ≥ |r|) of a normal residual R: members have small residuals, whatever their sign."""
        size = value.abs()
        return torch.logaddexp(
            torch.special.log_ndtr((-size - mean) / std), torch.special.log_ndtr((mean - size) / std)
        )

    def log_likelihood(self, answer: Tensor, label: Tensor, *, temperature: float, soft_margin: float) -> Tensor:
        """−r² / (2 T), or −|r| / T, of the residual r in units of s: of no density, whose unit would enter the score.

        The soft margin is of classes, and has no part in it.
        """
        residual = self._residual(answer, label)
        size = residual.square() / 2 if self.likelihood == "gaussian" else residual.abs()
        return -size.sum(-1) / temperature

    def right(self, answer: Tensor, label: Tensor) -> Tensor:
        """The share of the numbers that are predicted to the last digit."""
        return (self._residual(answer, label) == 0).double().mean(-1)

    def one_number(self, answer: Tensor, label: Tensor) -> Tensor:
        """Minus the cube root of the sum of squared residuals, which is nearly normal (Wilson and Hilferty 1931)."""
        total = self._residual(answer, label).square().sum(-1)
        return -total.pow(1 / 3)

    def vectors(self, answer: Tensor, label: Tensor) -> Tensor:
        """The predictions, and the sizes of the residuals."""
        residual = self._residual(answer, label)
        return torch.cat([answer.double(), residual, residual.abs()], -1).float()

    @property
    def wording(self) -> Wording:
        return Wording(
            loss=f"{'squared' if self.likelihood == 'gaussian' else 'absolute'} residual of the record",
            normal="signed residual",
            no_closer="no smaller a residual",
            one_number="the negative cube root of the squared residual",
            right="the share of the record's numbers that are predicted to the last digit",
            truth="numbers",
            networks=", on the predictions and their residuals",
        )

    def utility_of(self, answer_NC: Tensor, label_N: Tensor) -> float:
        """R², the share of the variance of the values that is predicted; a mean over the numbers that vary."""
        label_ND = label_N.reshape(answer_NC.shape).double()
        if len(label_ND) == 0:
            return math.nan
        total_D = (label_ND - label_ND.mean(0)).square().sum(0)
        left_D = (label_ND - answer_NC.double()).square().sum(0)
        varies_D = total_D > 0
        return float((1 - left_D / total_D)[varies_D].mean()) if bool(varies_D.any()) else math.nan

    def utility_of_strata(self, answer_NC: Tensor, label_N: Tensor, of_SN: Tensor) -> Tensor:
        """1 − mean squared residual in a range / variance of all values: within a range these vary too little."""
        label_ND = label_N.reshape(answer_NC.shape).double()
        if len(label_ND) == 0:
            return torch.full((len(of_SN),), math.nan, dtype=torch.float64)
        variance_D = (label_ND - label_ND.mean(0)).square().mean(0)
        varies_D = variance_D > 0
        left_ND = ((label_ND - answer_NC.double()).square() / variance_D)[:, varies_D]
        return torch.stack([1 - left_ND[of_N].mean() for of_N in of_SN])


def _digits(bounds: Sequence[float]) -> int:
    """The fewest digits, from 3, with which neighbouring bounds differ."""
    for digits in range(3, 9):
        if len({f"{each:.{digits}g}" for each in bounds}) == len(bounds):
            return digits
    return 9
