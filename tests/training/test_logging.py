from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from s2vnet.data.preprocess import Case
from s2vnet.training.logging import TrainingLogger, write_sample

ROWS: list[dict[str, float]] = [
    {"step": 50 * n, "loss": 1 / n, "learning_rate": 0.1} | ({"dice": 0.2 * n} if n % 2 == 0 else {})
    for n in range(1, 5)
]


def _scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, round(event.value, 5)) for event in events.Scalars(name)]


def _write(folder: Path, rows: list[dict[str, float]], before: list[dict[str, float]]) -> None:
    writer = TrainingLogger(folder, before)
    for n in range(len(before), len(rows)):
        writer.write(rows[: n + 1])
    writer.board.close()


def test_every_row_is_in_the_history_and_in_tensorboard(tmp_path: Path) -> None:
    _write(tmp_path, ROWS, [])
    assert json.loads((tmp_path / "history.json").read_text()) == ROWS
    assert _scalars(tmp_path, "loss") == [(50, 1), (100, 0.5), (150, 0.33333), (200, 0.25)]
    assert _scalars(tmp_path, "dice") == [(100, 0.4), (200, 0.8)]
    assert matplotlib.image.imread(tmp_path / "curves.png").std() > 0


def test_a_resumed_run_keeps_its_tensorboard_events(tmp_path: Path) -> None:
    _write(tmp_path, ROWS[:2], [])
    _write(tmp_path, ROWS, ROWS[:2])
    assert [step for step, _ in _scalars(tmp_path, "loss")] == [50, 100, 150, 200]


def test_a_sample_shows_four_slices(tmp_path: Path, cases: list[Case]) -> None:
    truth = cases[0].labels
    assert truth is not None
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    write_sample(paths[0], cases[0], truth, truth)
    write_sample(paths[1], cases[0], np.zeros_like(truth), truth)
    write_sample(paths[2], cases[0], truth[:, ::2, ::2], truth[:, ::2, ::2])
    images = [matplotlib.image.imread(path) for path in paths]
    assert len({image.shape for image in images}) == 1
    assert not np.array_equal(images[0], images[1])
