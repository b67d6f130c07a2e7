"""Int8 quantization of an exported model, calibrated on slices of some images and compared on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.dataset import CaseFiles
from s2vnet.data.preprocess import with_neighbours
from s2vnet.errors import InputError
from s2vnet.inference.backends import to_runtime
from s2vnet.inference.encoded_volume import BATCH_SIZE, PreviewBatch, interleaved_batches
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_lazy_image
from s2vnet.metrics.segmentation import dice
from s2vnet.model.checkpoint import load_model
from s2vnet.model.quantization import quantize_encoder, remove_int8_graph
from s2vnet.model.s2vnet import Network

MAX_CASES = 8
"""Images to read at most, evenly spaced in the list; of each, some slices calibrate and others are compared."""
MIN_DICE = 0.9
"""Dice of int8 with float32 that is refused below; both label slices without knowing those beside them."""


def calibrate_int8(
    folder: Path,
    cases: Sequence[CaseFiles],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str, str], None] = lambda name, text: None,
) -> float:
    """Add the int8 graph to a folder with a model and its graphs.

    Args:
        folder: of :func:`s2vnet.model.onnx_export.export_onnx`, with the model.
        cases: images like those to be segmented; labels are not needed.
        progress: told of images read.
        note: told of (case, in what it lies outside of what the model was trained on).

    Returns:
        Mean Dice over classes of the labels with int8 against those with float32.

    Raises:
        InputError: the Dice is below :data:`MIN_DICE` or no class is found, and the graph is not kept; a library is
            missing; or an image cannot be read.
    """
    trained = load_model(folder)
    segmenter = Segmenter([trained], "cpu")
    cpu = torch.device("cpu")
    plain = to_runtime(trained, "openvino", cpu, folder)  # before the other one is there
    some = [cases[n] for n in np.unique(np.linspace(0, len(cases) - 1, MAX_CASES).round().astype(int))]
    shown: list[tuple[Tensor, Tensor]] = []
    for done, case in enumerate(some):
        progress(done, len(some))
        shown.append(_slices(segmenter, case, note))
    try:
        quantize_encoder(folder, [one for slices, _ in shown for one in np.split(slices.numpy(), len(slices))])
        small = to_runtime(trained, "openvino", cpu, folder)
        found, wanted = (np.concatenate([_labels(net, other).ravel() for _, other in shown]) for net in (small, plain))
        each = [dice(found == k, wanted == k) for k in np.union1d(found, wanted) if k]
        mean = float(np.mean(each)) if each else 0.0
        if mean < MIN_DICE:
            raise InputError(
                f"int8 and float32 agree by a Dice of {mean:.2f} only, so int8 is not kept; "
                "calibrate on images that show what the model segments"
            )
    except BaseException:  # what was not compared is not used
        remove_int8_graph(folder)
        raise
    progress(len(some), len(some))
    return mean


def _slices(segmenter: Segmenter, case: CaseFiles, note: Callable[[str, str], None]) -> tuple[Tensor, Tensor]:
    """Slices (n, C, H, W) of a case to calibrate on, and others to compare on where it has more."""
    plan = segmenter.plan
    image = read_lazy_image(case.images, frames_as_channels=len(case.images) == 1 and len(plan.channels) > 1)
    prepared = segmenter.prepare_slices(image, case.name)
    for text in segmenter.training_differences(image, prepared):
        note(case.name, text)
    places = list(interleaved_batches(prepared.grid.depth, BATCH_SIZE))
    first, last = (with_neighbours(prepared, chosen, plan.context_slices) for chosen in (places[0], places[-1]))
    return torch.from_numpy(first), torch.from_numpy(last)


def _labels(net: Network, slices: Tensor) -> npt.NDArray[np.intp]:
    with torch.inference_mode():
        labels: npt.NDArray[np.intp] = (
            PreviewBatch.compute(net, range(len(slices)), slices).decoded.logits.argmax(1).numpy()
        )
    return labels
