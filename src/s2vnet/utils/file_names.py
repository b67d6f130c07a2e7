"""File names that are not text: on Linux a name is any bytes but ``/`` and zero, whatever the locale.

Python represents bytes that the locale cannot decode as lone surrogates (PEP 383), which no encoder accepts.
"""

from __future__ import annotations

import os
from hashlib import blake2b

MAX_NAME_NBYTES = 255
"""Longest file name of the usual file systems."""


def printable(text: str) -> str:
    r"""Return a name, or text with names, so that it can be encoded: UTF-8 as such, other bytes as ``\xff``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no bytes
        return text.encode("utf-8", "backslashreplace").decode()


def is_unicode(path: str | os.PathLike[str]) -> bool:
    """Whether the bytes of a path are its text in UTF-8, as libraries assume that open files by themselves."""
    try:
        return os.fsencode(path) == os.fspath(path).encode()
    except UnicodeEncodeError:
        return False


def fit_file_name(stem: str, ending: str) -> str:
    """Return a file name with an ending; a stem that is too long is cut, with a checksum that keeps names apart."""
    if len(os.fsencode(stem + ending)) <= MAX_NAME_NBYTES:
        return stem + ending
    checksum = blake2b(os.fsencode(stem), digest_size=4).hexdigest()
    kept = stem
    while len(os.fsencode(f"{kept}-{checksum}{ending}")) > MAX_NAME_NBYTES:
        kept = kept[:-1]
    return f"{kept}-{checksum}{ending}"
