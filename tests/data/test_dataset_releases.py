"""Tables of the released datasets are complete and agree with one another."""

from __future__ import annotations

import pytest

from s2vnet.data.dataset_releases import RELEASES, Release

PARTS = {"training", "validation", "test"}


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
def test_a_release_has_what_its_import_needs(release: Release) -> None:
    assert release.reference.startswith("https://")
    assert len(set(release.classes)) == len(release.classes) > 0
    assert len(release.prefixes) == 2
    assert set(release.layouts[0]) == set(release.counts) <= PARTS
    for layout in release.layouts:
        folders = [folder for pair in layout.values() for folder in pair]
        assert "training" in layout
        assert len(set(folders)) == len(folders)
    for count in release.counts.values():
        assert set(count) <= {"CT", "MR"}
    listed = [number for cases in release.cases.values() for number in cases]
    assert len(set(listed)) == len(listed)
    assert {part: len(cases) for part, cases in release.cases.items()} == {
        part: sum(release.counts[part].values()) for part in release.cases
    }
    for validation in release.splits.values():
        assert validation < release.cases["training"]


def test_names_are_unique() -> None:
    assert len({release.name for release in RELEASES.values()}) == len(RELEASES)
    assert [release.name.lower() for release in RELEASES.values()] == list(RELEASES)


def test_amos_has_mr_beyond_its_last_ct() -> None:
    amos = RELEASES["amos"]
    assert [amos.modality(number) for number in (1, 500, 501)] == ["CT", "CT", "MR"]
    assert RELEASES["word"].modality(150) == "CT"
