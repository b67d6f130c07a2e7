"""One-click trials: what one prompt corrects of an error, and what it spoils.

    python -m benchmarks.clicks --data ../shared/data/Dataset013_BTCV --cases img0001 img0002 --model abdomen-ct \
        --methods corrector sphere -o docs/results/clicks.json

An error ("part") is a 6-connected component of the missed or the false voxels of one class after in-plane opening by a
disc of two voxels, of at least 100 voxels. The click lies on the part's largest slice, on the voxel that is farthest
from its border in plane. On a missed part it says "is" the class; on a false part it says "is not" the class. Every
trial starts from the automatic labels. Reported per kind of click: medians and 90th percentiles of the share of the
part that is corrected on the clicked slice and in 3D, of right voxels that became wrong (spoilt) divided by the part's
size, of the farthest spoilt voxel, and the share of clicks that spoil more than they correct. ``effort`` continues
with clicks on what is left until a tenth of the part is left.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from scipy import ndimage

from benchmarks.corrector import ABLATIONS, ablate, load_network
from benchmarks.measures.environment import processor, write_json
from benchmarks.peers.random_walker import random_walker
from s2vnet.data.dataset import read_dataset, read_folds
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.evaluation.protocol import run_click_rounds
from s2vnet.inference.correction import ChangeLimits
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.corrections import Corrections
from s2vnet.interactive.label_changes import LabelChange
from s2vnet.interactive.prompt_state import PromptState
from s2vnet.model.checkpoint import TrainedModel
from s2vnet.model.corrector import Corrector
from s2vnet.prompts import Point

Labels = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
MIN_VOXELS = 100
LEFT_SHARE = 0.1
MAX_CLICKS = 6


class Part(NamedTuple):
    """A connected error of one class."""

    class_id: int
    missed: bool
    voxels: npt.NDArray[np.intp]
    """(N, 3)."""


def find_parts(labels: Labels, truth: Labels, axis: int, min_voxels: int = MIN_VOXELS) -> list[Part]:
    """Errors of all classes; `axis` is perpendicular to the plane of the opening."""
    steps = np.arange(-2, 3)
    disc = np.expand_dims(np.hypot(steps[:, None], steps) <= 2, axis)
    parts = []
    for class_id in range(1, int(max(labels.max(), truth.max())) + 1):
        own, true = labels == class_id, truth == class_id
        for missed, wrong in ((True, true & ~own), (False, own & ~true)):
            components, _ = ndimage.label(ndimage.binary_opening(wrong, disc))
            for n, box in enumerate(ndimage.find_objects(components), start=1):
                voxels = np.argwhere(components[box] == n) + [s.start for s in box]
                if len(voxels) >= min_voxels:
                    parts.append(Part(class_id, missed, voxels))
    return parts


def click_on(voxels: npt.NDArray[np.intp], axis: int) -> tuple[int, int, int]:
    """Voxel on the slice with most of some voxels that is farthest in plane from the others."""
    slices, counts = np.unique(voxels[:, axis], return_counts=True)
    chosen = int(slices[counts.argmax()])
    plane = np.delete(voxels[voxels[:, axis] == chosen], axis, axis=1)
    low = plane.min(0) - 1
    mask = np.zeros(plane.max(0) - low + 2, bool)
    mask[tuple((plane - low).T)] = True
    depth = ndimage.distance_transform_edt(mask)
    inside = np.array(np.unravel_index(depth.argmax(), depth.shape)) + low
    i, j, k = np.insert(inside, axis, chosen).tolist()
    return i, j, k


class Method(NamedTuple):
    """A way to answer a click."""

    name: str
    answer: Callable[[Labels, PromptState, Point, Part], LabelChange]


class CorrectedLabels:
    """Labels that clicks correct one by one (:class:`s2vnet.evaluation.protocol.InteractiveSession`)."""

    def __init__(self, corrections: Corrections, labels: Labels) -> None:
        self.corrections, self.labels, self.state = corrections, labels, PromptState()

    def add_round(self, points: Sequence[Point]) -> None:
        """Apply clicks."""
        self.labels = self.labels.copy()
        for click in points:
            change = self.corrections.change(self.labels, self.state, click)
            self.labels.reshape(-1)[change.voxels] = change.after
            self.state = self.state.add(click, self.corrections.grid)


def corrected_by(corrections: Corrections) -> Callable[..., LabelChange]:
    """Answers of the corrector."""

    def answer(labels: Labels, state: PromptState, click: Point, part: Part) -> LabelChange:
        return corrections.change(labels, state, click)

    return answer


def sphere(spacing: Sequence[float], shape: tuple[int, ...]) -> Callable[..., LabelChange]:
    """A ball of the part's volume around the click: it knows how large the part is."""

    def answer(labels: Labels, state: PromptState, click: Point, part: Part) -> LabelChange:
        radius = (3 * len(part.voxels) * np.prod(spacing) / (4 * np.pi)) ** (1 / 3)
        grid = np.ogrid[tuple(slice(0, n) for n in shape)]
        away = sum(((g - v) * s) ** 2 for g, v, s in zip(grid, click.voxel, spacing, strict=True))
        ball = (away <= radius**2) & ((labels != click.class_id) == click.positive)
        flat = np.flatnonzero(ball)
        before = labels.reshape(-1)[flat]
        after = np.full_like(before, click.class_id if click.positive else 0)
        return LabelChange(flat, before, after)

    return answer


def trial(method: Method, labels: Labels, truth: Labels, part: Part, grid: SliceGrid, effort: bool) -> dict[str, Any]:
    """Scores of the first click on a part, and clicks until a tenth of it is left."""
    axis, spacing = grid.orientation.axes[grid.axis], grid.geometry.spacing
    start = labels.reshape(-1)
    flat_truth = truth.reshape(-1)
    indices = np.ravel_multi_index(tuple(part.voxels.T), labels.shape)
    current, state, remaining = labels.copy(), PromptState(), part.voxels
    row: dict[str, Any] = {"class": part.class_id, "kind": "is" if part.missed else "is not", "size": len(indices)}
    for number in range(1, MAX_CLICKS + 1):
        click = Point(class_id=part.class_id, positive=part.missed, voxel=click_on(remaining, axis))
        begin = time.perf_counter()
        change = method.answer(current, state, click, part)
        seconds = time.perf_counter() - begin
        current = current.copy()
        current.reshape(-1)[change.voxels] = change.after
        state = state.add(click, grid)
        now = current.reshape(-1)[indices]
        corrected = now == part.class_id if part.missed else now != part.class_id
        if number == 1:
            changed = np.flatnonzero(current.reshape(-1) != start)
            spoilt = changed[start[changed] == flat_truth[changed]]
            mended = changed[current.reshape(-1)[changed] == flat_truth[changed]]
            on_slice = part.voxels[:, axis] == click.voxel[axis]
            away = (np.stack(np.unravel_index(spoilt, labels.shape), 1) - np.array(click.voxel)) * np.array(spacing)
            row |= {
                "slice": float(corrected[on_slice].mean()),
                "volume": float(corrected.mean()),
                "right": float((now == flat_truth[indices]).mean()),
                "spoilt": len(spoilt) / len(indices),
                "net": (len(mended) - len(spoilt)) / len(indices),
                "farthest_mm": float(np.sqrt((away**2).sum(1)).max()) if len(spoilt) else 0.0,
                "ms": seconds * 1000,
            }
        if corrected.mean() >= 1 - LEFT_SHARE:
            return {**row, "clicks": number}
        if not effort:
            return row
        remaining = part.voxels[~corrected]
    return {**row, "clicks": None}


def rounds_of_clicks(
    corrections: Corrections, labels: Labels, truth: Labels, classes: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Mean Dice of a case before and after each round of the CVPR 2025 protocol, and median milliseconds a click."""
    spacing = corrections.grid.geometry.spacing
    scores = run_click_rounds(CorrectedLabels(corrections, labels), truth, classes, spacing, rounds)
    clicks = [len(each) for each in scores.clicks if each]
    pace = [1000 * s / n for s, n in zip(scores.seconds_per_round, clicks, strict=True)]
    return {
        "dice": [float(np.mean(list(each.values()))) for each in scores.dice],
        "ms": float(np.median(pace)) if pace else 0.0,
    }


def summarize_rounds(played: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean Dice over cases by round, largest loss of a case in a round, and milliseconds a click."""
    dice = np.array([each["dice"] for each in played])
    return {
        "mean": np.round(dice.mean(0), 4).tolist(),
        "worst": round(float(np.diff(dice, axis=1).min()), 4),
        "ms": round(float(np.median([each["ms"] for each in played]))),
    }


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians and 90th percentiles of the trials."""
    summary: dict[str, Any] = {"parts": len(rows)}
    for name in ("slice", "volume", "right", "spoilt", "net", "farthest_mm", "ms"):
        values = [row[name] for row in rows]
        summary[name] = {"median": float(np.median(values)), "p10": float(np.percentile(values, 10))}
        summary[name]["p90"] = float(np.percentile(values, 90))
    summary["net_harm"] = float(np.mean([row["net"] < 0 for row in rows]))
    summary["beyond_30_mm"] = float(np.mean([row["farthest_mm"] > 30 for row in rows]))
    if "clicks" in rows[0]:
        summary["within_3"] = float(np.mean([row["clicks"] is not None and row["clicks"] <= 3 for row in rows]))
    return summary


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of the options that choose cases and a network."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", help="names; by default the held-out cases of the fold")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--model", default="abdomen-ct")
    parser.add_argument("--weights", type=Path)
    return parser


def main() -> None:
    """Run the trials."""
    parser = make_parser(__doc__)
    parser.add_argument("--corrector", type=Path, help="weights of another corrector than the package's")
    parser.add_argument("--ablate", choices=ABLATIONS, help="part of the corrector's input to hide")
    parser.add_argument("--threshold", type=float, default=ChangeLimits.threshold, help="logit that a change exceeds")
    parser.add_argument("--reach", type=float, default=ChangeLimits.reach_mm, help="largest distance of a change, mm")
    parser.add_argument("--thin", type=float, default=ChangeLimits.thin_penalty, help="logit that thin changes exceed")
    parser.add_argument("--methods", nargs="+", default=["corrector", "sphere"])
    parser.add_argument("--walker", type=float, nargs=2, default=[], help="radius in mm and beta of the random walker")
    parser.add_argument("--effort", action="store_true")
    parser.add_argument("--rounds", type=int, default=0, help="also rounds of the CVPR 2025 protocol")
    parser.add_argument("--limit", type=int, help="only so many parts of a case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network, plan = load_network(arguments)
    segmenter = Segmenter([TrainedModel(network, plan.model_dump(mode="json"), {}, "")], device="cpu")
    if arguments.corrector is not None or arguments.ablate is not None:
        stored = arguments.corrector and load_file(arguments.corrector)
        corrector = Corrector.from_state_dict(stored) if stored else Corrector.bundled()
        segmenter.__dict__["corrector"] = ablate(corrector, arguments.ablate) if arguments.ablate else corrector
    dataset = read_dataset(arguments.data)
    names = arguments.cases or read_folds(dataset)[arguments.fold]["val"]
    limits = ChangeLimits(arguments.threshold, reach_mm=arguments.reach, thin_penalty=arguments.thin)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.methods}
    played: list[dict[str, Any]] = []
    for name in names:
        volume, truth_map = dataset.read(dataset.case(name))
        assert truth_map is not None
        case = segmenter.prepare(volume)
        corrections = Corrections.of(segmenter, case, segmenter.encode(case, segmenter.models[0]))
        corrections.limits = limits
        labels = np.asarray(corrections.automatic.labels().data, np.uint8)
        truth = np.asarray(truth_map.data, np.uint8)
        parts = find_parts(labels, truth, corrections.plane)[: arguments.limit]
        methods = {
            "corrector": Method("corrector", corrected_by(corrections)),
            "sphere": Method("sphere", sphere(volume.geometry.spacing, labels.shape)),
        }
        if "walker" in arguments.methods:
            walker = random_walker(volume.data[0].astype(np.float32), volume.geometry.spacing, *arguments.walker)
            methods["walker"] = Method("walker", walker)
        if arguments.rounds:
            played.append(rounds_of_clicks(corrections, labels, truth, list(plan.class_names)[1:], arguments.rounds))
            sys.stderr.write(f"{name} rounds: {json.dumps(summarize_rounds(played[-1:]))}\n")
        for chosen in arguments.methods:
            rows[chosen] += [trial(methods[chosen], labels, truth, part, case.grid, arguments.effort) for part in parts]
            sys.stderr.write(f"{name} {chosen}: {len(parts)} parts\n")
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "hardware": processor(),
        "cases": names,
        "threshold": limits.threshold,
        "reach_mm": limits.reach_mm,
        "thin_penalty": limits.thin_penalty,
    }
    if played:
        report["rounds"] = summarize_rounds(played)
        sys.stdout.write(f"rounds: {json.dumps(report['rounds'])}\n")
    for chosen, trials in rows.items():
        report[chosen] = {
            kind: summarize(some) for kind in ("is", "is not") if (some := [r for r in trials if r["kind"] == kind])
        }
        for kind, s in report[chosen].items():
            short = {k: v if not isinstance(v, dict) else f"{v['median']:.3f}/{v['p90']:.3f}" for k, v in s.items()}
            sys.stdout.write(f"{chosen} {kind}: {json.dumps(short)}\n")
    if arguments.output:
        write_json(arguments.output, report)


if __name__ == "__main__":
    main()
