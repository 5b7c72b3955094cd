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
        items: none of them None.
        stop: is called when an item failed, or at an interrupt, so that threads that wait give up.
    """
    num_threads = min(at_once, len(items))
    if num_threads <= 1:
        for item in items:
            do(item)
        return
    waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
    for each in [*items, *[None] * num_threads]:
        waiting.put(each)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while (item := waiting.get()) is not None:
                do(item)
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_threads)]
    first: BaseException | None = None
    try:
        for thread in threads:
            thread.start()
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
