"""Batches on a real DICOM archive: results come back voxel by voxel, are stored once, and faults leave nothing half."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from breaking_proxy import BreakingProxy, breaking_proxy
from disks import MakeDisk, fill
from orthanc_server import Orthanc

from s2vnet.batch.archive_series import FetchedSeries, ResultRequest, ResultsExist, fetch_series, list_series
from s2vnet.batch.cases import BatchItem, local_files
from s2vnet.batch.records import CaseRecord
from s2vnet.batch.runner import open_batch, run_batch
from s2vnet.batch.workers import BatchSettings, ItemResult
from s2vnet.errors import InputError
from s2vnet.inference.label_writers import write_result
from s2vnet.io.dicom.series import read_series
from s2vnet.io.dicomweb.queries import ANY, Query
from s2vnet.io.files import read_labels, write_labels
from s2vnet.io.geometry import LabelMap

pytest.importorskip("dicomweb_client", reason="dicomweb-client (the extra dicomweb) is not installed")

WriteSeries = Callable[..., None]
VOXELS = np.random.default_rng(0).integers(-900, 900, (24, 20, 9)).astype(np.int16)
NAMES = {0: "background", 1: "liver", 2: "left kidney"}
KINDS = ("seg", "labelmap", "rtstruct")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts at a request, without a delay."""
    from s2vnet.io.dicomweb.archive import Archive

    monkeypatch.setattr(Archive.__init__, "__kwdefaults__", {"attempts": 2, "delay_s": 0.01})


@pytest.fixture
def series(tmp_path: Path, write_series: WriteSeries) -> Path:
    folder = tmp_path / "series"
    folder.mkdir()
    write_series(folder, VOXELS, step=(0.0, 0.4, 2.5))
    return folder


def labels_of(folder: Path | str) -> LabelMap:
    """Labels that depend on the voxels alone: boxes of two classes."""
    volume = read_series(folder)
    labels = np.zeros(volume.geometry.shape, np.uint8)
    labels[3:12, 4:15, 1:7], labels[14:20, 5:9, 2:5] = 1, 2
    return LabelMap(labels, volume.geometry)


class BoxWorker:
    """Worker of this process that writes :func:`labels_of` an image in all its formats."""

    pid = 0

    def ready(self) -> None:
        pass

    def run(self, item: BatchItem) -> ItemResult:
        with local_files(item) as local:
            for file in (local.output, *local.dicom_files):
                write_result(Path(file), labels_of(local.images[0]), NAMES, Path(local.images[0]))
        return ItemResult(None, {}, ())

    def stop(self) -> None:
        pass


def run(source: str, target: Path, work: BatchSettings, kinds: tuple[str, ...] = KINDS) -> list[CaseRecord]:
    """A batch whose labels are boxes."""
    from s2vnet.batch import runner

    items = runner.list_items(source, str(target), 1, ANY)
    items = [BatchItem(i.case, i.images, i.output, results=ResultRequest(kinds, {"model": "boxes"})) for i in items]
    return list(run_batch(items, str(target), work, BoxWorker, workers=1, attempts=1))


def stored(orthanc: Orthanc) -> dict[str, list[Any]]:
    return {
        modality: [pydicom.dcmread(io.BytesIO(file)) for file in orthanc.objects(modality)]
        for modality in ("SEG", "RTSTRUCT")
    }


def test_results_are_read_again_by_independent_readers(
    orthanc: Orthanc, series: Path, tmp_path: Path, work: BatchSettings
) -> None:
    orthanc.add(series.iterdir())
    (record,) = run(orthanc.address, tmp_path / "out", work)
    assert (record.state, record.reason) == ("done", "")
    images = {(i := pydicom.dcmread(file)).SOPInstanceUID: i for file in series.iterdir()}
    first = next(iter(images.values()))
    assert record.case == first.SeriesInstanceUID
    expected = labels_of(series)
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / f"{record.case}.nii.gz").data, expected.data)
    found = stored(orthanc)
    binary, labelmap = sorted(found["SEG"], key=lambda each: each.SegmentationType)
    (structures,) = found["RTSTRUCT"]
    for each in (binary, labelmap, structures):
        assert each.StudyInstanceUID == first.StudyInstanceUID
        assert each.FrameOfReferenceUID == first.FrameOfReferenceUID
        assert each.SeriesInstanceUID != first.SeriesInstanceUID
        assert each.SOPInstanceUID.startswith("2.25.")
        assert each.SOPInstanceUID == each.file_meta.MediaStorageSOPInstanceUID
    for each in (binary, labelmap):
        (reference,) = each.ReferencedSeriesSequence
        assert reference.SeriesInstanceUID == record.case
        referenced = {item.ReferencedSOPInstanceUID for item in reference.ReferencedInstanceSequence}
        assert referenced <= set(images)
        np.testing.assert_array_equal(_by_pydicom(each, images, expected), expected.data)
        np.testing.assert_array_equal(_by_highdicom(each, images, expected), expected.data)
    assert {
        item.ReferencedSOPInstanceUID
        for item in structures.ReferencedFrameOfReferenceSequence[0]
        .RTReferencedStudySequence[0]
        .RTReferencedSeriesSequence[0]
        .ContourImageSequence
    } == set(images)
    assert [region.ROIName for region in structures.StructureSetROISequence] == ["liver", "left kidney"]


def _slice_of(image: Any, expected: LabelMap) -> int:
    """Index k of an image by its position."""
    lps = np.array(image.ImagePositionPatient, float)
    return int(np.rint(expected.geometry.to_voxel((lps * (-1, -1, 1))[None])[0, 2]))


def _by_pydicom(segmentation: Any, images: dict[str, Any], expected: LabelMap) -> np.ndarray:
    """Labels by pydicom alone: each frame belongs to the image that it names."""
    data = np.zeros_like(expected.data)
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    for frame, item in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        source = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        k = _slice_of(images[source], expected)
        if segmentation.SegmentationType == "LABELMAP":
            data[:, :, k] = frame.T
        else:
            data[:, :, k][frame.T > 0] = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return data


def _by_highdicom(segmentation: Any, images: dict[str, Any], expected: LabelMap) -> np.ndarray:
    from highdicom.seg import Segmentation

    ordered = sorted(images, key=lambda uid: _slice_of(images[uid], expected))
    planes = Segmentation.from_dataset(segmentation).get_pixels_by_source_instance(
        ordered, combine_segments=True, assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    return planes.transpose(2, 1, 0)


def test_a_binary_result_is_read_by_dcmqi(
    orthanc: Orthanc, tmp_path: Path, write_series: WriteSeries, work: BatchSettings
) -> None:
    dcmqi = pytest.importorskip("dcmqi", reason="dcmqi is not installed")
    program = next(Path(dcmqi.__file__).parent.rglob("segimage2itkimage*"), None)
    assert program is not None
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, VOXELS)
    orthanc.add(series.iterdir())
    run(orthanc.address, tmp_path / "out", work, ("seg",))
    (tmp_path / "seg.dcm").write_bytes(orthanc.objects("SEG")[0])
    converted = tmp_path / "converted"
    converted.mkdir()
    options = ["--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", converted, "--outputType", "nrrd"]
    subprocess.run([program, *options, "--mergeSegments"], check=True, capture_output=True, timeout=60)
    (file,) = converted.glob("*.nrrd")
    expected = labels_of(series)
    image = sitk.ReadImage(str(file))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    data = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    back = np.zeros_like(expected.data)
    voxels = np.argwhere(data)
    lps = voxels @ affine[:3, :3].T + affine[:3, 3]
    i, j, k = np.rint(expected.geometry.to_voxel(lps * (-1, -1, 1))).astype(int).T
    back[i, j, k] = data[tuple(voxels.T)]
    np.testing.assert_array_equal(back, expected.data)


def test_nothing_is_stored_twice(orthanc: Orthanc, series: Path, tmp_path: Path, work: BatchSettings) -> None:
    orthanc.add(series.iterdir())
    run(orthanc.address, tmp_path / "out", work)
    before = set(orthanc.get("/instances"))
    (again,) = run(orthanc.address, tmp_path / "out", work)
    (elsewhere,) = run(orthanc.address, tmp_path / "new", work)
    assert (again.state, again.reason) == ("skipped", "done in an earlier run")
    assert (elsewhere.state, elsewhere.reason) == ("skipped", "its results are in the archive")
    (further,) = run(orthanc.address, tmp_path / "out", work, ("seg", "rtstruct"))
    assert (further.state, set(orthanc.get("/instances"))) == ("skipped", before)


def test_a_missing_result_alone_is_added(orthanc: Orthanc, series: Path, tmp_path: Path, work: BatchSettings) -> None:
    orthanc.add(series.iterdir())
    run(orthanc.address, tmp_path / "out", work, ("seg",))
    (record,) = run(orthanc.address, tmp_path / "out", work, ("seg", "rtstruct"))
    assert record.state == "done"
    assert {kind: len(each) for kind, each in stored(orthanc).items()} == {"SEG": 1, "RTSTRUCT": 1}


MIDDLE = {"down": (b"multipart/related", 4200), "up": (b"POST /dicom-web/studies", 4200)}
"""Marker of a download or upload, and bytes after it at which the connection breaks; an image has 1.6 kB."""


@pytest.fixture
def proxy(orthanc: Orthanc) -> Iterator[BreakingProxy]:
    with breaking_proxy(orthanc.port) as made:
        yield made


@pytest.mark.parametrize("direction", ["down", "up"])
def test_an_archive_that_is_killed_in_the_middle(
    orthanc: Orthanc, proxy: BreakingProxy, series: Path, tmp_path: Path, work: BatchSettings, direction: str
) -> None:
    orthanc.add(series.iterdir())
    address = orthanc.address.replace(str(orthanc.port), str(proxy.port))
    proxy.break_after(direction, *MIDDLE[direction], orthanc.kill)
    (record,) = run(address, tmp_path / "out", work)
    assert proxy.broken == 1
    assert record.state == "failed"
    assert record.reason.startswith(address)
    assert record.reason.endswith("in 2 attempts; run the command again later")
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    orthanc.start()
    assert stored(orthanc) == {"SEG": [], "RTSTRUCT": []}
    (record,) = run(address, tmp_path / "out", work)
    assert record.state == "done"
    assert {kind: len(each) for kind, each in stored(orthanc).items()} == {"SEG": 2, "RTSTRUCT": 1}


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_lost_connection_is_made_again(
    orthanc: Orthanc, proxy: BreakingProxy, series: Path, tmp_path: Path, work: BatchSettings, direction: str
) -> None:
    orthanc.add(series.iterdir())
    proxy.break_after(direction, *MIDDLE[direction])
    address = orthanc.address.replace(str(orthanc.port), str(proxy.port))
    (record,) = run(address, tmp_path / "out", work)
    assert (proxy.broken, record.state) == (1, "done")
    assert {kind: len(each) for kind, each in stored(orthanc).items()} == {"SEG": 2, "RTSTRUCT": 1}


def test_a_series_that_grows_while_it_is_segmented(
    orthanc: Orthanc, series: Path, tmp_path: Path, work: BatchSettings
) -> None:
    files = sorted(series.iterdir())
    orthanc.add(files[:-2])
    ((_, address),) = list_series(orthanc.address, ANY)
    fetched = fetch_series(address, ResultRequest(("seg",)), tmp_path)
    orthanc.add(files[-2:])
    with pytest.raises(InputError, match="changed from 7 to 9 images while it was segmented; nothing is stored"):
        fetched.store()
    assert stored(orthanc)["SEG"] == []
    (record,) = run(orthanc.address, tmp_path / "out", work, ("seg",))
    assert record.state == "done"
    assert len(stored(orthanc)["SEG"]) == 1


def test_a_full_disk(
    orthanc: Orthanc, series: Path, tmp_path: Path, work: BatchSettings, disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = disk(1 << 20)
    filling = fill(small, 9000)
    monkeypatch.setattr("tempfile.tempdir", str(small))
    orthanc.add(series.iterdir())
    (record,) = run(orthanc.address, tmp_path / "out", work)
    assert record.state == "failed"
    assert "cannot write the series' images: No space left on device" in record.reason
    assert list(small.iterdir()) == [filling]
    filling.unlink()
    (record,) = run(orthanc.address, tmp_path / "out", work)
    assert record.state == "done"


def test_results_exist_before_the_series_is_fetched(orthanc: Orthanc, series: Path, tmp_path: Path) -> None:
    orthanc.add(series.iterdir())
    ((_, address),) = list_series(orthanc.address, ANY)
    request = ResultRequest(("rtstruct",), {"model": "a"})
    first = _fetched(tmp_path / "a", address, request)
    ((file, _),) = first.results.items()
    write_result(file, labels_of(first.folder), NAMES, first.folder)
    first.store()
    with pytest.raises(ResultsExist, match="its results are in the archive"):
        _fetched(tmp_path / "b", address, request)
    assert not list((tmp_path / "b").iterdir())
    assert _fetched(tmp_path / "c", address, ResultRequest(("rtstruct",), {"model": "b"})).results


def _fetched(folder: Path, address: str, request: ResultRequest) -> FetchedSeries:
    folder.mkdir()
    return fetch_series(address, request, folder)


def test_a_batch_with_a_model(orthanc: Orthanc, series: Path, tmp_path: Path, work: BatchSettings) -> None:
    orthanc.add(series.iterdir())
    records, total = open_batch(
        orthanc.address, str(tmp_path / "out"), work, 1, query=Query(modality="CT"), store=["seg", "rtstruct"], cpus=1
    )
    (record,) = records
    assert (total, record.state, record.reason) == (1, "done", "")
    labels = read_labels(tmp_path / "out" / f"{record.case}.nii.gz")
    (segmentation,) = stored(orthanc)["SEG"]
    images = {(i := pydicom.dcmread(file)).SOPInstanceUID: i for file in series.iterdir()}
    np.testing.assert_array_equal(_by_pydicom(segmentation, images, labels), labels.data)
    records, _ = open_batch(orthanc.address, str(tmp_path / "out"), work, 1, store=["seg", "rtstruct"], cpus=1)
    assert [record.state for record in records] == ["skipped"]


def test_options_that_contradict_each_other(tmp_path: Path, work: BatchSettings) -> None:
    address, out = "dicomweb://localhost:9/dicom-web", str(tmp_path / "out")
    write_labels(tmp_path / "a.nii.gz", LabelMap(np.zeros((2, 2, 2), np.uint8), labels_geometry()))
    for source, target, options, message in (
        (str(tmp_path), out, {"store": ["seg"]}, "not a DICOM archive"),
        (str(tmp_path), out, {"query": Query("CT")}, "not a DICOM archive"),
        (address, out, {"store": ["png"]}, "no kind of result 'png'; choose of seg, labelmap, rtstruct"),
        (address, out, {"store": ["seg"], "skip_existing": True}, "leave out --skip-existing"),
        (address, address, {}, "name a folder for"),
        (address, out, {}, "does not answer, in 2 attempts"),
    ):
        with pytest.raises(InputError, match=message):
            open_batch(source, target, work, 1, **options)  # type: ignore[arg-type]


def labels_geometry() -> Any:
    from s2vnet.io.geometry import Geometry

    return Geometry((2, 2, 2), np.eye(4))
