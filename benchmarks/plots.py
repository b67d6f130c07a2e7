"""What segmenting costs and how it grows: tables and a plot of what speed.py and its like have written.

python benchmarks/plots.py -o docs/images/growth.png    # prints the tables
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s2vnet.evaluation.report import table
from tables import NAMES, save_figure

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
OTHERS = {**NAMES, "swinunetr": "Swin UNETR", "nninteractive": "nnInteractive"}
RUNTIMES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
COLUMNS = 3
"""Of panels in the plot."""
STYLES, OTHERS_STYLE = ("-", "--", "-."), ":"

Found = Mapping[str, Any]


def markdown(results: Path, picture: str | None = None) -> str:
    """A section of every file that lies in a folder of results; `picture` is the path of the plot, if there is one."""
    parts = []
    for name, section in SECTIONS.items():
        file = results / f"{name}.json"
        if file.exists():
            parts.append(section(json.loads(file.read_text())))
            if name == "speed" and picture is not None:
                parts.append(f"![Growth with slices, pixels, classes and prompts]({picture})\n")
    return "\n".join(parts)


def speed(found: Found) -> str:
    """Seconds of scans, ours and others', and their growth; from speed.py."""
    text = f"## Speed and growth\n\n{_about(found)}"
    text += f"Repeats: {found['repeats']}, medians; a product of matrices ran at {found['matrix_gflops']:.0f} GFLOP/s. "
    text += """Ours is the shipped model from file to
file. A network of others is untrained, and has the seconds of a patch times the patches of a scan, each half over the
next: reading, resampling and putting together are given to it, and its memory is that of one patch.

"""
    return text + "\n".join([_ours(found), _others(found), _prompts(found), _growth(found)])


def _about(found: Found) -> str:
    return f"`{found['command']}`, {found['date']}, {found.get('hardware') or found['processor']}.\n\n"


def _ours(found: Found) -> str:
    head = ["ours by", "pixels", "slices", "s", "encoding", "decoding", "the rest", "end to end / encoder alone"]
    head += ["peak MB", "CPU s", "J"]
    rows, energies = [], []
    for scan in found["scans"]:
        for runtime, one in scan["ours"].items():
            parts = [f"{one[key]:.2f}" for key in ("seconds", "encoding", "decoding", "rest")]
            share = one["seconds"] / one["encoder_alone"]
            energies.append(one["joules"])
            rows.append(
                [
                    *(RUNTIMES[runtime], str(scan["pixels"]), str(scan["slices"]), *parts, f"{share:.2f}"),
                    *(f"{one['peak_mb']:.0f}", f"{one['cpu_seconds']:.1f}", _joules(one["joules"])),
                ]
            )
    if any(used is not None for used in energies):
        return table(head, rows) + "\nEnergy (J) is that of the processor, whatever ran on it.\n"
    return table(head[:-1], [row[:-1] for row in rows]) + "\nEnergy: not told by this machine.\n"


def _joules(used: float | None) -> str:
    return "-" if used is None else f"{used:.0f}"


def _others(found: Found) -> str:
    """A row of a network of others and a scan; pixels in plane do not matter to them, for they resample."""
    rows, runtimes = [], list(found["scans"][0]["ours"])
    for scan in found["scans"]:
        for name, one in scan["others"].items():
            each = [one["seconds"] / scan["ours"][runtime]["seconds"] for runtime in runtimes]
            mirrored = one["mirrored_seconds"] / one["seconds"]
            rows.append(
                [
                    *(OTHERS[name], str(scan["pixels"]), str(scan["slices"]), str(one["patches"])),
                    *(f"{one['seconds']:.1f}", f"{one['mirrored_seconds']:.1f}" if mirrored > 1 else "-"),
                    *(f"{one['cpu_seconds']:.1f}", f"{one['peak_mb']:.0f}"),
                    *(f"{ratio:.2f}" + f" / {ratio * mirrored:.2f}" * (mirrored > 1) for ratio in each),
                ]
            )
    if not rows:
        return ""
    head = ["network of others", "pixels", "slices", "patches", "s", "s, mirrored", "CPU s", "peak MB"]
    head += [f"times ours by {RUNTIMES[runtime]}" for runtime in runtimes]
    return table(head, rows) + "\nTimes ours: its seconds over ours, plain / mirrored as nnU-Net does by default.\n"


def _prompts(found: Found) -> str:
    """Rounds of prompts beside one pass of nnInteractive's network, the least that a prompt costs it."""
    prompts = found["prompts"]
    patch = found["others"].get("nninteractive")
    head = ["prompts, ours by", "automatic pass, s", "one class, s", "every class, s", "one class, CPU s"]
    keys = ("automatic_seconds", "one_prompt_seconds", "prompt_for_every_class_seconds", "one_prompt_cpu_seconds")
    rows = [[RUNTIMES[runtime], *(f"{one[k]:.2f}" for k in keys)] for runtime, one in prompts["runtimes"].items()]
    if patch is not None:
        head.append("one pass of nnInteractive's network / one class")
        for row, one in zip(rows, prompts["runtimes"].values(), strict=True):
            row.append(f"{patch['seconds'] / one['one_prompt_seconds']:.1f}")
    text = f"A round of prompts on {_size(prompts)}, medians of five; all labels of the volume are new after it.\n\n"
    text += table(head, rows)
    if patch is not None:
        text += (
            f"\nOne pass of nnInteractive's network over its patch, the least of a prompt: {patch['seconds']:.1f} s.\n"
        )
    return text


def _growth(found: Found) -> str:
    growth = found["growth"]
    text = (
        f"Growth with classes: {_size(growth)}, one automatic pass, torch. Weights are random: such classes turn up\n"
    )
    text += "everywhere, and the rest (parts tidied up, the file's grid) is more than of trained ones.\n\n"
    rows = [
        [
            *(n, *(f"{one[key]:.2f}" for key in ("seconds", "encoding", "decoding", "rest"))),
            *(f"{one['peak_mb']:.0f}", f"{one['cpu_seconds']:.1f}"),
        ]
        for n, one in growth["classes"].items()
    ]
    text += table(["classes", "s", "encoding", "decoding", "the rest", "peak MB", "CPU s"], rows)
    points = growth["points"]
    counts = list(next(iter(points.values())))
    rows = [
        [RUNTIMES[runtime], *(f"{rounds[n]['seconds']:.2f} ({rounds[n]['cpu_seconds']:.2f})" for n in counts)]
        for runtime, rounds in points.items()
    ]
    text += (
        f"\nGrowth with prompts: {_size(growth)}, s (CPU s) of a round of points given at once, medians of three.\n\n"
    )
    return text + table(["points", *counts], rows)


def _size(scan: Found) -> str:
    return f"{scan['pixels']} x {scan['pixels']} x {scan['slices']} voxels"


def memory(found: Found) -> str:
    """From memory.py."""
    head = ["slices", "s", "peak MB", "MB a slice beyond input and labels", "bound, MB"]
    rows = [
        [
            *(str(run["slices"]), f"{run['seconds']:.1f}", f"{run['peak_bytes'] / 1e6:.0f}"),
            _optional(run.get("growth_beyond_input_and_labels_mb_per_slice"), "{:.3f}"),
            _optional(run["max_memory_bytes"] / 1e6 or None, "{:.0f}"),
        ]
        for run in found["runs"]
    ]
    text = (
        f"## Memory by slices\n\nThe automatic pass of `{found['model']}` over a CT of {found['side']} pixels a side. "
    )
    return text + _about(found) + table(head, rows)


def batch(found: Found) -> str:
    """From batch.py."""
    alone = found["in_this_process"]["seconds_per_scan"]
    text = f"## A batch\n\n{found['scans']} phantoms, {found['poisoned']} of them damaged, by `{found['model']}`; "
    text += f"one worker is killed. Without workers, on one thread, a scan takes {alone:.2f} s. The most workers do "
    text += f"{found['ratio']:.2f} times what the fewest do, both with the number of threads that is best for them. "
    head = [
        "workers x threads of each",
        "scans an hour",
        "s a scan",
        "peak MB of a worker",
        "right",
        "damaged, reported",
    ]
    head += ["wrongly reported", "done twice", "tries of the killed"]
    rows = [
        [
            *(workers, f"{run['scans_per_hour']:.0f}", f"{run['seconds_per_scan']:.2f}"),
            *(f"{run['memory_mb']:.0f}", f"{run['right']} of {run['of']}"),
            *(f"{run['poisoned_reported']} of {found['poisoned']}", str(run["wrongly_reported"]), str(run["twice"])),
            str(run["attempts_of_the_killed"]),
        ]
        for workers, run in found["workers"].items()
    ]
    return text + _about(found) + table(head, rows)


def faults(found: Found) -> str:
    """From faults.py."""
    same = {True: "the same to the bit", False: "**not the same**"}
    trainings = len(found["kills_of_each_training"])
    text = f"## Training under kills\n\n{trainings} trainings, killed {found['kills']} times in all at random, "
    text += "and gone on with: "
    text += (
        f"weights {same[found['same_weights']]} as of one left in peace, logged losses {same[found['same_losses']]} "
    )
    text += "(an epoch's is the mean of the steps since the last start); "
    text += f"{found['seconds']:.0f} s in all, {found['seconds_undisturbed']:.0f} for the one in peace. "
    return text + f"{_about(found).rstrip()}\n"


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


SECTIONS: Mapping[str, Callable[[Found], str]] = {"speed": speed, "memory": memory, "batch": batch, "faults": faults}
"""By the name of the file that each is made of."""


def growth(found: Found) -> Figure:
    """Seconds by slices, a panel for each size in plane; peak memory; seconds by classes and by prompts."""
    sizes = sorted({scan["pixels"] for scan in found["scans"]})
    panels = len(sizes) + 3
    columns = min(COLUMNS, -(-panels // 2))
    figure = Figure(figsize=(4.4 * columns, 7.6), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(2, columns).ravel()
    for one, pixels in zip(axes, sizes, strict=False):
        _draw_seconds(one, [scan for scan in found["scans"] if scan["pixels"] == pixels], f"{pixels} x {pixels} pixels")
    peaks, classes, points, *spare = axes[len(sizes) :]
    _draw_memory(peaks, found["scans"], sizes)
    _draw_classes(classes, found["growth"])
    _draw_points(points, found["growth"])
    for each in spare:
        each.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_seconds(axes: Axes, scans: Sequence[Found], title: str) -> None:
    slices = [scan["slices"] for scan in scans]
    for n, runtime in enumerate(scans[0]["ours"]):
        for key, style, of in (("seconds", "o-", "ours by"), ("encoder_alone", ".:", "its encoder alone,")):
            values = [scan["ours"][runtime][key] for scan in scans]
            axes.plot(slices, values, style, color=f"C{n}", label=f"{of} {RUNTIMES[runtime]}")
    for n, name in enumerate(scans[0]["others"], start=len(RUNTIMES)):
        for key, style, how in (("seconds", "s-", ""), ("mirrored_seconds", "s--", ", mirrored")):
            values = [scan["others"][name][key] for scan in scans]
            if key == "seconds" or values != [scan["others"][name]["seconds"] for scan in scans]:
                axes.plot(slices, values, style, color=f"C{n}", label=f"{OTHERS[name]}{how}")
    axes.set(xlabel="slices", ylabel="s for a scan", yscale="log", title=title, xticks=slices)
    _finish(axes, legend=False)


def _draw_memory(axes: Axes, scans: Sequence[Found], sizes: Sequence[int]) -> None:
    for n, runtime in enumerate(scans[0]["ours"]):
        for pixels, style in _styled(sizes):
            own = [scan for scan in scans if scan["pixels"] == pixels]
            values = [scan["ours"][runtime]["peak_mb"] for scan in own]
            axes.plot([scan["slices"] for scan in own], values, f"o{style}", color=f"C{n}")
    for pixels, style in _styled(sizes):
        axes.plot([], [], f"k{style}", label=f"ours, {pixels} pixels")
    for n, one in enumerate(scans[0]["others"].values(), start=len(RUNTIMES)):
        axes.axhline(one["peak_mb"], color=f"C{n}", linestyle=OTHERS_STYLE)
    axes.plot([], [], color="k", linestyle=OTHERS_STYLE, label="others, one patch")
    slices = sorted({scan["slices"] for scan in scans})
    axes.set(xlabel="slices", ylabel="MB", ylim=(0, None), title="peak memory", xticks=slices)
    _finish(axes)


def _styled(sizes: Sequence[int]) -> Iterator[tuple[int, str]]:
    return ((pixels, STYLES[n % len(STYLES)]) for n, pixels in enumerate(sizes))


def _draw_classes(axes: Axes, found: Found) -> None:
    classes = [int(n) for n in found["classes"]]
    runs = list(found["classes"].values())
    for key, label in (("seconds", "all"), ("encoding", "encoding"), ("decoding", "decoding"), ("rest", "the rest")):
        axes.plot(classes, [run[key] for run in runs], "o-", label=label)
    axes.plot([], [], "k.:", label="peak MB (right)")
    axes.set(xlabel="classes (random weights)", ylabel="s for a scan", ylim=(0, None), title=f"torch, {_size(found)}")
    right = axes.twinx()
    right.plot(classes, [run["peak_mb"] for run in runs], "k.:")
    right.set(ylabel="MB", ylim=(0, None))
    _finish(axes)


def _draw_points(axes: Axes, found: Found) -> None:
    for runtime, rounds in found["points"].items():
        counts = [int(n) for n in rounds]
        axes.plot(counts, [one["seconds"] for one in rounds.values()], "o-", label=f"ours by {RUNTIMES[runtime]}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, map(str, counts))
    axes.set(xlabel="points given at once", ylabel="s for a round", ylim=(0, None), title=_size(found))
    _finish(axes)


def _finish(axes: Axes, legend: bool = True) -> None:
    for line in axes.lines:
        line.set_markersize(4)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize=7)


def main() -> None:
    """Print the tables, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of speed.json, memory.json and so on")
    parser.add_argument("-o", "--output", type=Path, help="the plot, a PNG")
    arguments = parser.parse_args()
    file = arguments.results / "speed.json"
    if arguments.output is not None and file.exists():
        save_figure(arguments.output, growth(json.loads(file.read_text())))
    sys.stdout.write(markdown(arguments.results))


if __name__ == "__main__":
    main()
