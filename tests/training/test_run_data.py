"""What a run is trained with is recorded; a dataset that differs from it is refused or noted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from training_runs import Train, interrupt_at

from s2vnet.data.dataset import Dataset, read_dataset
from s2vnet.data.plan import save_json
from s2vnet.errors import CheckpointError, InputError
from s2vnet.io.files import write_image, write_labels
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.training.resume_state import CHECKPOINT
from s2vnet.training.run_data import CASES, RunData, new_run_data, resumed_run_data

MakePhantom = Callable[..., tuple[Volume, LabelMap]]


@pytest.fixture
def root(tmp_path: Path, make_phantom: MakePhantom) -> Path:
    """Six cases in nnU-Net's raw layout."""
    for folder in ("imagesTr", "labelsTr", "run"):
        (tmp_path / folder).mkdir()
    for n in range(6):
        volume, labels = make_phantom((4, 5, 6), seed=n)
        write_image(tmp_path / "imagesTr" / f"c{n}_0000.nrrd", volume)
        write_labels(tmp_path / "labelsTr" / f"c{n}.nrrd", labels)
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nrrd"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def begun(root: Path) -> RunData:
    """Record of a run on fold 1, in the folder ``run``."""
    data = new_run_data(read_dataset(root), "1")
    save_json(data, root / "run" / CASES)
    return data


def resumed(root: Path, dataset: Dataset | None = None, **options: object) -> tuple[RunData, list[str]]:
    return resumed_run_data(root / "run", dataset or read_dataset(root), **options)  # type: ignore[arg-type]


def test_a_new_run_records_the_split_and_every_file(root: Path) -> None:
    told: list[tuple[int, int]] = []
    data = new_run_data(read_dataset(root), "0", progress=lambda done, total: told.append((done, total)))
    assert sorted(data.cases) == [f"c{n}" for n in range(6)]
    assert [len(files) for files in data.files.values()] == [2] * 6
    assert len({file for files in data.files.values() for file in files[:1]}) == 6
    assert told == [(n, 6) for n in range(1, 7)]
    assert new_run_data(read_dataset(root), "all").held_out == ()
    assert new_run_data(read_dataset(root), "1").digest() != data.digest()


def test_an_unchanged_dataset_resumes(root: Path, begun: RunData) -> None:
    assert resumed(root) == resumed(root, fold="1") == (begun, [])
    data = read_dataset(root)
    reordered = Dataset(**{**vars(data), "training": data.training[::-1]})
    assert resumed(root, reordered) == (begun, [])


def add(root: Path, name: str = "d") -> None:
    shutil.copy(root / "imagesTr/c0_0000.nrrd", root / f"imagesTr/{name}_0000.nrrd")
    shutil.copy(root / "labelsTr/c0.nrrd", root / f"labelsTr/{name}.nrrd")


def new_folds(root: Path) -> None:
    fold = {"train": ["c0"], "val": ["c1"]}
    (root / "splits_final.json").write_text(json.dumps([fold, fold]))


def change(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes() + b"0")


def rename(root: Path) -> None:
    (root / "imagesTr/c2_0000.nrrd").rename(root / "imagesTr/x_0000.nrrd")
    (root / "labelsTr/c2.nrrd").rename(root / "labelsTr/x.nrrd")


def remove(root: Path) -> None:
    (root / "imagesTr/c2_0000.nrrd").unlink()


@pytest.mark.parametrize(
    ("edit", "note"), [(add, "^d: added since this run began, not used"), (new_folds, "its own split is kept")]
)
def test_differences_that_are_noted(root: Path, begun: RunData, edit: Callable[[Path], None], note: str) -> None:
    edit(root)
    data, (text,) = resumed(root)
    assert data == begun
    assert re.search(note, text)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("imagesTr/c3_0000.nrrd"), r"c3 changed since this run began \(image of c3\)"),
        (change("labelsTr/c4.nrrd"), r"c4 changed since this run began \(labels of c4\)"),
        (rename, r"without c2, which this run began with \(c2 is now x\)"),
        (remove, "without c2, which this run began with; restore"),
    ],
)
def test_differences_that_are_refused(root: Path, begun: RunData, edit: Callable[[Path], None], message: str) -> None:
    edit(root)
    with pytest.raises(InputError, match=message) as caught:
        resumed(root)
    assert "\n" not in str(caught.value)


def test_other_options_are_refused(root: Path, begun: RunData) -> None:
    with pytest.raises(InputError, match="this run is of fold 1, not 2"):
        resumed(root, fold="2")
    with pytest.raises(InputError, match="this run began with no --fill-nan"):
        resumed(root, fill_nonfinite=0.0)
    for content in ("[", '{"fold": 1}'):
        (root / "run" / CASES).write_text(content)
        with pytest.raises(InputError, match=r"cases\.json: damaged") as caught:
            resumed(root)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["c0", "1.2.840.1"])
@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_voxels_beside_their_header_count(root: Path, make_phantom: MakePhantom, name: str, ending: str) -> None:
    path = root / "imagesTr" / f"{name}_0000{ending}"
    (root / "imagesTr" / "c0_0000.nrrd").unlink()
    (root / "labelsTr" / "c0.nrrd").rename(root / "labelsTr" / f"{name}.nrrd")
    write_image(path, make_phantom((4, 5, 6))[0])
    save_json(new_run_data(read_dataset(root), "1"), root / "run" / CASES)
    (voxels,) = [file for file in path.parent.iterdir() if file.name.startswith(f"{name}_") and file != path]
    voxels.write_bytes(voxels.read_bytes()[::-1])
    with pytest.raises(InputError, match=f"{name} changed"):
        resumed(root)


def test_a_run_of_an_earlier_version_is_counted(root: Path) -> None:
    dataset, folder = read_dataset(root), root / "run"
    data, (note,) = resumed(root)
    assert (data, "of an earlier version" in note) == (new_run_data(dataset, "0"), True)
    (folder / "model.json").write_text(json.dumps({"info": {"fold": "1", "training_cases": 5}}))
    assert resumed(root)[0] == new_run_data(dataset, "1")
    add(root)
    add(root, "e")
    with pytest.raises(InputError, match="this run has 5 training cases of fold 1, the dataset now 6 of fold 1"):
        resumed(root)
    (folder / "model.json").write_text("[")
    assert resumed(root)[0].fold == "0"


@pytest.mark.timeout(300)
def test_a_checkpoint_belongs_to_its_record(tmp_path: Path, run: Train, root: Path, begun: RunData) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", report=interrupt_at(1), data=begun)
    assert json.loads((tmp_path / "parts" / CASES).read_text())["training"] == list(begun.training)
    other = begun.model_copy(update={"training": begun.training[::-1]})
    with pytest.raises(CheckpointError, match=r"belongs to other cases than cases\.json lists") as caught:
        run(tmp_path / "parts", resume=True, data=other)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "parts" / CHECKPOINT).exists()
    run(tmp_path / "parts", resume=True, data=begun)
