"""The network in another runtime than torch: exported graphs (:mod:`s2vnet.model.onnx_export`) behind the same calls.

ONNX Runtime (https://onnxruntime.ai) and OpenVINO (https://docs.openvino.ai) fuse what torch does one by one. Sums are
taken in another order there, so probabilities differ by roundings from torch's, and labels where two classes tie.
"""

from __future__ import annotations

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
from s2vnet.errors import CheckpointError, InputError
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.checkpoint import TrainedModel
from s2vnet.model.onnx_export import FORMAT, GRAPHS, check_graphs, export_onnx, has_graphs
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.quantization import find_int8_graph
from s2vnet.model.s2vnet import DecoderOutput, Network, SliceInput, initial_state
from s2vnet.utils.extras import require_extra
from s2vnet.utils.folders import cache_folder, folder_errors

Runtime = Literal["torch", "onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
MAX_COMPILED_SHAPES = 4
"""OpenVINO is a quarter faster on shapes that it knows beforehand, and is told those it meets, so many at most."""
LOCK = ".lock"
ENCODE_CONCURRENCY, DECODE_CONCURRENCY = 8, 2
"""Slices that are encoded and decoded at the same time at most; each then has its share of the threads."""

_Array = npt.NDArray[np.float32]
_Graph = Callable[[Sequence[_Array]], Sequence[_Array]]
_FIRST_CALL = Lock()
"""Two threads that call OpenVINO for the first time at once wait for each other for ever."""
_Job = tuple[_Graph, Sequence[_Array]]


def to_runtime(trained: TrainedModel, runtime: str, device: torch.device, folder: Path | None = None) -> Network:
    """A trained network in a runtime.

    Args:
        trained: the network.
        runtime: one of :data:`RUNTIMES`.
        device: of torch; the other runtimes know the CPU alone.
        folder: of the model; graphs that were exported there are used (by OpenVINO the one in int8, where there is
            one), otherwise some are made once and kept in the user's cache.

    Raises:
        CheckpointError: another device, or graphs of other weights.
        InputError: no such runtime, or it is not installed.
    """
    if runtime == "torch":
        return trained.model.to(device)
    if runtime not in RUNTIMES:
        raise InputError(f"no runtime {runtime!r}; choose one of {', '.join(RUNTIMES)}")
    if device.type != "cpu":
        raise CheckpointError(f"runtime {runtime} computes on the CPU; leave out the device or say cpu")
    load = _onnxruntime if runtime == "onnxruntime" else _openvino
    require_extra("onnx" if runtime == "onnxruntime" else "openvino", f"--runtime {runtime}", runtime)
    module = import_module(runtime)
    found = folder if folder is not None and has_graphs(folder) else _cached(trained)
    files = list(check_graphs(found, trained))
    if runtime == "openvino":  # the other one is no faster with bytes
        files[0] = find_int8_graph(found) or files[0]
    graphs = [
        load(module, file, ENCODE_CONCURRENCY if name == "encode" else DECODE_CONCURRENCY)
        for name, file in zip(GRAPHS, files, strict=True)
    ]
    return ExportedNetwork(trained.model.config, graphs)


class ExportedNetwork:
    """A network's graphs; the calls of :class:`s2vnet.model.s2vnet.S2VNet` that inference makes."""

    def __init__(self, config: ModelConfig, graphs: Sequence[_Graph]) -> None:
        """Args: the network's shape, and its graphs in the order of :data:`s2vnet.model.onnx_export.GRAPHS`."""
        self._config = config
        self._encode, self._decode, self._carried, self._prompted = graphs
        threads = min(torch.get_num_threads(), ENCODE_CONCURRENCY)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def config(self) -> ModelConfig:
        """Of the network."""
        return self._config

    @property
    def stride(self) -> int:
        """Slices must be a multiple of this in height and width."""
        return self._config.stem_stride * 8

    def encode_slices(self, slices: Tensor) -> Sequence[Features]:
        """Slice by slice, since what one needs stays in the processor's cache; some at the same time."""
        each = self._at_once([(self._encode, [one]) for one in np.split(_array(slices), len(slices))])
        return [Features.from_tensors([torch.from_numpy(part).permute(0, 3, 1, 2) for part in parts]) for parts in each]

    def initial_state(self, features: Features, direction: Tensor | None = None) -> PropagationState:
        """See :func:`s2vnet.model.s2vnet.initial_state`."""
        return initial_state(self._config, features, direction)

    def decode_slices(self, rows: Sequence[SliceInput]) -> list[DecoderOutput]:
        """Each by the graph that knows no more than it needs, at the same time."""
        return [_decoded(found) for found in self._at_once([self._job(row) for row in rows])]

    def _job(self, row: SliceInput) -> _Job:
        features = [tensor.permute(0, 2, 3, 1) for tensor in row.features.tensors]
        given = [_array(part) for part in (*features, *row.state)]
        if row.prompts is not None and row.prompted:
            return self._prompted, [*given, _array(row.prompts)]
        return self._carried if row.carried else self._decode, given

    def _at_once(self, jobs: Sequence[_Job]) -> list[Sequence[_Array]]:
        if self._pool is None or len(jobs) == 1:
            return [graph(arrays) for graph, arrays in jobs]
        return list(self._pool.map(lambda job: job[0](job[1]), jobs))


def _decoded(outputs: Sequence[_Array]) -> DecoderOutput:
    logits, presence, *state = (torch.from_numpy(output) for output in outputs)
    return DecoderOutput(logits, presence, (), PropagationState(*state))


def _array(tensor: Tensor) -> _Array:
    array: _Array = tensor.detach().float().contiguous().numpy()
    return array


def _cached(trained: TrainedModel) -> Path:
    """Folder of this version's graphs in the user's cache; made on first use, which takes a minute."""
    if not trained.sha256:
        raise InputError("a network without a name has no place in the cache; save it, and export it to its folder")
    folder = cache_folder() / "graphs" / f"{trained.sha256}-{FORMAT}"
    if not has_graphs(folder):
        with folder_errors(folder, "export the model to a folder by hand, or set S2VNET_CACHE"):
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / LOCK).acquire()
        with lock:  # one process makes them while others wait
            if not has_graphs(folder):
                export_onnx(trained, folder)
    return folder


def _onnxruntime(runtime: Any, file: Path, at_once: int) -> _Graph:
    threads = torch.get_num_threads()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = max(1, threads // at_once)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(arrays: Sequence[_Array]) -> Sequence[_Array]:
        outputs: Sequence[_Array] = session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    return run


def _openvino(runtime: Any, file: Path, at_once: int) -> _Graph:
    core, threads = runtime.Core(), torch.get_num_threads()
    graph = core.read_model(file)  # once, as it was checked
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": min(threads, at_once),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    known: dict[tuple[tuple[int, ...], ...], list[Any]] = {}
    lock = Lock()

    def compiled(arrays: Sequence[_Array]) -> list[Any]:
        """Requests for such inputs that nobody uses, the compiled model last."""
        shapes = tuple(array.shape for array in arrays)
        if shapes not in known:
            while len(known) >= MAX_COMPILED_SHAPES:
                known.pop(next(iter(known)))
            model = graph.clone()
            model.reshape({given: list(shape) for given, shape in zip(model.inputs, shapes, strict=True)})
            found = [core.compile_model(model, "CPU", settings)]
            with _FIRST_CALL:
                found.insert(0, found[0].create_infer_request())
                found[0].infer(list(arrays), share_inputs=True)
            known[shapes] = found
        return known[shapes]

    def run(arrays: Sequence[_Array]) -> Sequence[_Array]:
        with lock:
            idle = compiled(arrays)
            request = idle.pop(0) if len(idle) > 1 else idle[-1].create_infer_request()
        found = request.infer(list(arrays), share_inputs=True, share_outputs=False)
        outputs = [found[n] for n in range(len(found))]
        with lock:
            idle.insert(0, request)
        return outputs

    return run
