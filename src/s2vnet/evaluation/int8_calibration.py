"""Int8 quantization of an exported model, calibrated on some slices of images and verified on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.case_files import CaseFiles
from s2vnet.data.preprocess import with_neighbours
from s2vnet.errors import InputError
from s2vnet.inference.backends import to_runtime
from s2vnet.inference.encoded_volume import BATCH_SIZE, PreviewBatch, interleaved_batches
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_lazy_image
from s2vnet.metrics.overlap_and_distance import dice
from s2vnet.model.checkpoint import load_model
from s2vnet.model.interface import Network
from s2vnet.model.quantization import quantize_encoder, remove_int8_graph

MAX_CASES = 8
"""Images to read at most, evenly spaced in the list; of each, some slices calibrate and others are compared."""
MIN_DICE = 0.9
"""Smallest accepted Dice of int8 against float32, both without propagation between slices."""


def calibrate_int8(
    folder: Path,
    cases: Sequence[CaseFiles],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str, str], None] = lambda name, text: None,
) -> float:
    """Add the int8 encoder to a folder with a model and its exported graphs.

    Args:
        folder: written by :func:`s2vnet.model.onnx_export.export_onnx`, with the model.
        cases: representative images; labels are not needed.
        progress: called with the number of images read and their total.
        note: called with a case and a property of it that lies outside the training data.

    Returns:
        Mean Dice over classes of int8 labels against float32 labels.

    Raises:
        InputError: the Dice is below :data:`MIN_DICE` or nothing is segmented (the graph is then removed), a library is
            missing, or an image cannot be read.
    """
    trained = load_model(folder)
    segmenter = Segmenter([trained], "cpu")
    cpu = torch.device("cpu")
    float32 = to_runtime(trained, "openvino", cpu, folder)  # loaded before the int8 graph exists
    chosen = [cases[n] for n in np.unique(np.linspace(0, len(cases) - 1, MAX_CASES).round().astype(int))]
    slices: list[tuple[Tensor, Tensor]] = []
    for done, case in enumerate(chosen):
        progress(done, len(chosen))
        slices.append(_slices(segmenter, case, note))
    try:
        quantize_encoder(folder, [one for batch, _ in slices for one in np.split(batch.numpy(), len(batch))])
        int8 = to_runtime(trained, "openvino", cpu, folder)
        predicted, reference = (
            np.concatenate([_labels(net, other).ravel() for _, other in slices]) for net in (int8, float32)
        )
        scores = [dice(predicted == k, reference == k) for k in np.union1d(predicted, reference) if k]
        mean = float(np.mean(scores)) if scores else 0.0
        if mean < MIN_DICE:
            raise InputError(
                f"int8 and float32 agree by a Dice of {mean:.2f} only, so int8 is not kept; "
                "calibrate on images that show what the model segments"
            )
    except BaseException:  # an unverified graph is not kept
        remove_int8_graph(folder)
        raise
    progress(len(chosen), len(chosen))
    return mean


def _slices(segmenter: Segmenter, case: CaseFiles, note: Callable[[str, str], None]) -> tuple[Tensor, Tensor]:
    """Slices (n, C, H, W) of a case for calibration, and others for comparison if it has more."""
    plan = segmenter.plan
    image = read_lazy_image(case.images, frames_as_channels=len(case.images) == 1 and len(plan.channels) > 1)
    prepared = segmenter.prepare_slices(image, case.name)
    for text in segmenter.training_differences(image, prepared):
        note(case.name, text)
    batches = list(interleaved_batches(prepared.grid.depth, BATCH_SIZE))
    first, last = (with_neighbours(prepared, batch, plan.context_slices) for batch in (batches[0], batches[-1]))
    return torch.from_numpy(first), torch.from_numpy(last)


def _labels(net: Network, slices: Tensor) -> npt.NDArray[np.intp]:
    with torch.inference_mode():
        labels: npt.NDArray[np.intp] = (
            PreviewBatch.compute(net, range(len(slices)), slices).decoded.logits.argmax(1).numpy()
        )
    return labels
