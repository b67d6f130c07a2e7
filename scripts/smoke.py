"""Smoke test of an installed wheel: print the version and segment a volume with a bundled model (for CI)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

import s2vnet


def main() -> None:
    """Run the command in subprocesses, with its output."""
    if Path(__file__).parent.parent / "src" in Path(s2vnet.__file__).parents:
        sys.exit(f"this is the source folder, not an installed wheel: {s2vnet.__file__}")
    command = [sys.executable, "-m", "s2vnet"]
    with tempfile.TemporaryDirectory() as folder:
        image, labels = Path(folder) / "image.nii.gz", Path(folder) / "labels.nii.gz"
        voxels = np.random.default_rng(0).normal(300, 40, (34, 50, 36)).astype(np.float32)
        nib.Nifti1Image(voxels, np.eye(4)).to_filename(image)
        subprocess.run([*command, "--version"], check=True)
        subprocess.run(
            [*command, "predict", "-m", "hippocampus-mr", "-i", str(image), "-o", str(labels), "--device", "cpu"],
            check=True,
        )
        written = nib.load(labels)
        if written.shape != voxels.shape:
            sys.exit(f"labels of shape {written.shape}")
    sys.stdout.write(f"Python {sys.version.split()[0]}: {written.shape} labels\n")


if __name__ == "__main__":
    main()
