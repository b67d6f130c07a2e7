"""Markdown tables of what segmentation costs, from the results of speed, memory, batch and faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reports.tables import NAMES
from s2vnet.evaluation.report import table

PEERS = {**NAMES, "swinunetr": "Swin UNETR", "nninteractive": "nnInteractive"}
"""Networks other than s2vnet, as the tables name them."""
RUNTIMES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

Result = Mapping[str, Any]
"""Content of a result file."""


def markdown(results: Path, figure: str | None = None) -> str:
    """Format every result file in a folder as a section; ``figure`` is the path of the growth figure."""
    parts = []
    for name, section in SECTIONS.items():
        file = results / f"{name}.json"
        if file.exists():
            parts.append(section(json.loads(file.read_text())))
            if name == "speed" and figure is not None:
                parts.append(f"![Growth with slices, pixels, classes and prompts]({figure})\n")
    return "\n".join(parts)


def speed(result: Result) -> str:
    """Section of `speed.json`: times of s2vnet and other networks, and their growth."""
    text = f"## Speed and growth\n\n{_about(result)}"
    text += f"Repeats: {result['repeats']}, medians; a matrix product ran at {result['matrix_gflops']:.0f} GFLOP/s. "
    text += """S2VNet is the
bundled model, timed from file to file. Each other network is untrained; its time is that of one patch times the patches
of the scan at an overlap of one half, without reading, resampling and aggregation, and its memory is that of one patch.

"""
    return text + "\n".join([_s2vnet(result), _peers(result), _prompts(result), _growth(result)])


def _about(result: Result) -> str:
    return f"`{result['command']}`, {result['date']}, {result.get('hardware') or result['processor']}.\n\n"


def _s2vnet(result: Result) -> str:
    head = ["S2VNet by", "pixels", "slices", "s", "encoding", "decoding", "other", "end to end / encoder alone"]
    head += ["peak MB", "CPU s", "J"]
    rows = [
        [RUNTIMES[runtime], str(scan["pixels"]), str(scan["slices"]), *_s2vnet_row(run)]
        for scan in result["scans"]
        for runtime, run in scan["ours"].items()
    ]
    if any(run["joules"] is not None for scan in result["scans"] for run in scan["ours"].values()):
        return table(head, rows) + "\nEnergy (J) is that of the whole processor, including other processes.\n"
    return table(head[:-1], [row[:-1] for row in rows]) + "\nEnergy: no counters on this machine.\n"


def _s2vnet_row(run: Result) -> list[str]:
    parts = [f"{run[key]:.2f}" for key in ("seconds", "encoding", "decoding", "rest")]
    share = f"{run['seconds'] / run['encoder_alone']:.2f}"
    return [*parts, share, f"{run['peak_mb']:.0f}", f"{run['cpu_seconds']:.1f}", _optional(run["joules"], "{:.0f}")]


def _peers(result: Result) -> str:
    """One row per network and scan; these networks resample, so that pixels in plane do not matter."""
    runtimes = list(result["scans"][0]["ours"])
    rows = [
        [PEERS[name], str(scan["pixels"]), str(scan["slices"]), *_peer_row(peer, [scan["ours"][r] for r in runtimes])]
        for scan in result["scans"]
        for name, peer in scan["others"].items()
    ]
    if not rows:
        return ""
    head = ["other network", "pixels", "slices", "patches", "s", "s, mirrored", "CPU s", "peak MB"]
    head += [f"s / S2VNet's by {RUNTIMES[runtime]}" for runtime in runtimes]
    return table(head, rows) + "\nLast columns: ratio of seconds, plain / mirrored as nnU-Net does by default.\n"


def _peer_row(peer: Result, ours: list[Result]) -> list[str]:
    mirrored = peer["mirrored_seconds"] / peer["seconds"]
    ratios = [peer["seconds"] / run["seconds"] for run in ours]
    return [
        *(str(peer["patches"]), f"{peer['seconds']:.1f}", f"{peer['mirrored_seconds']:.1f}" if mirrored > 1 else "-"),
        *(f"{peer['cpu_seconds']:.1f}", f"{peer['peak_mb']:.0f}"),
        *(f"{ratio:.2f}" + f" / {ratio * mirrored:.2f}" * (mirrored > 1) for ratio in ratios),
    ]


def _prompts(result: Result) -> str:
    """Rounds of prompts, beside one pass of nnInteractive's network, the least that a prompt costs it."""
    prompts = result["prompts"]
    patch = result["others"].get("nninteractive")
    head = ["prompts, S2VNet by", "automatic pass, s", "one class, s", "every class, s", "one class, CPU s"]
    keys = ("automatic_seconds", "one_prompt_seconds", "prompt_for_every_class_seconds", "one_prompt_cpu_seconds")
    rows = [[RUNTIMES[runtime], *(f"{run[k]:.2f}" for k in keys)] for runtime, run in prompts["runtimes"].items()]
    text = (
        f"A round of prompts on {size_text(prompts)}, medians of five; it updates the labels of the whole volume.\n\n"
    )
    if patch is None:
        return text + table(head, rows)
    head.append("one pass of nnInteractive's network / one class")
    for row, run in zip(rows, prompts["runtimes"].values(), strict=True):
        row.append(f"{patch['seconds'] / run['one_prompt_seconds']:.1f}")
    text += table(head, rows) + "\nOne pass of nnInteractive's network over its patch, the least that a prompt costs: "
    return text + f"{patch['seconds']:.1f} s.\n"


def _growth(result: Result) -> str:
    growth = result["growth"]
    keys = ("seconds", "encoding", "decoding", "rest")
    rows = [
        [n, *(f"{run[key]:.2f}" for key in keys), f"{run['peak_mb']:.0f}", f"{run['cpu_seconds']:.1f}"]
        for n, run in growth["classes"].items()
    ]
    text = (
        f"Growth with classes: {size_text(growth)}, automatic pass, torch. Weights are random: classes are predicted\n"
    )
    text += "everywhere, so that postprocessing and resampling (other) take longer than with trained weights.\n\n"
    text += table(["classes", "s", "encoding", "decoding", "other", "peak MB", "CPU s"], rows)
    points = growth["points"]
    counts = list(next(iter(points.values())))
    rows = [
        [RUNTIMES[runtime], *(f"{rounds[n]['seconds']:.2f} ({rounds[n]['cpu_seconds']:.2f})" for n in counts)]
        for runtime, rounds in points.items()
    ]
    text += f"\nGrowth with prompts: {size_text(growth)}, s (CPU s) of a round of points, medians of three.\n\n"
    return text + table(["points", *counts], rows)


def size_text(scan: Result) -> str:
    """Size of a scan in words."""
    return f"{scan['pixels']} x {scan['pixels']} x {scan['slices']} voxels"


def memory(result: Result) -> str:
    """Section of `memory.json`."""
    head = ["slices", "s", "peak MB", "MB per slice beyond input and labels", "limit, MB"]
    rows = [
        [
            *(str(run["slices"]), f"{run['seconds']:.1f}", f"{run['peak_bytes'] / 1e6:.0f}"),
            _optional(run.get("growth_beyond_input_and_labels_mb_per_slice"), "{:.3f}"),
            _optional(run["max_memory_bytes"] / 1e6 or None, "{:.0f}"),
        ]
        for run in result["runs"]
    ]
    text = f"## Memory by slices\n\nAutomatic pass of `{result['model']}` on a CT of {result['side']} pixels a side. "
    return text + _about(result) + table(head, rows)


def batch(result: Result) -> str:
    """Section of `batch.json`."""
    alone = result["in_this_process"]["seconds_per_scan"]
    text = f"## Batch\n\n{result['scans']} phantoms, {result['poisoned']} of them damaged, by `{result['model']}`; one "
    text += f"worker is killed. Without workers, on one thread, a scan takes {alone:.2f} s. The largest number of "
    text += f"workers has {result['ratio']:.2f} times the throughput of the smallest, each with its best number of "
    text += "threads. "
    head = ["workers x threads of each", "scans an hour", "s a scan", "peak MB of a worker", "correct"]
    head += ["damaged, reported", "wrongly reported", "done twice", "attempts of the killed"]
    rows = [
        [
            *(workers, f"{run['scans_per_hour']:.0f}", f"{run['seconds_per_scan']:.2f}"),
            *(f"{run['memory_mb']:.0f}", f"{run['right']} of {run['of']}"),
            *(f"{run['poisoned_reported']} of {result['poisoned']}", str(run["wrongly_reported"]), str(run["twice"])),
            str(run["attempts_of_the_killed"]),
        ]
        for workers, run in result["workers"].items()
    ]
    return text + _about(result) + table(head, rows)


def faults(result: Result) -> str:
    """Section of `faults.json`."""
    same = {True: "bit-identical", False: "**different**"}
    trainings = len(result["kills_of_each_training"])
    text = f"## Training under kills\n\n{trainings} trainings, killed {result['kills']} times in total at random and "
    text += f"resumed, compared with an uninterrupted one: weights {same[result['same_weights']]}, logged losses "
    text += f"{same[result['same_losses']]} (an epoch's is the mean of the steps since the last start); "
    text += f"{result['seconds']:.0f} s in total, {result['seconds_undisturbed']:.0f} s uninterrupted. "
    return text + f"{_about(result).rstrip()}\n"


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


SECTIONS: Mapping[str, Callable[[Result], str]] = {"speed": speed, "memory": memory, "batch": batch, "faults": faults}
"""Sections by the name of their result file."""
