"""The growth figure shows every measured result."""

from __future__ import annotations

from typing import Any

from benchmarks.reports.cost_figures import growth


def test_figure_shows_every_result(speed: dict[str, Any]) -> None:
    small, large, memory, classes, points, spare, right = growth(speed).axes
    for axes, pixels in ((small, 256), (large, 512)):
        assert pixels == int(axes.get_title().split()[0])
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert lines["S2VNet by torch"] == [4, 8]
        assert lines["encoder alone by OpenVINO"] == [1.6, 1.6]
        assert lines["nnU-Net's 3D network, mirrored"] == [80, 80]
        assert "UNETR, mirrored" not in lines
        assert axes.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in memory.lines].count([900, 900]) == 2 * 2  # runtimes, sizes
    assert [list(line.get_ydata()) for line in memory.lines].count([2000, 2000]) == 1  # nnU-Net's 3D network
    assert list(classes.lines[0].get_ydata()) == [4, 12]
    assert list(right.lines[0].get_ydata()) == [900, 900]
    assert list(points.lines[0].get_xdata()) == [1, 64]
    assert not spare.axison
