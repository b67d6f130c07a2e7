"""Lists of names in messages."""

from __future__ import annotations

from s2vnet.utils.names import some_names


def test_long_lists_end_with_a_count() -> None:
    assert some_names(["a", 1]) == "a, 1"
    assert some_names(range(5)) == "0, 1, 2, 3, 4"
    assert some_names(iter("abc"), 2) == "a, b and 1 more"
