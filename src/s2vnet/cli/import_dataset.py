"""``s2vnet import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2vnet.cli.console import note, progress
from s2vnet.data.importers import import_release


def import_dataset(
    release: Annotated[str, typer.Argument(help="btcv, word, amos, msd or nnunet.")],
    source: Annotated[Path, typer.Argument(help="Folder of the unpacked release; it is not changed.")],
    target: Annotated[Path, typer.Argument(help="New folder with a name as in nnU-Net: Dataset017_BTCV.")],
    split: Annotated[str | None, typer.Option(help="btcv: 18/12 (TransUNet, default) or 24/6 (Swin UNETR).")] = None,
    modality: Annotated[str | None, typer.Option(help="amos: all (default), ct or mr.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy files instead of linking to them.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Import an incomplete release as far as it is there.")
    ] = False,
) -> None:
    """Convert an official release to a dataset in nnU-Net's raw layout, with its usual split.

    Example: s2vnet import btcv Abdomen/RawData Dataset017_BTCV --split 24/6
    """
    with progress() as report:
        imported = import_release(
            release, source, target, split=split, modality=modality, copy=copy, partial=partial, progress=report
        )
    for text in imported.notes:
        note(text)
    typer.echo(f"{target}: {imported.training} training and {imported.test} test cases")
