"""Objects that neither network's labels nor the corrector's training have named: Dice after 1, 3 and 5 clicks.

    python -m benchmarks.corrector train --errors runs/errors --hidden 6 13 --steps 1000 -o runs/without-6-13
    python -m benchmarks.unseen --data ../shared/data/Dataset013_BTCV --hidden 6 13 \
        --weights benchmarks/checkpoints/abdomen-fold0.safetensors --corrector runs/without-6-13/corrector.safetensors \
        -o docs/results/unseen.json

The hidden classes are background in the labels and in the probabilities that the corrector sees. Each is then
segmented as a class of one's own from nothing: the first click is on the object's largest slice, the next ones each on
the largest 6-connected error, on the voxel farthest in plane from its border. Beside the corrector: balls around the
same kind of clicks, each of the error's true volume; they know how large it is. The encoder's features, of which the
corrector sees similarities only, were trained with the hidden classes.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import ndimage

from benchmarks.clicks import Labels, Method, Part, click_on, corrected_by, make_parser, sphere
from benchmarks.corrector import hide_classes, load_network
from benchmarks.measures.environment import processor, write_json
from s2vnet.data.dataset import read_dataset, read_folds
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.corrections import Corrections
from s2vnet.interactive.prompt_state import PromptState
from s2vnet.metrics.overlap_and_distance import dice
from s2vnet.model.checkpoint import TrainedModel
from s2vnet.model.corrector import Corrector
from s2vnet.prompts import Point

ADDED = 200
"""Label value of the object."""
CLICKS = (1, 3, 5)


def largest_error(labels: Labels, truth: Labels) -> Part | None:
    """Largest connected error of the object."""
    parts = []
    for missed, wrong in ((True, (truth == ADDED) & (labels != ADDED)), (False, (labels == ADDED) & (truth != ADDED))):
        components, count = ndimage.label(wrong)
        if count:
            sizes = np.bincount(components.ravel())[1:]
            parts.append((int(sizes.max()), missed, components == int(sizes.argmax()) + 1))
    if not parts:
        return None
    _, missed, voxels = max(parts, key=lambda part: part[0])
    return Part(ADDED, missed, np.argwhere(voxels))


def play(method: Method, labels: Labels, truth: Labels, grid: SliceGrid) -> list[float]:
    """Dice of the object after each click."""
    axis = grid.orientation.axes[grid.axis]
    current, state, scores = labels.copy(), PromptState(), []
    for _ in range(max(CLICKS)):
        part = largest_error(current, truth)
        if part is not None:
            click = Point(class_id=ADDED, positive=part.missed, voxel=click_on(part.voxels, axis))
            change = method.answer(current, state, click, part)
            current.reshape(-1)[change.voxels] = change.after
            state = state.add(click, grid)
        scores.append(float(dice(current == ADDED, truth == ADDED)))
    return scores


def play_case(
    segmenter: Segmenter, dataset: Any, name: str, hidden: Sequence[int], correctors: dict[str, Corrector]
) -> list[dict[str, Any]]:
    """Rows of method, class and Dice for one case."""
    volume, truth_map = dataset.read(dataset.case(name))
    case = segmenter.prepare(volume)
    corrections = Corrections.of(segmenter, case, segmenter.encode(case, segmenter.models[0]))
    corrections.volume = hide_classes(corrections.volume, hidden)
    automatic = np.asarray(corrections.automatic.labels().data, np.uint8)
    automatic[np.isin(automatic, hidden)] = 0
    rows = []
    for class_id in hidden:
        truth = np.asarray(truth_map.data, np.uint8).copy()
        if not (truth == class_id).any():
            continue
        truth = np.where(truth == class_id, np.uint8(ADDED), truth)
        for method, corrector in correctors.items():
            corrections.corrector = corrector
            scores = play(Method(method, corrected_by(corrections)), automatic, truth, case.grid)
            rows.append({"method": method, "class": class_id, "case": name, "dice": scores})
        ball = Method("ball", sphere(volume.geometry.spacing, automatic.shape))
        rows.append(
            {"method": "ball", "class": class_id, "case": name, "dice": play(ball, automatic, truth, case.grid)}
        )
    return rows


def main() -> None:
    """Segment the hidden classes of the held-out cases."""
    parser = make_parser(__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", required=True, help="classes")
    parser.add_argument("--corrector", type=Path, required=True, help="trained without them")
    parser.add_argument("--name", default="without the classes", help="of the corrector; a control has another one")
    parser.add_argument("-o", "--output", type=Path, required=True, help="rows are added to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, plan = load_network(arguments)
    segmenter = Segmenter([TrainedModel(network, plan.model_dump(mode="json"), {}, "")], device="cpu")
    correctors = {
        arguments.name: Corrector.from_state_dict(load_file(arguments.corrector)),
        "bundled, which has seen them": Corrector.bundled(),
    }
    dataset = read_dataset(arguments.data)
    rows: list[dict[str, Any]] = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    measured = {*correctors, "ball"}
    rows = [row for row in rows if row["class"] not in arguments.hidden or row["method"] not in measured]
    for name in arguments.cases or read_folds(dataset)[arguments.fold]["val"]:
        rows += play_case(segmenter, dataset, name, arguments.hidden, correctors)
        sys.stderr.write(f"{name}\n")
    means = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        dices = np.array([row["dice"] for row in rows if row["method"] == method])
        means[method] = {str(n): round(float(dices[:, n - 1].mean()), 4) for n in CLICKS}
    sys.stdout.write(json.dumps(means, indent=1) + "\n")
    report = {"date": datetime.date.today().isoformat(), "hardware": processor(), "mean": means, "rows": rows}
    write_json(arguments.output, report)


if __name__ == "__main__":
    main()
