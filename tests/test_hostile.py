"""Every reader and document accepts its seeds, and accepts or rejects mutations of them in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import TARGETS, is_accepted, mutations

TRIALS = 40
"""Mutations of each target; scripts/fuzz.py makes more."""


@pytest.mark.filterwarnings("ignore")  # pydicom's and numpy's, of damaged values
@pytest.mark.parametrize("name", TARGETS)
def test_bytes_are_accepted_or_rejected_in_one_line(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    (tmp_path / "seeds").mkdir()
    (tmp_path / "read").mkdir()
    assert all(is_accepted(target, seed, tmp_path / "read") for seed in target.seeds(tmp_path / "seeds"))
    (tmp_path / "again").mkdir()
    for data in mutations(name, TRIALS, tmp_path / "again"):
        is_accepted(target, data, tmp_path / "read")
