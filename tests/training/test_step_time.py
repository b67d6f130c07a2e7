from __future__ import annotations

import pytest

from s2vnet.config import TrainConfig
from s2vnet.training.step_time import epochs_within


@pytest.mark.parametrize(("hours", "epochs"), [(5, 120), (0.1, 2), (0.0001, 1)])
def test_a_budget_is_a_number_of_epochs(hours: float, epochs: int) -> None:
    config = TrainConfig(steps_per_epoch=50)
    assert epochs_within(hours, 3.0, config) == epochs
    assert epochs == 1 or epochs * 50 * 3.0 <= hours * 3600
