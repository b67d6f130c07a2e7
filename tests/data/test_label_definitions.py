"""Labels of dataset.json: classes are the integers of the files, whatever regions are made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2vnet.data.label_definitions import IGNORED, LabelDefinitions, hide_ignored, map_ignored, parse_labels
from s2vnet.errors import InputError

FILE = Path("dataset.json")


def parsed(labels: Any) -> LabelDefinitions:
    return parse_labels(FILE, {"labels": labels})


# KiTS: https://github.com/MIC-DKFZ/nnUNet, nnunetv2/dataset_conversion/Dataset220_KiTS2023.py; BraTS: Dataset137
@pytest.mark.parametrize(
    ("labels", "classes", "regions"),
    [
        (
            {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2},
            {"background": 0, "kidney without masses": 1, "tumor": 2, "masses without tumor": 3},
            {"kidney": (1, 2, 3), "masses": (2, 3)},
        ),
        (
            {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
            {"background": 0, "whole tumor without tumor core": 1, "tumor core without enhancing tumor": 2}
            | {"enhancing tumor": 3},
            {"whole tumor": (1, 2, 3), "tumor core": (2, 3)},
        ),
        (
            {"background": 0, "a": [1, 2], "b": [2, 3]},
            {"background": 0, "a without b": 1, "a and b": 2, "b without a": 3},
            {"a": (1, 2), "b": (2, 3)},
        ),
        (
            {"background": 0, "whole": [2, 1, 3], "core": [3]},
            {"background": 0, "whole without core 1": 1, "whole without core 2": 2, "core": 3},
            {"whole": (1, 2, 3)},
        ),
        ({"background": 0, "left": 1, "both": [1]}, None, None),
    ],
)
def test_regions_are_unions_of_classes(labels: Any, classes: Any, regions: Any) -> None:
    if classes is None:
        with pytest.raises(InputError, match="left and both have the same value 1"):
            parsed(labels)
        return
    found = parsed(labels)
    assert (found.classes, found.regions, found.ignore) == (classes, regions, None)
    assert set(found.listed) == set(labels)


@settings(deadline=None)
@given(
    st.lists(st.sets(st.integers(1, 6), min_size=1), min_size=1, max_size=6),
    st.permutations(["a", "b", "c", "d", "e 1", "f without a"]),
)
def test_every_value_has_one_name(regions: list[set[int]], names: list[str]) -> None:
    labels = {"background": 0, **{n: sorted(values) for n, values in zip(names, regions, strict=False)}}
    singles = [tuple(values) for values in regions if len(values) == 1]
    used = set().union(*regions)
    if len(set(singles)) < len(singles) or used != set(range(1, len(used) + 1)):
        with pytest.raises(InputError):
            parsed(labels)
        return
    found = parsed(labels)
    assert sorted(found.classes.values()) == list(range(len(used) + 1))
    assert not found.classes.keys() & found.regions.keys()


def test_decathlon_and_ignore() -> None:
    expected = {"background": 0, "left": 1}
    for labels in ({"0": "background", "1": "left", "2": "ignore"}, {"left": 1, "background": 0, "ignore": 2}):
        found = parsed(labels)
        assert (found.classes, found.ignore, found.regions) == (expected, 2, {})
        assert found.listed == expected | {"ignore": 2}
    assert parsed({"background": 0.0, "left": "1", "ignore": [255]}).ignore == IGNORED


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "needs labels"),
        (["background", "left"], "needs labels"),
        ({}, "needs labels"),
        ({"background": 0}, "name no class besides background"),
        ({"background": 0, "left": 2}, "without gaps, not 0, 2; renumber them"),
        (
            {"background": 0, "whole": [1, 2, 4], "core": [1, 4], "enhancing": 4},
            "without gaps, not 0, 1, 2, 4; renumber",
        ),
        ({"left": 1, "right": 2}, "without gaps, not 1, 2;"),
        ({"0": "background", "-1": "left"}, "without gaps, not -1, 0;"),
        ({"background": 0, "left": 1, "right": 1}, "left and right have the same value 1"),
        ({"0": "background", "1": "left", "2": "left"}, "two labels have the same name"),
        ({"background": 0, "left": "one"}, 'label "left" must be an integer, .* not "one"$'),
        ({"background": 0, "left": 1.5}, 'label "left" must be an integer, .* not 1.5$'),
        ({"background": 0, "left": None}, "not null$"),
        ({"background": 0, "left": True}, "not true$"),
        ({"background": 0, "left": []}, r"not \[\]$"),
        ({"background": 0, "left": [1, "x"]}, r'not \[1, "x"\]$'),
        ({"background": 0, "left": {"value": 1}}, "must be an integer"),
        ({"background": 0, "left": float("inf")}, "must be an integer"),
        ({"background": 0, "left": 1, "ignore": 1}, "the ignore label must be one integer that no other"),
        ({"background": 0, "left": 1, "ignore": [2, 3]}, "the ignore label must be one integer"),
        ({f"c{n}": n for n in range(257)}, "257 labels; at most 254 and background"),
    ],
)
def test_labels_that_are_refused_in_one_line_without_python(labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parsed(labels)
    text = str(caught.value)
    assert text.startswith("dataset.json: ")
    assert not any(word in text for word in ("\n", "None", "True", "int()", "float", "dict", "'"))


def test_ignored_voxels_agree_with_everything() -> None:
    truth = map_ignored(np.array([0, 1, 3], np.uint16), 3)
    assert truth.tolist() == [0, 1, IGNORED]
    assert hide_ignored(np.array([0, 2, 2], np.uint8), truth).tolist() == [0, 2, IGNORED]
    labels = np.array([0, 1], np.uint8)
    assert map_ignored(labels, 3) is map_ignored(labels, None) is hide_ignored(labels, labels) is labels
    assert json.dumps(parsed({"background": 0, "a": 1, "ignore": 3}).listed) == '{"background": 0, "a": 1, "ignore": 3}'
