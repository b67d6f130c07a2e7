"""``s2vnet import``: other layouts become nnU-Net's raw layout."""

from __future__ import annotations

from pathlib import Path

from command_line import Main, run


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
