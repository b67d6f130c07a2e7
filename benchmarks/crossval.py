"""Aggregate the validation.json of five folds into docs/results/hippocampus.json.

DATA=../shared/data/Dataset004_Hippocampus
for f in 0 1 2 3 4; do s2vnet train $DATA -f $f -o runs/hippocampus-f$f -n through_time=false; done
python -m benchmarks.crossval runs/hippocampus-f? -o docs/results/hippocampus.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.measures.environment import processor, write_json
from benchmarks.reports.gather import number


def main() -> None:
    """Mean over all held-out cases, and per fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    folds, automatic, rounds = [], [], []
    for run in arguments.runs:
        report = json.loads((run / "validation.json").read_text())
        info = json.loads((run / "model.json").read_text())["info"]
        history = json.loads((run / "history.json").read_text())
        automatic += report["automatic"]["cases"]
        rounds += [case["dice_per_round"] for case in report["interactive"]["cases"]]
        folds.append(
            {
                "fold": info["fold"],
                "cases": len(report["automatic"]["cases"]),
                "dice": report["automatic"]["dice"],
                "nsd": report["automatic"]["nsd"],
                "hd95": report["automatic"]["hd95"],
                "dice_per_round": report["interactive"]["dice_per_round"],
                "noc85": report["interactive"]["noc85"],
                "noc90": report["interactive"]["noc90"],
                "dsc_auc": report["interactive"]["dsc_auc"],
                "nsd_auc": report["interactive"]["nsd_auc"],
                "seconds_per_case": report["automatic"]["seconds_per_case"],
                "seconds_per_round": report["interactive"]["seconds_per_round"],
                "training_cpu_seconds": history[-1]["cpu_seconds"],
                "command": info["command"],
                "date": info["date"],
            }
        )
    per_round = np.array(rounds).mean(0)
    result = {
        "dataset": "Hippocampus (220 cases), nnU-Net's folds",
        "folds_done": len(folds),
        "cases": len(automatic),
        "dice": float(np.mean([case["dice"] for case in automatic])),
        "nsd": float(np.mean([case["nsd"] for case in automatic])),
        "hd95": float(np.mean([case["hd95"] for case in automatic])),
        "per_class": {
            name: float(np.nanmean([number(case["per_class"][name]["dice"]) for case in automatic]))
            for name in automatic[0]["per_class"]
        },
        "dice_per_round": per_round.tolist(),
        "gain_after_1": float(per_round[1] - per_round[0]),
        "gain_after_5": float(per_round[5] - per_round[0]),
        "hardware": f"{processor()}, one thread per run",
        "folds": folds,
    }
    write_json(arguments.output, result)
    print(json.dumps({k: v for k, v in result.items() if k != "folds"}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
