"""Train the corrector on errors of networks.

    python -m benchmarks.corrector prepare --data ../shared/data/Dataset013_BTCV --fold 0 -o runs/errors
    python -m benchmarks.corrector train --errors runs/errors --held-out img0001 ... -o runs/corrector --steps 20000

``prepare`` segments the training cases slice by slice, without propagation, and stores labels and errors; with
``--warp`` also of warped images. ``train`` resumes from its checkpoint; ``--hidden`` leaves classes out: they become
background in labels, truth and probabilities. ``--ablate`` trains without some of the input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from safetensors.torch import save_file as save_tensors

from s2vnet.data.dataset import read_dataset, read_folds
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case
from s2vnet.inference.correction_maps import SegmentedVolume
from s2vnet.inference.segmenter import Segmenter, find_model
from s2vnet.model.checkpoint import model_config, read_description, without_prompts
from s2vnet.model.corrector import CELL_MAPS, PIXEL_MAPS, Corrector, CorrectorBlocks
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.correction_episodes import EpisodeConfig, LabelledVolume
from s2vnet.training.correction_trainer import (
    CorrectorTrainer,
    CorrectorTraining,
    labelled_volume,
    load_volume,
    save_volume,
    segment_slices_independently,
)
from s2vnet.training.trainer import load_cases
from s2vnet.utils.atomic_write import atomic_write

ABLATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "image": (("image", "contrast"), ()),
    "similarity": ((), ("similarity", "affinity")),
    "slices": ((), ()),
}
"""Maps on pixels and on cells that are hidden; `slices`: no exchange of channels between slices."""


def warp(case: Case, rng: np.random.Generator) -> Case:
    """Rotated, scaled, elastically deformed in plane, and with other intensities of each class."""
    image, labels = torch.from_numpy(case.image), torch.from_numpy(case.labels)
    angle, scale = rng.uniform(-0.4, 0.4), np.exp(rng.uniform(-0.25, 0.25))
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    matrix = torch.tensor([[c, -s, rng.uniform(-0.1, 0.1)], [s, c, rng.uniform(-0.1, 0.1)]], dtype=torch.float32)
    size = image.shape[-2:]
    grid = F.affine_grid(matrix[None], [1, 1, *size], align_corners=False)
    bend = torch.from_numpy(rng.standard_normal((1, 2, 7, 7), np.float32)) * float(rng.uniform(0.01, 0.05))
    grid = grid + F.interpolate(bend, size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    low = float(image.min())
    moved = F.grid_sample(image.flatten(0, 1)[None] - low, grid, align_corners=False)[0].view_as(image) + low
    turned = F.grid_sample(labels[None].float(), grid, mode="nearest", align_corners=False)[0].byte()
    shift = torch.from_numpy(rng.uniform(-0.9, 0.9, 256).astype(np.float32))
    shift[0] = 0
    moved = moved + F.avg_pool2d(shift[turned.long()], 5, 1, 2)[None]
    moved = moved + torch.from_numpy(rng.standard_normal(moved.shape, np.float32)) * float(rng.uniform(0, 0.3))
    return Case(case.name, moved.numpy(), turned.numpy(), case.grid)


def load_network(arguments: argparse.Namespace) -> tuple[S2VNet, Plan]:
    """Network of a model, with other weights where they are given."""
    description = read_description(find_model(arguments.model))
    plan = Plan.model_validate(description["plan"])
    if arguments.weights is None:
        return Segmenter.from_pretrained(arguments.model, device="cpu", runtime="torch").models[0], plan  # type: ignore[return-value]
    model = S2VNet(model_config({**description["config"], "auxiliary_masks": True}))
    stored = (
        load_file(arguments.weights)
        if arguments.weights.suffix == ".safetensors"
        else torch.load(arguments.weights, weights_only=True)["network"]
    )
    model.load_state_dict(without_prompts(stored, model.config))
    return model.eval(), plan


def prepare(arguments: argparse.Namespace) -> None:
    """Segment cases and store their errors."""
    network, plan = load_network(arguments)
    dataset = read_dataset(arguments.data)
    names = [case.name for case in dataset.training]
    if arguments.fold is not None:
        fold = read_folds(dataset)[arguments.fold]
        names = fold["val"] if arguments.held_out else fold["train"]
    arguments.output.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names[: arguments.count]):
        path = arguments.output / f"{name}_{arguments.name}.safetensors"
        if path.exists():
            continue
        (case,) = load_cases(dataset, [name], plan, report=lambda *_: None)
        if arguments.warp:
            case = warp(case, np.random.default_rng((arguments.seed, number)))
        volume = segment_slices_independently(network, case, plan.context_slices)
        assert case.labels is not None
        labelled = labelled_volume(volume, case.labels)
        save_volume(path, labelled)
        wrong = float((labelled.labels != labelled.truth).float().mean())
        sys.stderr.write(f"{name}: {len(labelled.parts)} errors, {wrong:.4f} of all pixels are wrong\n")


def hide_classes(volume: SegmentedVolume, classes: Sequence[int]) -> SegmentedVolume:
    """Volume whose probabilities of some classes are added to those of background."""
    probabilities = volume.probabilities.float().clone()
    probabilities[:, 0] += probabilities[:, list(classes)].sum(1)
    probabilities[:, list(classes)] = 0
    return replace(volume, probabilities=probabilities.to(volume.probabilities.dtype))


def without_classes(case: LabelledVolume, classes: Sequence[int]) -> LabelledVolume:
    """Labelled volume in which some classes are background."""
    truth = torch.where(torch.isin(case.truth, torch.tensor(classes, dtype=torch.uint8)), 0, case.truth)
    return labelled_volume(hide_classes(case.volume, classes), truth.numpy())


def ablate(corrector: Corrector, what: str) -> Corrector:
    """Hide a part of the input, before training and at inference alike; `what` is one of :data:`ABLATIONS`."""
    if what == "slices":
        for module in corrector.modules():
            if isinstance(module, CorrectorBlocks):
                module.register_forward_pre_hook(lambda _, given: (given[0], 1))  # each slice is a volume of its own
        return corrector
    pixel_maps, cell_maps = ABLATIONS[what]
    pixels = torch.tensor([float(name not in pixel_maps) for name in PIXEL_MAPS])[:, None, None]
    cells = torch.tensor([float(name not in cell_maps) for name in CELL_MAPS])[:, None, None]
    corrector.register_forward_pre_hook(lambda _, given: (given[0] * pixels, given[1] * cells))
    return corrector


def train(arguments: argparse.Namespace) -> None:
    """Train, and write ``corrector.safetensors``."""
    paths = sorted(p for p in arguments.errors.glob("*.safetensors") if p.name.split("_")[0] not in arguments.held_out)
    volumes = [load_volume(path) for path in paths]
    if arguments.hidden:
        volumes = [without_classes(volume, arguments.hidden) for volume in volumes]
    sys.stderr.write(f"{len(volumes)} volumes, {sum(len(v.parts) for v in volumes)} errors\n")
    config = CorrectorTraining(
        steps=arguments.steps, learning_rate=arguments.learning_rate, bf16=arguments.bf16, seed=arguments.seed
    )
    trainer = CorrectorTrainer(volumes, config, EpisodeConfig())
    if arguments.ablate:
        for network in (trainer.network, trainer.average.module):
            ablate(cast(Corrector, network), arguments.ablate)
    if arguments.initial is not None:
        initial = {name: tensor.float() for name, tensor in load_file(arguments.initial).items()}
        for network in (trainer.network, trainer.average.module):
            network.load_state_dict(initial)
    arguments.output.mkdir(parents=True, exist_ok=True)
    corrector = trainer.fit(arguments.output / "checkpoint.pt", lambda row: sys.stderr.write(json.dumps(row) + "\n"))
    with atomic_write(arguments.output / "corrector.safetensors") as temporary:
        save_tensors(corrector.state_dict(), temporary)


def main() -> None:
    """Prepare errors or train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("prepare")
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--model", default="abdomen-ct")
    p.add_argument("--weights", type=Path, help="other weights of the model (.safetensors, or a snapshot)")
    p.add_argument("--fold", type=int, help="training cases of a fold only")
    p.add_argument("--held-out", action="store_true", help="its held-out cases instead")
    p.add_argument("--warp", action="store_true")
    p.add_argument("--count", type=int, help="only the first cases")
    p.add_argument("--name", default="A", help="suffix of the files")
    p.set_defaults(run=prepare)
    t = commands.add_parser("train")
    t.add_argument("--errors", type=Path, required=True)
    t.add_argument("--held-out", nargs="*", default=[], help="cases to leave out")
    t.add_argument("--steps", type=int, required=True)
    t.add_argument("--learning-rate", type=float, default=CorrectorTraining.learning_rate)
    t.add_argument("--initial", type=Path, help="corrector to start from (.safetensors)")
    t.add_argument("--bf16", action="store_true")
    t.add_argument("--hidden", type=int, nargs="*", default=[], help="classes to leave out")
    t.add_argument("--ablate", choices=ABLATIONS, help="part of the input to leave out")
    t.set_defaults(run=train)
    for command in (p, t):
        command.add_argument("-o", "--output", type=Path, required=True)
        command.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
