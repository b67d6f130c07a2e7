"""How far do a 3D and a 2D U-Net get with the same data, augmentation, CPU time and scoring?

    s2vnet train ../shared/data/Dataset004_Hippocampus -f 0 -o runs/hippocampus-f0 -n through_time=false
    python benchmarks/yardsticks.py runs/hippocampus-f0 --data ../shared/data/Dataset004_Hippocampus \
        -o docs/results/yardsticks.json

Each yardstick gets the CPU seconds that the run took (its `history.json`), on one thread, with the run's optimiser,
schedule, weight average and augmentation. Each is trained and each is scored in a process of its own, so that peak
memory can be told apart. Finished parts are kept in the output.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.networks.nets.dynunet import DynUNet
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, nn

from opponents import SMALL_WIDTHS, VOLUMES_PER_STEP, augmentation, compare, padded
from s2vnet.config import TrainConfig
from s2vnet.data.clips import ClipDataset
from s2vnet.data.dataset import read_dataset, read_folds
from s2vnet.data.plan import Plan, read_plan
from s2vnet.data.preprocess import Case, with_neighbours
from s2vnet.inference.segmenter import Segmenter
from s2vnet.metrics.segmentation import dice
from s2vnet.training.trainer import learning_rate, load_cases, make_average, make_optimizer
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.memory import peak_memory_mb

MULTIPLE = 8
SLICES_PER_STEP = 24

Predict = Callable[[Case], Tensor]
"""Classes (D, H, W) of a case."""


def unet(dimensions: int, channels: int, classes: int) -> nn.Module:
    """nnU-Net's plain architecture, from MONAI."""
    widths = SMALL_WIDTHS[dimensions]
    strides = (1, 2, 2, 2)
    return DynUNet(dimensions, channels, classes, [3] * 4, strides, strides[1:], filters=widths)


def slice_batches(cases: Sequence[Case], plan: Plan, config: TrainConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Slices with neighbours (N, C, H, W) and labels (N, 1, H, W): the same clips as ours, taken apart."""
    data = ClipDataset(cases, plan.patch_size, plan.context_slices, config, 10**9)
    many = SLICES_PER_STEP // config.clip_length
    for step in range(10**9):
        clips = [data[step * many + n] for n in range(many)]
        yield torch.cat([c.slices for c in clips]), torch.cat([c.labels for c in clips])[:, None]


def volume_batches(cases: Sequence[Case], plan: Plan, config: TrainConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole volumes (N, C, D, H, W), padded, under the same augmentation in three dimensions."""
    shape = common_shape([c.image.shape for c in cases])
    transform = augmentation(shape)
    rng = np.random.default_rng(config.seed)
    while True:
        samples = []
        for number in rng.integers(len(cases), size=VOLUMES_PER_STEP):
            case = cases[int(number)]
            transform.set_random_state(seed=int(rng.integers(2**31)))
            image, labels = torch.from_numpy(case.image), torch.from_numpy(case.labels)[None].float()
            samples.append(transform({"image": padded(image, shape), "labels": padded(labels, shape)}))
        yield torch.stack([s["image"] for s in samples]), torch.stack([s["labels"] for s in samples]).long()


def common_shape(shapes: Sequence[Sequence[int]]) -> list[int]:
    """Voxels (D, H, W) that images (C, D, H, W) are padded to, also after training: instance norm sees the padding."""
    return [MULTIPLE * -(-max(shape[a] for shape in shapes) // MULTIPLE) for a in (1, 2, 3)]


def fit(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], budget: float, config: TrainConfig
) -> tuple[nn.Module, int]:
    """Train for `budget` CPU seconds; the averaged network and the steps taken."""
    optimizer, ema = make_optimizer(model, config), make_average(model, config)
    start, step = time.process_time(), 0
    for image, labels in batches:
        spent = (time.process_time() - start) / budget
        if spent >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, spent, config)
        optimizer.zero_grad()
        compare(model(image), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        ema.update_parameters(model)
        step += 1
    return cast(nn.Module, ema.module), step


def predictor(name: str, run: Path, weights: Path, plan: Plan, shapes: Sequence[Sequence[int]]) -> Predict:
    """How a network trained on images of `shapes` segments a case, on the network's grid."""
    if name == "s2vnet":
        segmenter = Segmenter.from_pretrained(run, device="cpu")
        return lambda case: segmenter.segment_case(case).scores.argmax(1)
    dimensions = 3 if name == "unet3d" else 2
    model = unet(dimensions, len(plan.channels) if dimensions == 3 else plan.in_channels, plan.num_classes).eval()
    load_model(model, str(weights))

    def whole(case: Case) -> Tensor:
        shape = case.image.shape[1:]
        grown = padded(torch.from_numpy(case.image), common_shape([*shapes, case.image.shape]))
        classes: Tensor = model(grown[None])[0].argmax(0)
        return classes[: shape[0], : shape[1], : shape[2]]

    def slices(case: Case) -> Tensor:
        depth = case.image.shape[1]
        stack = torch.from_numpy(with_neighbours(case.image, range(depth), plan.context_slices))
        return torch.cat([model(part).argmax(1) for part in stack.split(8)])

    return whole if dimensions == 3 else slices


def _part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train or score one network, in this process."""
    torch.set_num_threads(1)
    plan = read_plan(arguments.run / "plan.json")
    description = json.loads((arguments.run / "model.json").read_text())
    config = TrainConfig.model_validate(description["info"]["train"])
    dataset = read_dataset(arguments.data)
    fold = read_folds(dataset)[int(description["info"]["fold"])]
    weights = arguments.run / f"{arguments.network}.safetensors"
    torch.manual_seed(config.seed)
    if arguments.part == "train":
        training = load_cases(dataset, fold["train"], plan, report=lambda *_: None)
        three = arguments.network == "unet3d"
        model = unet(3 if three else 2, len(plan.channels) if three else plan.in_channels, plan.num_classes)
        start = time.process_time()
        trained, steps = fit(
            model, (volume_batches if three else slice_batches)(training, plan, config), arguments.budget, config
        )
        save_model(trained, str(weights))  # its layers are registered twice
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": steps,
            "training_cpu_seconds": time.process_time() - start,
            "training_peak_mb": (peak_memory_mb() or 0.0),
        }
    shapes = []
    if arguments.network == "unet3d":  # one case after the other, since peak memory is measured here
        for name in fold["train"]:
            shapes += [c.image.shape for c in load_cases(dataset, [name], plan, report=lambda *_: None)]
    cases = load_cases(dataset, fold["val"], plan, report=lambda *_: None)
    segment = predictor(arguments.network, arguments.run, weights, plan, shapes)
    before, seconds, found = (peak_memory_mb() or 0.0), [], []
    with torch.inference_mode():
        for case in cases:
            start = time.perf_counter()
            predicted = segment(case).numpy()
            seconds.append(time.perf_counter() - start)
            assert case.labels is not None
            found.append([dice(predicted == k, case.labels == k) for k in range(1, plan.num_classes)])
    names = [name for name, value in plan.labels.items() if value]
    return {
        "dice": float(np.nanmean(found)),
        "per_class": dict(zip(names, np.nanmean(found, 0).tolist(), strict=True)),
        "cases": len(cases),
        "seconds_per_case": float(np.median(seconds)),
        "inference_peak_mb": (peak_memory_mb() or 0.0),
        "inference_peak_above_loaded_mb": (peak_memory_mb() or 0.0) - before,
    }


def main() -> None:
    """Run every part that the output does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="our run of a fold; the yardsticks' weights are put beside it")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", type=float, help="CPU seconds; default: those of the run")
    parser.add_argument("--network", help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.part:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(_part(arguments)))
        return
    history = json.loads((arguments.run / "history.json").read_text())[-1]
    budget = arguments.budget or history["cpu_seconds"]
    content: dict[str, Any] = {"networks": {}}
    model = json.loads((arguments.run / "model.json").read_text())["sha256"]
    if arguments.output.exists():
        earlier = json.loads(arguments.output.read_text())
        if (earlier["model_sha256"], earlier["budget_cpu_seconds"]) == (model, budget):
            content = earlier  # parts that are done; those of another model or budget are not comparable
    content["model_sha256"] = model
    weights = load_file(arguments.run / "model.safetensors")
    ours = content["networks"].setdefault("s2vnet", {})
    ours |= {
        "parameters": sum(w.numel() for w in weights.values()),
        "steps": history["step"],
        "training_cpu_seconds": history["cpu_seconds"],
        "training_peak_mb": history["peak_mb"],
    }
    content |= {"command": "python benchmarks/yardsticks.py " + " ".join(sys.argv[1:]), "budget_cpu_seconds": budget}
    content |= {"date": datetime.date.today().isoformat(), "hardware": f"{platform.machine()} CPU, one thread"}
    for network, part in [
        ("unet3d", "train"),
        ("unet2d", "train"),
        *((n, "score") for n in ("s2vnet", "unet3d", "unet2d")),
    ]:
        entry = content["networks"].setdefault(network, {})
        if ("steps" if part == "train" else "dice") in entry:
            continue
        result = arguments.output.with_suffix(f".{network}.{part}.json")
        command = [sys.executable, __file__, str(arguments.run), "--data", str(arguments.data), "--budget", str(budget)]
        subprocess.run([*command, "--network", network, "--part", part, "-o", str(result)], check=True)
        entry |= json.loads(result.read_text())
        result.unlink()
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        print(network, part, entry, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
