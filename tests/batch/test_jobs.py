"""Files in, files out: every naming and format, and one bad image that stops no other."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from s2vnet.batch.jobs import ExtraOutputs, Job, plan_jobs, predict
from s2vnet.data.plan import Plan
from s2vnet.data.training_ranges import TrainingRanges
from s2vnet.errors import InputError, S2VNetError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_image, read_labels, write_image
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.model.checkpoint import TrainedModel

MakePhantom = Callable[..., tuple[Volume, LabelMap]]


@pytest.fixture
def images(tmp_path: Path, make_phantom: MakePhantom) -> Path:
    """Folder of a_0000.nii.gz and b_0000.nii.gz in nnU-Net's naming."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        write_image(folder / f"{name}_0000.nii.gz", make_phantom(seed=seed)[0])
    return folder


def all_errors(found: list[tuple[Job, S2VNetError | None]]) -> list[str]:
    return [str(error) for _, error in found if error is not None]


def test_files_and_folders_are_named_as_their_images(images: Path, tmp_path: Path) -> None:
    image = images / "a_0000.nii.gz"
    assert [job.output for job in plan_jobs(image, tmp_path / "out", 1)] == [tmp_path / "out" / "a.nii.gz"]
    assert [job.output for job in plan_jobs(image, tmp_path / "x.nrrd", 1)] == [tmp_path / "x.nrrd"]
    jobs = plan_jobs(images, tmp_path / "out", 1)
    assert [(job.case.name, job.output.name) for job in jobs] == [("a", "a.nii.gz"), ("b", "b.nii.gz")]
    series = tmp_path / "series"
    series.mkdir()
    assert [job.output.name for job in plan_jobs(series, tmp_path / "out", 1)] == ["series.nii.gz"]


def test_numbered_images_of_one_channel_are_cases(images: Path, tmp_path: Path) -> None:
    for number in range(2):
        (images / f"word_{number:04d}.nii.gz").write_bytes((images / "a_0000.nii.gz").read_bytes())
    names = ["a.nii.gz", "b.nii.gz", "word_0000.nii.gz", "word_0001.nii.gz"]
    assert [job.output.name for job in plan_jobs(images, tmp_path / "out", 1)] == names
    for number in range(2):
        (job,) = plan_jobs(images / f"word_{number:04d}.nii.gz", tmp_path / "out", 1)
        assert job.output.name == f"word_{number:04d}.nii.gz"


def test_what_cannot_be_planned(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        plan_jobs(tmp_path / "absent", tmp_path / "out", 1)
    with pytest.raises(InputError, match="several images need a folder"):
        plan_jobs(images, tmp_path / "out.nii.gz", 1)
    (images / "b_0001.nii.gz").write_bytes((images / "b_0000.nii.gz").read_bytes())
    with pytest.raises(InputError, match="case a has 1 of 3 channels"):
        plan_jobs(images, tmp_path / "out", 3)
    (tmp_path / "scan.txt").write_text("")
    with pytest.raises(InputError, match="unknown image format"):
        plan_jobs(tmp_path / "scan.txt", tmp_path / "out", 1)


def test_an_image_is_never_replaced(images: Path, tmp_path: Path) -> None:
    image = images / "a_0000.nii.gz"
    with pytest.raises(InputError, match="the labels would replace the image"):
        plan_jobs(image, image, 1)
    image.rename(images / "a.nii.gz")
    with pytest.raises(InputError, match="the labels would replace the image"):
        plan_jobs(images, images, 1)


def test_what_is_unlike_the_training_data_is_said_and_segmented(
    segmenter: Segmenter, images: Path, tmp_path: Path
) -> None:
    size = read_image(images / "a_0000.nii.gz").geometry
    edges = tuple(float(n * s) for n, s in zip(size.canonical()[0].shape, size.canonical()[0].spacing, strict=True))
    other = TrainingRanges(spacing=((0.1, 0.1, 0.1), (0.1, 0.1, 0.1)), size=(edges, edges), tissue=((0, 1),))  # type: ignore[arg-type]
    plan = segmenter.plan.model_copy(update={"seen": other})
    trained = [TrainedModel(model, plan.model_dump(mode="json"), {}, "") for model in segmenter.models]
    told: list[tuple[str, str]] = []
    jobs = plan_jobs(images, tmp_path / "out", 1)
    found = predict(Segmenter(trained, "cpu"), jobs, note=lambda name, text: told.append((name, text)))
    assert all_errors(list(found)) == []
    assert {name for name, _ in told} == {"a", "b"}
    assert all("in training 0.10 mm" in text for _, text in told)
    assert read_labels(tmp_path / "out" / "a.nii.gz").geometry.same_grid(size)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_labels_of_every_format_are_the_segmentation(
    segmenter: Segmenter, images: Path, tmp_path: Path, ending: str
) -> None:
    image = images / "a_0000.nii.gz"
    jobs = plan_jobs(image, tmp_path / f"labels{ending}", 1)
    assert all_errors(list(predict(segmenter, jobs))) == []
    volume, found = read_image(image), read_labels(tmp_path / f"labels{ending}")
    assert found.geometry.same_grid(volume.geometry)
    np.testing.assert_array_equal(found.data, segmenter.segment(volume).labels().data)


def test_extras_are_written_beside(segmenter: Segmenter, images: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = predict(
        segmenter,
        plan_jobs(images, tmp_path / "out", 1),
        extras=ExtraOutputs(True, True, True, True),
        classes=[2],
        progress=lambda *args: told.append(args),
    )
    assert all_errors(list(found)) == []
    parts = (".nii.gz", "_probabilities.nii.gz", "_uncertainty.nii.gz", ".png")
    names = {f"{case}{part}" for case in "ab" for part in parts}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names | {"volumes.csv"}
    assert {name for name, _, _ in told} == {"a", "b"}
    assert told[-1] == ("b", 18, 18)
    labels = read_labels(tmp_path / "out" / "a.nii.gz")
    assert set(np.unique(labels.data)) == {0, 2}
    probabilities = read_image(tmp_path / "out" / "a_probabilities.nii.gz", frames_as_channels=True)
    np.testing.assert_array_equal(np.where(probabilities.data.argmax(0) == 2, 2, 0), labels.data)
    with (tmp_path / "out" / "volumes.csv").open(newline="") as stream:
        head, first, second = csv.reader(stream)
    assert head == ["case", "right (ml)"]
    assert second[0] == "b"
    assert first == ["a", f"{np.count_nonzero(labels.data) * 0.0022:.4f}"]


def test_a_damaged_image_stops_no_other_and_leaves_its_old_labels(
    segmenter: Segmenter, images: Path, tmp_path: Path
) -> None:
    old = tmp_path / "out" / "a.nii.gz"
    old.parent.mkdir()
    old.write_bytes(b"old")
    image = images / "a_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:300])
    found = list(predict(segmenter, plan_jobs(images, old.parent, 1), extras=ExtraOutputs(volumes=True)))
    assert [job.case.name for job, error in found if error is not None] == ["a"]
    assert old.read_bytes() == b"old"
    assert read_labels(old.parent / "b.nii.gz").data.any()
    assert len((old.parent / "volumes.csv").read_text().splitlines()) == 2


def test_existing_labels_can_be_kept(segmenter: Segmenter, images: Path, tmp_path: Path) -> None:
    jobs = plan_jobs(images, tmp_path / "out", 1)
    list(predict(segmenter, jobs, extras=ExtraOutputs(volumes=True)))
    table = (tmp_path / "out" / "volumes.csv").read_text()
    (images / "a_0000.nii.gz").write_bytes(b"unreadable")
    written = jobs[0].output.stat().st_mtime_ns
    jobs[1].output.unlink()
    assert all_errors(list(predict(segmenter, jobs, overwrite=False, extras=ExtraOutputs(volumes=True)))) == []
    assert jobs[0].output.stat().st_mtime_ns == written
    assert (tmp_path / "out" / "volumes.csv").read_text() == table
    assert all_errors(list(predict(segmenter, jobs, overwrite=False))) == []
    assert len(all_errors(list(predict(segmenter, jobs)))) == 1
    assert list(predict(segmenter, [])) == []


def test_a_folder_that_cannot_be_made(segmenter: Segmenter, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    jobs = plan_jobs(images, tmp_path / "file" / "out", 1)
    (first, second) = all_errors(list(predict(segmenter, jobs)))
    assert first == second
    assert "cannot make" in first


def test_a_dicom_folder_is_one_image(segmenter: Segmenter, tmp_path: Path, phantom: tuple[Volume, LabelMap]) -> None:
    series = tmp_path / "series"
    series.mkdir()
    for k in range(9):
        pixels = phantom[0].data[0, :, :, k].T[None].astype(np.int16)
        image = sitk.GetImageFromArray(pixels)
        image.SetSpacing((0.8, 1.1, 2.5))
        image.SetOrigin((0.0, 0.0, 2.5 * k))
        tags = {"0008|0060": "MR", "0020|000e": "1.2.826.0.1.1", "0020|0013": str(k)}
        tags |= {"0020|0032": f"0\\0\\{2.5 * k}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(series / f"{k}.dcm"))
        writer.Execute(image)
    assert all_errors(list(predict(segmenter, plan_jobs(series, tmp_path / "out", 1)))) == []
    found = read_labels(tmp_path / "out" / "series.nii.gz")
    expected = Geometry.from_lps((14, 16, 9), np.diag([0.8, 1.1, 2.5, 1]))
    assert found.geometry.same_grid(expected)
    np.testing.assert_array_equal(found.data, segmenter.segment(read_image(series)).labels().data)


def test_channels_in_files_or_frames_are_one_case(
    make_plan: Callable[..., Plan], save: Callable[..., Path], make_phantom: MakePhantom, tmp_path: Path
) -> None:
    segmenter = Segmenter.from_pretrained(save(make_plan(channels=2)), device="cpu")
    volume, _ = make_phantom(channels=2)
    (tmp_path / "files").mkdir()
    for c in range(2):
        write_image(tmp_path / "files" / f"a_000{c}.nii.gz", Volume(volume.data[[c]], volume.geometry))
    write_image(tmp_path / "frames.nii.gz", volume)
    for source in ("files", "frames.nii.gz"):
        assert all_errors(list(predict(segmenter, plan_jobs(tmp_path / source, tmp_path / "out", 2)))) == []
    a, b = (read_labels(tmp_path / "out" / name).data for name in ("a.nii.gz", "frames.nii.gz"))
    np.testing.assert_array_equal(a, b)


def test_a_dicom_series_gets_its_labels_as_a_label_map_and_as_dicom_seg(
    segmenter: Segmenter, tmp_path: Path, write_series: Callable[..., None]
) -> None:
    pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")
    from s2vnet.io.dicom.seg import read_segmentation

    series, seg, labels = tmp_path / "series", tmp_path / "labels.dcm", tmp_path / "labels.nii.gz"
    series.mkdir()
    write_series(series, np.random.default_rng(0).integers(-100, 200, (16, 18, 6)))
    for output in (labels, seg):
        jobs = plan_jobs(series, output, 1)
        assert all_errors(list(predict(segmenter, jobs))) == []
    found, names = read_segmentation(seg, series)
    assert np.array_equal(found.data, read_labels(labels).data)
    assert found.data.any()
    assert names == {k: name for k, name in segmenter.class_names.items() if k}
    before = seg.read_bytes()
    listed = predict(segmenter, jobs, extras=ExtraOutputs(volumes=True), overwrite=False)
    assert all_errors(list(listed)) == []
    assert seg.read_bytes() == before
    assert len((tmp_path / "volumes.csv").read_text().splitlines()) == 2
    for name in ("other.dcm", "other.rtstruct.dcm"):
        with pytest.raises(InputError, match="belongs to a DICOM series"):
            plan_jobs(labels, tmp_path / name, 1)
    for name in ("labels.dcm", "1000.dcm"):
        with pytest.raises(InputError, match="lies among the series' own images"):
            plan_jobs(series, series / name, 1)


def test_a_multi_frame_dicom_file_is_a_case_by_itself(
    segmenter: Segmenter, tmp_path: Path, write_frames: Callable[..., None]
) -> None:
    pytest.importorskip("highdicom", reason="highdicom (the extra dicom) is not installed")
    voxels = np.random.default_rng(0).integers(0, 900, (16, 18, 6)).astype(np.int16)
    for name in ("a.dcm", "P.1.IMA", "IM0"):
        write_frames(tmp_path / name, voxels, np.arange(6)[:, None] * (0, 0, 2.5))
        seg = tmp_path / f"seg-{name}.dcm"
        jobs = plan_jobs(tmp_path / name, tmp_path / "out", 1) + plan_jobs(tmp_path / name, seg, 1)
        assert all_errors(list(predict(segmenter, jobs))) == []
        assert seg.is_file()
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.nii.gz", "P.1.nii.gz", "IM0.nii.gz"}
    with pytest.raises(InputError, match="the labels would replace the image"):
        plan_jobs(tmp_path / "a.dcm", tmp_path / "a.dcm", 1)


def test_a_dicom_series_gets_its_labels_as_contours(
    segmenter: Segmenter, tmp_path: Path, write_series: Callable[..., None]
) -> None:
    series, output = tmp_path / "series", tmp_path / "labels.rtstruct.dcm"
    series.mkdir()
    write_series(series, np.random.default_rng(0).integers(-100, 200, (16, 18, 6)))
    jobs = plan_jobs(series, output, 1)
    assert all_errors(list(predict(segmenter, jobs, extras=ExtraOutputs(uncertainty=True)))) == []
    assert (tmp_path / "labels_uncertainty.nii.gz").is_file()
    found, labels = pydicom.dcmread(output), segmenter.segment(read_image(series)).labels().data
    slices = {
        region.ReferencedROINumber: {c.ContourImageSequence[0].ReferencedSOPInstanceUID for c in region.ContourSequence}
        for region in found.ROIContourSequence
    }
    expected = {k: (labels == k).any((0, 1)).sum() for k in segmenter.class_names if k}
    assert {k: len(uids) for k, uids in slices.items()} == expected
    (error,) = all_errors(list(predict(segmenter, jobs, extras=ExtraOutputs(volumes=True), overwrite=False)))
    assert "volumes cannot be computed from contours" in error
