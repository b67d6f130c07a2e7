"""Instances of a WADO answer (multipart/related), written to files as they arrive.

dicomweb-client holds each instance in memory, parses it, and takes one that was cut off for complete. Here the parts
are copied as they are, and an answer without its closing boundary is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from email.message import Message
from io import BufferedWriter
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

PART = "receiving.part"
"""Name of the file of the part that is being received."""
_MAX_PREAMBLE_NBYTES = 1 << 16


class CutOff(Exception):
    """An answer that ends before its end, or is damaged; it may be complete at the next attempt."""


def parse_media_type(content_type: str) -> tuple[str, str | None]:
    """Media type of a Content-Type header, in lower case, and its boundary."""
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    return message.get_content_type(), boundary if isinstance(boundary, str) else None


def save_parts(chunks: Iterable[bytes], boundary: str, folder: Path, keep: Callable[[Path], None]) -> None:
    """Write each part to a file.

    Args:
        chunks: body of the answer.
        boundary: of its parts.
        folder: folder for the file of the part that is being received.
        keep: called with the file of each complete part, which it moves or reads.

    Raises:
        CutOff: the closing boundary is missing, or what arrived is not multipart.
        OSError: a file cannot be written.
    """
    writer = _PartWriter(folder / PART, keep)
    parser = MultipartParser(
        boundary.encode("latin-1"),
        {
            "on_part_begin": writer.begin,
            "on_part_data": writer.data,
            "on_part_end": writer.end,
            "on_end": writer.close,
        },
    )
    try:
        for chunk in _from_boundary(chunks, boundary):
            parser.write(chunk)
    except FormParserError as error:
        raise CutOff("the answer is not multipart") from error
    finally:
        writer.abandon()
    if not writer.closed:
        raise CutOff("the answer was cut off")


def _from_boundary(chunks: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    """Leave out what precedes the first boundary, which the standard allows and the parser does not."""
    marker, start, found = b"--" + boundary.encode("latin-1"), b"", False
    for chunk in chunks:
        if not found:
            start += chunk
            at = start.find(marker)
            if at < 0 and len(start) > _MAX_PREAMBLE_NBYTES:
                raise CutOff("the answer is not multipart")
            if at < 0:
                continue
            chunk, found = start[at:], True
        yield chunk


class _PartWriter:
    """Callbacks of the parser."""

    def __init__(self, path: Path, keep: Callable[[Path], None]) -> None:
        self._path, self._keep = path, keep
        self._stream: BufferedWriter | None = None
        self.closed = False

    def begin(self) -> None:
        self._stream = self._path.open("wb")

    def data(self, data: bytes, start: int, end: int) -> None:
        assert self._stream is not None
        self._stream.write(memoryview(data)[start:end])

    def end(self) -> None:
        assert self._stream is not None
        self._stream.close()
        self._stream = None
        self._keep(self._path)

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        """Close the file of an incomplete part."""
        if self._stream is not None:
            self._stream.close()
