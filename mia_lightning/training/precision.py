"""How float32 is multiplied: in full, or rounded to TF32, whatever the caller has set around an audit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_BACKENDS: Any = torch.backends  # its types leave out what it finds as it is imported
_OF_GPUS = (_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn)
_OF_HOSTS = (_BACKENDS.mkldnn.conv, _BACKENDS.mkldnn.rnn)
OPERATIONS: tuple[Any, ...] = (*_OF_GPUS, _BACKENDS.mkldnn.matmul, *_OF_HOSTS)
"""Whose `fp32_precision` torch knows; each inherits that of `torch.backends` where nobody has set its own."""


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Within the context, matrix products and convolutions of float32 are rounded to TF32 on a GPU, or full ones.

    torch would round convolutions unless it is told otherwise. It has two interfaces for this, and refuses to read one
    after the other was used: both are set here, and afterwards each operation has the precision that it had.
    """
    before = [(each, each.fp32_precision) for each in OPERATIONS]
    products = _readable(torch.get_float32_matmul_precision)
    convolutions = _readable(lambda: torch.backends.cudnn.allow_tf32)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    for each in _OF_GPUS:
        each.fp32_precision = "tf32" if tf32 else "ieee"
    for each in _OF_HOSTS:
        each.fp32_precision = "ieee"
    try:
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        for each, value in before:
            each.fp32_precision = "none"
            if each.fp32_precision != value:  # which it had of its own
                each.fp32_precision = value


def _readable(read: Callable[[], T]) -> T | None:
    """What a setting of the older interface is; None where the newer one has set something else."""
    try:
        return read()
    except RuntimeError:
        return None
