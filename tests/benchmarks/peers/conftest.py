"""Two phantoms as preprocessed cases."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ablation import phantom_case
from s2vnet.data.preprocess import Case


@pytest.fixture
def cases() -> list[Case]:
    return [phantom_case(5 + n, np.random.default_rng(n), f"case{n}") for n in range(2)]
