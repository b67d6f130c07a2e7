"""Names of files that are no text, or too long with an ending."""

from __future__ import annotations

import os
import sys

import pytest

from s2vnet.utils.file_names import MAX_NAME_NBYTES, fit_file_name, is_unicode, printable

UNDECODABLE = os.fsdecode(b"scan-\xff\xe9")


@pytest.mark.parametrize("name", ["a", "Größe 1", "山田", "a\nb", "x" * 300, ""])
def test_text_is_text(name: str) -> None:
    assert printable(name) == name


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_other_bytes_are_spelled() -> None:
    assert printable(UNDECODABLE) == r"scan-\xff\xe9"
    assert printable(f"Größe: {UNDECODABLE}") == r"Größe: scan-\xff\xe9"
    assert printable("\ud800") == r"\ud800"
    assert not is_unicode(UNDECODABLE)
    assert is_unicode("Größe")


@pytest.mark.parametrize("stem", ["a" * 254, "é" * 127, "a", UNDECODABLE * 30])
def test_long_names_are_cut_and_stay_different(stem: str) -> None:
    names = [fit_file_name(f"{stem}{end}", ".nii.gz") for end in "12"]
    assert names[0] != names[1]
    for name in names:
        assert len(os.fsencode(name)) <= MAX_NAME_NBYTES
        assert name.endswith(".nii.gz")
    assert fit_file_name("a", ".nrrd") == "a.nrrd"
