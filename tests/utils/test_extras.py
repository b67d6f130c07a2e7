from __future__ import annotations

import sys

import pytest

from s2vnet.errors import InputError
from s2vnet.utils.extras import require_extra


def test_missing_packages_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(InputError) as raised:
        require_extra("onnx", "exporting", "json", "csv", "no_such_module")
    assert str(raised.value) == 'exporting needs json, no_such_module: pip install "s2vnet[onnx]"'


def test_installed_packages_are_not_imported() -> None:
    loaded = set(sys.modules)
    require_extra("onnx", "exporting", "json", "this")
    assert "this" not in set(sys.modules) - loaded
