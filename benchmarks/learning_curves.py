"""Learning curves at a constant learning rate, with a short decay from each milestone.

    python -m benchmarks.learning_curves s2vnet-auxiliary --fold 0 --data ../shared/data/Dataset013_BTCV \
        -o runs/curves/s2vnet-auxiliary-f0 --milestones 1500 3000 6000

A network is trained at a constant rate. At each milestone (a step) its state is saved in ``snapshot-STEP.pt``, and a
copy is trained further for a fifth of the steps while the rate decreases linearly to zero; the copy's averaged
weights are scored on the held-out cases of the fold and on as many training cases (automatic mode, on the file's
grid; a false positive class counts as Dice 0). All networks see the same clips, augmentation, class weights, dropout
of encoder channels, optimiser and schedule. Run the command again to resume. Rows are written to ``curve.json``:
steps, CPU seconds, Dice.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save_model as save_weights
from torch import Tensor, nn

from benchmarks.measures.environment import processor, write_json
from benchmarks.peers.encoder_unet import EncoderUNet
from benchmarks.peers.inference import segment_slices
from benchmarks.peers.networks import build_network
from benchmarks.peers.training import deep_supervision_loss
from s2vnet.config import TrainConfig
from s2vnet.data.clips import ClipDataset, collate
from s2vnet.data.dataset import Dataset, read_dataset, read_folds
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case
from s2vnet.inference.postprocessing import remove_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_labels
from s2vnet.metrics.overlap_and_distance import dice
from s2vnet.model.checkpoint import TrainedModel, model_config, read_description, without_prompts
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.checkpointed_steps import run_steps
from s2vnet.training.initialization import IMAGENET, load_imagenet_encoder
from s2vnet.training.losses import class_weights, segmentation_loss
from s2vnet.training.optimization import make_average, make_optimizer
from s2vnet.training.step import ClipStep
from s2vnet.training.trainer import load_cases
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.memory import keep_freed_memory

NETWORKS = ("s2vnet", "s2vnet-auxiliary", "unet", "nnunet2d")
DECAY_SHARE = 0.2
"""Steps of a decay, as a share of its milestone."""
TRAINING = {
    "batch_size": 2,
    "clip_length": 6,
    "learning_rate": 1e-3,
    "anywhere_fraction": 0.3,
    "augmentation": "strong",
    "shift_fraction": 0.2,
    "checkpoint_minutes": 3.0,
}
"""Training settings of the bundled abdominal model."""


class UNetStep(ClipStep):
    """Loss of clips by a U-Net, with the feature dropout, class weights and loss of S2VNet's final masks."""

    def forward(self, slices: Tensor, labels: Tensor, steps: Tensor, indices: Tensor) -> Tensor:
        """See :meth:`s2vnet.training.step.ClipStep.forward`."""
        network = cast(EncoderUNet, self.model)
        maps = self._drop_channels(network.encoder(slices.flatten(0, 1)), indices)
        logits = network.decode(maps, labels.shape[-2:]).unflatten(0, labels.shape[:2])
        return segmentation_loss(logits.transpose(1, 2), labels, self.weights)


class NnUNetStep(ClipStep):
    """Loss of clips, flattened into slices, by nnU-Net with deep supervision."""

    def forward(self, slices: Tensor, labels: Tensor, steps: Tensor, indices: Tensor) -> Tensor:
        """See :meth:`s2vnet.training.step.ClipStep.forward`."""
        return deep_supervision_loss(self.model(slices.flatten(0, 1)), labels.flatten(0, 1)[:, None])


@dataclass
class State:
    """State of a training."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module
    step: int = 0
    cpu_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "optimizer", "average")}
        counts = {"step": self.step, "cpu_seconds": self.cpu_seconds, "history": self.history}
        with atomic_write(path) as temporary:
            torch.save({**parts, **counts}, temporary)

    def load(self, path: Path) -> None:
        """Read a checkpoint."""
        stored = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("network", "optimizer", "average"):
            getattr(self, name).load_state_dict(stored[name])
        self.step, self.cpu_seconds, self.history = stored["step"], stored["cpu_seconds"], stored["history"]


class Curve:
    """Learning curve of one network on one fold."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.name, self.out, self.bf16 = arguments.network, arguments.output, arguments.bf16
        description = read_description(Path(arguments.recipe))
        self.plan = Plan.model_validate(description["plan"])
        settings = dict(pair.split("=", 1) for pair in arguments.set)
        self.config = TrainConfig.model_validate(
            {**TRAINING, "precision": "bf16-mixed" if self.bf16 else "32-true", **settings, "seed": arguments.seed}
        )
        auxiliary = {"auxiliary_masks": self.name == "s2vnet-auxiliary"}
        self.model_config = model_config(description["config"]).model_copy(update=auxiliary)
        self.dataset = dataset = read_dataset(arguments.data)
        every = {"train": [case.name for case in dataset.training], "val": []}
        fold = every if arguments.fold == "all" else read_folds(dataset)[int(arguments.fold)]
        self.initial = arguments.initial
        self.training, self.held_out = self._cases(dataset, fold["train"]), self._cases(dataset, fold["val"])
        self.data = ClipDataset(self.training, self.plan.patch_size, self.plan.context_slices, self.config, 10**9)

    def _cases(self, dataset: Dataset, names: Sequence[str]) -> list[Case]:
        return load_cases(dataset, names, self.plan, report=lambda *_: None)

    def _network(self) -> nn.Module:
        torch.manual_seed(self.config.seed)
        channels, classes = self.plan.in_channels, self.plan.num_classes
        if self.name == "nnunet2d":
            return build_network(self.name, channels, classes, self.plan.patch_size, self.plan.spacing)
        if self.name == "unet":
            network = EncoderUNet(channels, classes)
            network.encoder.load_imagenet(load_file(IMAGENET))
            return network
        model = S2VNet(self.model_config)
        if self.initial is None:
            load_imagenet_encoder(model)
        else:
            model.load_state_dict(without_prompts(load_file(self.initial), model.config))
        return model

    def initial_state(self) -> State:
        """State of an untrained network."""
        network = self._network()
        return State(network, make_optimizer(network, self.config), make_average(network, self.config))

    def _step_of(self, network: nn.Module) -> ClipStep:
        counts = [np.bincount(cast(Any, c.labels).ravel(), minlength=self.plan.num_classes) for c in self.training]
        weights = class_weights(np.sum(counts, 0).tolist(), self.config.rarity_exponent)
        kind = {"unet": UNetStep, "nnunet2d": NnUNetStep}.get(self.name, ClipStep)
        return kind(cast(S2VNet, network), self.config, weights)

    def fit(self, state: State, until: int, rate: Callable[[int], float], checkpoint: Path) -> None:
        """Train until a step; resume from the checkpoint if it exists. Raises KeyboardInterrupt after saving."""
        if checkpoint.exists():
            state.load(checkpoint)
        step_module = self._step_of(state.network).train()

        def take_step() -> float:
            return self._take_step(state, step_module, rate(state.step))

        def report(row: dict[str, float]) -> None:
            state.history.append(row)
            sys.stderr.write(json.dumps(row) + "\n")

        run_steps(state, until, take_step, lambda: state.save(checkpoint), report, self.config.checkpoint_minutes)

    def _take_step(self, state: State, step_module: ClipStep, rate: float) -> float:
        """Take one optimizer step on a batch of clips; return the loss."""
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        size = self.config.batch_size
        indices = [state.step * size + n for n in range(size)]
        clip = collate([self.data[i] for i in indices])
        state.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = step_module(clip.slices, clip.labels, clip.step, torch.tensor(indices))
        loss.backward()
        nn.utils.clip_grad_norm_(state.network.parameters(), self.config.gradient_clip)
        state.optimizer.step()
        cast(Any, state.average).update_parameters(state.network)
        return float(loss.detach())

    def run(self, milestones: Sequence[int]) -> None:
        """Train, decay from each milestone, score, and write ``curve.json``."""
        self.out.mkdir(parents=True, exist_ok=True)
        state, base = self.initial_state(), self.config.learning_rate

        def constant(step: int) -> float:
            return base * min(1.0, (step + 1) / max(1, self.config.warmup_steps))

        for milestone in sorted(milestones):
            snapshot = self.out / f"snapshot-{milestone}.pt"
            if not snapshot.exists():
                self.fit(state, milestone, constant, self.out / "checkpoint.pt")
                state.save(snapshot)
            scores = self.out / f"scores-{milestone}.json"
            if not scores.exists():
                self._decay(milestone, snapshot, scores)
            self._write(milestones)

    def _decay(self, milestone: int, snapshot: Path, scores: Path) -> None:
        state = self.initial_state()
        state.load(snapshot)
        start, length = milestone, max(1, round(DECAY_SHARE * milestone))
        base = self.config.learning_rate
        checkpoint = self.out / f"decay-{milestone}.pt"
        self.fit(state, start + length, lambda step: base * (1 - (step - start) / length), checkpoint)
        averaged = cast(nn.Module, cast(Any, state.average).module).eval()
        with atomic_write(self.out / f"model-{milestone}.safetensors") as temporary:
            save_weights(averaged, str(temporary))
        start_time = time.process_time()
        point: dict[str, Any] = {"milestone": milestone, "steps": state.step, "cpu_seconds": state.cpu_seconds}
        point["loss"] = state.history[-1]["loss"] if state.history else None
        point["held_out"] = self._score(averaged, self.held_out)
        point["training"] = self._score(averaged, self.training[:4])
        point["scoring_cpu_seconds"] = time.process_time() - start_time
        write_json(scores, point)
        checkpoint.unlink()

    @torch.inference_mode()
    def _score(self, network: nn.Module, cases: Sequence[Case]) -> dict[str, Any] | None:
        """Dice of each case and class on the file's grid (None for a class in neither prediction nor truth)."""
        if not cases:
            return None
        rows = {}
        for case in cases:
            predicted = self.segment(network, case).labels().data
            truth = read_labels(cast(Path, self.dataset.case(case.name).labels)).data
            values = [dice(predicted == k, truth == k) for k in self.plan.class_names if k]
            rows[case.name] = [None if np.isnan(v) else round(float(v), 4) for v in values]
        return {"mean": float(np.mean([v for row in rows.values() for v in row if v is not None])), "cases": rows}

    def segment(self, network: nn.Module, case: Case) -> Segmentation:
        """Automatic segmentation of a case."""
        if isinstance(network, S2VNet):
            segmenter = Segmenter([TrainedModel(network, self.plan.model_dump(mode="json"), {}, "")], device="cpu")
            return segmenter.segment_case(case)
        scores = segment_slices(network, case, self.plan, (16, 16), torch.device("cpu"))
        return Segmentation(case.grid, remove_detached_parts(scores, self.plan.smallest_part), self.plan.class_names)

    def _write(self, milestones: Sequence[int]) -> None:
        scores = [self.out / f"scores-{m}.json" for m in sorted(milestones)]
        content = {
            "network": self.name,
            "parameters": sum(p.numel() for p in self._network().parameters()),
            "date": datetime.date.today().isoformat(),
            "hardware": processor(),
            "training": self.config.model_dump(),
            "points": [json.loads(path.read_text()) for path in scores if path.exists()],
        }
        write_json(self.out / "curve.json", content)


def main() -> None:
    """Train or resume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    parser.add_argument(
        "--fold", default="0", help="number of the fold; all trains on every case and scores on training cases only"
    )
    parser.add_argument("--initial", type=Path, help="weights to start from (.safetensors); by default ImageNet's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="src/s2vnet/weights/abdomen-ct", help="model whose plan and sizes are used")
    parser.add_argument("--milestones", type=int, nargs="+", required=True, help="steps at which to decay and score")
    parser.add_argument("--set", nargs="*", default=[], help="training settings, as learning_rate=0.002")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast; for processors with avx512_bf16 or AMX")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    Curve(arguments).run(arguments.milestones)


if __name__ == "__main__":
    main()
