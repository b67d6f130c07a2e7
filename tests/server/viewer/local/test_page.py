"""The page without a server in Chromium: labels are those of ONNX Runtime in Python, and no request leaves the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dicom_files import write_series
from listening import listening
from scipy import ndimage
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from s2vnet.data.modality import modality_conflict
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.prompt_log import read_log
from s2vnet.io.files import read_image, read_labels, write_image
from s2vnet.io.geometry import Geometry, Volume

LARGEST_SHARE = 1e-4
"""Share of voxels whose labels may differ."""


class TabPage:
    """The page as its user sees it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def load(self, address: str) -> None:
        self.page.goto(f"{address}/")
        self.page.locator("#start-form:not([inert]) #file").wait_for()

    def segment(self, *files: Path) -> npt.NDArray[np.uint8]:
        """Labels (I, J, K) of a scan that is chosen from the disk."""
        self.page.set_input_files("#file", [str(file) for file in files])
        return self.labels()

    def labels(self) -> npt.NDArray[np.uint8]:
        """Labels (I, J, K) once they are final."""
        self.page.wait_for_function("() => s2vnet.ready || document.querySelector('#problems p')")
        assert self.page.locator("#problems").inner_text() == ""
        flat = self.page.evaluate("() => Array.from(s2vnet.labels)")
        return np.array(flat, np.uint8).reshape(self.page.evaluate("() => s2vnet.state.shape"))

    def save(self, command: str, path: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.locator(f"[data-command={command}]").click()
        download.value.save_as(path)
        return path


def ct(shape: tuple[int, int, int]) -> Volume:
    """Smooth soft tissue in which the network finds several organs, surrounded by air."""
    rng = np.random.default_rng(3)
    hu = 60 + 900 * ndimage.gaussian_filter(rng.normal(size=shape), (5, 5, 2)).astype(np.float32)
    i, j = (np.abs(np.linspace(-1, 1, n)) for n in shape[:2])
    hu[np.hypot(*np.meshgrid(i, j, indexing="ij")) > 0.95] = -1000
    return Volume(hu.round()[None], Geometry.from_codes(shape, (3.0, 3.0, 5.0), "LPS"))


def mr(shape: tuple[int, int, int]) -> Volume:
    """A brighter ellipsoid, a part of which the network takes for the hippocampus."""
    rng = np.random.default_rng(0)
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = np.sqrt((i / 0.4) ** 2 + (j / 0.7) ** 2 + (k / 0.4) ** 2) < 1
    values = 500 + 200 * inside + 200 * ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    smooth = ndimage.gaussian_filter(values, 0.7).astype(np.float32)
    return Volume(smooth[None], Geometry.from_codes(shape, (1.0, 1.0, 1.0), "RAS"))


@contextmanager
def host(folder: Path) -> Iterator[str]:
    with listening(Starlette(routes=[Mount("/", StaticFiles(directory=folder, html=True))])) as address:
        yield address


@pytest.mark.parametrize(("model", "volume"), [("hippocampus-mr", mr((30, 40, 28))), ("abdomen-ct", ct((40, 36, 8)))])
def test_labels_are_those_of_onnxruntime_after_the_host_is_gone(
    model: str, volume: Volume, built: Path, page: Any, tmp_path: Path
) -> None:
    file = tmp_path / "scan.nii.gz"
    write_image(file, volume)
    segmenter = Segmenter.from_pretrained(model, runtime="onnxruntime")
    expected = segmenter.segment(read_image(file)).labels()
    assert len(np.unique(expected.data)) > 1
    tab = TabPage(page)
    with host(built) as address:
        tab.load(address)
    labels = tab.segment(file)
    assert tab.page.evaluate("() => s2vnet.state.model") == model
    assert np.mean(labels != expected.data) < LARGEST_SHARE
    assert tab.page.evaluate("() => s2vnet.state.unlike") == []
    saved = read_labels(tab.save("save", tmp_path / "labels.nii.gz"))
    assert saved.geometry.same_grid(volume.geometry)
    np.testing.assert_array_equal(saved.data, labels)
    log = read_log(tab.save("save-log", tmp_path / "log.json"))
    assert log.entries == ()
    assert log.model_sha256 == segmenter.sha256
    assert log.geometry.same_grid(volume.geometry)
    assert tab.page.evaluate("() => crossOriginIsolated")
    assert tab.page.locator("#status").inner_text().startswith(("ready", "saved"))
    assert not tab.page.locator("#tool-list, #sign, #prompts").locator("visible=true").count()
    assert tab.errors == []


def test_a_dicom_series_is_read(built: Path, page: Any, tmp_path: Path) -> None:
    """Its voxels may lie in another order than the files', but at the same places of the world."""
    volume = ct((24, 20, 6))
    write_series(tmp_path, volume.data[0].astype(np.int16), cosines=(1, 0, 0, 0, 1, 0))
    tab = TabPage(page)
    with host(built) as address:
        tab.load(address)
    labels = tab.segment(*sorted(tmp_path.glob("*.dcm")))
    assert sorted(labels.shape) == sorted(volume.geometry.shape)
    affine = np.array(tab.page.evaluate("() => s2vnet.state.affine"))
    centre = affine @ [*((np.array(labels.shape) - 1) / 2), 1]
    # the position of the first voxel and the distances of voxels of `write_series`, LPS
    middle = np.array([-30, 12.5, 100]) + np.array([0.7, 0.9, 2.5]) * (np.array(volume.geometry.shape) - 1) / 2
    np.testing.assert_allclose(centre[:3], middle * [-1, -1, 1], atol=0.01)
    assert tab.errors == []


def test_an_image_of_another_modality_is_noted(built: Path, page: Any, tmp_path: Path) -> None:
    volume = mr((16, 16, 4))
    write_image(tmp_path / "scan.nii", volume)
    tab = TabPage(page)
    with host(built) as address:
        tab.load(address)
    tab.segment(tmp_path / "scan.nii")
    assert tab.page.evaluate("() => s2vnet.state.model") == "hippocampus-mr"
    assert not tab.page.locator("#notes").is_visible()
    tab.page.select_option("#model-choice", "abdomen-ct")
    tab.page.wait_for_function("() => s2vnet.state?.model === 'abdomen-ct'")
    tab.labels()
    conflict = modality_conflict("CT", volume)
    assert conflict is not None
    assert tab.page.locator("#notes").inner_text().startswith(conflict)


def test_files_that_are_no_scan_are_refused_in_one_line(built: Path, page: Any, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"no scan")
    tab = TabPage(page)
    with host(built) as address:
        tab.load(address)
    tab.page.set_input_files("#file", str(tmp_path / "scan.nii.gz"))
    tab.page.get_by_role("alert").filter(has_text="not a readable NIfTI image").wait_for()
    tab.page.locator("#start").wait_for()
    assert tab.page.evaluate("() => location.hash") == ""
