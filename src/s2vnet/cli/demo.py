"""``s2vnet demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.options import Device
from s2vnet.errors import InputError
from s2vnet.utils.folders import make_folder
from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    import s2vnet.demo.run as demo_run
else:
    demo_run = LazyModule("s2vnet.demo.run")


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for images, labels, prompts and a picture.")
    ] = Path("demo"),
    scene: Annotated[str, typer.Option(help="abdomen (CT, 13 organs) or hippocampus (MR).")] = "abdomen",
    device: Device = "auto",
) -> None:
    """Segment a public image automatically, then correct it by simulated clicks.

    Example: s2vnet demo -o demo
    """
    if scene not in demo_run.SCENES:
        raise InputError(f"no scene {scene!r}; choose one of {', '.join(demo_run.SCENES)}")
    make_folder(output)
    result = demo_run.run_demo(output, device, scene, say=typer.echo)
    seconds_per_round = sum(result.seconds) / max(1, len(result.seconds))
    rounds = result.seconds_automatic / max(1e-9, seconds_per_round)
    typer.echo(f"a round costs 1/{rounds:.0f} of encoding and segmenting the image again; see {output / 'overlay.png'}")
