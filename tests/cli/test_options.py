from __future__ import annotations

from pathlib import Path

import pytest

from s2vnet.cli.options import comma_separated, dataset_folder, key_values, validate_settings
from s2vnet.config import TrainConfig
from s2vnet.errors import InputError


def test_a_dataset_is_an_argument_or_an_option() -> None:
    folder = Path("Dataset001")
    assert dataset_folder(folder, None) == dataset_folder(None, folder) == folder
    for both in ((None, None), (folder, folder)):
        with pytest.raises(InputError, match="name one dataset folder"):
            dataset_folder(*both)


def test_values_are_separated_and_converted() -> None:
    assert comma_separated("liver, 2 ,left kidney") == ["liver", "2", "left kidney"]
    assert key_values(["epochs=-3", "encoder=tiny", "a=b=c"]) == {"epochs": -3, "encoder": "tiny", "a": "b=c"}
    with pytest.raises(InputError, match="given as KEY=VALUE"):
        key_values(["epochs"])


def test_settings_are_validated() -> None:
    assert validate_settings(TrainConfig, {"epochs": 3, "learning_rate": "1e-3"}).learning_rate == 1e-3
    with pytest.raises(InputError, match="setting epochs: Input should be greater"):
        validate_settings(TrainConfig, {"epochs": 0})
