"""Parts of an answer are the bytes that were sent, wherever its chunks end; an incomplete answer is an error."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("python_multipart", reason="python-multipart (the extra dicomweb) is not installed")

from s2vnet.io.dicomweb.multipart import PART, CutOff, parse_media_type, save_parts

BOUNDARY = "b1"
parts = st.lists(
    st.one_of(st.binary(max_size=50), st.sampled_from([b"\r\n--b", b"--b1x", b"\r\n\r\n"])).filter(
        lambda part: b"--b1" not in part.replace(b"--b1x", b"")
    ),
    min_size=1,
    max_size=4,
)


def message(content: list[bytes], preamble: bytes = b"") -> bytes:
    head = b"--b1\r\nContent-Type: application/dicom\r\nMIME-Version: 1.0\r\n\r\n"
    return preamble + b"\r\n".join(head + part for part in content) + b"\r\n--b1--\r\n"


def received(body: bytes, step: int) -> list[bytes]:
    found: list[bytes] = []
    with tempfile.TemporaryDirectory() as name:

        def keep(file: Path) -> None:
            assert file.name == PART
            found.append(file.read_bytes())

        save_parts((body[n : n + step] for n in range(0, len(body), step)), BOUNDARY, Path(name), keep)
    return found


@settings(deadline=None)
@given(parts, st.integers(1, 40), st.sampled_from([b"", b"\r\n", b"a preamble\r\n"]))
def test_parts_come_back(content: list[bytes], step: int, preamble: bytes) -> None:
    content = [part.replace(b"--b1x", b"--b_x") for part in content]
    assert received(message(content, preamble), step) == content


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 40))
def test_a_message_that_is_cut_off(end: int, step: int) -> None:
    whole = message([b"x" * 60, b"y" * 60])
    body = whole[: min(end, len(whole) - 5)]
    with pytest.raises(CutOff):
        received(body, step)


def test_media_types() -> None:
    assert parse_media_type('Multipart/Related; type="application/dicom"; boundary="a b"') == (
        "multipart/related",
        "a b",
    )
    assert parse_media_type("application/dicom") == ("application/dicom", None)
    assert parse_media_type("") == ("text/plain", None)
