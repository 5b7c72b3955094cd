"""What a client sees of an answer: all probabilities, the largest ones by name, or the class alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mia_lightning.defenses.interface import OutputDefense
from mia_lightning.errors import InputError

PROBABILITIES, LABELS, TOP = "probabilities", "labels", "top"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The form of an answer.

    Attributes:
        kind: `PROBABILITIES`, `TOP` or `LABELS`.
        k: how many classes `TOP` shows.
        digits: to which the probabilities are rounded; None for all that a float64 holds.
    """

    kind: str
    k: int = 0
    digits: int | None = None

    @classmethod
    def of(cls, answers: str, defenses: Sequence[OutputDefense], num_classes: int) -> "Shown":
        """The narrower of `answers` and of what the defences leave; hidden classes are not sent at all.

        Args:
            answers: `probabilities`, `labels` or `top:K`.

        Raises:
            InputError: `answers` is none of these, or K is above the number of classes.
        """
        match = re.fullmatch(r"probabilities|labels|top:([1-9]\d{0,5})", answers)
        if match is None:
            raise InputError(f"`--answers` is {answers!r}; it must be probabilities, labels or top:K, such as top:3.")
        if int(match[1] or 0) > num_classes:
            raise InputError(f"`--answers` is {answers!r}, and the model knows {num_classes} classes; give no more.")
        forms = [each.form for each in defenses]
        digits: int | None = None
        for form in forms:
            if form.digits is not None or form.kind == "full":  # which changes what was rounded before it
                digits = form.digits
        if answers == LABELS or any(form.kind == "labels" for form in forms):
            return cls(kind=LABELS)
        counts = [form.k for form in forms if form.k is not None and form.k < num_classes]
        counts += [int(match[1])] if match[1] else []
        if not counts:
            return cls(kind=PROBABILITIES, digits=digits)
        return cls(kind=TOP, k=min(*counts, num_classes), digits=digits)

    def describe(self) -> str:
        """A few words for a person."""
        words = {PROBABILITIES: "all probabilities", LABELS: "the class alone", TOP: f"the {self.k} largest ones"}
        return words[self.kind] + ("" if self.digits is None else f", rounded to {self.digits} digits")


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """The answers of a model for B records.

    Attributes:
        probability_BC: float64, on the CPU.
        class_names: in the order of the columns.
        shown: what a client sees of them.
    """

    probability_BC: Tensor
    class_names: tuple[str, ...]
    shown: Shown

    def __len__(self) -> int:
        return len(self.probability_BC)

    def probabilities(self) -> list[list[float]]:
        """Of all classes."""
        rows: list[list[float]] = self._rounded(self.probability_BC).tolist()
        return rows

    def labels(self) -> list[str]:
        """The name of the most probable class; of tied ones that of lowest index."""
        return [self.class_names[c] for c in self.probability_BC.argmax(-1).tolist()]

    def largest(self) -> tuple[list[list[str]], list[list[float]]]:
        """Names and probabilities of the `shown.k` most probable classes, the largest first."""
        value_BC, order_BC = self.probability_BC.sort(dim=-1, descending=True, stable=True)
        k = self.shown.k
        names = [[self.class_names[c] for c in row] for row in order_BC[:, :k].tolist()]
        return names, self._rounded(value_BC[:, :k]).tolist()

    def predictions(self) -> list[Any]:
        """For each record a list of probabilities, an object of names and probabilities, or the name of a class."""
        if self.shown.kind == LABELS:
            return list(self.labels())
        if self.shown.kind == PROBABILITIES:
            return list(self.probabilities())
        return [dict(zip(*row, strict=True)) for row in zip(*self.largest(), strict=True)]

    def _rounded(self, value: Tensor) -> Tensor:
        """Rounded anew: what stands just below half of the last digit was rounded to zero, and is shown as zero."""
        digits = self.shown.digits
        return value if digits is None else torch.from_numpy(value.numpy().round(digits))
