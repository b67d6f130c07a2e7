"""The stages of a run: train, predict, score. Each runs in a process of its own; finished work is skipped."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import parent_process
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from safetensors.torch import save_model

from benchmarks.measures.calibration import calibration_bins, slice_rank_correlation
from benchmarks.measures.environment import processor, write_json
from benchmarks.measures.error_analysis import click_effects, error_counts
from benchmarks.peers import clicknet, litemedsam
from benchmarks.peers.batches import Batches, PatchBatches, SliceBatches
from benchmarks.peers.networks import median_spacing, patch_size
from benchmarks.peers.training import supervised_objective, train_network
from benchmarks.pipeline.methods import S2VNET_METHODS, TrainedMethod, model_name, require_unseen, untrained_network
from benchmarks.pipeline.runs import Run
from benchmarks.recipes.recipe import BOX_PROMPTED, FINAL, OURS, SHIPPED
from s2vnet.data.dataset import Dataset
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case
from s2vnet.errors import S2VNetError
from s2vnet.evaluation.protocol import run_click_rounds
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import find_model
from s2vnet.io.files import read_image, read_labels, write_labels
from s2vnet.io.geometry import Geometry
from s2vnet.metrics.overlap_and_distance import class_metrics
from s2vnet.model.checkpoint import choose_device, load_model
from s2vnet.training.trainer import Hardware, Trainer, load_cases
from s2vnet.training.validation_scores import QUICK_CASES
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.memory import peak_memory_mb


def train_stage(run: Run) -> None:
    """Train and write `trained.json`."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if run.method in (BOX_PROMPTED, SHIPPED):
        write_json(run.folder / "trained.json", _describe_pretrained(run))
        return
    dataset, names, scored = run.cases()
    cases = _load(dataset, names, run.plan)
    if run.method == OURS:
        quick = [] if run.fold == FINAL else scored[:QUICK_CASES]  # test cases must not influence training
        result = _train_s2vnet(run, dataset.name, cases, _load(dataset, quick, run.plan))
    else:
        result = _train_peer(run, cases)
    result |= {"steps": result["history"][-1]["step"], **peak_memory(), **device_and_hardware(run.device)}
    write_json(run.folder / "trained.json", result)
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)


def _load(dataset: Dataset, names: list[str], plan: Plan) -> list[Case]:
    return load_cases(dataset, names, plan, report=lambda *_: None)


def _describe_pretrained(run: Run) -> dict[str, Any]:
    if run.method == BOX_PROMPTED:
        parameters = sum(p.numel() for p in litemedsam.load(torch.device("cpu")).parameters())
        return {"parameters": parameters, "history": []}
    bundled = load_model(find_model(run.recipe.shipped or ""))
    parameters = sum(p.numel() for p in bundled.model.parameters())
    return {"parameters": parameters, "steps": bundled.info.get("steps"), "history": []}


def _train_s2vnet(run: Run, dataset: str, cases: list[Case], held_out: list[Case]) -> dict[str, Any]:
    info: dict[str, Any] = {
        "dataset": dataset,
        "fold": run.fold,
        "training_cases": len(cases),
        "recipe": run.recipe.title,
    }
    info["training_case_names"] = [case.name for case in cases]
    configs = run.recipe.model_config_of(run.plan), run.recipe.train_config(run.plan, run.seed)
    trainer = Trainer(cases, run.plan, *configs, Hardware(run.device))
    trained = trainer.run(run.folder, held_out, resume=True, info=info)
    history = json.loads((run.folder / "history.json").read_text())
    return {
        "seconds": history[-1]["seconds"],
        "cpu_seconds": history[-1]["cpu_seconds"],
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "history": history,
    }


def _train_peer(run: Run, cases: list[Case]) -> dict[str, Any]:
    plan, config = run.plan, run.recipe.train_config(run.plan, run.seed, run.method)
    device = choose_device(run.device)
    budget = run.training_budget(device.type)
    patch = patch_size(run.method, cases, plan, run.recipe.patch_3d)
    spacing = list(median_spacing(cases, plan))[-len(patch) :]
    torch.manual_seed(config.seed)
    network = untrained_network(run.method, plan, patch, spacing)
    batches: Batches = SliceBatches(cases, plan, config) if len(patch) == 2 else PatchBatches(cases, patch, config)
    objective = supervised_objective(batches, device)
    if run.method == "clicknet":
        objective = clicknet.ClickObjective(batches, plan.num_classes, config, device)
    averaged, history = train_network(network, objective, budget, config, run.folder / "checkpoint.pt", device)
    with atomic_write(run.folder / "model.safetensors") as temporary:
        save_model(averaged.cpu(), str(temporary))
    return {
        "cpu_seconds" if device.type == "cpu" else "seconds": history[-1]["seconds"],
        "patch": patch,
        "spacing": spacing,
        "parameters": sum(p.numel() for p in network.parameters()),
        "history": history,
    }


def predict_stage(run: Run) -> None:
    """Segment each scored case from file to file, and write its times."""
    pending = run.pending_cases("predicted")
    for folder in ("predicted", "labels"):
        (run.folder / folder).mkdir(exist_ok=True)
    dataset, _, scored = run.cases()
    if run.method in S2VNET_METHODS:
        require_unseen(model_name(run), dataset.name, scored)
    method = TrainedMethod(run)
    for name in pending:
        files = dataset.case(name)
        start = time.perf_counter()
        volume = read_image(files.images, frames_as_channels=len(files.images) == 1)
        case = method.prepare(volume, name, files.labels)
        prepared = time.perf_counter()
        segmentation, seconds = method.segment(case)
        labels = segmentation.labels()
        segmented = time.perf_counter()
        write_labels(run.folder / "labels" / f"{name}.nii.gz", labels)
        last = list(seconds)[-1]  # resampling labels to the file's grid is counted with the last part
        parts = {"reading": prepared - start, **seconds}
        parts[last] += segmented - prepared - sum(seconds.values())
        parts["writing"] = time.perf_counter() - segmented
        record = {"seconds": parts, **peak_memory(), **device_and_hardware(run.device)}
        write_json(run.folder / "predicted" / f"{name}.json", record)


def score_stage(run: Run) -> None:
    """Score each predicted case, then let the simulated user correct it."""
    pending = run.pending_cases("scores")
    (run.folder / "scores").mkdir(exist_ok=True)
    dataset, _, scored = run.cases()
    if run.method in S2VNET_METHODS:
        require_unseen(model_name(run), dataset.name, scored)
    method = TrainedMethod(run)
    for name in pending:
        write_json(run.folder / "scores" / f"{name}.json", _score_case(run, method, dataset, name))


def _score_case(run: Run, method: TrainedMethod, dataset: Dataset, name: str) -> dict[str, Any]:
    volume, truth = dataset.read(dataset.case(name))
    predicted = read_labels(run.folder / "labels" / f"{name}.nii.gz")
    assert truth is not None
    classes, spacing, tolerance = [k for k in method.class_names if k], truth.geometry.spacing, run.recipe.tolerance_mm
    metrics = class_metrics(predicted.data, truth.data, classes, spacing, tolerance)
    predicted_slices, true_slices = (slices_of(x.data, truth.geometry, method.plan) for x in (predicted, truth))
    scores: dict[str, Any] = {"metrics": {k: asdict(m) for k, m in metrics.items()}}
    scores["failures"] = error_counts(predicted_slices, true_slices, method.class_names)
    if run.method != BOX_PROMPTED:  # its masks are independent of each other: no class probabilities
        segmentation, _ = method.segment(method.prepare(volume, name))
        scores["calibration"] = calibration_bins(confidence(segmentation), predicted.data, truth.data)
        uncertainty = slices_of(segmentation.uncertainty().data[0], truth.geometry, method.plan)
        scores["spearman"] = slice_rank_correlation(uncertainty, predicted_slices, true_slices)
    session = method.session(volume)
    if session is not None:
        played = run_click_rounds(session, truth.data, classes, spacing, run.recipe.rounds, tolerance_mm=tolerance)
        scores["played"] = {key: value for key, value in asdict(played).items() if key != "clicks"}
        scores["clicks"] = [len(clicks) for clicks in played.clicks]
    if run.method in S2VNET_METHODS and (session := method.session(volume)) is not None:
        scores["one_at_a_time"] = click_effects(session, truth.data, classes, spacing)
    return scores


def slices_of(data: npt.NDArray[Any], geometry: Geometry, plan: Plan) -> npt.NDArray[Any]:
    """Reorder voxels (I, J, K) of a file into slices (D, H, W) of the plan's plane."""
    return np.moveaxis(geometry.canonical()[1].apply(data), plan.axis, 0)


def confidence(segmentation: Segmentation) -> npt.NDArray[Any]:
    """Probability (I, J, K) of the most probable class on the file's grid; 1 outside the crop."""
    parts = [part.amax(1).cpu().numpy() for part in segmentation.source_probabilities(0, segmentation.grid.size[0])]
    return segmentation.grid.crop_to_file(np.concatenate(parts), fill=1)


def peak_memory() -> dict[str, float]:
    """Peak memory of this process in MiB, and of its GPU if it used one."""
    peaks = {"peak_mb": peak_memory_mb() or 0.0}
    if torch.cuda.is_initialized():
        peaks["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 1024**2
    return peaks


def device_and_hardware(device: str) -> dict[str, str]:
    """Type of the device, and name of the processor or GPU."""
    kind = choose_device(device).type
    if kind == "cuda":
        return {"device": kind, "hardware": torch.cuda.get_device_name()}
    hardware = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return {"device": kind, "hardware": hardware}


def run_stage(stage: Callable[[Run], None], run: Run) -> None:
    """Run a stage as the main function of a process, which ends with its parent.

    Errors become one line and exit code 1, an interrupt exit code 130.
    """

    def end_with_parent() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    os.setpgrp()  # Ctrl-C reaches only the parent, which forwards it once: a second one would lose the checkpoint
    try:
        stage(run)
    except S2VNetError as error:
        typer.echo(f"error: {run.method}, fold {run.fold}, seed {run.seed}: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
