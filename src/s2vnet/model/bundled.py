"""Checksums of the weights in the package: ``weights/SHA256SUMS``, in the format of ``sha256sum -c``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from s2vnet.errors import CheckpointError

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"
CHECKSUMS = WEIGHTS_FOLDER / "SHA256SUMS"
LICENCES = {
    "abdomen-ct": "research use only: training data BTCV, stated as CC BY 4.0 by a third party (see its model card)",
    "hippocampus-mr": "training data CC BY-SA 4.0 (Medical Segmentation Decathlon, Task04)",
}
"""Licences of the weights by model, as in the model cards."""


def verify_bundled_files(*files: Path) -> None:
    """Compare files of the package with their listed SHA-256; files outside the package are ignored.

    Raises:
        CheckpointError: a file is missing, changed or not listed.
    """
    for file in files:
        if WEIGHTS_FOLDER.resolve() not in file.resolve().parents:
            continue
        name = file.resolve().relative_to(WEIGHTS_FOLDER.resolve()).as_posix()
        try:
            checksums = dict(line.split("  ", 1)[::-1] for line in CHECKSUMS.read_text().splitlines())
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be checked ({error}); install s2vnet again") from error
        if checksums.get(name) != digest:
            raise CheckpointError(f"{file}: differs from the file that s2vnet was released with; install s2vnet again")
