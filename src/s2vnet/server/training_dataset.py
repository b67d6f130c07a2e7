"""Dataset of a training job: the scans that clients have labelled, in nnU-Net's layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s2vnet.data.case_files import channel_file
from s2vnet.data.plan import Plan
from s2vnet.errors import InputError
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Volume
from s2vnet.utils.atomic_write import atomic_write

ENDING = ".nii.gz"


@dataclass(frozen=True)
class LabelledScan:
    """An image and its labels."""

    image: Path
    labels: Path


def write_dataset(folder: Path, scans: Sequence[LabelledScan], plan: Plan, stopped: Callable[[], bool]) -> None:
    """Write a dataset for a plan's channels and labels, unless it exists.

    Args:
        folder: of the dataset.
        scans: its cases; NIfTI images are linked, others converted.
        plan: of the model that labelled them.
        stopped: returns whether to stop before the next case.

    Raises:
        InputError: a scan with another number of channels than the plan's.
    """
    if (folder / "dataset.json").exists():
        return
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, scan in enumerate(scans):
        if stopped():
            return
        targets = [folder / "imagesTr" / channel_file(f"{number:04d}", c, ENDING) for c in range(len(plan.channels))]
        _write_channels(scan.image, targets)
        shutil.copyfile(scan.labels, folder / "labelsTr" / f"{number:04d}{ENDING}")
    content = {
        "name": plan.dataset,
        "channel_names": {str(c): name for c, name in enumerate(plan.channels)},
        "labels": dict(plan.labels),
        "numTraining": len(scans),
        "file_ending": ENDING,
    }
    with atomic_write(folder / "dataset.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _write_channels(image: Path, targets: Sequence[Path]) -> None:
    """Write an image as one file per channel, or link to it if format and file system allow."""
    if len(targets) == 1 and image.name.lower().endswith(ENDING):
        try:
            return targets[0].symlink_to(image.resolve())
        except FileExistsError:  # of an earlier attempt
            return
        except OSError:
            pass
    volume = read_image(image, frames_as_channels=len(targets) > 1)
    if len(volume.data) != len(targets):
        raise InputError(f"a scan of {len(volume.data)} channels, where the model takes {len(targets)}")
    for channel, target in zip(volume.data, targets, strict=True):
        write_image(target, Volume(channel[None], volume.geometry))
