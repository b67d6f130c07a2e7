"""Figure of how time and memory grow with slices, pixels, classes and prompts, from `speed.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reports.costs import PEERS, RUNTIMES, Result, size_text

MAX_COLUMNS = 3
STYLES, PEER_STYLE = ("-", "--", "-."), ":"


def growth(result: Result) -> Figure:
    """Draw time by slices for each size in plane, peak memory, time by classes and time by prompts."""
    sizes = sorted({scan["pixels"] for scan in result["scans"]})
    panels = len(sizes) + 3
    columns = min(MAX_COLUMNS, -(-panels // 2))
    figure = Figure(figsize=(4.4 * columns, 7.6), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(2, columns).ravel()
    for panel, pixels in zip(axes, sizes, strict=False):
        _draw_seconds(
            panel, [scan for scan in result["scans"] if scan["pixels"] == pixels], f"{pixels} x {pixels} pixels"
        )
    memory, classes, points, *unused = axes[len(sizes) :]
    _draw_memory(memory, result["scans"], sizes)
    _draw_classes(classes, result["growth"])
    _draw_points(points, result["growth"])
    for panel in unused:
        panel.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_seconds(axes: Axes, scans: Sequence[Result], title: str) -> None:
    slices = [scan["slices"] for scan in scans]
    for n, runtime in enumerate(scans[0]["ours"]):
        for key, style, label in (("seconds", "o-", "S2VNet by"), ("encoder_alone", ".:", "encoder alone by")):
            values = [scan["ours"][runtime][key] for scan in scans]
            axes.plot(slices, values, style, color=f"C{n}", label=f"{label} {RUNTIMES[runtime]}")
    for n, name in enumerate(scans[0]["others"], start=len(RUNTIMES)):
        for key, style, suffix in (("seconds", "s-", ""), ("mirrored_seconds", "s--", ", mirrored")):
            values = [scan["others"][name][key] for scan in scans]
            if key == "seconds" or values != [scan["others"][name]["seconds"] for scan in scans]:
                axes.plot(slices, values, style, color=f"C{n}", label=f"{PEERS[name]}{suffix}")
    axes.set(xlabel="slices", ylabel="s for a scan", yscale="log", title=title, xticks=slices)
    _finish(axes, legend=False)


def _draw_memory(axes: Axes, scans: Sequence[Result], sizes: Sequence[int]) -> None:
    for n, runtime in enumerate(scans[0]["ours"]):
        for pixels, style in _with_style(sizes):
            same_size = [scan for scan in scans if scan["pixels"] == pixels]
            values = [scan["ours"][runtime]["peak_mb"] for scan in same_size]
            axes.plot([scan["slices"] for scan in same_size], values, f"o{style}", color=f"C{n}")
    for pixels, style in _with_style(sizes):
        axes.plot([], [], f"k{style}", label=f"S2VNet, {pixels} pixels")
    for n, peer in enumerate(scans[0]["others"].values(), start=len(RUNTIMES)):
        axes.axhline(peer["peak_mb"], color=f"C{n}", linestyle=PEER_STYLE)
    axes.plot([], [], color="k", linestyle=PEER_STYLE, label="other networks, one patch")
    slices = sorted({scan["slices"] for scan in scans})
    axes.set(xlabel="slices", ylabel="MB", ylim=(0, None), title="peak memory", xticks=slices)
    _finish(axes)


def _with_style(sizes: Sequence[int]) -> Iterator[tuple[int, str]]:
    return ((pixels, STYLES[n % len(STYLES)]) for n, pixels in enumerate(sizes))


def _draw_classes(axes: Axes, result: Result) -> None:
    classes = [int(n) for n in result["classes"]]
    runs = list(result["classes"].values())
    for key, label in (("seconds", "all"), ("encoding", "encoding"), ("decoding", "decoding"), ("rest", "other")):
        axes.plot(classes, [run[key] for run in runs], "o-", label=label)
    axes.plot([], [], "k.:", label="peak MB (right)")
    axes.set(
        xlabel="classes (random weights)", ylabel="s for a scan", ylim=(0, None), title=f"torch, {size_text(result)}"
    )
    right = axes.twinx()
    right.plot(classes, [run["peak_mb"] for run in runs], "k.:")
    right.set(ylabel="MB", ylim=(0, None))
    _finish(axes)


def _draw_points(axes: Axes, result: Result) -> None:
    for runtime, rounds in result["points"].items():
        counts = [int(n) for n in rounds]
        axes.plot(
            counts, [round_["seconds"] for round_ in rounds.values()], "o-", label=f"S2VNet by {RUNTIMES[runtime]}"
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, map(str, counts))
    axes.set(xlabel="simultaneous points", ylabel="s for a round", ylim=(0, None), title=size_text(result))
    _finish(axes)


def _finish(axes: Axes, legend: bool = True) -> None:
    for line in axes.lines:
        line.set_markersize(4)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize=7)
