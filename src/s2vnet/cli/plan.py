"""``s2vnet plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.console import note, progress
from s2vnet.cli.options import DatasetArgument, DatasetOption, Fill, dataset_folder
from s2vnet.data.dataset import read_dataset
from s2vnet.data.header_notes import header_notes
from s2vnet.utils.folders import make_folder
from s2vnet.utils.json_io import model_to_json
from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    import s2vnet.data.plan as data_plan
    from s2vnet.data import fingerprint
else:
    fingerprint = LazyModule("s2vnet.data.fingerprint")
    data_plan = LazyModule("s2vnet.data.plan")


def plan(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for fingerprint.json and plan.json.")],
    dataset: DatasetArgument = None,
    named: DatasetOption = None,
    sampling: Annotated[float | None, typer.Option(min=0.05, help="Pixel size in plane, mm; default: chosen.")] = None,
    fill_nan: Fill = None,
) -> None:
    """Choose plane, sampling, intensities and network size for a dataset.

    Example: s2vnet plan Dataset004_Hippocampus -o runs/hippocampus
    """
    source = read_dataset(dataset_folder(dataset, named))
    for text in (*source.notes, *header_notes(source.training)):
        note(text)
    make_folder(output)
    with progress() as report:
        extracted = fingerprint.extract_fingerprint(
            source, fill_nonfinite=fill_nan, progress=lambda done, total: report("reading cases", done, total)
        )
    data_plan.save_json(extracted, output / "fingerprint.json")
    chosen = data_plan.make_plan(extracted, sampling)
    data_plan.save_json(chosen, output / "plan.json")
    typer.echo(model_to_json(chosen).decode())
    if extracted.empty_cases:
        note(f"no label but background in {', '.join(extracted.empty_cases)}")
