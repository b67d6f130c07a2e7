from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from s2vnet.errors import InputError
from s2vnet.utils.extras import install_command, require_extra, requirements

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def test_missing_packages_are_named_with_a_command_that_needs_no_index_of_s2vnet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(InputError) as raised:
        require_extra("parquet", "exporting", "json", "csv", "no_such_module")
    assert str(raised.value).startswith('exporting needs json, no_such_module: pip install "pyarrow')


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_command_names_the_packages_of_the_extra(extra: str) -> None:
    def flat(name: str) -> set[str]:
        parsed = [Requirement(line) for line in EXTRAS[name]]
        own = {need.name.lower() for need in parsed if need.name != "s2vnet"}
        return own.union(*(flat(inner) for need in parsed if need.name == "s2vnet" for inner in need.extras))

    assert {Requirement(line).name.lower() for line in requirements(extra)} == flat(extra)
    assert "s2vnet" not in install_command(extra)


def test_installed_packages_are_not_imported() -> None:
    loaded = set(sys.modules)
    require_extra("onnx", "exporting", "json", "this")
    assert "this" not in set(sys.modules) - loaded
