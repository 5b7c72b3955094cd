"""Sentinels: records that are asked about again, to see whether answers vary and whether the model changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.seeds import generator
from mia_lightning.targets.endpoints.answers import Reading
from mia_lightning.targets.endpoints.asker import Asker
from mia_lightning.training.signals import AnswerForm

# Two probabilities that are farther apart differ; a batch of other records moves single-precision ones by less.
SAME = 1e-5


@dataclass(frozen=True, kw_only=True)
class Testimony:
    """What a run knows of the model that it asked.

    Attributes:
        protocol, place: of the endpoint.
        form: of the answers; None where nothing was asked.
        num_records: different records with a known answer.
        num_found: how many of them have an answer that another run kept.
        num_sent: records that this run asked about.
        num_repeated: how many of them it asked about again, after a fault or as sentinels.
        num_spent: records that all runs that share the responses asked about.
        budget: None for no limit.
        cost: of what this run asked about, in the currency of `price_per_thousand`; None where that is not known.
        num_wanted: how many sentinels the settings ask for.
        num_at_once: sentinels that were asked about again at once, and whose first answer this run got.
        num_varied: how many of these got another answer: answers vary from call to call.
        num_kept: sentinels that were asked about again, and whose first answer another run kept.
        num_outdated: how many of these got another answer: the model changed since, or its answers vary.
        num_at_end: sentinels that were asked about again at the end.
        num_changed: how many of these got another answer than the last time: the model changed during the audit, or its
            answers vary.
        largest_difference: in a probability, between any two answers for a sentinel; None where none was asked about
            again.
        failure: why no sentinel could be asked about at the end; None where they were.
    """

    protocol: str
    place: str
    form: AnswerForm | None
    num_records: int
    num_found: int
    num_sent: int
    num_repeated: int
    num_spent: int
    budget: int | None
    cost: float | None
    num_wanted: int
    num_at_once: int = 0
    num_varied: int = 0
    num_kept: int = 0
    num_outdated: int = 0
    num_at_end: int = 0
    num_changed: int = 0
    largest_difference: float | None = None
    failure: str | None = None


class Sentinels:
    """Some records of the first observation, drawn by name.

    Args:
        asker, reading: of the model.
        x_N: records `[N, *features]`.
        key_N: of their answers.
        number_N: what messages call them.
        wanted: how many sentinels; fewer where the budget does not have twice as many records left.
        seed: of the run.
    """

    def __init__(
        self,
        asker: Asker,
        reading: Reading,
        x_N: Tensor,
        key_N: Sequence[bytes],
        number_N: Sequence[int],
        *,
        wanted: int,
        seed: int,
    ) -> None:
        self._asker, self._reading = asker, reading
        left = asker.left
        num = min(wanted, len(x_N) if left is None else left // 2, len(x_N))
        order = torch.randperm(len(x_N), generator=generator(seed, "sentinels"))
        place_S = sorted(order[:num].tolist())
        self._number_S = [number_N[place] for place in place_S]
        self._x_S = x_N[place_S].cpu()
        key_S = [key_N[place] for place in place_S]
        self._is_fresh_S = torch.tensor([asker.is_fresh(key) for key in key_S], dtype=torch.bool)
        self._first_SC = self._read(asker.answers(key_S))
        self._last_SC = self._first_SC
        self._largest = 0.0

    def __len__(self) -> int:
        return len(self._number_S)

    def ask_at_once(self) -> dict[str, int]:
        """Ask about them again, right after the first answers; returns counts of `Testimony`."""
        differs_S = self._differs_now()
        fresh_S = self._is_fresh_S
        return {
            "num_at_once": int(fresh_S.sum()),
            "num_varied": int((differs_S & fresh_S).sum()),
            "num_kept": int((~fresh_S).sum()),
            "num_outdated": int((differs_S & ~fresh_S).sum()),
        }

    def ask_at_end(self) -> dict[str, int | str | None]:
        """Ask about as many as the budget still allows once more; returns counts of `Testimony`."""
        left = self._asker.left
        num = len(self) if left is None else min(left, len(self))
        try:
            differs_S = self._differs_now(num)
        except InputError as error:
            return {"num_at_end": 0, "num_changed": 0, "failure": str(error)}
        return {"num_at_end": num, "num_changed": int(differs_S.sum()), "failure": None}

    @property
    def largest_difference(self) -> float | None:
        """Between any two answers for one record; None where none was asked about again."""
        return self._largest if len(self) else None

    def _differs_now(self, num: int | None = None) -> Tensor:
        """bool `[S]`: whether the answer is another than the last time."""
        num = len(self) if num is None else num
        if num == 0:
            return torch.zeros(0, dtype=torch.bool)
        now_SC = self._read(self._asker.ask_again(self._x_S[:num], self._number_S[:num]))
        difference_S = (now_SC - self._last_SC[:num]).abs().amax(1)
        from_first_S = (now_SC - self._first_SC[:num]).abs().amax(1)
        self._largest = max(self._largest, float(difference_S.max()), float(from_first_S.max()))
        self._last_SC = torch.cat([now_SC, self._last_SC[num:]])
        return difference_S > SAME

    def _read(self, answers: Sequence[Any]) -> Tensor:
        """Probabilities `[S, C]` float64."""
        if not answers:
            return torch.empty(0, len(self._reading.class_names), dtype=torch.float64)
        return self._reading.read(answers, self._number_S[: len(answers)])[0].double().exp()
