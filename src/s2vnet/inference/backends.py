"""Runtimes besides torch: exported graphs (:mod:`s2vnet.model.onnx_export`) with the same interface as the network.

ONNX Runtime (https://onnxruntime.ai) and OpenVINO (https://docs.openvino.ai) fuse operations. They sum in another
order, so probabilities differ from torch's by rounding errors, and labels where two classes tie.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

import filelock
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.config import ModelConfig
from s2vnet.errors import InputError, S2VNetError
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.checkpoint import TrainedModel, choose_device
from s2vnet.model.interface import DecoderOutput, Network, SliceInput, initial_state
from s2vnet.model.onnx_export import FORMAT, GRAPHS, check_graphs, export_onnx, has_graphs
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.quantization import find_int8_graph
from s2vnet.utils.extras import is_installed, require_extra
from s2vnet.utils.folders import cache_folder, folder_errors

_log = logging.getLogger(__name__)

Runtime = Literal["torch", "onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
AUTO = "auto"
"""Name of the fastest runtime that is installed."""
RUNTIME_VARIABLE = "S2VNET_RUNTIME"
"""Environment variable that says what ``auto`` stands for."""
_NEEDED = {"openvino": ("openvino", "onnx"), "onnxruntime": ("onnxruntime", "onnx")}
"""Modules that a runtime needs, by runtime, the fastest first."""
MAX_COMPILED_SHAPES = 4
"""Input shapes for which compiled graphs are cached, since OpenVINO is a quarter faster on fixed shapes."""
LOCK = ".lock"
ENCODE_CONCURRENCY, DECODE_CONCURRENCY = 8, 2
"""Slices that are encoded and decoded concurrently, at most; they share the threads."""
CONCURRENCY = {"encode": ENCODE_CONCURRENCY, "correct": 1}
"""Concurrent runs of graphs that are no decoders."""

_Array = npt.NDArray[np.float32]
_Graph = Callable[[Sequence[_Array]], Sequence[_Array]]
_FIRST_CALL = Lock()
"""Concurrent first calls of OpenVINO deadlock."""
_Job = tuple[_Graph, Sequence[_Array]]


def fastest_runtime(device: str = AUTO) -> str:
    """Return the fastest runtime that is installed: torch on a GPU; on a CPU OpenVINO, else ONNX Runtime, else torch.

    Args:
        device: torch device by name, or ``auto``. ``S2VNET_RUNTIME`` overrides the choice.
    """
    if chosen := os.environ.get(RUNTIME_VARIABLE):
        return chosen
    if choose_device(device).type != "cpu":
        return "torch"
    installed = (name for name, modules in _NEEDED.items() if all(map(is_installed, modules)))
    return next(installed, "torch")


def to_fastest_runtime(trained: TrainedModel, device: str = AUTO, folder: Path | None = None) -> Network:
    """Load a trained network in the fastest runtime that is installed, or in torch where that one fails.

    Arguments and errors are those of :func:`to_runtime`.
    """
    runtime = fastest_runtime(device)
    if runtime == "torch" or os.environ.get(RUNTIME_VARIABLE):
        return to_runtime(trained, runtime, choose_device(device), folder)
    try:
        return to_runtime(trained, runtime, torch.device("cpu"), folder)
    except (S2VNetError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        _log.warning("%s cannot be used (%s); torch computes instead, more slowly", runtime, reason)
        return to_runtime(trained, "torch", choose_device(device), folder)


def to_runtime(trained: TrainedModel, runtime: str, device: torch.device, folder: Path | None = None) -> Network:
    """Load a trained network in a runtime.

    Args:
        trained: the network.
        runtime: one of :data:`RUNTIMES`.
        device: device for torch; the other runtimes support the CPU only.
        folder: folder of the model. Exported graphs in it are used (by OpenVINO the int8 encoder, if there is one);
            without them, graphs are exported once to the user's cache.

    Raises:
        CheckpointError: graphs of other weights.
        InputError: unknown runtime or device, or the runtime is not installed.
    """
    if runtime == "torch":
        return trained.model.to(device)
    if runtime not in RUNTIMES:
        raise InputError(f"no runtime {runtime!r}; choose one of {', '.join(RUNTIMES)}")
    if device.type != "cpu":
        raise InputError(f"runtime {runtime} computes on the CPU; leave out the device or choose cpu")
    load = _onnxruntime if runtime == "onnxruntime" else _openvino
    require_extra("onnx" if runtime == "onnxruntime" else "openvino", f"--runtime {runtime}", runtime)
    module = import_module(runtime)
    files = list(find_graphs(trained, folder))
    if runtime == "openvino":  # ONNX Runtime is not faster with int8
        files[0] = find_int8_graph(files[0].parent) or files[0]
    graphs = [
        load(module, file, CONCURRENCY.get(name, DECODE_CONCURRENCY)) for name, file in zip(GRAPHS, files, strict=True)
    ]
    return ExportedNetwork(trained.model.config, graphs)


class ExportedNetwork:
    """Exported graphs of a network, with the methods of :class:`s2vnet.model.s2vnet.S2VNet` that inference uses."""

    def __init__(self, config: ModelConfig, graphs: Sequence[_Graph]) -> None:
        """Wrap the graphs of a network, in the order of :data:`s2vnet.model.onnx_export.GRAPHS`."""
        self._config = config
        self._encode, self._decode, self._correct = graphs
        threads = min(torch.get_num_threads(), ENCODE_CONCURRENCY)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def config(self) -> ModelConfig:
        """Configuration of the network."""
        return self._config

    @property
    def stride(self) -> int:
        """Divisor of the height and width of slices."""
        return self._config.stem_stride * 8

    def encode_slices(self, slices: Tensor) -> Sequence[Features]:
        """Encode slices (n, C, H, W) in batches of one, which fit the processor's cache, some of them concurrently."""
        outputs = self._run([(self._encode, [one]) for one in np.split(_array(slices), len(slices))])
        return [
            Features.from_tensors([torch.from_numpy(part).permute(0, 3, 1, 2) for part in parts]) for parts in outputs
        ]

    def initial_state(self, features: Features, direction: Tensor | None = None) -> PropagationState:
        """Return the state that enters the first slice; see :func:`s2vnet.model.interface.initial_state`."""
        return initial_state(self._config, features, direction)

    def decode_slices(self, inputs: Sequence[SliceInput]) -> list[DecoderOutput]:
        """Decode slices concurrently."""
        return [_decoded(outputs) for outputs in self._run([self._job(slice_input) for slice_input in inputs])]

    def correct(self, pixels: Tensor, cells: Tensor) -> Tensor:
        """Logits of a window (:meth:`s2vnet.model.corrector.Corrector.forward`), by the package's corrector."""
        (logits,) = self._correct([_array(pixels), _array(cells)])
        return torch.from_numpy(logits)

    def _job(self, slice_input: SliceInput) -> _Job:
        features = [tensor.permute(0, 2, 3, 1) for tensor in slice_input.features.tensors]
        arrays = [_array(part) for part in (*features, *slice_input.state)]
        return self._decode, arrays

    def _run(self, jobs: Sequence[_Job]) -> list[Sequence[_Array]]:
        if self._pool is None or len(jobs) == 1:
            return [graph(arrays) for graph, arrays in jobs]
        return list(self._pool.map(lambda job: job[0](job[1]), jobs))


def _decoded(outputs: Sequence[_Array]) -> DecoderOutput:
    logits, presence, *state = (torch.from_numpy(output) for output in outputs)
    return DecoderOutput(logits, presence, (), PropagationState(*state))


def _array(tensor: Tensor) -> _Array:
    array: _Array = tensor.detach().float().contiguous().numpy()
    return array


def find_graphs(trained: TrainedModel, folder: Path | None = None) -> Sequence[Path]:
    """Return the files of a network's graphs, in the order of :data:`s2vnet.model.onnx_export.GRAPHS`.

    Args:
        trained: the network.
        folder: folder of the model. Without graphs in it, they are exported once to the user's cache.

    Raises:
        CheckpointError: graphs of other weights.
        InputError: the libraries for the export are not installed.
    """
    return check_graphs(folder if folder is not None and has_graphs(folder) else _export_to_cache(trained), trained)


def _export_to_cache(trained: TrainedModel) -> Path:
    """Folder of the network's graphs in the user's cache; exported on first use, which takes some seconds."""
    if not trained.sha256:
        raise InputError(
            "graphs of a network that was never saved cannot be cached; save it, and export it to its folder"
        )
    folder = cache_folder() / "graphs" / f"{trained.sha256}-{FORMAT}"
    if not has_graphs(folder):
        with folder_errors(folder, "export the model to a folder by hand, or set S2VNET_CACHE"):
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / LOCK).acquire()
        with lock:  # one process exports while others wait
            if not has_graphs(folder):
                export_onnx(trained, folder)
    return folder


def _onnxruntime(runtime: Any, file: Path, concurrency: int) -> _Graph:
    threads = torch.get_num_threads()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = max(1, threads // concurrency)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(arrays: Sequence[_Array]) -> Sequence[_Array]:
        outputs: Sequence[_Array] = session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    return run


def _openvino(runtime: Any, file: Path, concurrency: int) -> _Graph:
    core, threads = runtime.Core(), torch.get_num_threads()
    graph = core.read_model(file)  # once, right after its checksum was verified
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": min(threads, concurrency),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    cache: dict[tuple[tuple[int, ...], ...], list[Any]] = {}
    lock = Lock()

    def compiled(arrays: Sequence[_Array]) -> list[Any]:
        """Idle requests for the inputs' shapes, followed by the compiled model."""
        shapes = tuple(array.shape for array in arrays)
        if shapes not in cache:
            while len(cache) >= MAX_COMPILED_SHAPES:
                cache.pop(next(iter(cache)))
            model = graph.clone()
            model.reshape({node: list(shape) for node, shape in zip(model.inputs, shapes, strict=True)})
            executable = core.compile_model(model, "CPU", settings)
            with _FIRST_CALL:
                request = executable.create_infer_request()
                request.infer(list(arrays), share_inputs=True)
            cache[shapes] = [request, executable]
        return cache[shapes]

    def run(arrays: Sequence[_Array]) -> Sequence[_Array]:
        with lock:
            idle = compiled(arrays)
            request = idle.pop(0) if len(idle) > 1 else idle[-1].create_infer_request()
        results = request.infer(list(arrays), share_inputs=True, share_outputs=False)
        outputs = [results[n] for n in range(len(results))]
        with lock:
            idle.insert(0, request)
        return outputs

    return run
