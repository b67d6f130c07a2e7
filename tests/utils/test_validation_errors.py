from __future__ import annotations

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from s2vnet.utils.validation_errors import first_error


class _Inner(BaseModel):
    size: int


class _Outer(BaseModel):
    parts: list[_Inner]


def test_the_first_error_is_one_line_with_its_location() -> None:
    with pytest.raises(ValidationError) as raised:
        _Outer.model_validate({"parts": [{"size": 1}, {"size": "x"}, {}]})
    assert first_error(raised.value).startswith("parts.1.size: Input should be a valid integer")


def test_an_error_of_the_whole_value_has_no_location() -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(int).validate_python("x")
    assert first_error(raised.value).startswith("Input should be")
    assert first_error(raised.value, "JSON").startswith("JSON: Input should be")
