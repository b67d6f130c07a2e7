"""Prompts in the parameters of requests."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2vnet.errors import InputError
from s2vnet.server.protocols.monailabel.prompts import chosen_class, class_clicks, object_clicks

CLASSES = {0: "background", 1: "spleen", 2: "liver"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(["spleen", "background", "foreground", "roi", "reset_state", "x"])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, JSON))
def test_any_parameters_give_clicks_or_an_input_error(params: dict[str, Any]) -> None:
    for parse in (lambda: class_clicks(params, CLASSES), lambda: object_clicks(params)):
        with contextlib.suppress(InputError):
            parse()


@given(st.lists(st.tuples(*[st.floats(-0.5, 500, exclude_min=True)] * 3), max_size=5))
def test_clicks_are_in_the_nearest_voxel(clicks: list[tuple[float, ...]]) -> None:
    for click, point in zip(clicks, class_clicks({"liver": clicks}, CLASSES), strict=True):
        assert point.class_id == 2
        assert all(abs(n - voxel) <= 0.5 for n, voxel in zip(click, point.voxel, strict=True))


def test_the_chosen_class_is_one_of_the_models() -> None:
    assert chosen_class({"label": "liver"}, CLASSES) == 2
    assert chosen_class({"label": "liver", "selected_label_name": "spleen"}, CLASSES) == 1
    for other in ({}, {"label": "heart"}, {"label": ["liver"]}, {"label": "background"}):
        assert chosen_class(other, CLASSES) is None


def test_too_many_clicks_are_refused() -> None:
    with pytest.raises(InputError, match="more than 1000"):
        class_clicks({"liver": [[1, 1, 1]] * 1001}, CLASSES)
