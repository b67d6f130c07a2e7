"""Images under ids that clients chose."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2vnet.errors import InputError
from s2vnet.server.added_images import MAX_ID_LENGTH, AddedImages


def writer(content: bytes):  # type: ignore[no-untyped-def]
    """Function that writes a content to a path."""
    return lambda path: path.write_bytes(content)


def test_an_image_is_found_by_its_id_until_it_is_removed(tmp_path: Path) -> None:
    images = AddedImages(tmp_path / "added")
    images.add("MRHead", ".nii.gz", writer(b"a"))
    images.add("MRHead", ".nrrd", writer(b"bc"))  # replaces the first one, whatever its format
    images.add("1: CT/Chest", ".mha", writer(b"c"))
    again = AddedImages(tmp_path / "added")
    assert again.names() == ["1: CT/Chest", "MRHead"]
    path = again.find("MRHead")
    assert path is not None
    assert (path.suffix, path.read_bytes()) == (".nrrd", b"bc")
    assert len(list((tmp_path / "added").iterdir())) == 4
    assert again.nbytes == 3
    assert again.remove("MRHead")
    assert not again.remove("MRHead")
    assert (again.names(), again.find("MRHead")) == (["1: CT/Chest"], None)


@pytest.mark.parametrize("name", ["", " ", "x" * (MAX_ID_LENGTH + 1), "a\0b", "a\nb"])
def test_unusable_ids_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="id has 1 to"):
        AddedImages(tmp_path).add(name, ".nii", writer(b""))


@settings(max_examples=25)
@given(name=st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable() and name.strip() != ""))
def test_no_id_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("added")
    images = AddedImages(folder)
    images.add(name, ".nii", writer(b"x"))
    path = images.find(name)
    assert path is not None
    assert path.parent == folder
    assert images.names() == [name]
