"""Notes on the headers of many cases."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from s2vnet.data.case_files import CaseFiles
from s2vnet.data.header_notes import MAX_LINES, header_notes


def _case(folder: Path, name: str, size: float) -> CaseFiles:
    """Case whose qform and pixdim state voxels of `size` mm, beside an sform of 1 mm."""
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
    image.set_sform(np.eye(4), 1)
    image.set_qform(np.diag([size, size, size, 1]), 1)
    for part in ("", "_labels"):
        image.to_filename(folder / f"{name}{part}.nii.gz")
    return CaseFiles(name, (folder / f"{name}.nii.gz",), folder / f"{name}_labels.nii.gz")


def test_equal_notes_are_one_line_that_names_the_cases(tmp_path: Path) -> None:
    cases = [
        _case(tmp_path, name, size) for name, size in zip("abcdefghij", [1, 3, 2, 2, 2, 2, 2, 2, 2, 3], strict=True)
    ]
    many, few = header_notes(cases)
    assert many.startswith("c, d, e, f, g and 2 more: the header's sform has voxels of 1 x 1 x 1 mm")
    assert many.endswith("2 x 2 x 2 mm; the qform is used")
    assert few.startswith("b, j: the header's sform")


def test_notes_are_few_and_unreadable_files_are_left_to_their_work(tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_text("no image")
    cases = [_case(tmp_path, f"c{n}", 2 + n) for n in range(MAX_LINES + 2)]
    lines = header_notes([CaseFiles("bad", (tmp_path / "bad.nii.gz",)), *cases])
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == f"2 further notes on headers, of c{MAX_LINES}, c{MAX_LINES + 1}"
