"""Variances of single records from a few models: each is drawn towards that of all records, the more so the fewer its
models are.

The mean and variance of a record over the models of one side have a normal-inverse-gamma prior, as in Brännvall,
"Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA" (2026), and the prior is estimated from the
records themselves (empirical Bayes): that of the mean is flat, κ₀ = 0, and that of the variance has the moments of the
logarithms of the sample variances.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# Of the numbers that trigamma is to give: at the lower end all records have one variance, as near as makes no matter.
_LEAST_TRIGAMMA, _LARGEST_TRIGAMMA = 1e-6, 1e7
_STEPS = 50  # of Newton's method, which converges at a square


@dataclass(frozen=True, eq=False, kw_only=True)
class VariancePrior:
    """The inverse-gamma distribution of the variances of records, of shape α₀ = d₀ / 2 and scale β₀ = d₀ s₀² / 2.

    Attributes:
        freedom: d₀, float64 `[T, A, 1]`, above 0: by how many degrees of freedom the prior counts.
        variance: s₀², float64 `[T, A, 1]`.
    """

    freedom: Tensor
    variance: Tensor

    @classmethod
    def of(cls, parts: Iterable[tuple[Tensor, Tensor]]) -> "VariancePrior":
        """From sample variances and their degrees of freedom d, a slice of the records after another.

        A sample variance s² of a normal sample has σ² χ²(d) / d for its law, so that e = log s² - ψ(d/2) + log(d/2)
        estimates log σ² with the variance ψ'(d/2). Over records log σ² has the mean log s₀² - ψ(d₀/2) + log(d₀/2)
        and the variance ψ'(d₀/2); what e varies beyond its own variance is that.

        Args:
            parts: variances above 0 `[T, A, n]`, and d, whole numbers `[T, 1, n]`; records with d = 0 do not count.

        Source: Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray
            experiments" (2004), section 6.2.
        """
        count, total, squares, own = (torch.zeros(1, 1, 1, dtype=torch.float64) for _ in range(4))
        for variance_TAn, freedom_T1n in parts:
            count, total, squares, own = (each.to(variance_TAn.device) for each in (count, total, squares, own))
            counts_T1n, place_T1n = freedom_T1n > 0, freedom_T1n.long()
            half_D = torch.arange(int(place_T1n.max()) + 1, device=place_T1n.device).double().clamp(min=1.0) / 2
            digamma_T1n, log_T1n, trigamma_T1n = (
                of_D.index_select(0, place_T1n.flatten()).view_as(place_T1n)
                for of_D in (torch.digamma(half_D), half_D.log(), torch.polygamma(1, half_D))
            )
            log_TAn = (variance_TAn.log() - digamma_T1n + log_T1n).where(counts_T1n, 0.0)
            count = count + counts_T1n.double().sum(-1, keepdim=True)
            total = total + log_TAn.sum(-1, keepdim=True)
            squares = squares + log_TAn.square().sum(-1, keepdim=True)
            own = own + trigamma_T1n.where(counts_T1n, 0.0).sum(-1, keepdim=True)
        count = count.clamp(min=1.0)
        mean = total / count
        spread = (squares - count * mean.square()) / (count - 1).clamp(min=1.0)
        half = _inverse_trigamma(spread - own / count)
        return cls(freedom=2 * half, variance=(mean + torch.digamma(half) - half.log()).exp())

    def posterior(self, deviation_TAn: Tensor, freedom_T1n: Tensor) -> tuple[Tensor, Tensor]:
        """The variance βₙ / αₙ of each record and its degrees of freedom 2 αₙ = d₀ + d, `[T, A, n]`.

        Args:
            deviation_TAn: the sum of squared deviations from the mean, SS: βₙ = β₀ + SS / 2, αₙ = α₀ + d / 2.
            freedom_T1n: d, one less than the models.
        """
        freedom_TAn = self.freedom + freedom_T1n
        return (self.freedom * self.variance + deviation_TAn) / freedom_TAn, freedom_TAn


def log_student(standardised: Tensor, freedom: Tensor) -> Tensor:
    """Log density of Student's t at so many scales from its centre, for a scale of 1."""
    constant = torch.lgamma((freedom + 1) / 2) - torch.lgamma(freedom / 2) - (freedom * torch.pi).log() / 2
    return constant - (freedom + 1) / 2 * torch.log1p(standardised.square() / freedom)


def _inverse_trigamma(value: Tensor) -> Tensor:
    """Where trigamma takes these values, by Newton's method on its reciprocal, which is nearly linear."""
    value = value.clamp(_LEAST_TRIGAMMA, _LARGEST_TRIGAMMA)
    before, place = value, 0.5 + 1 / value
    for left in reversed(range(_STEPS)):
        found = torch.polygamma(1, place)
        moved = place + found * (1 - found / value) / torch.polygamma(2, place)
        if torch.equal(moved, before):  # in the last digit it goes to and fro between two numbers, or stands
            return moved if left % 2 == 0 else place
        before, place = place, moved
    return place
