from __future__ import annotations

import pytest

from s2vnet.errors import InputError
from s2vnet.utils.byte_sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("3GB", 3 * 10**9), ("512 mb", 512 * 10**6), ("1.5GiB", 3 << 29), ("7", 7), ("3Gi", 3 << 30), ("2k", 2000)],
)
def test_sizes_with_and_without_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "3 apples", "0MB", "1iB", "1,5GB", "3.5.1GB", "3GB junk", "3gbit", ".5GB", "1_000"]
)
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(InputError, match="not a memory size"):
        parse_size(text)


def test_sizes_are_rounded_up() -> None:
    sizes = {1: "1 MB", 10**6 + 1: "2 MB", 999 * 10**6: "999 MB", 10**9 + 1: "1.1 GB"}
    assert {size: format_size(size) for size in sizes} == sizes
