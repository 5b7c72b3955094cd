"""Tasks on several threads at once, none of which keeps alive a process that is told to end."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Task = TypeVar("Task")


def run_all(tasks: Sequence[Task], do: Callable[[Task], None], *, at_once: int, stop: Callable[[], None]) -> None:
    """`do` each task, in any order; the first exception is raised once each thread has finished its task.

    An interrupt is raised at once: the threads are daemons, unlike those of `concurrent.futures`, for which Python
    waits when it ends.

    Args:
        stop: is called when a task failed, or at an interrupt, so that tasks that wait give up.
    """
    if min(at_once, len(tasks)) <= 1:
        for task in tasks:
            do(task)
        return
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while True:
                do(waiting.get_nowait())
        except queue.Empty:
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(tasks)))]
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
