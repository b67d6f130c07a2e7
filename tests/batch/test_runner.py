"""Many images by several workers: each once, right and whole, whatever dies, is damaged, or was done before."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from disks import lock
from label_folders import expect, labels_in, write_images

from s2vnet.batch.cases import list_items
from s2vnet.batch.jobs import ExtraOutputs
from s2vnet.batch.records import LABELS_EXIST
from s2vnet.batch.runner import open_batch
from s2vnet.batch.workers import BatchSettings
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.segmenter import Segmenter, load_plan
from s2vnet.io.files import read_geometry, read_labels, write_image
from s2vnet.io.geometry import LabelMap, Volume

pytestmark = pytest.mark.timeout(300)
MakePhantom = Callable[..., tuple[Volume, LabelMap]]


def poison(folder: Path) -> dict[str, str]:
    """Five images made unusable: what their reasons have to say, by case."""
    whole = (folder / "case01_0000.nii.gz").read_bytes()
    (folder / "case01_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "case04_0000.nii.gz").write_text("not an image\n")
    (folder / "case07_0000.nii.gz").write_bytes(b"")
    volume = Volume(np.full((1, 14, 16, 9), np.nan, np.float32), read_geometry(folder / "case00_0000.nii.gz"))
    write_image(folder / "case10_0000.nii.gz", volume)
    frames = Volume(np.zeros((2, 14, 16, 9), np.float32), volume.geometry)
    write_image(folder / "case13_0000.nii.gz", frames)
    return {"case01": "", "case04": "", "case07": "", "case10": "NaN", "case13": "frames"}


def rows_of(target: Path) -> list[dict[str, str]]:
    with (target / "summary.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_two_workers_write_what_none_writes_and_report_what_is_poisoned(
    segmenter: Segmenter, work: BatchSettings, make_phantom: MakePhantom, tmp_path: Path
) -> None:
    source, target = write_images(tmp_path / "images", make_phantom, 20), tmp_path / "out"
    expected = expect(segmenter, source, tmp_path / "expected")
    bad = poison(source)
    records, total = open_batch(str(source), str(target), work, 1, workers=2)
    found = list(records)
    assert total == len(found) == len({record.case for record in found}) == 20
    failed = {record.case: record for record in found if record.state == "failed"}
    assert failed.keys() == bad.keys()
    for case, word in bad.items():
        assert word in failed[case].reason
        assert f"{case}_0000.nii.gz" in failed[case].reason
        assert "\n" not in failed[case].reason
    assert {record.attempts for record in found} == {1}
    assert {record.worker for record in found} <= {1, 2}  # one may be done before the other has started
    assert labels_in(target) == {name: data for name, data in expected.items() if name.split(".")[0] not in bad}
    rows = rows_of(target)
    assert [row["case"] for row in rows] == sorted(record.case for record in found)
    assert {row["case"] for row in rows if row["state"] == "failed"} == bad.keys()
    assert all(float(row["memory_mb"]) > 50 and float(row["seconds"]) > 0 for row in rows if row["state"] == "done")
    assert not [file for file in target.iterdir() if file.is_dir()]


@pytest.mark.usefixtures("in_process")
def test_a_batch_begun_anew_does_what_is_left(work: BatchSettings, images: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    asked = BatchSettings(work.models, "cpu", ExtraOutputs(overlay=True, volumes=True))
    begun = open_batch(str(images), str(target), asked, 1)[0]
    assert isinstance(begun, Iterator)
    first = next(begun)
    begun.close()  # type: ignore[attr-defined]  # as an interrupt does
    with (target / "summary.csv").open("a") as stream:
        stream.write("case03,done,,1.0")  # and a killed one may leave
    os.utime(target / f"{first.case}.nii.gz", (0, 2 * 10**9))  # whatever the clock says
    written = (target / f"{first.case}.nii.gz").stat().st_mtime_ns
    records = {record.case: record for record in open_batch(str(images), str(target), asked, 1)[0]}
    assert {case: record.state for case, record in records.items()} == {
        f"case0{n}": "skipped" if f"case0{n}" == first.case else "done" for n in range(4)
    }
    assert records[first.case].volumes == first.volumes
    assert (target / f"{first.case}.nii.gz").stat().st_mtime_ns == written
    assert {file.name for file in target.glob("*.png")} == {f"case0{n}.png" for n in range(4)}
    table = (target / "volumes.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["case", "case00", "case01", "case02", "case03"]
    assert len(rows_of(target)) == 4


@pytest.mark.usefixtures("in_process")
def test_other_settings_are_another_batch_unless_existing_labels_are_kept(
    work: BatchSettings, images: Path, tmp_path: Path
) -> None:
    target = str(tmp_path / "out")
    assert {record.state for record in open_batch(str(images), target, work, 1)[0]} == {"done"}
    other = BatchSettings(work.models, "cpu", classes=(2,))
    kept = list(open_batch(str(images), target, other, 1, skip_existing=True)[0])
    assert {(record.state, record.reason) for record in kept} == {("skipped", LABELS_EXIST)}
    assert {record.state for record in open_batch(str(images), target, other, 1)[0]} == {"done"}
    assert set(np.unique(read_labels(tmp_path / "out" / "case00.nii.gz").data)) <= {0, 2}


@pytest.mark.usefixtures("in_process")
def test_two_batches_do_not_write_to_one_folder(work: BatchSettings, images: Path, tmp_path: Path) -> None:
    first, _ = open_batch(str(images), str(tmp_path / "out"), work, 1)
    next(first)
    with pytest.raises(InputError, match="another batch writes there"):
        list(open_batch(str(images), str(tmp_path / "out"), work, 1)[0])
    assert [record.state for record in first] == ["done"] * 3


def test_folders_that_cannot_be_written(
    work: BatchSettings, make_phantom: MakePhantom, disk: Callable[[int], Path]
) -> None:
    folder = disk(1 << 20)
    images = write_images(folder / "images", make_phantom, 1)
    (images.parent / "link").symlink_to(images)
    listed = folder / "list.csv"
    listed.write_text("image,case\nimages/case00_0000.nii.gz,case00_0000")
    with pytest.raises(InputError, match="would replace the image"):  # through whatever link
        list_items(str(listed), str(folder / "link"), 1)
    lock(folder)
    for target in (folder, folder / "out"):
        with pytest.raises(InputError, match="Read-only file system; choose"):
            list(open_batch(str(images), str(target), work, 1)[0])


def test_a_batch_needs_no_network_where_it_is_begun(
    segmenter: Segmenter,
    work: BatchSettings,
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("s2vnet.model.checkpoint.S2VNet")
    assert load_plan(*work.models) == segmenter.plan
    folder = save()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="does not match the hash"):
        load_plan(folder)


def test_what_cannot_be_a_batch(work: BatchSettings, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a folder"):
        open_batch(str(images / "case00_0000.nii.gz"), str(tmp_path / "a.nii.gz"), work, 1)
    with pytest.raises(InputError, match="no engine 'dask'"):
        open_batch(str(images), str(tmp_path / "out"), work, 1, engine="dask")
