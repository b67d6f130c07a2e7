"""A lazy module is the module that an import gives, and runs no sooner than it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s2vnet.utils.lazy import lazy_module

SCRIPT = """
import sys
from s2vnet.utils.lazy import lazy_module
report = lazy_module("s2vnet.evaluation.report")
assert "numpy" not in sys.modules
from s2vnet.evaluation.report import mean
assert "numpy" in sys.modules and report.mean is mean
import s2vnet.evaluation
assert s2vnet.evaluation.report is report
"""


def test_it_runs_at_its_first_use() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)


def test_an_imported_module_is_returned_as_it_is() -> None:
    assert lazy_module("s2vnet.utils.lazy").lazy_module is lazy_module


def test_an_unknown_module() -> None:
    with pytest.raises(ImportError, match=r"s2vnet\.utils\.none"):
        lazy_module("s2vnet.utils." + "none")
