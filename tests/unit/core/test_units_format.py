"""Formats of numbers in messages and tables."""

import pytest

from chinchilla.core.units import change, device_hours


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.12345, "+12.3%"),
        (-0.04, "-4%"),
        (7.2e-7, "+0%"),
        (-2e-5, "-0.002%"),
        (2.62, "+262%"),
        (29.8, "30.8x"),
        (794_922, "794,923x"),
    ],
)
def test_a_large_change_is_a_factor(x: float, text: str):
    assert change(x) == text


def test_one_device_hour_is_singular():
    assert device_hours(1) == device_hours(0.9999) == "1 device-hour"
    assert device_hours(1.5) == "1.5 device-hours"
