"""Plan: a pure function of the fingerprint, whole on disk or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2vnet.data.fingerprint import ClassExtent, Fingerprint, IntensityStatistics
from s2vnet.data.plan import MAX_PATCH, MIN_CELLS_ACROSS, Plan, make_plan, read_plan, save_json
from s2vnet.errors import InputError


def fingerprint_of(diameter: float = 20.0, **changes: Any) -> Fingerprint:
    """Isotropic 1 mm, 64 x 64 x 80 voxels, one class of the diameter in mm on every plane."""
    extent = ClassExtent(cases=3, voxels=(9, 9, 9), mm=(9, 9, 9), diameter_mm=(diameter,) * 3)
    base = Fingerprint(
        dataset="d",
        cases=3,
        channels=("MR",),
        labels={"background": 0, "organ": 1},
        spacing=(1, 1, 1),
        shape=(64, 64, 80),
        intensities=(IntensityStatistics(mean=40, std=12, percentile_00_5=-50, percentile_99_5=90),),
        extents={"organ": extent},
        nonzero_fraction=1,
        empty_cases=(),
    )
    return base.model_copy(update=changes)


sizes = st.floats(0.1, 8, allow_nan=False)
counts = st.integers(1, 600)


@given(
    st.tuples(sizes, sizes, sizes).map(lambda s: tuple(round(v, 4) for v in s)),
    st.tuples(counts, counts, counts),
    st.floats(0.1, 400),
)
def test_any_fingerprint_gives_a_sound_plan(
    spacing: tuple[float, ...], shape: tuple[int, ...], diameter: float
) -> None:
    fingerprint = fingerprint_of(diameter, spacing=spacing, shape=shape)

    plan = make_plan(fingerprint)

    assert plan == make_plan(fingerprint.model_copy(deep=True))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan.pad_multiple == 8 * plan.stem_stride
    assert all(side % plan.pad_multiple == 0 and 0 < side <= MAX_PATCH for side in plan.patch_size)
    in_plane = [spacing[a] for a in range(3) if a != plan.axis]
    assert plan.spacing[0] == plan.spacing[1]
    assert 0.5 * min(in_plane) - 1e-4 <= plan.spacing[0] <= min(in_plane)
    if max(spacing) >= 1.5 * min(spacing):
        assert spacing[plan.axis] == max(spacing)


@pytest.mark.parametrize(
    ("spacing", "shape", "plane"),
    [
        ((1, 1, 5), (64, 64, 10), "axial"),
        ((1, 5, 1), (64, 10, 64), "coronal"),
        ((5, 1, 1), (10, 64, 64), "sagittal"),
        ((1, 1, 1.4), (64, 64, 20), "sagittal"),
        ((1, 1, 1), (30, 50, 40), "coronal"),
        ((1, 1, 1.4), (50, 50, 40), "axial"),
    ],
)
def test_slices_cut_the_coarse_axis_or_else_the_longest(
    spacing: tuple[float, ...], shape: tuple[int, ...], plane: str
) -> None:
    plan = make_plan(fingerprint_of(spacing=spacing, shape=shape))
    assert plan.plane == plane
    assert ("sagittal", "coronal", "axial")[plan.axis] == plane


@pytest.mark.parametrize(
    ("diameter", "shape", "stride", "zoom"),
    [
        (4 * MIN_CELLS_ACROSS, (64, 64, 80), 4, 1),
        (4 * MIN_CELLS_ACROSS - 1, (64, 64, 80), 2, 1),
        (2 * MIN_CELLS_ACROSS, (64, 64, 80), 2, 1),
        (2 * MIN_CELLS_ACROSS - 1, (64, 64, 80), 1, 1),
        (MIN_CELLS_ACROSS, (64, 64, 80), 1, 1),
        (MIN_CELLS_ACROSS / 1.25, (64, 64, 80), 1, 1.25),
        (1, (64, 64, 80), 1, 2),
        (1, (128, 128, 200), 1, 2),
        (1, (129, 100, 200), 2, 1),
        (4 * MIN_CELLS_ACROSS, (512, 512, 600), 4, 1),
    ],
)
def test_small_structures_get_fine_masks(diameter: float, shape: tuple[int, ...], stride: int, zoom: float) -> None:
    plan = make_plan(fingerprint_of(diameter, shape=shape))
    assert plan.stem_stride == stride
    assert plan.spacing == (1 / zoom, 1 / zoom)


def test_the_smallest_class_decides() -> None:
    small, large = (fingerprint_of(d).extents["organ"] for d in (7.9, 60.0))
    assert make_plan(fingerprint_of(extents={"large": large})).stem_stride == 4
    assert make_plan(fingerprint_of(extents={"large": large, "small": small})).stem_stride == 1
    assert make_plan(fingerprint_of(extents={})).stem_stride == 4


@pytest.mark.parametrize("spacing", [0.1, 0.18, 0.7, 1.0, 1.1])
def test_a_slice_that_fits_gets_no_larger_patch(spacing: float) -> None:
    plan = make_plan(fingerprint_of(12 * spacing, spacing=(spacing,) * 3, shape=(24, 48, 80)))
    assert plan.patch_size == (24, 48)


@given(st.floats(0.3, 4))
def test_a_sampling_that_is_asked_for_is_taken_and_the_patch_covers_the_slice(sampling: float) -> None:
    plan = make_plan(fingerprint_of(12, shape=(50, 57, 80)), sampling)
    assert plan.spacing == (round(sampling, 4),) * 2
    for side, patch in zip((50, 57), plan.patch_size, strict=True):
        assert patch == MAX_PATCH or side <= patch * plan.spacing[0] + 1e-3 < side + plan.pad_multiple * sampling + 0.1


def test_patch_and_encoder_grow_with_the_slice() -> None:
    small = make_plan(fingerprint_of(12, shape=(50, 57, 80)))
    large = make_plan(fingerprint_of(12, shape=(100, 500, 600)))
    assert (small.patch_size, small.encoder) == ((56, 64), "compact")
    assert (large.patch_size, large.encoder) == ((112, MAX_PATCH), "efficientnet-lite0")


def test_channels_named_ct_get_a_window_and_others_a_z_score() -> None:
    intensities = tuple(
        IntensityStatistics(mean=m, std=s, percentile_00_5=-100, percentile_99_5=200)
        for m, s in ((40, 12), (1, 2), (3, 0))
    )
    plan = make_plan(fingerprint_of(channels=("CT", "octopus MR", "low dose ct"), intensities=intensities))

    window, score, constant = plan.intensities
    assert (window.kind, window.low, window.high, window.mean, window.std) == ("ct", -100, 200, 40, 12)
    assert score.kind == "zscore"
    assert constant.kind == "ct"
    assert constant.std > 0, "a constant channel must not divide by zero"
    assert plan.in_channels == 3 * 3
    assert plan.num_classes == 2


@pytest.mark.parametrize(("fraction", "crop"), [(1.0, False), (0.75, False), (0.7, True)])
def test_much_empty_margin_is_cropped(fraction: float, crop: bool) -> None:
    assert make_plan(fingerprint_of(nonzero_fraction=fraction)).crop_to_nonzero is crop


def test_a_saved_plan_reads_the_same(tmp_path: Path) -> None:
    plan = make_plan(fingerprint_of())
    save_json(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": 2}, r"not a plan of version 1 \(version"),
        ({"plane": "oblique"}, r"\(plane"),
        ({"stem_stride": 3}, r"\(stem_stride"),
        ({"spacing": [1.0]}, r"\(spacing\.1"),
        ({"more": 1}, r"\(more"),
        (b'{"version": 1', "not a plan of version 1"),
        (b"\xff\xfe", "not a plan of version 1"),
        (b"", "not a plan of version 1"),
    ],
)
def test_damaged_and_foreign_plans_are_refused(tmp_path: Path, content: dict[str, Any] | bytes, message: str) -> None:
    path = tmp_path / "plan.json"
    if isinstance(content, dict):
        content = json.dumps(make_plan(fingerprint_of()).model_dump() | content).encode()
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_plan(path)
    assert "\n" not in str(caught.value)


def test_a_missing_plan_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plan\.json: No such file or directory; make one with `s2vnet plan`"):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": [0.0, 1.0]}, "must be above 0"),
        ({"patch_size": [16, 0]}, "must be above 0"),
        ({"intensities": []}, "0 intensity schemes for 1 channels"),
        ({"labels": {"background": 0, "organ": 2}}, "without gaps"),
    ],
)
def test_a_plan_edited_into_nonsense_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads(make_plan(fingerprint_of()).model_dump_json()) | change
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_plan(tmp_path / "plan.json")


def test_a_key_with_a_line_end_is_refused_in_a_line(tmp_path: Path) -> None:
    content = json.loads(make_plan(fingerprint_of()).model_dump_json()) | {"me\n": 5}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"^[^\n]*\(me : Extra inputs are not permitted\)$"):
        read_plan(tmp_path / "plan.json")


def test_a_plan_is_for_its_channels_and_labels() -> None:
    plan = make_plan(fingerprint_of())
    plan.require_dataset(("another MR",), {"background": 0, "organ": 1})
    with pytest.raises(InputError, match="the plan is for 1 channels, the dataset has 2"):
        plan.require_dataset(("MR", "CT"), plan.labels)
    with pytest.raises(InputError, match="the plan is for labels"):
        plan.require_dataset(("MR",), {"background": 0, "bone": 1})
