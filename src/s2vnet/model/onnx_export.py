"""A network as ONNX graphs, for runtimes that are faster than torch: encode, and three ways to decode.

Most slices know of no prompt, some of prompts on slices before them, few have prompts themselves: each is a graph, the
first two since they are cheaper. Batch, height and width are free. Features have their channels last, as the graphs use
them (N, h, w, c); all maps are float32. https://onnx.ai/onnx/intro/concepts.html
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s2vnet.config import ModelConfig
from s2vnet.errors import CheckpointError
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.checkpoint import DESCRIPTION, TrainedModel
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.s2vnet import PROMPT_MAPS, S2VNet, initial_state
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.extras import require_extra
from s2vnet.utils.json_io import read_json

FORMAT = 2
"""Version of the graphs' inputs and outputs."""
GRAPHS = ("encode", "decode", "carried", "prompted")
MANIFEST = "graphs.json"
_EXAMPLE = 4
"""Cells of the coarsest map in the slices that the graphs are traced with."""
_LARGEST = 512
"""The same of the largest slices (8192 pixels a side at stride 16)."""


class _Encode(nn.Module):
    def __init__(self, model: S2VNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, slices: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.permute(0, 2, 3, 1) for tensor in self.model.encode(slices).tensors)


class _Decode(nn.Module):
    def __init__(self, model: S2VNet, *, carried: bool = True) -> None:
        super().__init__()
        self.model, self.carried = model, carried

    def forward(self, features: list[Tensor], state: list[Tensor], prompts: Tensor | None = None) -> tuple[Tensor, ...]:
        slices = Features.from_tensors([tensor.permute(0, 3, 1, 2) for tensor in features])
        found = self.model.decode(slices, PropagationState(*state), prompts, carried=self.carried)
        return found.logits, found.presence, *found.state


def feature_names(config: ModelConfig) -> tuple[str, ...]:
    """Names of the features as graphs give and take them."""
    layers = range(3 * config.layers_per_level)
    return "mask", *(f"keys{n}" for n in layers), *(f"values{n}" for n in layers)


def state_names(prefix: str) -> tuple[str, ...]:
    """Names of the carried state, entering or leaving."""
    return tuple(f"{prefix}_{part}" for part in PropagationState._fields)


def export_onnx(
    trained: TrainedModel, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write the graphs and a manifest with their hashes into an existing folder.

    Raises:
        InputError: the libraries are missing (`pip install "s2vnet[onnx]"`), or the system refuses.
    """
    require_extra("onnx", "exporting", "onnx", "onnxscript")  # torch's own message does not name the extra
    model, config = trained.model.eval(), trained.model.config
    side = _EXAMPLE * model.stride
    with torch.no_grad():
        slices = torch.zeros(2, config.in_channels, side, side, device=next(model.parameters()).device)
        encoded = model.encode(slices)
        features = [tensor.permute(0, 2, 3, 1).contiguous() for tensor in encoded.tensors]
        state = list(initial_state(config, encoded, torch.tensor([1.0, -1.0])))
        prompts = torch.zeros(2, config.num_classes, PROMPT_MAPS, *encoded.mask.shape[-2:])
    batch = torch.export.Dim("batch", min=1, max=1024)
    h, w = (torch.export.Dim(name, min=1, max=_LARGEST) for name in ("rows", "columns"))

    def sides(times: int, first: int = 2) -> dict[int, Any]:
        return {0: batch, first: times * h if times > 1 else h, first + 1: times * w if times > 1 else w}

    levels = [sides(2**n, 1) for n in range(3) for _ in range(config.layers_per_level)]
    described = [sides(8, 1), *levels, *levels]
    states = [sides(8) if part == "masks" else {0: batch} for part in PropagationState._fields]
    named = feature_names(config)
    entering, leaving = [*named, *state_names("entering")], ["logits", "presence", *state_names("leaving")]
    pixels = sides(8 * config.stem_stride)
    shown = sides(8, 3)
    jobs = {
        "encode": (_Encode(model), (slices,), (pixels,), ["slices"], list(named)),
        "decode": (_Decode(model, carried=False), (features, state), (described, states), entering, leaving),
        "carried": (_Decode(model), (features, state), (described, states), entering, leaving),
        "prompted": (
            _Decode(model),
            (features, state, prompts),
            (described, states, shown),
            [*entering, "prompts"],
            leaving,
        ),
    }
    hashes = {}
    for done, (name, (module, arguments, shapes, inputs, outputs)) in enumerate(jobs.items()):
        progress(done, len(jobs))
        with _quiet(), atomic_write(folder / f"{name}.onnx") as temporary:
            program = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
            assert program is not None
            program.save(temporary)
            hashes[name] = hashlib.sha256(temporary.read_bytes()).hexdigest()
    with atomic_write(folder / MANIFEST) as temporary:
        content = {"format": FORMAT, "weights_sha256": trained.sha256, "graphs": hashes}
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def has_graphs(folder: Path) -> bool:
    """Whether there are exported graphs in a folder."""
    return (folder / MANIFEST).is_file()


def check_graphs(folder: Path, trained: TrainedModel) -> Sequence[Path]:
    """Files of the graphs, found to be those that were exported of these weights.

    Raises:
        CheckpointError: graphs that are missing, damaged, of another version or of other weights.
    """
    again = "; export the model again"
    try:
        content = read_json(folder / MANIFEST)
        if content["format"] != FORMAT:
            raise CheckpointError(f"{folder / MANIFEST}: graphs of another version of s2vnet{again}")
        if content["weights_sha256"] != trained.sha256:
            raise CheckpointError(f"{folder / MANIFEST}: graphs of other weights than {DESCRIPTION} names{again}")
        files = [folder / f"{name}.onnx" for name in GRAPHS]
        for file in files:
            if hashlib.sha256(file.read_bytes()).hexdigest() != content["graphs"][file.stem]:
                raise CheckpointError(f"{file}: not the graph that {MANIFEST} names{again}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: no exported graphs, or damaged ones{again}") from error
    return files


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of libraries that are not there."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
