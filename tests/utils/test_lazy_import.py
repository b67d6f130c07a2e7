"""A lazy module gives what the module gives, and imports it no sooner than it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s2vnet.utils import validation_errors as validation
from s2vnet.utils.lazy_import import LazyModule

SCRIPT = """
import sys
from s2vnet.utils.lazy_import import LazyModule
report = LazyModule("s2vnet.evaluation.report")
assert "numpy" not in sys.modules
assert report.write_report is not None and "numpy" in sys.modules
"""


def test_it_is_imported_at_its_first_use() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)


def test_its_attributes_are_the_modules() -> None:
    assert LazyModule("s2vnet.utils.validation_errors").first_error is validation.first_error


def test_an_unknown_module() -> None:
    with pytest.raises(ImportError, match=r"no_module"):
        _ = LazyModule("s2vnet.utils." + "no_module").first_error
