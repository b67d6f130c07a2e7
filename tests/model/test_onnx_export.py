"""Exported graphs give what the network gives, and belong to its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from s2vnet.errors import CheckpointError
from s2vnet.inference.backends import RUNTIMES, to_runtime
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.checkpoint import TrainedModel, load_model
from s2vnet.model.interface import DecoderOutput, Network, SliceInput
from s2vnet.model.onnx_export import GRAPHS, MANIFEST, export_onnx
from s2vnet.model.pixel_decoder import Features

OTHERS = RUNTIMES[1:]
CPU = torch.device("cpu")


def encode(net: Network, slices: Tensor) -> Features:
    """Slices as a batch."""
    rows = net.encode_slices(slices)
    return Features.assemble(((range(n, n + 1), row) for n, row in enumerate(rows)), len(rows))


def decode(net: Network, features: Features, state: PropagationState) -> DecoderOutput:
    """Slices of a batch, each by itself."""
    rows = [
        SliceInput(
            features.select(one),
            PropagationState(*(part[one] for part in state)),
        )
        for one in (slice(n, n + 1) for n in range(len(features.mask)))
    ]
    return DecoderOutput.concatenate(net.decode_slices(rows))


def _run(net: Network, slices: Tensor) -> list[Tensor]:
    """All that a network gives of two slices, without and with what an earlier slice left."""
    with torch.inference_mode():
        features = encode(net, slices)
        state = net.initial_state(features, torch.tensor([1.0, -1.0]))
        first = decode(net, features, state)
        second = decode(net, features, first.state)
    return [*features.tensors, *(x for d in (first, second) for x in (d.logits, d.presence, *d.state))]


@pytest.mark.parametrize("runtime", OTHERS)
@pytest.mark.parametrize("cells", [(1, 1), (5, 8), (7, 3)])
def test_graphs_give_what_the_network_gives(exported: Path, runtime: str, cells: tuple[int, int]) -> None:
    trained = load_model(exported)
    sides = [n * trained.model.stride for n in cells]
    slices = torch.randn(2, trained.model.config.in_channels, *sides, generator=torch.Generator().manual_seed(0))
    wanted = _run(trained.model, slices)
    for found, expected in zip(_run(to_runtime(trained, runtime, CPU, exported), slices), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_graphs_of_other_weights_or_damaged_ones_are_refused(exported: Path, tmp_path: Path) -> None:
    trained = load_model(exported)
    other = TrainedModel(trained.model, trained.plan, trained.info, "0" * 64)
    with pytest.raises(CheckpointError, match="other weights"):
        to_runtime(other, OTHERS[0], CPU, exported)
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    graph = tmp_path / f"{GRAPHS[1]}.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="does not match the hash"):
        to_runtime(trained, OTHERS[0], CPU, tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        to_runtime(trained, OTHERS[0], CPU, tmp_path)


@pytest.mark.parametrize("runtime", OTHERS)
@pytest.mark.parametrize(
    "settings",
    [{"auxiliary_masks": True}, {"propagation": "previous"}, {"propagation": "none"}],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()),
)
def test_graphs_of_every_kind_of_network(
    save: Callable[..., Path], runtime: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    trained = load_model(save(**settings))
    export_onnx(trained, tmp_path)
    sides = [n * trained.model.stride for n in (3, 5)]
    slices = torch.randn(2, trained.model.config.in_channels, *sides, generator=torch.Generator().manual_seed(0))
    wanted = _run(trained.model, slices)
    for found, expected in zip(_run(to_runtime(trained, runtime, CPU, tmp_path), slices), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
