"""Static int8 quantization of the exported encoder, for CPUs with fast int8 products (such as AVX512-VNNI).

All convolutions but the first are quantized: weights per channel, activations with a scale and a zero point from the
minimum and maximum on calibration slices. Everything else stays float32
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
"""Name of the graph; also its key in the manifest of exported graphs."""
_QUANTIZED_OPS = ("Conv", "Clip", "Relu")
"""Types of nodes that are quantized."""


def quantize_encoder(folder: Path, slices: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write the int8 encoder beside the exported graphs, and its hash into their manifest.

    Args:
        folder: folder with exported graphs.
        slices: calibration slices, each (1, C, H, W), H and W multiples of the network's stride.

    Raises:
        InputError: the libraries of the extra ``onnx`` are missing, or the file cannot be written.
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
            _CalibrationReader(slices),
            op_types_to_quantize=list(_QUANTIZED_OPS),
            nodes_to_exclude=[first],
            per_channel=True,
            reduce_range=True,  # sums of products of 8 bits overflow on processors without VNNI
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True, "QuantizeBias": False},
        )
        digest = _sha256(temporary)
    content = read_json(folder / MANIFEST)
    _write_manifest(folder, content | {"graphs": content["graphs"] | {INT8: digest}})


class _CalibrationReader:
    """Data reader with the interface of ``onnxruntime.quantization.CalibrationDataReader``."""

    def __init__(self, slices: Iterable[npt.NDArray[np.float32]]) -> None:
        self._slices = iter(slices)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        batch = next(self._slices, None)
        return None if batch is None else {"slices": batch}


def remove_int8_graph(folder: Path) -> None:
    """Remove the int8 encoder if there is one, from the manifest first."""
    content = read_json(folder / MANIFEST)
    if content["graphs"].pop(INT8, None):
        _write_manifest(folder, content)
    (folder / f"{INT8}.onnx").unlink(missing_ok=True)


def find_int8_graph(folder: Path) -> Path | None:
    """Return the file of the int8 encoder, or None if the (verified) manifest does not list it.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    expected = read_json(folder / MANIFEST)["graphs"].get(INT8)
    if expected is None:
        return None
    file = folder / f"{INT8}.onnx"
    try:
        if _sha256(file) == expected:
            return file
    except OSError:  # missing
        pass
    raise CheckpointError(f"{file}: missing, or does not match the hash in {MANIFEST}; export the model again")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write_manifest(folder: Path, content: dict[str, object]) -> None:
    with atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
