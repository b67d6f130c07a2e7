"""Blocks of labels are decoded as they were encoded."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.server.schemas import Block, pack_block, unpack_block

HEADER = Block(revision=3, start=(1, 2, 3), shape=(2, 3, 4), final=False)


def test_a_block_is_unpacked_as_it_was_packed() -> None:
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header, found = unpack_block(pack_block(HEADER, labels.transpose(0, 1, 2)))
    assert header == HEADER
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("length", [0, 3, 10, -1])
def test_a_cut_block_is_refused(length: int) -> None:
    message = pack_block(HEADER, np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"."):
        unpack_block(message[:length])
