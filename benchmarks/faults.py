"""Training that is killed again and again must end with the weights of one that is not.

python benchmarks/faults.py -o docs/results/faults.json
"""

from __future__ import annotations

import argparse
import datetime
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

from machine import command, processor
from phantom import write_dataset
from s2vnet.data.dataset import read_dataset
from s2vnet.data.fingerprint import extract_fingerprint
from s2vnet.data.plan import make_plan, save_json
from s2vnet.utils.atomic_write import atomic_write

SETTINGS = ("epochs=6", "steps_per_epoch=25", "batch_size=2", "warmup_steps=5", "checkpoint_minutes=0.01")
NETWORK = ("dim=32", "mask_dim=16")
CASES = 4
LONGEST_S = 600


def main() -> None:
    """Train once in peace and once under kills, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = _dataset(folder)
        start = time.perf_counter()
        _train(dataset, folder / "peace", folder).wait(LONGEST_S)
        alone = time.perf_counter() - start
        kills, runs, begun = 0, [0], time.perf_counter()
        while kills < arguments.kills or runs[-1]:
            running = _train(dataset, folder / f"kills{len(runs)}", folder)
            try:
                # a moment within the time that a start and what is left of the training take
                wait = moments.uniform(0.25 * alone, 0.9 * alone) if kills < arguments.kills else LONGEST_S
                if running.wait(wait):
                    _, told = running.communicate()
                    raise SystemExit(f"after {kills} kills: {told}")
                runs.append(0)  # it has ended; on with another
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                kills += 1
                runs[-1] += 1
        runs.pop()
        ended = [folder / "peace", *(folder / f"kills{n}" for n in range(1, 1 + len(runs)))]
        weights = [load_file(run / "model.safetensors") for run in ended]
        losses = [[row["loss"] for row in json.loads((run / "history.json").read_text())] for run in ended]
    result: dict[str, Any] = {
        "kills": kills,
        "kills_of_each_training": runs,
        "same_weights": all(torch.equal(one[key], weights[0][key]) for one in weights for key in weights[0]),
        "same_losses": all(one == losses[0] for one in losses),
        "seconds_undisturbed": alone,
        "seconds": time.perf_counter() - begun,
        "command": command(),
        "date": datetime.date.today().isoformat(),
        "hardware": processor(),
    }
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))  # noqa: T201
    if not (result["same_weights"] and result["same_losses"]):
        sys.exit("the weights differ")


def _dataset(folder: Path) -> Path:
    root = folder / "Dataset001_Phantom"
    write_dataset(root, CASES, 1, 12)
    save_json(make_plan(extract_fingerprint(read_dataset(root))), folder / "plan.json")
    return root


def _train(dataset: Path, output: Path, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "s2vnet", "train", str(dataset), "-f", "all", "-o", str(output), "--resume"]
    words += ["--plan", str(folder / "plan.json"), "--device", "cpu"]
    words += [x for each in SETTINGS for x in ("-c", each)] + [x for each in NETWORK for x in ("-n", each)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


if __name__ == "__main__":
    main()
