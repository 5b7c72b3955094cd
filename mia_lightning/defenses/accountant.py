"""What differential privacy a training run has: Opacus' accountant, and how its answer is to be read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from mia_lightning.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """(ε, δ)-differential privacy of one trained model, with all that it rests on.

    Attributes:
        epsilon, delta: the upper bound.
        noise_multiplier: standard deviation of the noise over the clipping norm.
        sample_rate: probability with which a record is in a batch.
        steps: optimiser steps.
        num_records: n, taken as public.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    num_records: int

    def describe(self) -> str:
        """One sentence for a report, which names what the bound is against and what it leaves out."""
        return (
            f"({self.epsilon:.4g}, {self.delta:.4g})-differentially private under adding or removing one record "
            f"(Opacus' RDP accountant; {self.steps} steps on Poisson samples at rate {self.sample_rate:.4g}; noise "
            f"multiplier {self.noise_multiplier:.4g}), where the number of records, {self.num_records}, is taken as "
            "public and neither preprocessing nor the choice of settings is accounted for."
        )


def delta_below(num_records: int) -> float:
    """The largest power of ten below 1 / n: 1e-4 for 1,000 records as for 9,999."""
    return float(f"1e-{len(str(num_records))}")


def epsilon_of(*, noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """An upper bound of ε at `delta` of `steps` Gaussian mechanisms on Poisson samples, by Opacus' RDP accountant.

    Neighbouring data sets differ by one record that is added or removed.

    Raises:
        InputError: Opacus is not installed.

    Source: Mironov, Talwar and Zhang, "Rényi differential privacy of the sampled Gaussian mechanism" (2019); from RDP
    to (ε, δ) by Balle et al., "Hypothesis testing interpretations and Rényi differential privacy" (2020), theorem 21.
    """
    accountant = _opacus("accountants").RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with _any_order():
        return max(0.0, float(accountant.get_epsilon(delta)))  # below 0 where δ alone covers all


@cache  # seconds at small n; the same for every model of one size
def noise_multiplier_for(*, epsilon: float, sample_rate: float, steps: int, delta: float) -> float:
    """A noise multiplier whose ε at `delta` is at most `epsilon`, and at least that minus 0.01.

    Raises:
        InputError: no noise is enough for so small an ε, or Opacus is not installed.
    """
    find = _opacus("accountants.utils").get_noise_multiplier
    try:
        with _any_order():
            return float(
                find(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant="rdp",
                )
            )
    except ValueError as error:
        raise InputError(
            f"`defense.dp_sgd.epsilon` is {epsilon:g}, which cannot be met at delta {delta:g}: Opacus' RDP accountant "
            f"finds no noise that is enough for {steps} steps at rate {sample_rate:.4g}; raise `defense.dp_sgd.epsilon`"
            " or `defense.dp_sgd.delta`."
        ) from error


def _opacus(module: str) -> Any:
    try:
        return import_module(f"opacus.{module}")
    except ImportError as error:
        raise InputError(
            "defense=dp_sgd needs the package `opacus` for its accountant, which cannot be imported; install it with "
            "pip install 'mia-lightning[dp]'."
        ) from error


@contextmanager
def _any_order() -> Iterator[None]:
    """Silence Opacus' remark that the best order is its largest or smallest: the bound holds at any order."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield
