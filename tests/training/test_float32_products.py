"""Float32 is multiplied as the settings say, whichever interface of torch the caller has used to ask for another."""

from collections.abc import Callable, Iterator

import pytest
import torch

from mia_lightning.training.precision import OPERATIONS, float32_products
from mia_lightning.training.trainer import TrainerSettings


@pytest.fixture(autouse=True)
def _torch_as_before() -> Iterator[None]:
    before = [(each, each.fp32_precision) for each in OPERATIONS]
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for each, value in before:
        each.fp32_precision = value


def _all_tf32() -> None:
    torch.backends.fp32_precision = "tf32"


def _all_full() -> None:
    torch.backends.fp32_precision = "ieee"


def _full_convolutions() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def _half_convolutions_on_the_host() -> None:
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


def _by_the_older_interface() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = False


@pytest.mark.parametrize(
    "caller",
    [
        lambda: None,
        _all_tf32,
        _all_full,
        _full_convolutions,
        _half_convolutions_on_the_host,
        _by_the_older_interface,
    ],
)
def test_products_are_those_of_the_settings_whatever_the_caller_has_set(caller: Callable[[], None]) -> None:
    caller()
    before = [each.fp32_precision for each in OPERATIONS]
    with TrainerSettings(precision="tf32").matmul_precision():
        assert [each.fp32_precision for each in OPERATIONS] == [*["tf32"] * 4, "ieee", "ieee"]
        with float32_products(tf32=False):
            assert {each.fp32_precision for each in OPERATIONS} == {"ieee"}
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    assert [each.fp32_precision for each in OPERATIONS] == before
