"""An endpoint in this process, which counts what it is asked."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mia_lightning.targets.endpoints.answers import Reading
from mia_lightning.targets.endpoints.asker import Asker
from mia_lightning.targets.endpoints.asking import Asking

CLASSES = ("a", "b", "c")


def softmax_of(x_B: Tensor) -> list[object]:
    """Probabilities of three classes, in double precision."""
    return x_B.double()[:, :3].softmax(1).tolist()


class Scripted:
    """Answers with what `answer` makes of the records; `fail` may raise first, given the number of the call from 1."""

    protocol = "scripted"
    place = "here"

    def __init__(
        self,
        answer: Callable[[Tensor], Sequence[object]] = softmax_of,
        *,
        fail: Callable[[int], None] = lambda call: None,
        identity: str = "one",
    ) -> None:
        self.answer, self.fail = answer, fail
        self.identity: Mapping[str, object] = {"name": identity}
        self.asked: Counter[bytes] = Counter()
        self.sizes: list[int] = []
        self.calls = self.busy = self.busiest = 0
        self.is_closed = False
        self._lock = threading.Lock()

    @property
    def num_asked(self) -> int:
        """Records asked about."""
        return sum(self.asked.values())

    def ask(self, x_B: Tensor) -> Sequence[object]:
        with self._lock:
            self.calls += 1
            call = self.calls
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            self.fail(call)
            if call % 3 == 0:
                time.sleep(0.003)  # so that requests do not end in the order in which they began
            with self._lock:
                self.sizes.append(len(x_B))
                self.asked.update(row.numpy().tobytes() for row in x_B)
                return self.answer(x_B)
        finally:
            with self._lock:
                self.busy -= 1

    def close(self) -> None:
        self.is_closed = True


def records(num: int, seed: int = 0) -> Tensor:
    """Different records `[N, 4]`."""
    return torch.randn(num, 4, generator=torch.Generator().manual_seed(seed))


def reading(answer: str = "auto", classes: tuple[str, ...] | None = None) -> Reading:
    return Reading(place="here", class_names=CLASSES, classes=classes, answer=answer)


def asker(endpoint: Scripted, remark: Callable[[str], object] = print, **settings: object) -> Asker:
    return Asker(endpoint, Asking(**settings), reading(), remark=remark)
