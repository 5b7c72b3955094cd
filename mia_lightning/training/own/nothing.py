"""What takes the place of loggers and metrics in copies that train: it can be used in any way, and does nothing."""

from collections.abc import Iterator
from typing import Any

from torch import nn


class Nothing:
    """Any call, attribute, element or sum of it is itself; it has no elements, is false, and is NaN as a number."""

    def __getattr__(self, name: str) -> "Nothing":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def _itself(self, *args: Any, **kwargs: Any) -> "Nothing":
        return self

    __call__ = __getitem__ = __enter__ = _itself
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _itself
    __pow__ = __rpow__ = __floordiv__ = __rfloordiv__ = __mod__ = __neg__ = __abs__ = __round__ = _itself
    __lt__ = __le__ = __gt__ = __ge__ = _itself

    def __setattr__(self, name: str, value: object) -> None: ...

    def __setitem__(self, name: object, value: object) -> None: ...

    def __exit__(self, *args: object) -> None: ...

    def __iter__(self) -> Iterator["Nothing"]:
        return iter(())

    def __contains__(self, name: object) -> bool:
        return True

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return False

    def __float__(self) -> float:
        return float("nan")

    def __format__(self, form: str) -> str:
        return "nothing"

    def __repr__(self) -> str:
        return "nothing"

    @classmethod
    def __torch_function__(cls, *args: object, **kwargs: object) -> "Nothing":
        """What torch makes of it, or of tensors and it, is nothing as well."""
        return NOTHING

    def __reduce__(self) -> str:
        return "NOTHING"


NOTHING = Nothing()


class NoMetric(nn.Module):
    """In place of a torchmetrics object: it keeps nothing, and gives nothing that could be more than logged."""

    def forward(self, *args: object, **kwargs: object) -> Nothing:
        return NOTHING

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return NOTHING

    def __getitem__(self, name: object) -> "NoMetric":
        return self
