"""Releases in miniature, under their true names: what comes out is a dataset, and what is missing is named.

More than 400 lines, because the layouts of five releases are built here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2vnet.data.dataset import make_folds, read_dataset, read_folds
from s2vnet.data.dataset_releases import AMOS, BTCV, RELEASES, WORD, Release
from s2vnet.data.importers import import_release
from s2vnet.errors import InputError
from s2vnet.io.files import read_image, write_image, write_labels
from s2vnet.io.geometry import LabelMap, Volume

MakePhantom = Callable[..., tuple[Volume, LabelMap]]
Fill = Callable[..., Path]

# https://github.com/Beckschen/TransUNet, lists/lists_Synapse/train.txt: cases of which it lists slices, in its order
TRANSUNET = (31, 7, 9, 5, 26, 39, 24, 34, 33, 30, 23, 40, 10, 21, 6, 27, 28, 37)
AMOS_PARTS = {"training": "Tr", "validation": "Va", "test": "Ts"}
# any distribution of the 600 numbers in which the readme's counts come out, and the border between CT and MR is met
AMOS_CASES = {
    "training": (*range(1, 200), 500, *range(501, 541)),
    "validation": (*range(200, 300), *range(541, 561)),
    "test": (*range(300, 500), *range(561, 601)),
}


@pytest.fixture
def phantom_bytes(make_phantom: MakePhantom, tmp_path: Path) -> tuple[bytes, bytes]:
    """A small image and its labels, as files."""
    volume, labels = make_phantom(shape=(6, 5, 4))
    write_image(tmp_path / "image.nii.gz", volume)
    write_labels(tmp_path / "labels.nii.gz", labels)
    return (tmp_path / "image.nii.gz").read_bytes(), (tmp_path / "labels.nii.gz").read_bytes()


@pytest.fixture
def fill(phantom_bytes: tuple[bytes, bytes]) -> Fill:
    """``fill(root, images, labels, numbers, release)``: files of these numbers in both folders; the root."""

    def write(root: Path, images: str, labels: str | None, numbers: Iterable[int], release: Release = BTCV) -> Path:
        for folder, prefix, content in zip((images, labels), release.prefixes, phantom_bytes, strict=True):
            if folder is not None:
                (root / folder).mkdir(parents=True, exist_ok=True)
                for number in numbers:
                    (root / folder / f"{prefix}{number:04d}.nii.gz").write_bytes(content)
        return root

    return write


@pytest.fixture
def btcv(fill: Fill, tmp_path: Path) -> Path:
    """All of BTCV as Synapse has it, with what macOS and its owner left there."""
    root = tmp_path / "Abdomen" / "RawData"
    fill(root, "Training/img", "Training/label", BTCV.cases["training"])
    fill(root, "Testing/img", None, BTCV.cases["test"])
    for name in ("Training/img/._img0001.nii.gz", "Training/img/.DS_Store", "Training/label/notes.txt"):
        (root / name).touch()
    return root


@pytest.fixture
def word(fill: Fill, tmp_path: Path) -> Path:
    root = tmp_path / "WORD-V0.1.0"
    for part, suffix in (("training", "Tr"), ("validation", "Val"), ("test", "Ts")):
        fill(root, f"images{suffix}", f"labels{suffix}", WORD.cases[part], WORD)
    return root


@pytest.fixture
def amos(tmp_path: Path) -> Path:
    """All of AMOS, by name only."""
    root = tmp_path / "amos22"
    for part, suffix in AMOS_PARTS.items():
        for folder in (root / f"images{suffix}", root / f"labels{suffix}"):
            folder.mkdir(parents=True)
            if folder.name != "labelsTs":
                for number in AMOS_CASES[part]:
                    (folder / f"amos_{number:04d}.nii.gz").touch()
    listed = {part: [{"image": f"./images{AMOS_PARTS[part]}/amos_{n:04d}.nii.gz"} for n in AMOS_CASES[part]]
              for part in AMOS_PARTS}  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(listed))
    return root


def names(prefix: str, numbers: Iterable[int]) -> list[str]:
    return [f"{prefix}{number:04d}" for number in sorted(numbers)]


def content(root: Path) -> Any:
    return json.loads((root / "dataset.json").read_text())


def state(root: Path) -> dict[str, tuple[int, int]]:
    """All that can change in a folder: files, their sizes and times."""
    found = {path.relative_to(root).as_posix(): path.lstat() for path in root.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def refused(message: str, *args: Any, **options: Any) -> str:
    """The import is refused with one line, and leaves nothing; the line."""
    before = sorted(args[2].parent.iterdir()) if args[2].parent.is_dir() else None
    with pytest.raises(InputError, match=message) as caught:
        import_release(*args, **options)
    assert "\n" not in str(caught.value)
    assert before == (sorted(args[2].parent.iterdir()) if args[2].parent.is_dir() else None)
    return str(caught.value)


def test_tables_agree_with_themselves() -> None:
    for release in RELEASES.values():
        for part, numbers in release.cases.items():
            assert len(numbers) == sum(release.counts[part].values())
        assert len(set(release.classes)) == len(release.classes)
        assert all(validation <= release.cases["training"] for validation in release.splits.values())
    assert [len(r.classes) for r in RELEASES.values()] == [13, 16, 15]
    assert sum(map(len, WORD.cases.values())) == len(frozenset().union(*WORD.cases.values())) == 150
    assert sum(sum(count.values()) for count in AMOS.counts.values()) == 600
    assert sorted(TRANSUNET) == sorted(BTCV.cases["training"] - BTCV.splits["18/12"])


def test_btcv_becomes_a_dataset(btcv: Path, tmp_path: Path) -> None:
    before = state(btcv)
    target = tmp_path / "Dataset017_BTCV"

    made = import_release("btcv", btcv, target)

    assert (made.training, made.test, made.notes) == (30, 20, ())
    dataset = read_dataset(target)
    assert (dataset.name, dataset.channels, len(dataset.labels)) == ("BTCV", ("CT",), 14)
    assert (dataset.labels["spleen"], dataset.labels["left adrenal gland"]) == (1, 13)
    assert [case.name for case in dataset.training] == names("img", BTCV.cases["training"])
    assert [case.name for case in dataset.test] == names("img", range(61, 81))
    assert {case.labels for case in dataset.test} == {None}
    assert sorted(path.name for path in target.iterdir()) == sorted(
        ["dataset.json", "imagesTr", "imagesTs", "labelsTr", "splits_final.json"]
    )
    for case in dataset.training:
        volume, labels = dataset.read(case)
        assert labels is not None
        assert volume.data.shape == (1, *labels.data.shape)
    link = target / "labelsTr" / "img0001.nii.gz"
    assert link.is_symlink()
    assert link.resolve() == btcv / "Training" / "label" / "label0001.nii.gz"
    assert content(target)["numTraining"] == 30
    assert state(btcv) == before


@pytest.mark.parametrize(
    ("split", "training"), [(None, TRANSUNET), ("18/12", TRANSUNET), ("24/6", (*range(1, 11), *range(21, 35)))]
)
def test_both_splits_of_btcv(btcv: Path, tmp_path: Path, split: str | None, training: tuple[int, ...]) -> None:
    import_release("btcv", btcv, tmp_path / "Dataset017_BTCV", split=split)
    (fold,) = read_folds(read_dataset(tmp_path / "Dataset017_BTCV"))
    assert fold["train"] == names("img", training)
    assert fold["val"] == names("img", BTCV.cases["training"] - set(training))


@pytest.mark.parametrize("layout", BTCV.layouts, ids=lambda layout: layout["training"][0].replace("/", "-"))
@pytest.mark.parametrize("above", ["", "RawData", "Abdomen/RawData"])
def test_layouts_of_btcv_wherever_they_lie(fill: Fill, tmp_path: Path, layout: dict[str, Any], above: str) -> None:
    root = tmp_path / "unpacked" / above
    for part, (images, labels) in layout.items():
        fill(root, images, labels if part == "training" else None, BTCV.cases[part])
    (tmp_path / "unpacked" / "__MACOSX").mkdir()

    made = import_release("btcv", tmp_path / "unpacked", tmp_path / "Dataset017_BTCV")

    assert (made.training, made.test) == (30, 20 if "test" in layout else 0)
    assert len(read_dataset(tmp_path / "Dataset017_BTCV").training) == 30


def test_word_keeps_its_official_split(word: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset012_WORD"
    made = import_release("word", word, target)
    assert (made.training, made.test, made.notes) == (120, 30, ())
    dataset = read_dataset(target)
    assert list(dataset.labels)[:4] == ["background", "liver", "spleen", "left_kidney"]
    assert dataset.labels["Head_of_femur_R"] == 16
    assert all(case.labels is not None for case in dataset.test)
    (fold,) = read_folds(dataset)
    assert fold["val"] == names("word_", WORD.cases["validation"])
    assert len(fold["train"]) == 100
    shutil.rmtree(word / "labelsTs")
    assert import_release("word", word, tmp_path / "Dataset013_WORD").notes == ()
    assert not (tmp_path / "Dataset013_WORD" / "labelsTs").exists()


@pytest.mark.parametrize(
    ("modality", "channel", "counts"),
    [(None, "either_CT_or_MR", (240, 120, 240)), ("all", "either_CT_or_MR", (240, 120, 240)),
     ("ct", "CT", (200, 100, 200)), ("mr", "MR", (40, 20, 40))],
)  # fmt: skip
def test_amos_by_modality(
    amos: Path, tmp_path: Path, modality: str | None, channel: str, counts: tuple[int, int, int]
) -> None:
    target = tmp_path / "Dataset218_AMOS"
    made = import_release("amos", amos, target, modality=modality)
    assert (made.training, made.test, made.notes) == (counts[0] + counts[1], counts[2], ())
    dataset = read_dataset(target)
    assert dataset.channels == (channel,)
    assert (dataset.labels["aorta"], dataset.labels["prostate/uterus"]) == (8, 15)
    (fold,) = read_folds(dataset)
    assert (len(fold["train"]), len(fold["val"])) == counts[:2]
    found = {case.name for case in dataset.training}
    assert ("amos_0500" in found, "amos_0501" in found) == (modality != "mr", modality != "ct")
    told = content(target).get("case_modalities")
    if modality in (None, "all"):
        assert len(told) == 600
        assert (told["amos_0001"], told["amos_0500"], told["amos_0501"]) == ("CT", "CT", "MR")
    else:
        assert told is None


def test_what_amos_lists_is_named_and_else_counted(amos: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset218_AMOS"
    (amos / "imagesTr" / "amos_0007.nii.gz").unlink()
    (amos / "labelsTr" / "amos_0007.nii.gz").unlink()
    both = r"without imagesTr/amos_0007\.nii\.gz, labelsTr/amos_0007\.nii\.gz; get the rest, or .* --partial"
    refused(f"amos22: incomplete: imagesTr: 239 of 240 training cases, {both}", "amos", amos, target)
    refused("imagesTr: 199 of 200 training cases, without", "amos", amos, target, modality="ct")
    assert import_release("amos", amos, tmp_path / "mr", modality="mr").training == 60
    (amos / "dataset.json").unlink()
    refused("incomplete: imagesTr: 239 of 240 training cases; get the rest", "amos", amos, target)
    (amos / "dataset.json").write_text("[")
    refused("not valid JSON", "amos", amos, target)


def test_what_is_missing_is_named(btcv: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset017_BTCV"
    (btcv / "Training" / "label" / "label0003.nii.gz").unlink()
    for number in range(21, 28):
        (btcv / "Training" / "img" / f"img{number:04d}.nii.gz").unlink()
    (btcv / "Testing" / "img" / "img0080.nii.gz").unlink()

    line = refused("Training/img: 22 of 30 training cases, without", "btcv", btcv, target)
    assert "Training/img/img0021.nii.gz, Training/img/img0022.nii.gz" in line
    assert " and 3 more; get the rest" in line

    made = import_release("btcv", btcv, target, partial=True)
    assert (made.training, made.test) == (22, 19)
    assert made.notes[0].startswith("Training/img: 22 of 30 training cases")
    assert made.notes[1:] == ("Testing/img: 19 of 20 test cases, without Testing/img/img0080.nii.gz",)
    (fold,) = read_folds(read_dataset(target))
    assert len(fold["train"] + fold["val"]) == 22
    assert "img0003" not in fold["val"]


def test_missing_folders_are_named(btcv: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset017_BTCV"
    shutil.rmtree(btcv / "Testing")
    made = import_release("btcv", btcv, target)
    assert (made.test, made.notes) == (0, ("Testing/img: 0 of 20 test cases, without folder Testing/img",))
    assert not (target / "imagesTs").exists()
    shutil.rmtree(btcv / "Training" / "label")
    other = tmp_path / "Dataset018_BTCV"
    line = refused(
        "incomplete: Training/img: 0 of 30 training cases, without folder Training/label;", "btcv", btcv, other
    )
    assert "img0001" not in line
    refused("no case has both image and labels: Training/img: 0 of 30", "btcv", btcv, other, partial=True)


@pytest.mark.parametrize(("numbers", "what"), [((5, 6, 7, 9, 10), "training"), ((1, 2, 3, 4, 8), "validation")])
def test_one_side_of_a_split_is_no_split(fill: Fill, tmp_path: Path, numbers: tuple[int, ...], what: str) -> None:
    root = fill(tmp_path / "some", "imagesTr", "labelsTr", numbers)
    target = tmp_path / "Dataset017_BTCV"
    made = import_release("btcv", root, target, partial=True)
    assert f"not written, since every case that is there is for {what}; nnU-Net's five folds" in made.notes[-1]
    dataset = read_dataset(target)
    assert read_folds(dataset) == make_folds([case.name for case in dataset.training])


def test_files_of_another_release_are_refused(btcv: Path, tmp_path: Path) -> None:
    (btcv / "Training" / "img" / "img0099.nii.gz").touch()
    message = r"RawData: number 99 in Training/img or Training/label is no training case of BTCV; move it away"
    refused(message, "btcv", btcv, tmp_path / "Dataset017_BTCV", partial=True)
    refused(r"no images of WORD, such as imagesTr/word_0001\.nii\.gz; give", "word", btcv, tmp_path / "Dataset012_WORD")


def test_several_releases_or_none_are_refused(btcv: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset017_BTCV"
    shutil.copytree(btcv, btcv.parent / "Copy")
    refused("Abdomen: several releases; give one of .*Copy, .*RawData", "btcv", btcv.parent, target)
    refused("absent: no such folder", "btcv", tmp_path / "absent", target)
    refused(r"no dataset\.json; give the folder", "msd", btcv, target)


@pytest.mark.parametrize(
    ("release", "options", "message"),
    [
        ("btc", {}, "no release 'btc'; choose one of btcv, word, amos, msd, nnunet"),
        ("btcv", {"split": "20/10"}, "--split 20/10: choose 18/12 or 24/6"),
        ("word", {"split": "18/12"}, "--split 18/12: word has no such option; leave it out"),
        ("msd", {"split": "18/12"}, "--split 18/12: msd has no such option"),
        ("amos", {"modality": "MRI"}, "--modality MRI: choose all or ct or mr"),
        ("btcv", {"modality": "ct"}, "--modality ct: btcv has no such option"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, release: str, options: dict[str, str], message: str) -> None:
    refused(message, release, tmp_path, tmp_path / "new", **options)


def test_targets_that_are_refused(btcv: Path, tmp_path: Path) -> None:
    taken = tmp_path / "Dataset017_BTCV"
    taken.symlink_to(tmp_path / "nowhere")
    refused("exists already; remove it or choose another name", "btcv", btcv, taken)
    taken.unlink()
    taken.mkdir()
    refused("exists already", "btcv", btcv, taken)
    refused("lies in .*RawData, which is left as it is", "btcv", btcv, btcv / "Dataset017_BTCV")
    refused("cannot write .*No such file or directory", "btcv", btcv, tmp_path / "no" / "Dataset017_BTCV")


def test_another_name_is_noted(btcv: Path, tmp_path: Path) -> None:
    made = import_release("btcv", btcv, tmp_path / "btcv")
    assert made.notes == ("btcv: nnU-Net itself requires a name such as Dataset017_BTCV",)


def test_copies_need_no_release(btcv: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset017_BTCV"
    import_release("btcv", btcv, target, copy=True)
    assert not any(path.is_symlink() for path in target.rglob("*"))
    shutil.rmtree(btcv)
    dataset = read_dataset(target)
    assert dataset.read(dataset.case("img0040"))[1] is not None


def test_where_there_are_no_links_copies_are_advised(
    btcv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", fail)
    message = r"img0001\.nii\.gz: cannot be linked \(Operation not permitted\); give --copy"
    refused(message, "btcv", btcv, tmp_path / "Dataset017_BTCV")


def test_a_file_that_cannot_be_copied_is_named(btcv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(13, "Permission denied", str(source))

    monkeypatch.setattr(shutil, "copyfile", fail)
    message = r"img0001\.nii\.gz: cannot be copied \(Permission denied\)$"
    refused(message, "btcv", btcv, tmp_path / "Dataset017_BTCV", copy=True)


def test_an_interrupt_leaves_nothing(btcv: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())

    def interrupt(what: str, done: int, total: int) -> None:
        assert (what, total) == ("importing", 50)
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_release("btcv", btcv, tmp_path / "Dataset017_BTCV", progress=interrupt)
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def task(make_phantom: MakePhantom, tmp_path: Path) -> Callable[..., Path]:
    """``task(channels, **changes)``: a Decathlon task of three training and two test cases."""

    def write(*channels: str, **changes: Any) -> Path:
        root = tmp_path / "Task05_Prostate"
        for folder, cases in (("imagesTr", ("p_00", "p_01", "p_02")), ("imagesTs", ("p_03", "p_04"))):
            (root / folder).mkdir(parents=True)
            for seed, case in enumerate(cases):
                volume, labels = make_phantom(channels=len(channels), seed=seed)
                write_image(root / folder / f"{case}.nii.gz", volume)
                (root / folder / f"._{case}.nii.gz").write_bytes(b"\x00\x05\x16\x07")
                (root / "labelsTr").mkdir(exist_ok=True)
                if folder == "imagesTr":
                    write_labels(root / "labelsTr" / f"{case}.nii.gz", labels)
        described = {
            "name": "PROSTATE",
            "description": "Prostate transitional zone and peripheral zone segmentation",
            "licence": "CC-BY-SA 4.0",
            "tensorImageSize": "4D",
            "modality": {str(c): name for c, name in enumerate(channels)},
            "labels": {"0": "background", "1": "PZ", "2": "TZ"},
            "numTraining": 3,
            "numTest": 2,
            "training": [
                {"image": f"./imagesTr/p_0{n}.nii.gz", "label": f"./labelsTr/p_0{n}.nii.gz"} for n in range(3)
            ],
            "test": ["./imagesTs/p_03.nii.gz", "./imagesTs/p_04.nii.gz"],
        } | changes
        (root / "dataset.json").write_text(json.dumps(described))
        return root

    return write


def test_frames_of_a_decathlon_image_become_channels(task: Callable[..., Path], tmp_path: Path) -> None:
    root = task("T2", "ADC")
    original = read_image(root / "imagesTr" / "p_01.nii.gz", frames_as_channels=True)
    target = tmp_path / "Dataset005_Prostate"

    made = import_release("msd", root, target)

    assert (made.training, made.test, made.notes) == (3, 2, ())
    assert sorted(path.name for path in (target / "imagesTs").iterdir()) == [
        f"p_0{n}_000{c}.nii.gz" for n in (3, 4) for c in (0, 1)
    ]
    dataset = read_dataset(target)
    assert (dataset.name, dataset.channels) == ("PROSTATE", ("T2", "ADC"))
    assert dict(dataset.labels) == {"background": 0, "PZ": 1, "TZ": 2}
    volume, _ = dataset.read(dataset.case("p_01"))
    np.testing.assert_array_equal(volume.data, original.data)
    volume.geometry.require_same_grid(original.geometry, "channel and image")
    assert (target / "labelsTr" / "p_00.nii.gz").is_symlink()
    assert content(target) == {
        "name": "PROSTATE",
        "description": "Prostate transitional zone and peripheral zone segmentation",
        "licence": "CC-BY-SA 4.0",
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 3,
        "channel_names": {"0": "T2", "1": "ADC"},
        "file_ending": ".nii.gz",
    }
    assert not (target / "splits_final.json").exists()


def test_channels_keep_voxels_that_are_no_number(task: Callable[..., Path], tmp_path: Path) -> None:
    root = task("T2", "ADC")
    volume = read_image(root / "imagesTr" / "p_00.nii.gz", frames_as_channels=True)
    data = volume.data.copy()
    data[1, 2, 3, 4] = np.nan
    write_image(root / "imagesTr" / "p_00.nii.gz", Volume(data, volume.geometry))
    import_release("msd", root, tmp_path / "Dataset005_Prostate")
    found = read_image(tmp_path / "Dataset005_Prostate" / "imagesTr" / "p_00_0001.nii.gz", fill_nonfinite=-1)
    np.testing.assert_array_equal(found.data[0], np.nan_to_num(data[1], nan=-1))


def test_an_image_of_one_channel_is_linked(task: Callable[..., Path], tmp_path: Path) -> None:
    root = task("MRI", labels={"background": 0, "PZ": 1, "TZ": 2}, test=[{"image": "./imagesTs/p_03.nii.gz"}])
    made = import_release("msd", root.parent, tmp_path.parent / f"Dataset005_{tmp_path.name}")
    target = tmp_path.parent / f"Dataset005_{tmp_path.name}"
    assert (made.training, made.test) == (3, 1)
    assert made.notes == ("dataset.json: 1 of 2 test cases",)
    assert (target / "imagesTr" / "p_00_0000.nii.gz").resolve() == root / "imagesTr" / "p_00.nii.gz"
    dataset = read_dataset(target)
    assert dataset.read(dataset.case("p_00"))[1] is not None


def test_a_wrong_number_of_frames_is_refused(task: Callable[..., Path], tmp_path: Path) -> None:
    root = task("T2", "ADC", modality={"0": "T2", "1": "ADC", "2": "DWI"})
    target = tmp_path / "Dataset005_Prostate"
    refused(r"p_00\.nii\.gz: 2 frames where 3 channels are named; correct either", "msd", root, target)


def test_missing_decathlon_cases(task: Callable[..., Path], tmp_path: Path) -> None:
    root, target = task("MRI"), tmp_path / "Dataset005_Prostate"
    (root / "imagesTr" / "p_00.nii.gz").unlink()
    refused(r"p_00\.nii\.gz: no such file", "msd", root, target)
    (root / "labelsTr" / "p_02.nii.gz").unlink()
    (root / "imagesTs" / "p_04.nii.gz").unlink()
    made = import_release("msd", root, target, partial=True)
    assert (made.training, made.test) == (1, 1)
    assert made.notes == (
        "dataset.json: 1 of 3 training cases, without p_00, p_02",
        "dataset.json: 1 of 2 test cases, without p_04",
    )


@pytest.fixture
def version_1(task: Callable[..., Path]) -> Path:
    """The same task as nnU-Net 1 has it: channels in files of their own, listed without channel."""
    root = task("MRI")
    for folder in ("imagesTr", "imagesTs"):
        for file in (root / folder).glob("p_*"):
            file.rename(file.with_name(file.name.replace(".nii.gz", "_0000.nii.gz")))
    return root


def test_nnunet_1_becomes_nnunet_2(version_1: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset005_Prostate"
    made = import_release("nnunet", version_1, target)
    assert (made.training, made.test, made.notes) == (3, 2, ())
    assert content(target)["channel_names"] == {"0": "MRI"}
    assert content(target)["labels"] == {"background": 0, "PZ": 1, "TZ": 2}
    assert not {"modality", "training", "test", "numTest", "tensorImageSize"} & set(content(target))
    dataset = read_dataset(target)
    assert [case.name for case in dataset.training] == ["p_00", "p_01", "p_02"]
    assert dataset.read(dataset.case("p_02"))[1] is not None


def test_missing_cases_of_nnunet_are_named(version_1: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset005_Prostate"
    for name in ("imagesTr/p_01_0000.nii.gz", "labelsTr/p_01.nii.gz"):
        (version_1 / name).unlink()
    refused(r"p_01\.nii\.gz: no such file", "nnunet", version_1, target)
    assert import_release("nnunet", version_1, target, partial=True).training == 2


def test_lists_of_names_that_no_file_has_do_not_count(version_1: Path, tmp_path: Path) -> None:
    listed = [{"image": f"./imagesTr/p_0{n}_0000.nii.gz.nii.gz"} for n in range(3)]
    (version_1 / "dataset.json").write_text(json.dumps(content(version_1) | {"training": listed}))
    (note,) = import_release("nnunet", version_1, tmp_path / "Dataset005_Prostate").notes
    assert note == "dataset.json lists training cases under names that no file has; those in the folder are used"


def test_nnunet_2_keeps_what_it_says(version_1: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "Dataset005_Prostate", tmp_path / "Dataset006_Prostate"
    import_release("nnunet", version_1, first)
    described = content(first) | {"overwrite_image_reader_writer": "SimpleITKIO"}
    (first / "dataset.json").write_text(json.dumps(described))
    splits = [{"train": ["p_00", "p_02"], "val": ["p_01"]}]
    (first / "splits_final.json").write_text(json.dumps(splits))

    import_release("nnunet", first, second)

    assert content(second) == described
    assert read_folds(read_dataset(second)) == splits
    assert (second / "labelsTr" / "p_00.nii.gz").resolve() == version_1 / "labelsTr" / "p_00.nii.gz"


def test_folds_of_a_partial_dataset_are_of_what_is_there(version_1: Path, tmp_path: Path) -> None:
    first, path = tmp_path / "Dataset005_Prostate", tmp_path / "Dataset005_Prostate" / "splits_final.json"
    import_release("nnunet", version_1, first, copy=True)
    path.write_text(json.dumps([{"train": ["p_00", "p_02"], "val": ["p_01"]}]))
    for name in ("imagesTr/p_00_0000.nii.gz", "labelsTr/p_00.nii.gz"):
        (first / name).unlink()
    refused("incomplete: dataset.json: 2 of 3|unknown cases", "nnunet", first, tmp_path / "Dataset006_Prostate")
    made = import_release("nnunet", first, tmp_path / "Dataset006_Prostate", partial=True)
    assert made.training == 2
    assert made.notes[1:] == ("splits_final.json: without p_00",)
    assert read_folds(read_dataset(tmp_path / "Dataset006_Prostate")) == [{"train": ["p_02"], "val": ["p_01"]}]

    path.write_text(json.dumps([{"train": ["p_02"], "val": ["p_01"]}, {"train": ["p_01", "p_02"], "val": ["p_00"]}]))
    made = import_release("nnunet", first, tmp_path / "Dataset007_Prostate", partial=True)
    assert "not written, since fold 1 has no case left to train on or to validate on; nnU-Net's" in made.notes[-1]
    assert not (tmp_path / "Dataset007_Prostate" / "splits_final.json").exists()
    for damaged in ("[", '[{"train": ["p_00"]}]', '[{"train": ["p_00", "p_00"], "val": []}]'):
        path.write_text(damaged)
        refused("must be a list of folds|twice", "nnunet", first, tmp_path / "Dataset008_Prostate", partial=True)


def test_files_anywhere_come_into_the_folders(version_1: Path, tmp_path: Path) -> None:
    case = {"images": ["imagesTr/p_01_0000.nii.gz"], "label": "labelsTr/p_01.nii.gz"}
    described = {"channel_names": {"0": "MR"}, "labels": content(version_1)["labels"], "dataset": {"one": case}}
    (version_1 / "dataset.json").write_text(json.dumps(described))
    import_release("nnunet", version_1, tmp_path / "Dataset005_Prostate")
    assert (tmp_path / "Dataset005_Prostate" / "imagesTr" / "one_0000.nii.gz").is_symlink()
    assert "dataset" not in content(tmp_path / "Dataset005_Prostate")


def test_cases_named_by_paths_are_refused(version_1: Path, tmp_path: Path) -> None:
    case = {"images": ["imagesTr/p_01_0000.nii.gz"], "label": "labelsTr/p_01.nii.gz"}
    (version_1 / "dataset.json").write_text(json.dumps(content(version_1) | {"dataset": {"../../one": case}}))
    message = r"\.\./\.\./one in dataset\.json is not a case name; rename it"
    refused(message, "nnunet", version_1, tmp_path / "Dataset005_Prostate", partial=True)


def test_files_that_no_link_can_stand_for_are_refused(task: Callable[..., Path], tmp_path: Path) -> None:
    root, target = task("MRI"), tmp_path / "Dataset005_Prostate"
    described = content(root)
    (root / "imagesTr" / "p_00.mhd").touch()
    described["training"][0]["image"] = "./imagesTr/p_00.mhd"
    (root / "dataset.json").write_text(json.dumps(described))
    message = re.escape("files end in .mhd and .nii.gz; convert them to one of .nii.gz .nii .nrrd .mha")
    refused(message, "msd", root, target)
