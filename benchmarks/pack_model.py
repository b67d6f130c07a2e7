"""Make a model folder from weights of :mod:`benchmarks.learning_curves`.

    python -m benchmarks.pack_model runs/all/model-8000.safetensors --curve runs/all/curve.json --like abdomen-ct \
        --data ../shared/data/Dataset013_BTCV --command "..." -o runs/abdomen

The plan is that of another model. ``model.json`` names the training cases, on which benchmarks refuse to score.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from s2vnet import __version__
from s2vnet.data.dataset import read_dataset, select_fold
from s2vnet.inference.segmenter import find_model
from s2vnet.model.checkpoint import load_model, model_config, read_description, save_model, without_prompts
from s2vnet.model.s2vnet import S2VNet


def main() -> None:
    """Write the folder and read it again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="weights (.safetensors)")
    parser.add_argument("--curve", type=Path, required=True, help="curve.json of the run")
    parser.add_argument("--like", default="abdomen-ct", help="model whose plan and network settings are used")
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--fold", default="all")
    parser.add_argument("--command", required=True, help="command of the training, for model.json")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    described, curve = read_description(find_model(arguments.like)), json.loads(arguments.curve.read_text())
    auxiliary = curve["network"] == "s2vnet-auxiliary"
    network = S2VNet(model_config(described["config"]).model_copy(update={"auxiliary_masks": auxiliary}))
    stored = without_prompts(load_file(arguments.weights), network.config)
    network.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    dataset = read_dataset(arguments.data)
    training, _ = select_fold(dataset, arguments.fold)
    info = {
        "dataset": dataset.name,
        "fold": arguments.fold,
        "training_cases": len(training),
        "training_case_names": list(training),
        "command": arguments.command,
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "steps": curve["points"][-1]["steps"],
        "cpu_seconds": curve["points"][-1]["cpu_seconds"],
        "hardware": curve["hardware"],
        "train": curve["training"],
        "torch": torch.__version__,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    save_model(arguments.output, network, described["plan"], info)
    load_model(arguments.output)


if __name__ == "__main__":
    main()
