"""Work on several threads at once, none of which keeps alive a process that is told to end."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def run_all(items: Sequence[Item], do: Callable[[Item], None], *, at_once: int, stop: Callable[[], None]) -> None:
    """`do` each item, in any order; the first exception is raised once each thread has finished its item.

    An interrupt is raised at once: the threads are daemons, unlike those of `concurrent.futures`, for which Python
    waits when it ends.

    Args:
        stop: is called when an item failed, or at an interrupt, so that threads that wait give up.
    """
    if min(at_once, len(items)) <= 1:
        for item in items:
            do(item)
        return
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while True:
                do(waiting.get_nowait())
        except queue.Empty:
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(items)))]
    for thread in threads:
        thread.start()
    first: BaseException | None = None
    try:
        for _ in threads:
            error = ended.get()
            if error is not None and first is None:
                first = error
                stop()
    except BaseException:
        stop()
        raise
    if first is not None:
        raise first
