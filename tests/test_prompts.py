"""Prompts: values that check themselves, and a log that reads back as it was written."""

from __future__ import annotations

import base64
import contextlib
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydantic import TypeAdapter, ValidationError

from s2vnet.errors import InputError, S2VNetError
from s2vnet.prompts import Box, Entry, Lasso, Lock, Mask, Point, Scribble, Voxel

ENTRIES: TypeAdapter[Any] = TypeAdapter(list[Entry])
LOG = [
    Point(class_id=1, voxel=(1, 2, 3)),
    Scribble(class_id=2, positive=False, voxels=((0, 0, 0), (0, 1, 0))),
    Lasso(class_id=1, axis=2, vertices=((0, 0, 4), (3, 0, 4), (3, 3, 4))),
    Box(class_id=1, start=(0, 0, 0), stop=(4, 5, 6)),
    Mask.from_array(np.eye(3, dtype=bool)[None], 2),
    Lock(class_id=1),
    Lock(class_id=1, locked=False),
]


@given(arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=9)))
def test_a_mask_holds_the_voxels_of_its_array(mask: npt.NDArray[np.bool_]) -> None:
    if not mask.any():
        with pytest.raises(InputError, match="at least one voxel"):
            Mask.from_array(mask, 1)
        return
    prompt = Mask.from_array(mask, 3, positive=False)
    assert (prompt.class_id, prompt.positive) == (3, False)
    np.testing.assert_array_equal(prompt.voxels(), np.argwhere(mask))
    assert prompt.start == tuple(np.argwhere(mask).min(0))
    assert prompt.stop == tuple(np.argwhere(mask).max(0) + 1)
    assert Mask.model_validate_json(prompt.model_dump_json()) == prompt


@pytest.fixture
def mask() -> Mask:
    """A mask of 6 x 7 x 5 voxels, half of them set."""
    return Mask.from_array(np.random.default_rng(0).random((6, 7, 5)) < 0.5, 1)


@pytest.mark.parametrize(
    "bits", ["not base64!", "é", "AAA", base64.b64encode(b"no zlib").decode()], ids=["text", "é", "padding", "zlib"]
)
def test_damaged_bits_are_refused(mask: Mask, bits: str) -> None:
    with pytest.raises(InputError, match="mask prompt is damaged") as caught:
        mask.model_copy(update={"bits": bits}).voxels()
    assert "\n" not in str(caught.value)


def test_bits_that_would_grow_without_end_are_read_no_further(mask: Mask) -> None:
    bomb = base64.b64encode(zlib.compress(bytes(10**7), 9)).decode()
    try:
        assert len(mask.model_copy(update={"bits": bomb}).voxels()) == 0
    except InputError as error:
        assert "damaged" in str(error)  # noqa: PT017


@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_bits_that_were_cut_off_are_refused(mask: Mask, kept: float) -> None:
    raw = base64.b64decode(mask.bits)
    cut = base64.b64encode(raw[: int(kept * len(raw))]).decode()
    with pytest.raises(InputError, match="mask prompt is damaged"):
        mask.model_copy(update={"bits": cut}).voxels()


def test_a_log_reads_back_as_it_was_written() -> None:
    written = ENTRIES.dump_json(LOG)
    read = ENTRIES.validate_json(written)
    assert read == LOG
    assert [type(entry) for entry in read] == [type(entry) for entry in LOG]
    assert ENTRIES.dump_json(read) == written


VOXELS = st.tuples(*[st.integers(-(2**70), 2**70)] * 3)
CLASSES = st.integers(0, 2**70)


@given(
    st.lists(
        st.one_of(
            st.builds(Point, class_id=CLASSES, positive=st.booleans(), voxel=VOXELS),
            st.builds(Scribble, class_id=CLASSES, voxels=st.lists(VOXELS, min_size=1, max_size=5).map(tuple)),
            st.builds(Lock, class_id=CLASSES, locked=st.booleans()),
        ),
        max_size=5,
    )
)
def test_any_log_reads_back_whatever_its_numbers_are(log: list[Entry]) -> None:
    assert list(ENTRIES.validate_json(ENTRIES.dump_json(log))) == log


@given(VOXELS, VOXELS, st.binary(max_size=60))
def test_a_mask_is_read_within_its_box_or_refused(start: Voxel, stop: Voxel, bits: bytes) -> None:
    mask = Mask(class_id=1, start=start, stop=stop, bits=base64.b64encode(bits).decode())
    with contextlib.suppress(InputError):
        found = mask.voxels()
        assert (found >= start).all()
        assert (found < stop).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "lasso", "class_id": 1, "axis": 0, "vertices": [[0, 0, 4], [3, 0, 4], [3, 3, 4]]}, "share one index"),
        ({"kind": "lasso", "class_id": 1, "axis": 2, "vertices": [[0, 0, 4], [3, 0, 4]]}, "at least 3"),
        ({"kind": "lasso", "class_id": 1, "axis": 3, "vertices": [[0, 0, 4]] * 3}, "less than or equal to 2"),
        ({"kind": "box", "class_id": 1, "start": [0, 0, 0], "stop": [1, 0, 1]}, "must lie beyond start"),
        ({"kind": "box", "class_id": 1, "start": [2, 0, 0], "stop": [1, 1, 1]}, "must lie beyond start"),
        ({"kind": "scribble", "class_id": 1, "voxels": []}, "at least 1"),
        ({"kind": "point", "class_id": -1, "voxel": [0, 0, 0]}, "greater than or equal to 0"),
        ({"kind": "point", "class_id": 1, "voxel": [0, 0]}, "Field required"),
        ({"kind": "point", "class_id": 1, "voxel": [0.5, 0, 0]}, "valid integer"),
        ({"kind": "point", "class_id": 1, "voxel": [0, 0, 0], "radius": 3}, "Extra inputs"),
        ({"kind": "lock", "class_id": 1, "positive": True}, "Extra inputs"),
        ({"kind": "star", "class_id": 1}, "does not match any of the expected tags"),
    ],
)
def test_what_is_no_prompt_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ENTRIES.validate_python([entry])


@given(st.lists(st.tuples(*[st.integers(-5, 5)] * 3), min_size=2, max_size=2))
def test_a_box_spans_voxels_along_every_axis(corners: list[tuple[int, int, int]]) -> None:
    start, stop = corners
    if all(a < b for a, b in zip(start, stop, strict=True)):
        assert Box(class_id=0, start=start, stop=stop).stop == stop
    else:
        with pytest.raises(ValidationError, match="must lie beyond start"):
            Box(class_id=0, start=start, stop=stop)


@pytest.mark.parametrize("entry", LOG, ids=lambda entry: entry.kind)
def test_prompts_are_values(entry: Any) -> None:
    assert entry.model_copy() == entry
    assert hash(entry.model_copy()) == hash(entry)
    with pytest.raises(ValidationError, match="frozen"):
        entry.class_id = 5


def test_input_errors_are_value_errors_of_this_package() -> None:
    assert issubclass(InputError, S2VNetError)
    assert issubclass(InputError, ValueError)


@given(st.text())
def test_an_error_is_one_line_whatever_it_names(name: str) -> None:
    assert len(str(InputError(f"{name}: not a plan")).splitlines()) == 1
