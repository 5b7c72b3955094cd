"""Findings of a paper as statements about a comparison, each held against its interval.

A finding names variants, an attack and a figure (accuracy, precision, recall or auc; larger means more leakage), and
`check` says whether it holds, does not hold, or is undecided. It is undecided, too, where the verdict would rest on
figures that are no evidence (`Variant.doubt`): on any of a run that cannot be trusted, and on a low one of a run whose
leakage may be understated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Protocol

import numpy as np
from scipy.stats import rankdata, spearmanr

from mia_lightning.comparison.intervals import LEVEL, Correlation, Numbers, draws, independent, limits, matched
from mia_lightning.comparison.schema import FIGURES, Estimate, Statement, Variant, VariantAttack, Verdict
from mia_lightning.errors import InputError
from mia_lightning.reports.rows import UNDERSTATED
from mia_lightning.terminal.amounts import show, signed

_MOST_PERMUTED = 8
_FEWEST_RANKED = 4  # with three, even the clearest order has a one-sided p-value of 1/6


class Finding(Protocol):
    """A statement about a comparison that can be checked."""

    @property
    def text(self) -> str: ...

    def check(self, variants: Sequence[Variant], correlation: Correlation = independent) -> Statement: ...


class _NotRunError(Exception):
    """Says why a finding cannot be checked."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Change:
    """A figure of one variant less that of another.

    Attributes:
        drawn: from its sampling distribution.
        is_paired: over records that both share.
    """

    value: float
    drawn: Numbers
    is_paired: bool

    @property
    def words(self) -> str:
        """The value with its limits, and whether they are paired."""
        low, high = limits(self.drawn)
        text = f"change {signed(self.value)} [{signed(low)}, {signed(high)}]"
        return f"{text}, paired over shared records" if self.is_paired else text


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """What all findings about a figure share.

    Attributes:
        text: the finding, one sentence.
        attack: by name.
        figure: of the attack.
    """

    text: str
    attack: str = "shokri"
    figure: str = "precision"

    def __post_init__(self) -> None:
        if self.figure not in FIGURES:
            raise InputError(
                f"`comparison.findings` names the figure {self.figure!r}; it must be one of {', '.join(FIGURES)}."
            )

    def check(self, variants: Sequence[Variant], correlation: Correlation = independent) -> Statement:
        """The statement with its verdict.

        Args:
            correlation: what pairs two variants.

        Raises:
            InputError: the finding names a variant or an attack that there is none of.
        """
        try:
            return self._check(variants, correlation)
        except _NotRunError as reason:
            return Statement(text=self.text, verdict="not run", detail=str(reason))

    def _check(self, variants: Sequence[Variant], correlation: Correlation) -> Statement:
        raise AssertionError("each finding has its own")

    def _attack_of(self, variant: Variant) -> VariantAttack:
        if variant.skipped is not None:
            raise _NotRunError(f"{variant.name} was not run: {variant.skipped}")
        for attack in variant.attacks:
            if attack.name == self.attack:
                found = self._estimate(attack)
                if found.value is None:
                    raise _NotRunError(f"{variant.name} has no {self.figure}: {found.reason}")
                if self.figure == "auc" and attack.auc_logit_error is None and 0 < found.value < 1:
                    raise _NotRunError(f"{variant.name} has an auc of {found.value:.3f} and {found.reason}")
                return attack
        raise _NotRunError(f"attack={self.attack} was not among the attacks on {variant.name}")

    def _estimate(self, attack: VariantAttack) -> Estimate:
        estimate: Estimate = getattr(attack, self.figure)
        return estimate

    def _value(self, attack: VariantAttack) -> float:
        value = self._estimate(attack).value
        assert value is not None
        return value

    def _draws(self, variant: Variant) -> Numbers:
        return draws(self._attack_of(variant), self.figure, "finding", variant.name)

    def _change(self, minuend: Variant, subtrahend: Variant, correlation: Correlation) -> "_Change":
        """The first variant's figure less the second's, paired where they share records."""
        first, second = (self._attack_of(each) for each in (minuend, subtrahend))
        r = correlation(minuend, subtrahend, self.attack, self.figure)
        drawn = self._draws(minuend)
        return _Change(
            value=self._value(first) - self._value(second),
            drawn=drawn - matched(drawn, self._draws(subtrahend), r),
            is_paired=r != 0.0,
        )

    def _sure(
        self, verdict: Verdict, used: Sequence[Variant], *, low: Sequence[Variant]
    ) -> tuple[Verdict, tuple[str, ...]]:
        """The verdict, undecided where it rests on what is no evidence, and why.

        Args:
            used: the variants whose figures decide.
            low: those of them that decide by a figure that is low.
        """
        for each in used if verdict != "undecided" else ():
            if each.doubt is not None and (each.doubt != UNDERSTATED or each in low):
                return "undecided", (f"but of {each.name} that is no evidence: {each.doubt}",)
        return verdict, ()

    def _ran(self, variants: Sequence[Variant], at_least: int) -> list[Variant]:
        ran = [each for each in variants if each.skipped is None]
        if len(ran) < at_least:
            skipped = next((each for each in variants if each.skipped is not None), None)
            reason = f": {skipped.name} was not run ({skipped.skipped})" if skipped is not None else ""
            raise _NotRunError(f"{len(ran)} of {len(variants)} variants were run, and it takes {at_least}{reason}")
        return ran


@dataclass(frozen=True, kw_only=True)
class Rises(_Figure):
    """The figure of the variant `last` is above that of `first`, and no step between two neighbours goes against it.

    By default from the first to the last of those that were run; the steps against it are judged together (Bonferroni).
    """

    first: str | None = None
    last: str | None = None
    sign: int = 1

    def _check(self, variants: Sequence[Variant], correlation: Correlation) -> Statement:
        if self.first is None or self.last is None:
            ran = self._ran(variants, 2)
            first, last = ran[0], ran[-1]
            between = ran
        else:
            first, last = _named(variants, self.first), _named(variants, self.last)
            between = [first, last]
        change = self._change(last, first, correlation)
        low, high = limits(change.drawn)
        values = ", ".join(f"{each.name} {show(self._value(self._attack_of(each)))}" for each in between)
        ordered = (low, high) if self.sign > 0 else (-high, -low)
        verdict: Verdict = "holds" if ordered[0] > 0 else "does not hold" if ordered[1] < 0 else "undecided"
        against = self._steps_against(between, correlation) if verdict == "holds" else []
        if against:
            verdict = "does not hold"
        below = first if (self.sign > 0) == (verdict == "holds") else last
        verdict, doubts = self._sure(verdict, between, low=between if against else [below])
        return Statement(
            text=self.text,
            verdict=verdict,
            detail="; ".join([values, change.words, *against, *doubts]),
            estimate=change.value,
            low=low,
            high=high,
        )

    def _steps_against(self, between: Sequence[Variant], correlation: Correlation) -> list[str]:
        """Neighbours between which the figure clearly goes the other way."""
        steps = list(pairwise(between))
        level = 1 - (1 - LEVEL) / max(1, len(steps))
        against = []
        for one, other in steps:
            if limits(self.sign * self._change(other, one, correlation).drawn, level)[1] < 0:
                against.append(f"but from {one.name} to {other.name} it goes the other way")
        return against


@dataclass(frozen=True, kw_only=True)
class Falls(Rises):
    """The figure of the variant `last` is below that of `first`."""

    sign: int = -1


@dataclass(frozen=True, kw_only=True)
class CostsLittle(_Figure):
    """The attacker loses at most `at_most` of the figure on `variant`, against `baseline`."""

    baseline: str
    variant: str
    at_most: float = 0.1

    def _check(self, variants: Sequence[Variant], correlation: Correlation) -> Statement:
        baseline, variant = _named(variants, self.baseline), _named(variants, self.variant)
        change = self._change(variant, baseline, correlation)
        low, high = limits(change.drawn)
        verdict: Verdict = "holds" if low > -self.at_most else "does not hold" if high < -self.at_most else "undecided"
        verdict, doubts = self._sure(verdict, [baseline, variant], low=[baseline if verdict == "holds" else variant])
        before, after = (self._value(self._attack_of(each)) for each in (baseline, variant))
        return Statement(
            text=self.text,
            verdict=verdict,
            detail="; ".join([f"{show(before)} to {show(after)}: {change.words}", *doubts]),
            estimate=change.value,
            low=low,
            high=high,
        )


@dataclass(frozen=True, kw_only=True)
class Above(_Figure):
    """The figure is above `value` on each of the variants; by default on all that were run."""

    variants: Sequence[str] | None = None
    value: float = 0.5

    def _check(self, variants: Sequence[Variant], correlation: Correlation) -> Statement:
        chosen = self._chosen(variants)
        estimates = self._estimates(chosen)
        if all(low > self.value for _, low, _ in estimates.values()):
            verdict: Verdict = "holds"
        elif any(high < self.value for _, _, high in estimates.values()):
            verdict = "does not hold"
        else:
            verdict = "undecided"
        return self._statement(estimates, *self._sure(verdict, chosen, low=[] if verdict == "holds" else chosen))

    def _chosen(self, variants: Sequence[Variant]) -> list[Variant]:
        named = self.variants
        return self._ran(variants, 1) if named is None else [_named(variants, name) for name in named]

    def _estimates(self, chosen: Sequence[Variant]) -> dict[str, tuple[float, float, float]]:
        return {each.name: (self._value(self._attack_of(each)), *limits(self._draws(each))) for each in chosen}

    def _statement(
        self, estimates: dict[str, tuple[float, float, float]], verdict: Verdict, doubts: Sequence[str]
    ) -> Statement:
        values = ", ".join(
            f"{name} {show(value)} [{show(low)}, {show(high)}]" for name, (value, low, high) in estimates.items()
        )
        detail = "; ".join([values, *doubts])
        lowest = min(estimates.values())
        return Statement(
            text=self.text, verdict=verdict, detail=detail, estimate=lowest[0], low=lowest[1], high=lowest[2]
        )


@dataclass(frozen=True, kw_only=True)
class NearChance(Above):
    """The figure is within `within` of `value`, what chance gives, on each of the variants."""

    within: float = 0.05

    def _check(self, variants: Sequence[Variant], correlation: Correlation) -> Statement:
        chosen = self._chosen(variants)
        estimates = self._estimates(chosen)
        bottom, top = self.value - self.within, self.value + self.within
        if all(bottom <= low and high <= top for _, low, high in estimates.values()):
            verdict: Verdict = "holds"
        elif any(high < bottom or low > top for _, low, high in estimates.values()):
            verdict = "does not hold"
        else:
            verdict = "undecided"
        is_above = any(low > top for _, low, _ in estimates.values())
        return self._statement(estimates, *self._sure(verdict, chosen, low=[] if is_above else chosen))


@dataclass(frozen=True, kw_only=True)
class FollowsGap(_Figure):
    """Over the variants the figure rises with the generalisation gap (Spearman's rank correlation, permuted)."""

    level: float = 0.05

    def _check(self, variants: Sequence[Variant], correlation: Correlation) -> Statement:
        ran = self._ran(variants, _FEWEST_RANKED)
        gap = np.array([each.generalization_gap for each in ran], dtype=float)
        value = np.array([self._value(self._attack_of(each)) for each in ran])
        rho, above, below = rank_correlation(gap, value)
        verdict: Verdict = "holds" if above <= self.level else "does not hold" if below <= self.level else "undecided"
        verdict, doubts = self._sure(verdict, ran, low=ran)
        found = f"rank correlation {show(rho, 2)} over {len(ran)} variants (one-sided p = {above:.3f})"
        return Statement(
            text=self.text,
            verdict=verdict,
            detail="; ".join([found, *doubts]),
            estimate=rho,
        )


@dataclass(frozen=True, kw_only=True)
class ClassesFail:
    """There are classes of which no shadow record could be synthesised."""

    text: str
    variant: str

    def check(self, variants: Sequence[Variant], correlation: Correlation = independent) -> Statement:
        """The statement, with the classes by name.

        Raises:
            InputError: there is no such variant.
        """
        variant = _named(variants, self.variant)
        if variant.skipped is not None:
            return Statement(text=self.text, verdict="not run", detail=f"{variant.name}: {variant.skipped}")
        failed = variant.failed_classes
        detail = f"{len(failed)} of {variant.num_classes} classes" + (f": {', '.join(failed)}" if failed else "")
        if variant.queries_per_record is not None:
            detail += f"; {variant.queries_per_record:.0f} queries for each record"
        return Statement(
            text=self.text,
            verdict="holds" if failed else "does not hold",
            detail=detail,
            estimate=float(len(failed)),
        )


def rank_correlation(x: Numbers, y: Numbers) -> tuple[float, float, float]:
    """Spearman's rank correlation with its one-sided p-values, that it is as large, or as small, by chance.

    Exact, by all permutations, for up to eight points; scipy's approximation for more.
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0, 1.0, 1.0
    if len(x) > _MOST_PERMUTED:
        above, below = (spearmanr(x, y, alternative=side) for side in ("greater", "less"))
        return float(above.statistic), float(above.pvalue), float(below.pvalue)
    ranks_x, ranks_y = rankdata(x) - (len(x) + 1) / 2, rankdata(y) - (len(y) + 1) / 2
    orders = np.array(list(permutations(range(len(y)))))
    products = ranks_y[orders] @ ranks_x
    observed = float(ranks_y @ ranks_x)
    correlation = observed / float(np.sqrt((ranks_x @ ranks_x) * (ranks_y @ ranks_y)))
    tolerance = 1e-9 * len(x) ** 3
    return (
        correlation,
        float((products >= observed - tolerance).mean()),
        float((products <= observed + tolerance).mean()),
    )


def _named(variants: Sequence[Variant], name: str) -> Variant:
    for variant in variants:
        if variant.name == name:
            return variant
    names = ", ".join(each.name for each in variants)
    raise InputError(f"`comparison.findings` names the variant {name!r}; the variants are {names}.")
