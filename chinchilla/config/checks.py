"""Checks that config dataclasses share: one line each for what cannot be."""

from numbers import Integral, Real

from chinchilla.core.errors import InputError

MIN_BOOTSTRAP = 20  # resamples
MAX_BOOTSTRAP = 100_000  # of more, percentiles do not move and memory runs out


def require_positive(key: str, value: float) -> None:
    if not (isinstance(value, Real) and value > 0):
        raise InputError(f"{key}={value} must be above 0.")


def require_not_negative(key: str, value: float) -> None:
    if not (isinstance(value, Real) and value >= 0):
        negative = isinstance(value, Real) and value < 0
        raise InputError(f"{key}={value} must {'not be negative' if negative else 'be a number'}.")


def require_mfu(key: str, value: float) -> None:
    if not (isinstance(value, Real) and 0 < value <= 1):
        raise InputError(
            f"{key}={value} is not above 0 and at most 1: it is the share of peak_flops that is used, 0.4 "
            "for 40%."
        )


def require_whole(key: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 0:
        raise InputError(f"{key}={value!r} must be a whole number from 0 up.")


def require_countable(key: str, value: int, bits: int = 64) -> None:
    """Refuse what a signed integer of so many bits cannot hold: files and libraries count with those."""
    if value > (most := 2 ** (bits - 1) - 1):
        raise InputError(f"{key}={value} is more than {bits} bits count. Give at most {most:,}.")


def require_format(value: str) -> None:
    require_choice("format", value, ("text", "json"))


def require_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{key}={value!r}: choose one of {', '.join(choices)}.")


def require_n_bootstrap(value: int) -> None:
    require_whole("n_bootstrap", value)
    if value and value < MIN_BOOTSTRAP:
        raise InputError(
            f"n_bootstrap={value}: percentiles of so few resamples mean nothing. Give at least "
            f"{MIN_BOOTSTRAP}, or 0 for no intervals."
        )
    if value > MAX_BOOTSTRAP:
        raise InputError(
            f"n_bootstrap={value}: so many resamples need more memory than they tell. Give at most "
            f"{MAX_BOOTSTRAP:,}."
        )
