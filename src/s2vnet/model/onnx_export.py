"""Export of a network and of the corrector as ONNX graphs: ``encode``, ``decode`` and ``correct``.

Batch, height and width are dynamic. Features
are channels last (N, h, w, c); all maps are float32. The corrector's graph has the fixed size of one window
(docs/corrections.md). https://onnx.ai/onnx/intro/concepts.html
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s2vnet.config import ModelConfig
from s2vnet.errors import CheckpointError
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.checkpoint import DESCRIPTION, TrainedModel
from s2vnet.model.corrector import CELL, CELL_MAPS, PIXEL_MAPS, WINDOW, Corrector
from s2vnet.model.interface import initial_state
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.s2vnet import S2VNet
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.extras import require_extra
from s2vnet.utils.json_io import read_json

FORMAT = 4
"""Version of the graphs' inputs and outputs."""
GRAPHS = ("encode", "decode", "correct")
MANIFEST = "graphs.json"
_TRACED_CELLS = 4
"""Cells per side of the coarsest map, in the slices that the graphs are traced with."""
OPSET = 18
"""Version of ONNX's operators."""


class _Encode(nn.Module):
    def __init__(self, model: S2VNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, slices: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.permute(0, 2, 3, 1) for tensor in self.model.encode(slices).tensors)


class _Decode(nn.Module):
    def __init__(self, model: S2VNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: list[Tensor], state: list[Tensor]) -> tuple[Tensor, ...]:
        slices = Features.from_tensors([tensor.permute(0, 3, 1, 2) for tensor in features])
        output = self.model.decode(slices, PropagationState(*state))
        return output.logits, output.presence, *output.state


def feature_names(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the features, as outputs of the encoder and inputs of the decoders."""
    layers = range(3 * config.layers_per_level)
    return "mask", *(f"keys{n}" for n in layers), *(f"values{n}" for n in layers)


def state_names(prefix: str) -> tuple[str, ...]:
    """Return the names of the carried state: prefix ``entering`` for inputs, ``leaving`` for outputs."""
    return tuple(f"{prefix}_{part}" for part in PropagationState._fields)


def export_onnx(
    trained: TrainedModel, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Export the graphs and a manifest with their hashes into an existing folder.

    Raises:
        InputError: the libraries of the extra ``onnx`` are missing, or the files cannot be written.
    """
    require_extra("onnx", "exporting", "onnx", "onnxscript")  # torch's own message does not name the extra
    graphs = _graphs(trained.model.eval())
    hashes = {}
    for done, (name, graph) in enumerate(graphs.items()):
        progress(done, len(graphs))
        hashes[name] = _export_graph(graph, folder / f"{name}.onnx")
    with atomic_write(folder / MANIFEST) as temporary:
        content = {
            "format": FORMAT,
            "weights_sha256": trained.sha256,
            "corrector_sha256": Corrector.bundled_sha256(),
            "graphs": hashes,
        }
        temporary.write_text(json.dumps(content, indent=1) + "\n")


class _Graph(NamedTuple):
    """Arguments of ``torch.onnx.export``."""

    module: nn.Module
    arguments: tuple[Any, ...]
    dynamic_axes: dict[str, dict[int, str]]
    input_names: list[str]
    output_names: list[str]


@torch.no_grad()
def _graphs(model: S2VNet) -> dict[str, _Graph]:
    """Each graph by name, with example inputs of two slices."""
    config, side = model.config, _TRACED_CELLS * model.stride
    slices = torch.zeros(2, config.in_channels, side, side, device=next(model.parameters()).device)
    encoded = model.encode(slices)
    features = [tensor.permute(0, 2, 3, 1).contiguous() for tensor in encoded.tensors]
    state = list(initial_state(config, encoded, torch.tensor([1.0, -1.0])))
    encoder_axes, decoder_axes = _dynamic_axes(config)
    names = feature_names(config)
    inputs, outputs = [*names, *state_names("entering")], ["logits", "presence", *state_names("leaving")]
    return {
        "encode": _Graph(_Encode(model), (slices,), encoder_axes, ["slices"], list(names)),
        "decode": _Graph(_Decode(model), (features, state), decoder_axes, inputs, outputs),
        "correct": _Graph(Corrector.bundled(), _example_window(), {}, ["pixels", "cells"], ["logits"]),
    }


def _example_window() -> tuple[Tensor, Tensor]:
    """Maps of one window, as inputs of the corrector."""
    depth, height, width = WINDOW
    pixels = torch.zeros(1, depth, len(PIXEL_MAPS), height, width)
    return pixels, torch.zeros(1, depth, len(CELL_MAPS), height // CELL, width // CELL)


def _dynamic_axes(config: ModelConfig) -> tuple[dict[str, dict[int, str]], dict[str, dict[int, str]]]:
    """Names of the dynamic dimensions of the encoder's inputs and outputs, and of the decoders'."""

    def sides(name: str, axis: int) -> dict[int, str]:
        return {0: "batch", axis: f"{name}_rows", axis + 1: f"{name}_columns"}

    features = {name: sides(name, 1) for name in feature_names(config)}
    state = {name: {0: "batch"} for name in (*state_names("entering"), *state_names("leaving"), "presence")}
    maps = {"entering_masks": 2, "leaving_masks": 2, "logits": 2}
    masks = {name: sides("masks", axis) for name, axis in maps.items()}
    return {"slices": sides("slices", 2), **features}, {**features, **state, **masks}


def _export_graph(graph: _Graph, path: Path) -> str:
    """Write a graph; return its SHA-256."""
    # traced: torch.export propagates symbolic shapes three times, which takes fifty times as long
    with _quiet_exporter(), atomic_write(path) as temporary:
        torch.onnx.export(
            graph.module.eval(),
            graph.arguments,
            str(temporary),
            dynamo=False,
            opset_version=OPSET,
            dynamic_axes=graph.dynamic_axes,
            input_names=graph.input_names,
            output_names=graph.output_names,
        )
        return hashlib.sha256(temporary.read_bytes()).hexdigest()


def has_graphs(folder: Path) -> bool:
    """Return whether a folder holds exported graphs."""
    return (folder / MANIFEST).is_file()


def check_graphs(folder: Path, trained: TrainedModel) -> Sequence[Path]:
    """Return the files of the graphs after verifying that they were exported from these weights and this corrector.

    Raises:
        CheckpointError: graphs are missing, damaged, of another version or of other weights.
    """
    hint = "; export the model again"
    try:
        content = read_json(folder / MANIFEST)
        if content["format"] != FORMAT:
            raise CheckpointError(f"{folder / MANIFEST}: graphs of another version of s2vnet{hint}")
        if content["weights_sha256"] != trained.sha256:
            raise CheckpointError(f"{folder / MANIFEST}: graphs of other weights than those in {DESCRIPTION}{hint}")
        if content["corrector_sha256"] != Corrector.bundled_sha256():
            raise CheckpointError(f"{folder / MANIFEST}: graph of another corrector than the package's{hint}")
        files = [folder / f"{name}.onnx" for name in GRAPHS]
        for file in files:
            if hashlib.sha256(file.read_bytes()).hexdigest() != content["graphs"][file.stem]:
                raise CheckpointError(f"{file}: does not match the hash in {MANIFEST}{hint}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: no exported graphs, or damaged ones{hint}") from error
    return files


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's warnings about optional libraries."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
