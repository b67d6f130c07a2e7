"""Training logs: ``history.json``, TensorBoard scalars, ``curves.png`` and a sample overlay."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from s2vnet.data.preprocess import Case
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.file_names import is_unicode
from s2vnet.visualization.palettes import rgba_palette

TITLES = {"loss": "training loss", "dice": "validation Dice (automatic, few cases)"}


class TrainingLogger:
    """Logger of the training history."""

    def __init__(self, folder: Path, history: list[dict[str, float]]) -> None:
        self.folder = folder
        first_step = int(history[-1]["step"]) + 1 if history else None
        board, links = folder / "tensorboard", None
        if not is_unicode(board):  # TensorBoard takes text only, and opens its file at every write
            links = Path(tempfile.mkdtemp(prefix="s2vnet-"))
            board.mkdir(parents=True, exist_ok=True)
            board = links / "tensorboard"
            board.symlink_to((folder / "tensorboard").absolute())
        self.board = SummaryWriter(str(board), purge_step=first_step)
        if links is not None:
            weakref.finalize(self, _close, self.board, links)

    def write(self, history: list[dict[str, float]]) -> None:
        """Add the last row to TensorBoard and write all rows as JSON and as curves."""
        for name, value in history[-1].items():
            if name != "step":
                self.board.add_scalar(name, value, int(history[-1]["step"]))
        self.board.flush()
        with atomic_write(self.folder / "history.json") as temporary:
            temporary.write_text(json.dumps(history, indent=1) + "\n")
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        for axes, (name, title) in zip(figure.subplots(1, 2), TITLES.items(), strict=True):
            rows = [row for row in history if name in row]
            axes.plot(
                [row["step"] for row in rows], [row[name] for row in rows], marker="." if name == "dice" else None
            )
            axes.set(xlabel="step", title=title)
            axes.grid(alpha=0.3)
        with atomic_write(self.folder / "curves.png") as temporary:
            figure.savefig(temporary, dpi=110)


def _close(board: SummaryWriter, links: Path) -> None:
    """End the thread that writes, before the links go that it writes through."""
    board.close()
    shutil.rmtree(links, ignore_errors=True)


def write_sample(path: Path, case: Case, predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]) -> None:
    """Plot four slices of a validation case: image, prediction (D, h, w) and ground truth (D, h, w)."""
    shown = np.linspace(0, len(predicted) - 1, 6).astype(int)[1:-1]
    figure = Figure(figsize=(8, 6), layout="constrained")
    palette = rgba_palette(int(max(predicted.max(), truth.max())) + 1)
    height, width = case.image.shape[2:]
    whole = (-0.5, width - 0.5, height - 0.5, -0.5)
    titles = ("image", "prediction", "truth")
    for column, d in zip(figure.subplots(3, 4).T, shown, strict=True):
        for axes, labels, title in zip(column, (None, predicted[d], truth[d]), titles, strict=True):
            axes.imshow(case.image[0, d], cmap="gray")
            if labels is not None:
                axes.imshow(palette[labels], interpolation="nearest", extent=whole)
            axes.set_axis_off()
            axes.set_title(f"{title} {d}", fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
