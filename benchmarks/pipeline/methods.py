"""Trained methods behind one interface: prepare a volume, segment it, start an interactive session."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from benchmarks.peers import clicknet, litemedsam
from benchmarks.peers.inference import segment_slices, segment_volume
from benchmarks.peers.networks import DIMENSIONS, Patch, build_network, size_multiple
from benchmarks.pipeline.runs import Run
from benchmarks.recipes.recipe import BOX_PROMPTED, OURS, SHIPPED, Method
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.errors import InputError
from s2vnet.evaluation.protocol import InteractiveSession
from s2vnet.inference.postprocessing import remove_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter, find_model
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_labels
from s2vnet.io.geometry import Volume
from s2vnet.model.checkpoint import choose_device, read_description

S2VNET_METHODS = (OURS, SHIPPED)

Seconds = dict[str, float]
"""Wall-clock seconds by part of the work."""


def model_name(run: Run) -> Path | str:
    """Folder or name of the model of a run of s2vnet."""
    return run.folder if run.method == OURS else run.recipe.shipped or ""


class TrainedMethod:
    """The method of a run, with its trained weights."""

    def __init__(self, run: Run) -> None:
        self.method, self.plan, self.device = run.method, run.plan, choose_device(run.device)
        self.class_names = {value: name for name, value in self.plan.labels.items()}
        if run.method in S2VNET_METHODS:
            self._load_s2vnet(model_name(run), run.device)
        elif run.method == BOX_PROMPTED:
            self.network = litemedsam.load(self.device)
        else:
            self._load_network(run.folder)

    def _load_s2vnet(self, name: Path | str, device: str) -> None:
        self.segmenter = Segmenter.from_pretrained(name, device=device, runtime="torch")
        if self.segmenter.plan.labels != self.plan.labels:
            raise InputError(f"{name}: a model of other classes than the benchmark's")
        self.plan = self.segmenter.plan

    def _load_network(self, folder: Path) -> None:
        description = json.loads((folder / "trained.json").read_text())
        self.patch, self.spacing = tuple(description["patch"]), description["spacing"]
        self.network = untrained_network(self.method, self.plan, self.patch, self.spacing)
        load_model(self.network, str(folder / "model.safetensors"))
        self.network.to(self.device).eval()

    def prepare(self, volume: Volume, name: str, labels: Path | None = None) -> Case:
        """Preprocess a volume for the method; ``labels`` are those that box prompts are taken from."""
        if self.method in S2VNET_METHODS:
            return self.segmenter.prepare(volume, name)
        if self.method == BOX_PROMPTED and labels is not None:
            return preprocess(volume, litemedsam.native_plan(self.plan, volume.geometry), read_labels(labels), name)
        return preprocess(volume, self.plan, name=name)

    def segment(self, case: Case) -> tuple[Segmentation, Seconds]:
        """Segment a case; return also the seconds of each part."""
        if self.method in S2VNET_METHODS:
            return self._segment_s2vnet(case)
        start = time.perf_counter()
        if self.method == "clicknet":
            with torch.inference_mode():
                segmentation = self._click_session(case).segmentation
        else:
            segmentation = Segmentation(case.grid, self._scores(case), self.class_names)
        return segmentation, {"network": time.perf_counter() - start}

    def _segment_s2vnet(self, case: Case) -> tuple[Segmentation, Seconds]:
        start = time.perf_counter()
        encoded: list[float] = []

        def progress(done: int, total: int) -> None:
            if 2 * done == total:
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                encoded.append(time.perf_counter())

        segmentation = self.segmenter.segment_case(case, progress)
        return segmentation, {"encoding": encoded[0] - start, "decoding": time.perf_counter() - encoded[0]}

    def _scores(self, case: Case) -> Tensor:
        """Class probabilities (D, K, H, W) by a network without clicks."""
        if self.method == BOX_PROMPTED:
            return litemedsam.segment(self.network, case, len(self.class_names), self.device)
        if DIMENSIONS[self.method] == 2:
            multiple = size_multiple(self.method, self.patch, self.spacing)
            scores = segment_slices(self.network, case, self.plan, multiple, self.device)
        else:
            scores = segment_volume(self.network, torch.from_numpy(case.image), self.patch, self.device)
        return remove_detached_parts(scores, self.plan.smallest_part)

    def session(self, volume: Volume) -> InteractiveSession | None:
        """Start an interactive session; None for a method without clicks."""
        if self.method in S2VNET_METHODS:
            return Session(self.segmenter, volume)
        return self._click_session(preprocess(volume, self.plan)) if self.method == "clicknet" else None

    def _click_session(self, case: Case) -> clicknet.ClickSession:
        return clicknet.ClickSession(self.network, case, self.plan, self.patch, self.device)


def require_unseen(name: Path | str, dataset: str, cases: Sequence[str]) -> None:
    """Refuse to score a model on cases that its ``model.json`` names as training cases.

    Args:
        name: name or folder of the model.
        dataset: name of the dataset.
        cases: names of the cases to be scored.

    Raises:
        InputError: some of them are training cases.
    """
    info = read_description(find_model(name)).get("info", {})
    names = info.get("training_case_names", [])
    if info.get("dataset") == dataset and (seen := sorted(set(cases) & set(names))):
        more = f" and {len(seen) - 3} more" if len(seen) > 3 else ""
        raise InputError(f"{name} was trained on {', '.join(seen[:3])}{more}; score it on cases it has not seen")


def untrained_network(method: Method, plan: Plan, patch: Patch, spacing: list[float]) -> nn.Module:
    """Build the network of a method other than s2vnet."""
    channels = plan.in_channels if len(patch) == 2 else len(plan.channels)
    if method == "clicknet":
        channels = clicknet.input_channels(channels, plan.num_classes)
    return build_network(method, channels, plan.num_classes, patch, spacing)
