"""Processes that train for a test are forks of one that has imported everything, instead of new interpreters.

Programs that tests start (`test_devices_ended.py` has some) start theirs as they do for a person.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import util
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

import pytest

IMPORTED = ["pytest", "hypothesis", "sklearn", "mia_lightning.training.devices.local_shard"]


class WarmProcess(ForkServerProcess):
    """It has the environment that its parent has when it starts it, and ignores Ctrl-C where its parent does so."""

    def start(self) -> None:
        self.environment = dict(os.environ)
        self.ignored = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is signal.SIG_IGN]
        super().start()

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if number in self.ignored else handler)
        super().run()


class WarmContext(ForkServerContext):
    Process = WarmProcess  # type: ignore[assignment]


@pytest.fixture(scope="session", autouse=True)
def _warm_processes() -> Iterator[None]:
    warm, get_context = WarmContext(), multiprocessing.get_context
    warm.set_forkserver_preload(IMPORTED)
    util.get_temp_dir()  # made now, so that no test finds it in a folder of its own

    def context(method: str | None = None) -> Any:
        return warm if method == "spawn" else get_context(method)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", context)
        yield
