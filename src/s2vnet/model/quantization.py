"""The encode graph in int8, for processors that multiply bytes fast (AVX512-VNNI and the like).

Convolutions but the first one take and give bytes: weights with a scale for each channel, maps with a scale and a zero
that come from the least and the greatest value met on calibration slices. The rest is float32
(docs/decisions/012-the-fast-path.md). https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from s2vnet.errors import CheckpointError
from s2vnet.model.onnx_export import MANIFEST
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.extras import require_extra
from s2vnet.utils.json_io import read_json

INT8 = "encode-int8"
"""Name of the graph, in the manifest of exported graphs too."""
_BYTES = ("Conv", "Clip", "Relu")
"""Kinds of nodes that take and give bytes."""


def quantize_encoder(folder: Path, slices: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write the graph beside the exported ones, and its hash into their manifest.

    Args:
        folder: with exported graphs.
        slices: to calibrate on, each (1, C, H, W), H and W multiples of the network's stride.

    Raises:
        InputError: the libraries are missing (`pip install "s2vnet[onnx]"`), or the system refuses.
    """
    require_extra("onnx", "int8", "onnx", "onnxruntime")
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="s2vnet-") as name, atomic_write(folder / f"{INT8}.onnx") as temporary:
        prepared = Path(name) / "prepared.onnx"
        quant_pre_process(folder / "encode.onnx", prepared, skip_optimization=True, skip_symbolic_shape=True)
        first = next(node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv")
        quantization.quantize_static(
            prepared,
            temporary,
            _Reader(slices),
            op_types_to_quantize=list(_BYTES),
            nodes_to_exclude=[first],
            per_channel=True,
            reduce_range=True,  # sums of products of 8 bits overflow on processors without VNNI
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True, "QuantizeBias": False},
        )
        digest = _digest(temporary)
    content = read_json(folder / MANIFEST)
    _write(folder, content | {"graphs": content["graphs"] | {INT8: digest}})


class _Reader:
    """Slices as the library asks for them."""

    def __init__(self, slices: Iterable[npt.NDArray[np.float32]]) -> None:
        self._slices = iter(slices)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        one = next(self._slices, None)
        return None if one is None else {"slices": one}


def remove_int8_graph(folder: Path) -> None:
    """Remove the graph where there is one, from the manifest first."""
    content = read_json(folder / MANIFEST)
    if content["graphs"].pop(INT8, None):
        _write(folder, content)
    (folder / f"{INT8}.onnx").unlink(missing_ok=True)


def find_int8_graph(folder: Path) -> Path | None:
    """The graph's file where the manifest of exported graphs (found to be whole) has it.

    Raises:
        CheckpointError: missing or damaged.
    """
    wanted = read_json(folder / MANIFEST)["graphs"].get(INT8)
    if wanted is None:
        return None
    file = folder / f"{INT8}.onnx"
    try:
        if _digest(file) == wanted:
            return file
    except OSError:  # not there
        pass
    raise CheckpointError(f"{file}: not the graph that {MANIFEST} names; export the model again")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write(folder: Path, content: dict[str, object]) -> None:
    with atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
