"""How a model that somebody else serves is asked: in batches, several at once, within a budget, and never twice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mia_lightning.errors import InputError
from mia_lightning.targets.service import whole_number

ANSWERS = ("auto", "probabilities", "logits", "labels")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Settings of what is asked, and of how its answers are read.

    Attributes:
        budget: records that may be asked about in all, by every run that shares the responses; None for no limit.
            Records that are asked about again, after a fault of the server or as sentinels, count again.
        batch_size: records in a request.
        concurrency: requests at once.
        requests_per_second: at most; None for no limit.
        timeout: seconds, of a request.
        retries: of a request, after growing pauses or those that the server asks for.
        responses: folder in which answers are kept for good; None keeps them for this run alone.
        price_per_thousand: of a thousand records, for an estimate of the cost; None for no estimate.
        sentinels: records that are asked about again, at once and at the end: whether answers vary from call to call,
            and whether the model changed.
        classes: names of the classes in the server's order; None for those of the data set.
        answer: what the numbers are; `auto` takes them for probabilities, and names or whole numbers for labels.

    Raises:
        InputError: a value out of its range.
    """

    budget: int | None = None
    batch_size: int = 32
    concurrency: int = 4
    requests_per_second: float | None = None
    timeout: float = 30.0
    retries: int = 5
    responses: str | Path | None = None
    price_per_thousand: float | None = None
    sentinels: int = 16
    classes: Sequence[str] | None = None
    answer: Literal["auto", "probabilities", "logits", "labels"] | str = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "concurrency"):
            object.__setattr__(self, name, whole_number(f"asking.{name}", getattr(self, name)))
        if self.budget is not None:
            object.__setattr__(self, "budget", whole_number("asking.budget", self.budget))
        for name in ("retries", "sentinels"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise InputError(f"`target.asking.{name}` is {value!r}; it must be a whole number of at least 0.")
        for name in ("timeout", "requests_per_second", "price_per_thousand"):
            _check_positive(name, getattr(self, name))
        if self.timeout is None:
            raise InputError("`target.asking.timeout` is None; it must be a number of seconds above 0.")
        if self.responses is not None and not str(self.responses).strip():
            raise InputError("`target.asking.responses` is empty; it must be a folder, or null to keep no answers.")
        if self.answer not in ANSWERS:
            raise InputError(f"`target.asking.answer` is {self.answer!r}; it must be one of {', '.join(ANSWERS)}.")
        if self.classes is not None:
            if isinstance(self.classes, str):
                raise InputError(
                    f"`target.asking.classes` is {self.classes!r}; it must be a list of the names of all classes."
                )
            object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))


def _check_positive(name: str, value: object) -> None:
    if value is None:
        return
    if type(value) not in (int, float) or not math.isfinite(value) or not value > 0:  # type: ignore[arg-type, operator]
        raise InputError(f"`target.asking.{name}` is {value!r}; it must be a number above 0.")
