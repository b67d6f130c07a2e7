"""Files that no reader accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2vnet.errors import InputError
from s2vnet.io.files import read_image, read_labels


def refused(path: Path, words: str) -> None:
    """Both readers refuse ``path`` in one line that names it, and leave the folder as it was."""
    before = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    for read in (read_image, read_labels):
        with pytest.raises(InputError, match=words) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    assert before == {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
