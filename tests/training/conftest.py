"""Phantom cases and tiny settings for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor
from training_runs import Train

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.training.trainer import Hardware, Trainer

Phantom = tuple[Volume, LabelMap]
HARDWARE = {"device", "devices", "nodes", "workers"}


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Slices of 16 x 16 pixels of 0.9 mm, one neighbour on either side, clips of three."""
    return Plan(
        dataset="phantom",
        channels=("MR",),
        labels={"background": 0, "left": 1, "right": 2},
        plane="axial",
        spacing=(0.9, 0.9),
        patch_size=(16, 16),
        intensities=(IntensityScheme(kind="zscore"),),
        crop_to_nonzero=False,
        encoder="tiny",
        stem_stride=1,
        clip_length=3,
    )


@pytest.fixture
def cases(make_phantom: Callable[..., Phantom], plan: Plan) -> list[Case]:
    """Three phantoms that differ in noise."""
    found = []
    for seed in range(3):
        volume, labels = make_phantom(seed=seed)
        found.append(preprocess(volume, plan, labels, f"phantom_{seed}"))
    return found


@pytest.fixture(scope="session")
def model_config(plan: Plan) -> ModelConfig:
    """A network of width 32."""
    return ModelConfig(in_channels=plan.in_channels, num_classes=plan.num_classes, dim=32, mask_dim=16)


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    """Two epochs of two steps of two clips of three slices."""
    return TrainConfig(epochs=2, steps_per_epoch=2, batch_size=2, clip_length=3, warmup_steps=2)


@pytest.fixture
def run(cases: list[Case], plan: Plan, model_config: ModelConfig, config: TrainConfig) -> Train:
    """Train on two phantoms with one for validation; returns the weights."""

    def _run(folder: Path, changes: dict[str, object] | None = None, **options: object) -> dict[str, Tensor]:
        folder.mkdir(exist_ok=True)
        settings = config.model_copy(update=changes or {})
        given = {"device": "cpu", "validation": cases[2:], **options}
        validation = given.pop("validation")
        hardware = Hardware(**{name: given.pop(name) for name in HARDWARE & given.keys()})  # type: ignore[arg-type]
        inputs = {name: given.pop(name) for name in ("init", "data") if name in given}
        trainer = Trainer(cases[:2], plan, model_config, settings, hardware, **inputs)  # type: ignore[arg-type]
        return trainer.run(folder, validation, **given).model.state_dict()  # type: ignore[arg-type]

    return _run
