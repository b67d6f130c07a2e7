"""Contents of the official releases of BTCV, WORD and AMOS: folders, cases, classes, splits.

The tables were compiled from the files cited in their comments, without access to the archives and their voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Folders = Mapping[str, tuple[str, str]]
"""Folders of images and of labels by part of a release ("training", "validation", "test")."""


@dataclass(frozen=True)
class Release:
    """Contents of a release whose files are named ``{prefix}{four digits}.nii.gz``."""

    name: str
    reference: str
    classes: tuple[str, ...]
    """Names of the label values 1, 2, ..."""
    prefixes: tuple[str, str]
    """Prefixes of image and label files."""
    layouts: tuple[Folders, ...]
    """Folders of the parts in each known layout, the official one first."""
    counts: Mapping[str, Mapping[str, int]]
    """Number of cases by part and modality."""
    cases: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Case numbers by part; empty if only the release's dataset.json lists them."""
    splits: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Numbers of the validation cases by name of a split, the default split first."""
    last_ct: int = 9999
    """Largest case number of a CT; higher numbers are MR."""

    def modality(self, number: int) -> str:
        """CT or MR."""
        return "CT" if number <= self.last_ct else "MR"


def _same(**suffixes: str) -> Folders:
    """Parts whose folders are ``images{suffix}`` and ``labels{suffix}``."""
    return {part: (f"images{suffix}", f"labels{suffix}") for part, suffix in suffixes.items()}


BTCV = Release(
    name="BTCV",
    reference="https://www.synapse.org/#!Synapse:syn3193805/wiki/217789",
    # classes: https://github.com/MIC-DKFZ/nnUNet, version 1,
    # nnunet/dataset_conversion/Task017_BeyondCranialVaultAbdominalOrganSegmentation.py
    classes=(
        *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
        *("inferior vena cava", "portal vein and splenic vein", "pancreas"),
        *("right adrenal gland", "left adrenal gland"),
    ),
    prefixes=("img", "label"),
    # RawData.zip of Synapse, the same with the folders that MONAI uses, and its training part alone:
    # https://github.com/Project-MONAI/model-zoo, models/swin_unetr_btcv_segmentation/docs/README.md
    layouts=(
        {"training": ("Training/img", "Training/label"), "test": ("Testing/img", "Testing/label")},
        _same(training="Tr", test="Ts"),
        {"training": ("img", "label")},
    ),
    counts={"training": {"CT": 30}, "test": {"CT": 20}},
    # https://github.com/Project-MONAI/tutorials, 3d_segmentation/swin_unetr_btcv_segmentation_3d.ipynb
    cases={"training": frozenset({*range(1, 11), *range(21, 41)}), "test": frozenset(range(61, 81))},
    splits={
        # TransUNet: https://github.com/Beckschen/TransUNet, lists/lists_Synapse/test_vol.txt; train.txt has slices of
        # the other 18. Papers with this split report the 12 as validation cases and score 8 of the 13 organs.
        "18/12": frozenset({1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38}),
        # Swin UNETR: the tutorial above, and https://github.com/Project-MONAI/research-contributions,
        # SwinMM/Pretrain/jsons/dataset00_BTCV.json
        "24/6": frozenset(range(35, 41)),
    },
)

_WORD_VALIDATION = frozenset({1, 7, 15, 25, 31, 35, 39, 45, 48, 66, 75, 80, 83, 85, 98, 112, 137, 139, 141, 149})
_WORD_TEST = frozenset(
    {14, 16, 17, 19, 21, 23, 24, 33, 34, 37, 43, 50, 52, 54, 57, 60, 69, 74, 76, 77, 88, 92, 97, 99, 103, 110}
    | {120, 124, 129, 131}
)
WORD = Release(
    name="WORD",
    reference="https://github.com/HiLab-git/WORD",
    # all values: dataset.json of WORD-V0.1.0, from a copy with regrouped training cases,
    # https://github.com/Project-MONAI/research-contributions, SwinMM/WORD/dataset/dataset12_WORD_0.9.json.
    # The test labels are a separate zip archive in the reference's repository.
    classes=(
        *("liver", "spleen", "left_kidney", "right_kidney", "stomach", "gallbladder", "esophagus", "pancreas"),
        *("duodenum", "colon", "intestine", "adrenal", "rectum", "bladder", "Head_of_femur_L", "Head_of_femur_R"),
    ),
    prefixes=("word_", "word_"),
    layouts=(_same(training="Tr", validation="Val", test="Ts"),),
    counts={"training": {"CT": 100}, "validation": {"CT": 20}, "test": {"CT": 30}},
    cases={
        "training": frozenset(range(1, 151)) - _WORD_VALIDATION - _WORD_TEST,
        "validation": _WORD_VALIDATION,
        "test": _WORD_TEST,
    },
)

AMOS = Release(
    name="AMOS",
    reference="https://zenodo.org/record/7262581",
    # https://github.com/JiYuanFeng/AMOS, splits/dataset_ct+mr.json, where the aorta is misspelt "arota"
    classes=(
        *("spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "aorta"),
        *("postcava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder"),
        "prostate/uterus",
    ),
    prefixes=("amos_", "amos_"),
    layouts=(_same(training="Tr", validation="Va", test="Ts"),),
    # Training and validation: readme.md of amos22.zip, from a copy. Its totals of 500 CT and 100 MR leave 240 test
    # cases, although it states 120. Labels of the test cases are not released.
    counts={"training": {"CT": 200, "MR": 40}, "validation": {"CT": 100, "MR": 20}, "test": {"CT": 200, "MR": 40}},
    # The readme gives the numbers of CT as "less than 500", but there are 500 CT, and amos_0500 is one of them:
    # https://github.com/MIC-DKFZ/nnUNet, nnunetv2/dataset_conversion/Dataset218_Amos2022_task1.py.
    last_ct=500,
)

RELEASES: Mapping[str, Release] = {"btcv": BTCV, "word": WORD, "amos": AMOS}
