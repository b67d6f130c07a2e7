"""Images of a batch: lists, stores, and the names that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from label_folders import expect, labels_in

from s2vnet.batch.cases import BatchItem, TransientError, list_items, local_files
from s2vnet.batch.runner import open_batch
from s2vnet.batch.workers import BatchSettings
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_geometry, read_image, read_labels, write_image

pytestmark = pytest.mark.timeout(300)


@pytest.mark.usefixtures("in_process")
def test_a_list_names_images_and_cases(segmenter: Segmenter, work: BatchSettings, images: Path, tmp_path: Path) -> None:
    expected = expect(segmenter, images, tmp_path / "expected")
    listed = tmp_path / "list.csv"
    lines = ["image,case,age", "images/case00_0000.nii.gz,ward 1/a,7", f"file://{images}/case01_0000.nii.gz,,8"]
    listed.write_text("\n".join([*lines, "images/absent.nii.gz,,9"]))
    records = {record.case: record for record in open_batch(str(listed), str(tmp_path / "out"), work, 1)[0]}
    assert {case: record.state for case, record in records.items()} == {
        "ward 1/a": "done",
        "case01": "done",
        "absent": "failed",
    }
    assert "no such file" in records["absent"].reason
    assert (tmp_path / "out" / "ward 1" / "a.nii.gz").read_bytes() == expected["case00.nii.gz"]
    assert (tmp_path / "out" / "case01.nii.gz").read_bytes() == expected["case01.nii.gz"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "lines",
    [
        ("image,case", "a.nii.gz,Ärm 1", '"b, c.nii.gz",two', ""),
        ("image, case", "a.nii.gz, Ärm 1", '"b, c.nii.gz" , two ', ",", "  "),
        ("Case;Image;Age", "Ärm 1;a.nii.gz;3,5", "two;b, c.nii.gz;", ";;"),
        ("sep=;", "image;case", "a.nii.gz;Ärm 1", '"b, c.nii.gz";"two"'),
        ("age\timage\tcase", "3\ta.nii.gz\tÄrm 1", "\tb, c.nii.gz\ttwo"),
    ],
)
def test_lists_as_people_and_spreadsheets_write_them(
    tmp_path: Path, lines: tuple[str, ...], encoding: str, newline: str
) -> None:
    (tmp_path / "list.csv").write_bytes(newline.join(lines).encode(encoding))
    items = list_items(str(tmp_path / "list.csv"), str(tmp_path / "out"), 1)
    assert [(item.case, item.images) for item in items] == [
        ("Ärm 1", (str(tmp_path / "a.nii.gz"),)),
        ("two", (str(tmp_path / "b, c.nii.gz"),)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,case\na, b.nii.gz,x", "row 1 has 3 values for 2 columns; put a value that contains , in double"),
        ("scan\na.nii.gz", "no column 'image' but scan"),
        ("image,case\na.nii.gz,../../a", "not a file name"),
        ("image,case\na.nii.gz,x\nb.nii.gz,x", "two images are case x"),
        ("image\n", "lists no images"),
        ("", "no column 'image' but none"),
        ('image\n"' + 200_000 * "a", "not a table of values"),
        ("image,case\n,x", "row 1 names no image"),
        ("image\nout/a.nii.gz", "would replace the image"),
        ("image\nnosuch://a.nii.gz", None),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str | None) -> None:
    (tmp_path / "list.csv").write_text(text)
    if message is None:
        assert len(list_items(str(tmp_path / "list.csv"), str(tmp_path / "out"), 1)) == 1
        return
    with pytest.raises(InputError, match=message):
        list_items(str(tmp_path / "list.csv"), str(tmp_path / "out"), 1)


def test_numbered_images_of_lists_and_stores_are_cases(tmp_path: Path) -> None:
    names = ["word_0000", "word_0001"]
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(["image", *(f"scans/{name}.nii.gz" for name in names)]))
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True)
    for name in names:
        store.pipe_file(f"/scans/ward/{name}.nii.gz", b"image")
    assert [item.case for item in list_items(str(listed), str(tmp_path / "out"), 1)] == names
    items = list_items("memory://scans", str(tmp_path / "out"), 1)
    assert [item.case for item in items] == [f"ward/{name}" for name in names]
    (item,) = list_items("memory://scans", str(tmp_path / "out"), 2)
    assert (item.case, len(item.images)) == ("ward/word", 2)


@pytest.mark.usefixtures("in_process")
def test_images_and_labels_in_a_store(
    segmenter: Segmenter, work: BatchSettings, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = expect(segmenter, images, tmp_path / "expected")
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True)
    store.put(f"{images}/", "/scans/ward/", recursive=True)
    store.pipe_file("/scans/damaged.nii.gz", b"no image")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for target in (str(tmp_path / "out"), "memory://labels"):
        records = {record.case: record for record in open_batch("memory://scans", target, work, 1)[0]}
        assert {case for case, record in records.items() if record.state == "done"} == {
            f"ward/case0{n}" for n in range(4)
        }
        assert "memory://" in records["damaged"].reason
        assert str(temporary) not in records["damaged"].reason
        assert [file for file in temporary.iterdir() if file.name.startswith("s2vnet-")] == []
    assert labels_in(tmp_path / "out" / "ward") == expected
    assert {Path(path).name: store.cat_file(path) for path in store.find("/labels/ward")} == expected
    assert b"ward/case03,done" in store.cat_file("/labels/summary.csv")
    again = list(open_batch("memory://scans", "memory://labels", work, 1)[0])
    assert sorted(record.state for record in again) == ["failed"] + ["skipped"] * 4
    with pytest.raises(InputError, match="lies among the images"):
        list_items("memory://scans", "memory://scans/labels", 1)
    with pytest.raises(InputError, match="cannot be read"):
        list_items("nosuch://scans", str(tmp_path / "out"), 1)


@pytest.mark.parametrize("name", ["../../../1.dcm", "a/../../1.dcm", "..\\1.dcm"])
def test_names_in_a_store_do_not_lead_out_of_the_folder_that_they_are_fetched_to(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True)
    store.pipe_file(f"/scans/series/{name}", b"no image")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "deep" / "er"))
    item = BatchItem("x", ("memory://scans/series",), str(tmp_path / "out" / "x.nii.gz"))
    with pytest.raises(InputError, match="is not a file name; rename it"), local_files(item):
        raise AssertionError("nothing is at hand")
    with pytest.raises(InputError, match="names no image"), local_files(replace(item, images=("memory://scans/..",))):
        raise AssertionError("nothing is at hand")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("target", ["out", "memory://labels"])
def test_labels_whose_format_fails_are_kept_as_nifti(
    target: str, work: BatchSettings, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, *_: object) -> None:
        raise KeyError("Doe^Jane")

    scans, place = tmp_path / "scans", target if "://" in target else str(tmp_path / target)
    scans.mkdir()
    write_image(scans / "a.nrrd", read_image(images / "case00_0000.nii.gz"))
    monkeypatch.setattr("s2vnet.io.itk.write", fails)
    (record,) = open_batch(str(scans), place, work, 1, workers=1)[0]
    assert record.state == "failed"
    assert record.reason == f"{place}/a.nrrd: cannot be written (KeyError); the labels are in {place}/a.nii.gz"
    system, folder = fsspec.core.url_to_fs(place)
    names = {name.rsplit("/", 1)[1] for name in system.find(folder)} - {".s2vnet-lock"}
    assert names == {"a.nii.gz", "batch.json", "summary.csv"} | ({"summary.parquet"} & names)
    system.get_file(f"{folder}/a.nii.gz", str(tmp_path / "found.nii.gz"))
    assert read_labels(tmp_path / "found.nii.gz").geometry.same_grid(read_geometry(scans / "a.nrrd"))


def test_errors_of_a_store_are_one_line_and_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise PermissionError("access\n denied")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.get_file", fails)
    item = BatchItem("x", ("memory://scans/x.nii.gz",), str(tmp_path / "x.nii.gz"))
    with pytest.raises(TransientError) as caught, local_files(item):
        raise AssertionError("nothing is fetched")
    assert str(caught.value) == "memory://scans/x.nii.gz: cannot be read or written (access denied)"
