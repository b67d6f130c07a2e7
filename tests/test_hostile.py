"""Every reader and every document: seeds are taken, and what a few changes make of them is taken or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import TARGETS, trials, tried

TRIALS = 40
"""Of each target; scripts/fuzz.py makes as many as there is time for."""


@pytest.mark.filterwarnings("ignore")  # pydicom's and numpy's, of damaged values
@pytest.mark.parametrize("name", TARGETS)
def test_bytes_are_taken_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    (tmp_path / "seeds").mkdir()
    (tmp_path / "read").mkdir()
    assert all(tried(target, seed, tmp_path / "read") for seed in target.seeds(tmp_path / "seeds"))
    (tmp_path / "again").mkdir()
    for data in trials(name, TRIALS, tmp_path / "again"):
        tried(target, data, tmp_path / "read")
