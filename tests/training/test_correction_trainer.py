"""Training of the corrector: resumed it ends as uninterrupted, and its volumes are read as written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from labelled_volumes import labelled

from s2vnet.model.corrector import Corrector
from s2vnet.training.correction_episodes import EpisodeConfig
from s2vnet.training.correction_trainer import CorrectorTrainer, CorrectorTraining, load_volume, save_volume

WIDTHS = (8, 8, 8)


def trainer(steps: int = 3) -> CorrectorTrainer:
    torch.manual_seed(0)
    training = CorrectorTraining(steps=steps, batch_size=1, warmup_steps=1)
    return CorrectorTrainer([labelled()], training, EpisodeConfig(rounds=(1.0,)), WIDTHS)


class _Stopped(Exception):
    pass


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    whole = trainer().fit(tmp_path / "whole.pt", rows.append, every=1)
    assert [row["step"] for row in rows] == [1, 2, 3]

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 2:
            raise _Stopped

    first = trainer()
    first.config = replace(first.config, checkpoint_minutes=0)
    with pytest.raises(_Stopped):
        first.fit(tmp_path / "parts.pt", stop, every=1)
    second = trainer()
    resumed = second.fit(tmp_path / "parts.pt", lambda row: None)
    assert second.step == 3
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    again = Corrector.from_state_dict(whole.state_dict())
    assert not again.training


def test_training_changes_the_weights(tmp_path: Path) -> None:
    start = {name: tensor.clone() for name, tensor in trainer().network.state_dict().items()}
    trained = trainer().fit(tmp_path / "checkpoint.pt", lambda row: None)
    assert any(not torch.equal(tensor, start[name]) for name, tensor in trained.state_dict().items())


def test_a_volume_is_read_as_it_was_written(tmp_path: Path) -> None:
    case = labelled()
    save_volume(tmp_path / "a.safetensors", case)
    again = load_volume(tmp_path / "a.safetensors")
    assert again.parts == case.parts
    assert again.volume.slice_distance == case.volume.slice_distance
    for one, two in (
        (again.labels, case.labels),
        (again.truth, case.truth),
        (again.volume.image, case.volume.image),
        (again.volume.probabilities, case.volume.probabilities),
        (again.volume.features, case.volume.features),
    ):
        assert torch.equal(one, two)
