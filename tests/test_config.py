"""Settings are immutable, validated, and survive JSON."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from s2vnet.config import ModelConfig, TrainConfig

SETTINGS = [(ModelConfig(in_channels=3, num_classes=2), "dim"), (TrainConfig(), "epochs")]


@pytest.mark.parametrize(("settings", "name"), SETTINGS)
def test_settings_are_immutable_and_known(settings: ModelConfig | TrainConfig, name: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, name, 16)
    for wrong, message in (({"nonsense": 1}, "Extra inputs are not permitted"), ({name: 0}, "greater than or equal")):
        with pytest.raises(ValidationError, match=message):
            type(settings).model_validate(settings.model_dump() | wrong)


@pytest.mark.parametrize("settings", [settings for settings, _ in SETTINGS])
def test_settings_survive_json(settings: ModelConfig | TrainConfig) -> None:
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings
