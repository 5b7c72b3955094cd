"""Figures as a reader writes them."""

import pytest

from mia_lightning.reports.words import show, signed, significant


@pytest.mark.parametrize(
    ("value", "plain", "with_sign", "short"),
    [
        (0.74, "0.740", "+0.740", "0.74"),
        (-0.0194, "−0.019", "−0.019", "−0.0194"),
        (-0.00004, "0.000", "0.000", "−4e-05"),
        (0.0, "0.000", "0.000", "0"),
        (-12.5, "−12.500", "−12.500", "−12.5"),
    ],
)
def test_a_minus_is_no_hyphen_and_zero_has_no_sign(value: float, plain: str, with_sign: str, short: str) -> None:
    assert (show(value), signed(value), significant(value)) == (plain, with_sign, short)


def test_what_is_undefined_is_a_dash() -> None:
    assert (show(None), signed(None)) == ("–", "–")
    assert (show(float("nan")), signed(float("nan"))) == ("–", "–")
