"""What other people's errors say, inside sentences of ours."""

from __future__ import annotations

import pytest

from stillsight.encoders.errors import first_line, in_brackets


@pytest.mark.parametrize(
    ("error", "line", "bracketed"),
    [
        (ValueError("no\nmore"), "no", "ValueError: no"),
        (ValueError("no."), "no.", "ValueError: no"),
        (ValueError("a" * 300), "a" * 300, "ValueError: " + "a" * 200),
        (MemoryError(), "MemoryError", "MemoryError"),
        (AssertionError(""), "AssertionError", "AssertionError"),
    ],
)
def test_an_error_is_told_in_a_line(error: Exception, line: str, bracketed: str) -> None:
    assert (first_line(error), in_brackets(error)) == (line, bracketed)
