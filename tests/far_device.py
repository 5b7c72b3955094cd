"""An accelerator on a machine without one: what runs on it can be told from what runs on the host, and read backs seen.

A tensor on it says that it is on the `meta` device, so that no code can get at its numbers but through an operation of
torch. It holds them, though, on the CPU: every operation is really computed, and results can be compared. Autograd,
`vmap` and optimisers see tensors of `meta`.

Refused are operations on tensors of both devices, which `meta` itself lets pass in part, everything for which a real
device would have to wait (its numbers are read, or an output has a size that depends on them), and copies from the
host, but for those that `MEANT` names.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

FAR = torch.device("meta")
aten = torch.ops.aten

MEANT: Mapping[str, str] = {
    "mia_lightning.terminal.progress.quantiles_of": "losses that are shown, four times a second at most",
    "mia_lightning.training.step.module.StackModule._stop_where_no_better": "which models stop, at the end of an epoch",
    "mia_lightning.training.step.module.StackModule.on_train_end": "which models stopped or failed, once",
    "mia_lightning.defenses.poisson.PoissonBatches._widths": "sizes of Poisson batches, once an epoch",
    "mia_lightning.defenses.private_gradients.PrivateGradients._on": "the constants of private gradients, once",
    "mia_lightning.defenses.mixup._beta_quantiles": "a table of quantiles, once",
}
"""By the qualified names of functions: what a training reads from its device, and copies there, after it has begun."""

MEANT_OF_HOST: Mapping[str, str] = {
    "mia_lightning.training.step.gathered.GatheredBatches._next": "the records of a batch, one ahead of the step",
    "mia_lightning.datasets.population.Population.records": "records for validation, or to be asked about",
}
"""Likewise, where records stay on the host."""

MEANT_OF_ANSWERS: Mapping[str, str] = {
    "mia_lightning.training.trained.TrainedStack._ask_alike": "which records; answers that the host is to hold",
    "mia_lightning.training.trained.TrainedStack._ask_each": "which records; answers that the host is to hold",
}
"""Likewise, where models are observed."""

_READS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class FarTensor(Tensor):
    """A tensor of the far device; `inner` holds its numbers."""

    inner: Tensor
    is_meta = False  # it has numbers

    @staticmethod
    def __new__(cls, inner: Tensor) -> "FarTensor":
        with torch.inference_mode(False):
            made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device=FAR,
            )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a far tensor outside of `FarDevice`")


class RefusedError(AssertionError):
    """What a device would have to wait for, or could not do."""


class _Numbers(TorchFunctionMode):
    """Between tensors and Python's numbers, which do not go through operations: on the host, and copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], FarTensor):
            args, kwargs = args[1:], {"dtype": args[0].dtype, "device": FAR, **kwargs}
            func = torch.tensor
        if func is Tensor.tolist and isinstance(args[0], FarTensor):
            return args[0].cpu().tolist()
        if func is Tensor.__getitem__ and isinstance(args[0], FarTensor):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = args[0], tuple(torch.tensor(each).to(FAR) if isinstance(each, list) else each for each in places)
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device) == FAR:
            return func(*args, **{**kwargs, "device": None}).to(FAR)
        return func(*args, **kwargs)


class FarDevice(TorchDispatchMode):
    """The mode in which there is a far device.

    Attributes:
        is_strict: whether reading and copying is refused; operations on both devices always are.
        meant: by the names of functions, which may read and copy all the same, and why.
        seen: how often each of these did.
        refused: what was refused, also where the code under test has caught the error.
    """

    def __init__(self, meant: Mapping[str, str] = MEANT) -> None:
        super().__init__()
        self.is_strict = False
        self.meant = meant
        self.seen: dict[str, int] = {}
        self.refused: list[str] = []

    def __enter__(self) -> "FarDevice":
        self._numbers = _Numbers()
        self._numbers.__enter__()
        self._overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # the numbers of a tensor go with its object
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._numbers.__exit__(*raised)
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwrites)

    @contextmanager
    def _parts(self) -> Iterator[None]:
        """The mode again, within what it dispatches."""
        TorchDispatchMode.__enter__(self)
        try:
            yield
        finally:
            TorchDispatchMode.__exit__(self, None, None, None)

    def twin(self) -> "FarDevice":
        """The same for another thread, since each has modes of its own."""
        other = FarDevice(self.meant)
        other.is_strict, other.seen, other.refused = self.is_strict, self.seen, self.refused
        return other

    @contextmanager
    def strictly(self) -> Iterator[None]:
        """Within the context, reading and copying is refused."""
        before, self.is_strict = self.is_strict, True
        try:
            yield
        finally:
            self.is_strict = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if _is_composite(func):
            with self._parts():  # in inference mode nobody has taken it apart before
                return func.decompose(*args, **kwargs)
        far: list[FarTensor] = []
        near: list[Tensor] = []
        inner_args, inner_kwargs = _opened(args, far, near), _opened(kwargs, far, near)
        assert all(each.device != FAR for each in near), f"{func}: a tensor of `meta` without numbers"
        is_copy = func in (aten._to_copy.default, aten.copy_.default, aten._copy_from.default)
        if is_copy:
            self._look_at_copy(func, args, kwargs)
        else:
            self._look(func, args, far, near)
        given = kwargs.get("device")
        goes_far = torch.device(given) == FAR if given is not None else bool(far)
        if func is aten.copy_.default:
            goes_far = isinstance(args[0], FarTensor)
        if given is not None and goes_far:
            inner_kwargs["device"] = torch.device("cpu")
        outer = {id(each.inner): each for each in far}
        out = func(*inner_args, **inner_kwargs)
        if func is aten._to_copy.default and len(far) == 1 and not goes_far and out is far[0].inner:
            out = out.clone()
        if not goes_far:
            return out

        def outside(each: Any) -> Any:
            if not isinstance(each, Tensor):
                return each
            return outer[id(each)] if id(each) in outer else FarTensor(each)  # what was changed in place is itself

        return outside(out) if isinstance(out, Tensor) else tree_map(outside, out)

    def _look_at_copy(self, func: Any, args: Any, kwargs: Any) -> None:
        if func is aten._to_copy.default:
            source, given = args[0], kwargs.get("device")
            from_far = isinstance(source, FarTensor)
            to_far = from_far if given is None else torch.device(given) == FAR
        else:
            from_far, to_far = isinstance(args[1], FarTensor), isinstance(args[0], FarTensor)
        if from_far and not to_far:
            self._refuse(f"{func}: a copy to the host")
        if to_far and not from_far:
            self._refuse(f"{func}: a copy from the host")

    def _look(self, func: Any, args: Any, far: list[FarTensor], near: list[Tensor]) -> None:
        if far and near:
            are_numbers = torch.Tag.pointwise in func.tags and all(each.dim() == 0 for each in near)
            if not are_numbers and func is not aten.lift_fresh.default:
                self._refuse(f"{func}: tensors of both devices", always=True)
        if far and (func in _READS or (func in _INDEXED and _has_mask(args[1]))):
            self._refuse(f"{func}: the numbers of the device are read")

    def _refuse(self, sentence: str, *, always: bool = False) -> None:
        place = _place(sys._getframe(1))
        if place in self.meant and not always:
            self.seen[place] = self.seen.get(place, 0) + 1
        elif self.is_strict or always:
            self.refused.append(f"{place}: {sentence}")
            raise RefusedError(self.refused[-1])


@cache
def _is_composite(func: Any) -> bool:
    """Whether torch takes the operation apart into others."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _opened(given: Any, far: list[FarTensor], near: list[Tensor]) -> Any:
    """What is given, with the numbers in the place of far tensors; notes the tensors of both kinds."""
    if isinstance(given, Tensor):
        (far if isinstance(given, FarTensor) else near).append(given)  # type: ignore[arg-type]
        return _inner(given)
    if isinstance(given, dict):
        return {name: _opened(each, far, near) for name, each in given.items()}
    if isinstance(given, list | tuple):
        return type(given)(_opened(each, far, near) for each in given)
    return given


def _inner(each: Any) -> Any:
    return each.inner if isinstance(each, FarTensor) else each


def _has_mask(indices: Any) -> bool:
    return any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in indices)


def _place(frame: FrameType | None) -> str:
    """The qualified name of the innermost function of the package that runs."""
    while frame is not None:
        name = f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}".partition(".<")[0]
        if name.startswith("mia_lightning."):
            return name
        frame = frame.f_back
    return "a test"


def numbers_of(tensor: Tensor) -> Tensor:
    """The numbers of a tensor, wherever it is; for assertions."""
    return _inner(tensor)
