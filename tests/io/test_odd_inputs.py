"""Odd inputs are read, or refused in one line that quotes nothing of a patient; what is read can be written.

``ODD_INPUTS=200`` makes as many of each reader.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from odd_inputs import READERS

from s2vnet.errors import InputError
from s2vnet.inference.label_writers import require_format, save_result
from s2vnet.io.files import count_voxels, max_read_nbytes, read_geometry, read_image, read_labels
from s2vnet.io.geometry import LabelMap

COUNT = int(os.environ.get("ODD_INPUTS", "15"))
OUTPUTS = ("labels.nii.gz", "labels.nrrd", "labels.dcm", "labels.rtstruct.dcm")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("reader", READERS)
def test_odd_inputs_are_read_or_refused_in_one_line(
    reader: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    accepted, messages = 0, list[str]()
    for seed in range(COUNT):
        folder = tmp_path / str(seed)
        folder.mkdir()
        path = READERS[reader](folder, np.random.default_rng(seed))
        caplog.clear()
        capfd.readouterr()
        for read in (read_geometry, count_voxels, max_read_nbytes, read_labels):
            try:
                read(path)
            except InputError as error:
                messages.append(str(error))
        try:
            image = read_image(path, fill_nonfinite=0, frames_as_channels=True)
        except InputError as error:
            messages.append(str(error))
        else:
            accepted += 1
            labels = LabelMap(np.ones(image.geometry.shape, np.uint8), image.geometry)
            messages += image.geometry.notes
            for name in OUTPUTS if reader == "dicom" else OUTPUTS[:2]:
                try:
                    messages += require_format(folder / name, path)
                except InputError as error:
                    messages.append(str(error))
                    continue
                save_result(folder / name, labels, {1: "liver"}, path)
        said = [*capfd.readouterr(), caplog.text] if logging.getLogger().handlers else capfd.readouterr()
        assert not any("Doe" in text for text in said)
    assert accepted
    assert not any("\n" in text or "Doe" in text for text in messages)
