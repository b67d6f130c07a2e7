"""What the official releases of BTCV, WORD and AMOS hold: folders, cases, classes, splits.

Each table says what was read where. The archives themselves were not at hand: a table rests on the files that are
cited, not on the voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Folders = Mapping[str, tuple[str, str]]
"""Part of a release ("training", "validation", "test") to its folders of images and labels."""


@dataclass(frozen=True)
class Release:
    """What a release holds whose files are named ``{prefix}{four digits}.nii.gz``."""

    name: str
    reference: str
    classes: tuple[str, ...]
    """Names of the label values 1, 2, ..."""
    prefixes: tuple[str, str]
    """Of image and label files."""
    layouts: tuple[Folders, ...]
    """Where the parts lie, the official layout first."""
    counts: Mapping[str, Mapping[str, int]]
    """Part to modality to number of cases."""
    cases: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Part to the numbers of its cases; none where only the release's own dataset.json tells them."""
    splits: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Splits to choose from, the default first: name to the numbers of the cases for validation."""
    last_ct: int = 9999
    """Higher numbers are MR."""

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
    # RawData.zip of Synapse, the same as MONAI has it moved, and its training part alone:
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
        # the other 18. Papers that follow it call the 12 validation cases and score 8 of the 13 organs.
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
    # all of it: the dataset.json of WORD-V0.1.0 as kept, with the training cases regrouped, in
    # https://github.com/Project-MONAI/research-contributions, SwinMM/WORD/dataset/dataset12_WORD_0.9.json.
    # The test labels are a zip of their own in the reference's repository.
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
    # The readme.md of amos22.zip (a copy of it: the archive was not at hand) counts training and validation so, of 500
    # CT and 100 MR, which leaves 240 for the test; it speaks of 120. Labels of the test are not released.
    counts={"training": {"CT": 200, "MR": 40}, "validation": {"CT": 100, "MR": 20}, "test": {"CT": 200, "MR": 40}},
    # The readme says that CT are "less than 500", but there are 500 of them, and whoever looked found amos_0500 to be
    # CT: so https://github.com/MIC-DKFZ/nnUNet, nnunetv2/dataset_conversion/Dataset218_Amos2022_task1.py.
    last_ct=500,
)

RELEASES: Mapping[str, Release] = {"btcv": BTCV, "word": WORD, "amos": AMOS}
