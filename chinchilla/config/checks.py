"""Checks that config dataclasses share: one line each for what cannot be."""

from chinchilla.errors import InputError

MIN_BOOTSTRAP = 20  # resamples


def positive(key: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{key}={value} must be above 0.")


def not_negative(key: str, value: float) -> None:
    if not value >= 0:
        raise InputError(f"{key}={value} must not be negative.")


def check_format(value: str) -> None:
    choice("format", value, ("text", "json"))


def choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{key}={value!r}: choose one of {', '.join(choices)}.")


def check_n_bootstrap(value: int) -> None:
    not_negative("n_bootstrap", value)
    if value and value < MIN_BOOTSTRAP:
        raise InputError(
            f"n_bootstrap={value}: percentiles of so few resamples mean nothing. Give at least "
            f"{MIN_BOOTSTRAP}, or 0 for no intervals."
        )
