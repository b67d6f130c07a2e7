"""``s2vnet import``: other layouts become nnU-Net's raw layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SMALL, Main, run

from s2vnet.data.dataset_releases import RELEASES


def test_an_imported_dataset_can_be_planned(dataset: Path, tmp_path: Path, main: Main) -> None:
    target = tmp_path / "Dataset002_Boxes"
    assert run("import", "nnunet", dataset, target) == f"{target}: 5 training and 0 test cases\n"
    assert run("plan", target, "-o", tmp_path / "a") == run("plan", dataset, "-o", tmp_path / "b")
    assert main("import", "nnunet", dataset, tmp_path / "boxes", "--copy") == (
        0,
        ["note: boxes: nnU-Net itself requires a name such as Dataset017_BTCV"],
    )
    again = ["import", "nnunet", dataset, target, "--partial"]
    assert main(*again) == (1, [f"error: {target}: exists already; remove it or choose another name"])
    options = ["--split", "24/6", "--modality", "ct"]
    assert main("import", "btcv", dataset, tmp_path / "new", *options)[0] == 1


@pytest.fixture
def release(dataset: Path, tmp_path: Path) -> Callable[[str], Path]:
    """``release(name)``: some cases of WORD or AMOS, with voxels of the boxes, named as the release names them."""

    def write(name: str) -> Path:
        table, root = RELEASES[name], tmp_path / name
        listed = {}
        for part, (images, labels) in table.layouts[0].items():
            some = {"training": (1, 4), "validation": (8, 10), "test": (12,)}[part]
            numbers = sorted(table.cases[part])[:2] if table.cases else some
            for number in numbers:
                for folder, source in ((images, "imagesTr/box{}_0000.nii.gz"), (labels, "labelsTr/box{}.nii.gz")):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    file = dataset / source.format(number % 5)
                    shutil.copy(file, root / folder / f"{table.prefixes[0]}{number:04d}.nii.gz")
            listed[part] = [{"image": f"./{images}/{table.prefixes[0]}{n:04d}.nii.gz"} for n in numbers]
        (root / "dataset.json").write_text(json.dumps(listed))
        return root

    return write


@pytest.mark.parametrize("name", ["word", "amos"])
def test_releases_whose_cases_end_in_four_digits(
    release: Callable[[str], Path], model: Path, tmp_path: Path, name: str
) -> None:
    """Import, plan, train, predict and both evaluations, of the imported dataset and of the tree as released."""
    root, target = release(name), tmp_path / "Dataset012_Name"
    run("import", name, root, target, "--partial")
    run("plan", target, "-o", tmp_path / "plan")
    planned = ["--plan", tmp_path / "plan" / "plan.json", "--epochs", 1, *SMALL]
    shown = run("train", target, "-o", tmp_path / "run", *planned)
    held_out = json.loads((target / "splits_final.json").read_text())[0]["val"]
    assert f"({len(held_out)} held-out cases)" in shown
    assert json.loads((tmp_path / "run" / "cases.json").read_text())["held_out"] == held_out
    cases = {path.name.removesuffix(".nii.gz") for path in (root / "imagesTr").iterdir()}
    assert all(case[-4:].isdecimal() for case in cases)
    both = cases | {path.name.removesuffix(".nii.gz") for path in (target / "labelsTr").iterdir()}
    for tree, expected in ((root, cases), (target, both)):
        report = tmp_path / "report.json"
        run("predict", "-m", model, "-i", tree / "imagesTr", "-o", tmp_path / tree.name, "--device", "cpu")
        run("evaluate", "-i", tmp_path / tree.name, "-g", tree / "labelsTr", "-o", report)
        assert {row["case"] for row in json.loads(report.read_text())["automatic"]["cases"]} == expected
        interactive = ["--interactive", "-m", model, "--rounds", 1, "--device", "cpu"]
        run("evaluate", *interactive, "-i", tree / "imagesTr", "-g", tree / "labelsTr", "-o", report)
        assert {row["case"] for row in json.loads(report.read_text())["interactive"]["cases"]} == expected
