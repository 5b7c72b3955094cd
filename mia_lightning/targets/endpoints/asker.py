"""Ask a served model about each record once, and keep its answers."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.answers import Reading, plain
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.interface import Endpoint
from mia_lightning.targets.endpoints.pace import Pace, StoppedError
from mia_lightning.targets.endpoints.responses import Responses
from mia_lightning.targets.endpoints.threads import run_all
from mia_lightning.targets.failures import RefusedError, TryAgainError
from mia_lightning.terminal.amounts import duration

_NUMBERS_SHOWN = 6  # of records in a message


@dataclass(frozen=True, eq=False, kw_only=True)
class _Request:
    """Records of one request.

    Attributes:
        x_B, number_B, key_B: the records, their numbers for messages, and their keys.
        is_again: whether they were answered already.
    """

    x_B: Tensor
    number_B: Sequence[int]
    key_B: Sequence[bytes]
    is_again: bool = False


class Asker:
    """Asks one model; equal records are one, and share their answer.

    Args:
        endpoint: what is asked.
        asking: how.
        reading: says what an answer is; nothing else is kept.
        seed: of the jitter of pauses.
        remark: is given sentences for the report.
        note: is given sentences that are not for the report.
        asking_about: is called with the number of records that are to be asked about; what it returns is called with
            the number of answers, as they arrive.

    Attributes:
        num_sent: records that this asker asked about, those asked again included.
        num_repeated: how many of them were asked about again, after a fault or as sentinels.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        asking: Asking,
        reading: Reading,
        *,
        seed: int = 0,
        remark: Callable[[str], object] = print,
        note: Callable[[str], object] = lambda _: None,
        asking_about: Callable[[int], Callable[[int], object]] = lambda _: lambda _: None,
    ) -> None:
        self._asking_about = asking_about
        self._endpoint, self._asking, self._reading, self._remark = endpoint, asking, reading, remark
        self._note = note
        self._pace = Pace(asking.requests_per_second, seed, self._tell_pause)
        self._lock = threading.Lock()
        self._fresh: set[bytes] = set()
        self._found: set[bytes] = set()
        self._answered: Callable[[int], object] = lambda _: None
        self.num_sent = self.num_repeated = 0

    @cached_property
    def responses(self) -> Responses:
        """What was answered so far; the file is opened when it is first wanted."""
        folder = None if self._asking.responses is None else Path(str(self._asking.responses))
        return Responses(folder, self._endpoint.identity, remark=self._remark)

    @property
    def num_answered(self) -> int:
        """How many different records have a known answer."""
        return len(self._fresh | self._found)

    @property
    def num_found(self) -> int:
        """How many of them other runs asked about."""
        return len(self._found)

    @property
    def left(self) -> int | None:
        """Records that may still be asked about; None for no limit."""
        return None if self._asking.budget is None else max(0, self._asking.budget - self.responses.asked)

    def is_fresh(self, key: bytes) -> bool:
        """Whether this asker, and no other run, got the answer."""
        return key in self._fresh

    def ask(self, x_N: Tensor, number_N: Sequence[int] | None = None) -> list[bytes]:
        """Ask about the records `[N, *features]` that have no kept answer; returns the key of each record's answer.

        Args:
            number_N: what messages call the records; by default they count from 0.

        Raises:
            InputError: the budget has too few records left, or the model gives no answer or one that cannot be used.
        """
        x_N = x_N.detach().cpu()
        key_N = keys_of(x_N)
        number_N = range(len(x_N)) if number_N is None else number_N
        first_of: dict[bytes, int] = {}  # places in x_N
        for place, key in enumerate(key_N):
            first_of.setdefault(key, place)
        missing = self._missing(first_of)
        if missing:
            with self.responses.alone():
                missing = self._missing(first_of)  # another process may have asked in between
                self._check_budget(len(first_of), len(missing))
                requests = _cut(missing, self._asking.batch_size)
                self._answered = self._asking_about(len(missing))
                self._send([_request(x_N, number_N, first_of, keys) for keys in requests])
        self._found |= first_of.keys() - self._fresh
        return key_N

    def answers(self, keys: Sequence[bytes]) -> list[Any]:
        """The kept answers, in order."""
        kept = self.responses.kept(list(dict.fromkeys(keys)))
        return [kept[key] for key in keys]

    def ask_again(self, x_B: Tensor, number_B: Sequence[int]) -> list[Any]:
        """What the model answers now, whether or not an answer is kept; these answers are not kept.

        Raises:
            InputError: as in `ask`.
        """
        x_B, answers = x_B.detach().cpu(), []
        self._pace.resume()
        for place in _cut(range(len(x_B)), self._asking.batch_size):
            numbers = [number_B[each] for each in place]
            request = _Request(x_B=x_B[list(place)], number_B=numbers, key_B=(), is_again=True)
            answers += self._answer(request)
        return answers

    def close(self) -> None:
        """Give connections and files back."""
        self._pace.stop()
        self._endpoint.close()
        if "responses" in self.__dict__:
            self.responses.close()

    def _missing(self, first_of: dict[bytes, int]) -> list[bytes]:
        kept = self.responses.are_kept([key for key in first_of if key not in self._fresh])
        return [key for key in first_of if key not in kept and key not in self._fresh]

    def _send(self, requests: Sequence[_Request]) -> None:
        self._pace.resume()
        run_all(requests, self._fill, at_once=self._asking.concurrency, stop=self._pace.stop)

    def _fill(self, request: _Request) -> None:
        answers = self._answer(request)
        self.responses.keep(request.key_B, answers)
        with self._lock:
            self._fresh |= set(request.key_B)
            self._answered(len(request.key_B))

    def _answer(self, request: _Request) -> list[Any]:
        """The answers, after up to 1 + `retries` attempts."""
        is_repeated = request.is_again
        for attempt in range(1, self._asking.retries + 2):
            self._pace.wait_for_turn()
            self._reserve(request, is_repeated=is_repeated)
            try:
                return self._checked(request, self._endpoint.ask(request.x_B))
            except TryAgainError as error:
                failure = error
                if not error.was_asked:
                    self._give_back(request, is_repeated=is_repeated)
                is_repeated = is_repeated or error.was_asked
            except RefusedError:
                self._give_back(request, is_repeated=is_repeated)
                raise
            if attempt <= self._asking.retries:
                self._pace.pause(attempt, failure.after, f"{request.number_B[0]}")
        raise InputError(
            f"The model at {self._endpoint.place} did not answer {_numbered(request.number_B)} in "
            f"{self._asking.retries + 1} {'attempt' if self._asking.retries == 0 else 'attempts'} ({failure.reason}); "
            f"{self._what_is_kept()}; start again once it answers, or raise target.asking.retries."
        )

    def _checked(self, request: _Request, raw: Sequence[object]) -> list[Any]:
        """Refuse what is no answer; the good answers of the same request were paid for, and are kept."""
        numbers = request.number_B
        if len(raw) != len(numbers):
            raise InputError(
                f"The model at {self._endpoint.place} gave {len(raw)} answers for the {len(numbers)} records "
                f"{_numbered(numbers).partition(' ')[2]}; let it give one for each record of a request, in order."
            )
        answers = [plain(each) for each in raw]
        try:
            self._reading.read(answers, numbers)
        except InputError:
            if not request.is_again:
                good = [place for place in range(len(answers)) if self._is_answer(answers[place], numbers[place])]
                self.responses.keep([request.key_B[place] for place in good], [answers[place] for place in good])
            raise
        return answers

    def _is_answer(self, answer: object, number: int) -> bool:
        try:
            self._reading.read([answer], [number])
        except InputError:
            return False
        return True

    def _reserve(self, request: _Request, *, is_repeated: bool) -> None:
        num = len(request.number_B)
        if self._pace.is_stopped:
            raise StoppedError
        if not self.responses.reserve(num, self._asking.budget):
            raise InputError(
                f"The budget of {self._asking.budget} records has {self.left} left, too few for "
                f"{_numbered(request.number_B)}, which must be asked about{' again' if is_repeated else ''}; "
                f"{self._what_is_kept()}; raise target.asking.budget."
            )
        with self._lock:
            self.num_sent += num
            self.num_repeated += num if is_repeated else 0

    def _give_back(self, request: _Request, *, is_repeated: bool) -> None:
        num = len(request.number_B)
        self.responses.give_back(num)
        with self._lock:
            self.num_sent -= num
            self.num_repeated -= num if is_repeated else 0

    def _check_budget(self, num: int, num_missing: int) -> None:
        left = self.left
        if left is None or num_missing <= left:
            return
        raise InputError(
            f"The audit needs answers for {num} different records: {num - num_missing} are kept, {num_missing} must be "
            f"asked about, but target.asking.budget={self._asking.budget} has only {left} left, so nothing was asked; "
            f"raise the budget to at least {self.responses.asked + num_missing}, or audit fewer records."
        )

    def _tell_pause(self, seconds: float) -> None:
        self._note(
            f"The model at {self._endpoint.place} was too busy or did not answer; it is asked again in "
            f"{duration(seconds)}."
        )

    def _what_is_kept(self) -> str:
        if self.responses.path is None:
            return "what it answered so far is lost with this run (target.asking.responses=null)"
        return f"what it answered so far is kept in {self.responses.path.parent}"


def _request(x_N: Tensor, number_N: Sequence[int], first_of: dict[bytes, int], keys: Sequence[bytes]) -> _Request:
    places = [first_of[key] for key in keys]
    return _Request(x_B=x_N[places], number_B=[number_N[place] for place in places], key_B=keys)


def keys_of(x_N: Tensor) -> list[bytes]:
    """Of each record `[N, *features]`: its numbers, their type and shape."""
    form = f"{x_N.dtype}{tuple(x_N.shape[1:])}".encode()
    byte_NB = x_N.contiguous().reshape(len(x_N), -1).view(torch.uint8).numpy()
    return [hashlib.blake2b(form + row.tobytes(), digest_size=20).digest() for row in byte_NB]


def _cut(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _numbered(number_B: Sequence[int]) -> str:
    if len(number_B) == 1:
        return f"record {number_B[0]}"
    if list(number_B) == list(range(number_B[0], number_B[0] + len(number_B))):
        return f"records {number_B[0]} to {number_B[-1]}"
    shown = ", ".join(str(number) for number in number_B[:_NUMBERS_SHOWN])
    return f"records {shown}" + (" and others" if len(number_B) > _NUMBERS_SHOWN else "")
