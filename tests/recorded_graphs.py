"""CUDA graphs on a machine without CUDA: operations that are recorded with their memory, and done again there.

As a graph does, a recording keeps nothing of Python: a number that Python computed is what it was, and a tensor is the
memory that it had. While it records, nothing is done, as far as anybody can see afterwards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mia_lightning.training.step import graphs

_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default)


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._made: dict[int, Tensor] = {}  # of the recording; held, so that no address comes twice
        self._before: dict[int, tuple[Any, Any]] = {}  # memory that was there before and is written to, and a copy

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        for argument, given in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(given)
        if func is torch.ops.aten.native_batch_norm.default:  # whose schema does not say so
            self._keep(args[3:5])
        out = func(*args, **(kwargs or {}))
        results = [each for each in tree_flatten(out)[0] if isinstance(each, Tensor)]
        known = {_memory(each) for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)}
        for each in results:
            if _memory(each) not in known:
                self._made[_memory(each)] = each
        self.calls.append((func, args, kwargs or {}, results))
        return out

    def _keep(self, given: Any) -> None:
        for each in given if isinstance(given, list | tuple) else [given]:
            if isinstance(each, Tensor) and _memory(each) not in self._made and _memory(each) not in self._before:
                self._before[_memory(each)] = (each.untyped_storage(), each.untyped_storage().clone())

    def undo(self) -> None:
        for memory, before in self._before.values():
            memory.copy_(before)
        self._before.clear()

    def again(self) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for func, args, kwargs, results in self.calls:
                out = [each for each in tree_flatten(func(*args, **kwargs))[0] if isinstance(each, Tensor)]
                for place, each in zip(results, out, strict=True):
                    if _memory(each) != _memory(place):  # where it was when it was recorded
                        place.detach().copy_(each)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@dataclass(eq=False)
class Recorded:
    """A `Recorder` for the CPU that writes down what is asked of it.

    Attributes:
        calls: in order.
        fails: whether nothing can be recorded.
    """

    calls: list[str] = field(default_factory=list)
    fails: bool = False

    @contextmanager
    def beside(self) -> Iterator[None]:
        self.calls.append("beside")
        yield

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        self.calls.append("record")
        recording = _Recording()
        try:
            with recording:
                work()
                if self.fails:
                    raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            recording.undo()

        def again() -> None:
            self.calls.append("again")
            recording.again()

        return again


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The recorder of all trainings on the CPU."""
    recorder = Recorded()
    monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: recorder)
    # Steps whose hits are counted are not recorded: those of the first epoch and the last, and no others.
    monkeypatch.setattr("mia_lightning.terminal.progress.SECONDS_BETWEEN_LOOKS", 1e9)
    return recorder
