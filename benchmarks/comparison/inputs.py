"""Images and prompts that both checkouts of :mod:`same_labels` get."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom

from benchmarks.comparison.written_files import UID
from s2vnet.data.case_files import case_name

TYPED = """point Anterior 13 30 16
not Posterior 12 27 18
scribble Anterior 10 28 14 11 28 14 12 29 14
undo
redo
box Posterior 4 5 18 25 25 40
lasso Anterior 6 26 12 20 26 12 20 38 12 6 38 12
mask Posterior drawn.nii.gz
lock Anterior
point Posterior 9 18 24
unlock Anterior
remove 2
list
quit
"""


def prepare_inputs(folder: Path, data: Path | None, demo: Callable[[str], None]) -> None:
    """Write the images that are not there yet; `demo` runs `s2vnet demo` with options, which fetches public images."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in ("abdomen", "hippocampus"):
        if not (folder / scene / "image.nii.gz").is_file():
            demo(f"--scene {scene} -o {{inputs}}/{scene}")
    for part, write in (("demo", _from_demo), ("data", _from_data)):
        if (part == "demo" or data is not None) and not (folder / part / "complete").is_file():
            shutil.rmtree(folder / part, ignore_errors=True)
            (folder / part).mkdir()
            write(folder / part, folder if data is None or part == "demo" else data)
            (folder / part / "complete").touch()


def _from_demo(folder: Path, source: Path) -> None:
    ct, mr = (nibabel.load(source / scene / "image.nii.gz") for scene in ("abdomen", "hippocampus"))
    nibabel.save(ct.slicer[:, :, -60:], folder / "ct.nii.gz")
    nibabel.save(mr, folder / "mr.nii.gz")
    drawn = np.zeros(mr.shape, np.uint8)
    drawn[8:12, 14:20, 26:28] = 1
    nibabel.save(nibabel.Nifti1Image(drawn, mr.affine), folder / "drawn.nii.gz")
    (folder / "typed.txt").write_text(TYPED)
    (folder / "damaged.nii.gz").write_bytes((folder / "mr.nii.gz").read_bytes()[:5000])
    for name in ("many", "served", "series", "slow"):
        (folder / name).mkdir()
    shutil.copy(folder / "mr.nii.gz", folder / "served")
    for number in range(3):
        nibabel.save(mr.slicer[:, number:, number:], folder / "many" / f"mr{number}.nii.gz")
    write_series(folder / "series", ct.slicer[:, :, -30:-6])
    shutil.make_archive(str(folder / "series"), "zip", folder / "series")
    for name in ("a", "b"):  # long enough to be interrupted at the second one
        shutil.copy(source / "abdomen" / "image.nii.gz", folder / "slow" / f"{name}.nii.gz")


def _from_data(folder: Path, data: Path) -> None:
    scan = nibabel.load(min((data / "Dataset013_BTCV" / "imagesTr").glob("*.nii.gz")))
    nibabel.save(scan.slicer[:, :, 30:90], folder / "btcv.nii.gz")
    source, target = data / "Dataset004_Hippocampus", folder / "Dataset001_Three"
    images = sorted((source / "imagesTr").glob("*.nii.gz"))[:3]
    files = [Path("imagesTr", image.name) for image in images]
    files += [Path("labelsTr", f"{case_name(image)}.nii.gz") for image in images]
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    described = json.loads((source / "dataset.json").read_text()) | {"numTraining": len(images)}
    (target / "dataset.json").write_text(json.dumps(described))
    shutil.copyfile(target / files[0], folder / "hippocampus.nii.gz")
    shutil.copyfile(target / files[3], folder / "hippocampus-labels.nii.gz")


def write_series(folder: Path, image: nibabel.Nifti1Image) -> None:
    """A CT, whose axes are those of RAS+, as a DICOM series of an axial file per slice."""
    voxels = np.rint(image.get_fdata())[::-1, ::-1].astype(np.int16)
    columns, rows, depth = voxels.shape
    corner = image.affine @ [columns - 1, rows - 1, 0, 1] * [-1, -1, 1, 1]
    spacing = [float(f"{size:.6f}") for size in image.header.get_zooms()]
    for k in range(depth):
        made = pydicom.Dataset()
        made.file_meta = pydicom.dataset.FileMetaDataset()
        made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        made.SOPClassUID, made.SOPInstanceUID = pydicom.uid.CTImageStorage, f"{UID}.4.{k + 1}"
        made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = (f"{UID}.{n}" for n in (1, 2, 3))
        made.PatientID = made.PatientName = made.PatientBirthDate = made.PatientSex = ""
        made.StudyID = made.StudyDate = made.StudyTime = made.AccessionNumber = ""
        made.ReferringPhysicianName = made.PositionReferenceIndicator = ""
        made.Modality, made.InstanceNumber = "CT", k + 1
        made.ImagePositionPatient = [f"{v:.5f}" for v in (corner[0], corner[1], corner[2] + k * spacing[2])]
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.PixelSpacing, made.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        made.Columns, made.Rows, made.SamplesPerPixel = columns, rows, 1
        made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 1
        made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
        made.RescaleIntercept, made.RescaleSlope = 0, 1
        made.PixelData = np.ascontiguousarray(voxels[:, :, k].T).tobytes()
        made.save_as(folder / f"{k + 1:03}.dcm", enforce_file_format=True)
