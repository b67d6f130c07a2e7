"""``s2vnet models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from s2vnet.inference.model_list import list_models


def models(
    folders: Annotated[list[Path] | None, typer.Argument(help="Run folders of models to list, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List models: name, modality, plane, size, classes, licence.

    Example: s2vnet models runs/f0
    """
    found = list_models(folders or ())
    if as_json:
        typer.echo(json.dumps([each.model_dump() for each in found], indent=2))
        return
    for each in found:
        classes = "1 class" if len(each.classes) == 1 else f"{len(each.classes)} classes"
        typer.echo(f"{each.name}: {each.modality}, {each.plane} slices, {classes}, {each.nbytes / 1e6:.1f} MB")
        typer.echo(f"  classes: {', '.join(f'{number} {name}' for number, name in enumerate(each.classes, 1))}")
        typer.echo(f"  licence: {each.licence}")
