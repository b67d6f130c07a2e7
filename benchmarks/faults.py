"""Check that a training that is killed and resumed repeatedly ends with the weights of an uninterrupted one.

python -m benchmarks.faults -o docs/results/faults.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.measures.environment import processor, provenance, write_result
from benchmarks.recipes.phantom import write_dataset
from s2vnet.data.dataset import read_dataset
from s2vnet.data.fingerprint import extract_fingerprint
from s2vnet.data.plan import make_plan, save_json

SETTINGS = ("epochs=6", "steps_per_epoch=25", "batch_size=2", "warmup_steps=5", "checkpoint_minutes=0.01")
NETWORK = ("dim=32", "mask_dim=16")
CASES = 4
TIMEOUT_S = 600


def main() -> None:
    """Train once without and repeatedly with kills, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    delays = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = _dataset(folder)
        start = time.perf_counter()
        _train(dataset, folder / "uninterrupted", folder).wait(TIMEOUT_S)
        alone = time.perf_counter() - start
        kills, kills_by_training, started = 0, [0], time.perf_counter()
        while kills < arguments.kills or kills_by_training[-1]:
            running = _train(dataset, folder / f"kills{len(kills_by_training)}", folder)
            try:
                # within the time that start-up and the rest of the training take
                wait = delays.uniform(0.25 * alone, 0.9 * alone) if kills < arguments.kills else TIMEOUT_S
                if running.wait(wait):
                    raise SystemExit(f"after {kills} kills: {running.communicate()[1]}")
                kills_by_training.append(0)  # finished; start another training
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                kills += 1
                kills_by_training[-1] += 1
        kills_by_training.pop()
        folders = [folder / "uninterrupted", *(folder / f"kills{n}" for n in range(1, 1 + len(kills_by_training)))]
        weights = [load_file(run / "model.safetensors") for run in folders]
        losses = [[row["loss"] for row in json.loads((run / "history.json").read_text())] for run in folders]
    result: dict[str, Any] = {
        "kills": kills,
        "kills_of_each_training": kills_by_training,
        "same_weights": all(torch.equal(other[key], weights[0][key]) for other in weights for key in weights[0]),
        "same_losses": all(other == losses[0] for other in losses),
        "seconds_undisturbed": alone,
        "seconds": time.perf_counter() - started,
        **provenance(processor()),
    }
    write_result(arguments.output, result)
    if not (result["same_weights"] and result["same_losses"]):
        sys.exit("the weights differ")


def _dataset(folder: Path) -> Path:
    root = folder / "Dataset001_Phantom"
    write_dataset(root, CASES, 1, 12)
    save_json(make_plan(extract_fingerprint(read_dataset(root))), folder / "plan.json")
    return root


def _train(dataset: Path, output: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "s2vnet", "train", str(dataset), "-f", "all", "-o", str(output), "--resume"]
    command += ["--plan", str(folder / "plan.json"), "--device", "cpu"]
    command += [x for setting in SETTINGS for x in ("-c", setting)] + [
        x for setting in NETWORK for x in ("-n", setting)
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


if __name__ == "__main__":
    main()
