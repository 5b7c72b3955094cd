"""The pool of processes in which estimators are fitted, one thread each. No torch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mia_lightning.errors import InputError, first_line

T = TypeVar("T")


def in_pool(
    function: Callable[..., T], shared: Sequence[Any], calls: Sequence[Sequence[Any]], *, processes: int
) -> Iterator[T]:
    """What `function(*shared, *call)` returns for each call, in the order in which they end.

    Args:
        processes: 1 calls it in this process.

    Raises:
        InputError: a process of the pool ended, as the system ends one for lack of memory.
    """
    processes = min(processes, len(calls))
    if processes <= 1:
        for call in calls:
            yield function(*shared, *call)
        return
    import joblib

    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        pool = joblib.Parallel(
            n_jobs=processes, batch_size=1, pre_dispatch="2*n_jobs", max_nbytes=None, return_as="generator_unordered"
        )
        try:
            yield from pool(joblib.delayed(function)(*shared, *call) for call in calls)
        except BrokenProcessPool as error:
            raise InputError(
                f"A process that fitted estimators ended before it was done ({first_line(error)}); memory may have run "
                "out: set fewer processes by target.processes=1, or make the estimators smaller."
            ) from error


def refused_by_pool(value: Any) -> str | None:
    """Why a value cannot be sent to another process, a clause; None where it can."""
    from joblib.externals.loky.backend.reduction import dumps

    try:
        dumps(value)
    except Exception as error:  # pickle may raise anything
        return f"{type(error).__name__}: {first_line(error)}"
    return None
