"""Which records a sampler gives, a user's own one, too: it is asked in a copy, and stays as it was."""

import copy
import random
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from mia_lightning.seeds import isolated

_PASSES, _AGREEING = 8, 4
_LONGEST = 8  # times the number of records, where a pass that has no end is cut
_CHANGED = (list, dict, set, deque, np.ndarray, np.random.Generator, np.random.RandomState, random.Random)


def passes(sampler: Any, most: int) -> Iterator[list[int]]:
    """The records of one pass after another, each of at most so many; batches are joined.

    The global generators are other ones in each pass, and as before afterwards.
    """
    twin = _twin(sampler)
    for number in range(_PASSES):
        with isolated(number, "sampler"):
            found = list(islice(_records(twin), most))
        yield found


def ever_dealt(sampler: Any, num_records: int) -> set[int] | None:
    """The records that a sampler of records, or of batches, gives in any of its passes.

    None where this cannot be told: passes go on giving others, as draws by chance do, or it fails. One that draws by
    `weights` of the records gives those with a weight above 0.
    """
    weighted = weighted_records(sampler, num_records)
    if weighted is not None:
        return set(weighted)
    if isinstance(sampler, Iterator):  # which can be passed through once alone
        return None
    found: set[int] = set()
    alike = 0
    try:
        for number, each in enumerate(map(set, passes(sampler, _LONGEST * num_records))):
            is_equal = number == 1 and each == found
            alike = alike + 1 if each <= found else 0
            found |= each
            if is_equal or alike == _AGREEING or len(found) == num_records:
                return found
    except Exception:  # of the user's own code
        return None
    return None


def weighted_records(sampler: Any, num_records: int) -> list[int] | None:
    """The records that a sampler with weights of records can draw; None of any other, also with weights of classes."""
    weights: object = getattr(sampler, "weights", None)
    if not isinstance(weights, Tensor) or weights.shape != (num_records,):
        return None
    return weights.nonzero().flatten().tolist()


def _records(sampler: Iterable[Any]) -> Iterator[int]:
    for each in sampler:
        is_batch = isinstance(each, Iterable) and getattr(each, "ndim", 1) > 0
        yield from map(int, each) if is_batch else (int(each),)


def _twin(sampler: Any) -> Any:
    """A copy of it, with copies of what a pass may change: counters, lists, generators, and samplers inside."""
    try:
        twin = copy.copy(sampler)
    except TypeError:  # of a generator, or what holds a lock
        return sampler
    for name, value in list(getattr(twin, "__dict__", {}).items()):
        if isinstance(value, torch.Generator):
            vars(twin)[name] = value.clone_state()
        elif isinstance(value, _CHANGED):
            vars(twin)[name] = copy.deepcopy(value) if hasattr(value, "shuffle") else copy.copy(value)
        elif isinstance(value, Sampler):
            vars(twin)[name] = _twin(value)
    return twin
