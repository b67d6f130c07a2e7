"""Commands and programs in the documentation are run as written, on small data.

A block of `sh` or `python` on a page is run if the line before it is `<!-- run -->`. The other blocks do not end by
themselves or need more than the tests have: the reason is in `NOT_RUN`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, run
from dicom_files import write_series

from s2vnet.cli.app import COMMANDS, load_command
from s2vnet.io.files import read_image, write_image, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
SCAN = ROOT / "docs" / "tutorials" / "trunk-ct.nii.gz"
NOT_RUN = {
    "s2vnet view": "runs until it is closed; tests/cli/test_view.py runs it",
    "s2vnet serve": "runs until it is closed; tests/cli/test_serve.py runs it",
    "s2vnet interact": "reads from the terminal; tests/cli/test_interact.py types the same",
    "s2vnet predict -m abdomen-ct -i s3:": "needs a store and a cluster; tests/batch/test_faults.py has them",
    "s2vnet predict -m abdomen-ct -i scans -o labels --workers": "starts worker processes; tests/batch runs them",
    "s2vnet predict -m abdomen-ct -i dicomweb:": "needs an archive; tests/batch/test_archive_series.py starts one",
    "make ": "the tests are started by it",
    "git clone": "installs into a new environment; CI does",
    "import httpx": "needs a running server; tests/server has one",
    "view = session.view()": "needs a notebook; tests/interactive/test_notebook.py has one",
}
"""Reason by the start of a block."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    marked: bool
    """Whether the tests run it."""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> Iterator[Block]:
    """All blocks of shell commands and Python."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"(?ms)^(<!-- run -->\n)?```(sh|python)\n(.*?)^```", text):
            line = text[: found.start(2)].count("\n") + 1
            yield Block(page, line, found[2], found[3], bool(found[1]))


BLOCKS = list(blocks())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    full = read_image(SCAN)
    block = np.ascontiguousarray(full.data[:, ::3, ::3, 6:14])
    affine = full.geometry.affine @ np.diag([3.0, 3.0, 1.0, 1.0])
    scan = Volume(block, Geometry(block.shape[1:], affine))  # type: ignore[arg-type]
    write_image(folder / "scan.nii.gz", scan)
    labels = LabelMap((block[0] > 0).astype(np.uint8), scan.geometry)
    for name in ("scans", "imagesTr", "labelsTr", "predictions"):
        (folder / name).mkdir()
        if name.startswith(("labels", "pred")):
            write_labels(folder / name / "first.nii.gz", labels)
        else:
            write_image(folder / name / "first.nii.gz", scan)
    (folder / "series").mkdir()
    write_series(folder / "series", np.rint(block[0]).astype(np.int16))
    _write_dataset(folder / "Dataset123_Name")
    (folder / "imagesTs").symlink_to(folder / "Dataset123_Name" / "imagesTr")
    return folder


def _write_dataset(folder: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    geometry = Geometry((12, 14, 6), np.diag([1.0, 1, 3, 1]))
    for number in range(5):
        labels = np.zeros(geometry.shape, np.uint8)
        labels[2:8, 3:9, 1:5] = 1
        image = labels + np.random.default_rng(number).normal(0, 0.1, geometry.shape)
        write_image(folder / "imagesTr" / f"c{number}_0000.nii.gz", Volume(image[None].astype(np.float32), geometry))
        write_labels(folder / "labelsTr" / f"c{number}.nii.gz", LabelMap(labels, geometry))
    content = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "box": 1}}
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 5, "file_ending": ".nii.gz"}))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.marked], ids=str)
def test_a_block_runs_as_written(block: Block, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), {})  # the page's own program
        return
    for command in commands(block.text):
        words = shlex.split(command, comments=True)
        assert words[0] == "s2vnet", command
        run(*words[1:], *(["--epochs", "1", *SMALL] if words[1] == "train" else []))


@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.marked], ids=str)
def test_a_block_that_is_not_run_has_a_reason(block: Block) -> None:
    assert any(block.text.startswith(start) for start in NOT_RUN), block.text


def test_every_reason_is_still_needed() -> None:
    starts = [block.text for block in BLOCKS if not block.marked]
    assert all(any(text.startswith(start) for text in starts) for start in NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_have_options_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.parent.name == "decisions" or page.name == "results.md":
        return  # commands of earlier versions, kept as they were run
    for found in re.finditer(rf"\bs2vnet ({'|'.join(COMMANDS)})(?![\w-])([^`\n]*)", text):
        options = {flag for option in load_command(found[1]).params for flag in (*option.opts, *option.secondary_opts)}
        for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", found[2].split("#")[0]):
            assert flag in options | {"--help"}, f"{found[0]}: {flag}"


def commands(text: str) -> list[str]:
    """Commands of a block, one for each line or each continued line."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
