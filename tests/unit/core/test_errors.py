"""Formatting of errors."""

import errno

import pytest

from chinchilla.core.errors import error_summary, nearest, one_line, os_error_message


def test_one_line_removes_control_characters_and_truncates():
    assert one_line(ValueError("a\nb\x00\u2028c")) == "a b c"
    assert one_line(ValueError("x" * 5000), 10) == "x" * 10 + " ..."


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (RuntimeError("out of memory\nframe #0: ..."), "RuntimeError: out of memory"),
        (KeyError(), "KeyError"),
        (RuntimeError("x" * 5000), "RuntimeError: " + "x" * 600),
    ],
)
def test_error_summary_is_type_and_first_line(error, summary):
    assert error_summary(error) == summary


def test_an_error_of_the_system_is_one_line_with_advice():
    error = OSError(errno.ENOSPC, "No space left on device", "/a\nb")
    assert os_error_message(error) == (
        "No space left on device: /a b. Free space on that disk, and run the same command again."
    )


def test_nearest_suggests_a_similar_word_only():
    assert nearest("budgts", ["budgets", "models"]) == " Did you mean budgets?"
    assert nearest("x", ["budgets", "models"]) == ""


def test_a_long_word_is_truncated_in_an_error_but_no_path():
    path = "/".join(["x" * 200] * 10)
    message = one_line(f"{path} has {'9' * 20_000}: correct it.")
    assert message == f"{path} has {'9' * 100} ... correct it."
