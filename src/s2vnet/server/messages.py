"""Error messages for clients, without the server's folders."""

from __future__ import annotations

import errno
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from s2vnet.server.settings import Settings

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_REST = r"(?:[/\\][^/\\:;,()'\"\s]*)*"
"""What follows a folder in a path; a name with a space ends before it."""


def private_folders(settings: Settings) -> tuple[Path, ...]:
    """Return the folders that messages must not name."""
    package = Path(__file__).parents[1]
    folders = [
        settings.state,
        settings.data,
        Path(tempfile.gettempdir()),
        Path(sys.prefix),
        package,
        *map(Path, settings.models),
    ]
    return tuple(folder for folder in folders if folder is not None)


def without_folders(message: str, folders: Iterable[Path]) -> str:
    """Replace paths in folders, and the folders themselves, by the names of their files."""
    known = {str(form) for folder in folders for form in (folder, folder.absolute(), folder.resolve())}
    for folder in sorted((name for name in known if Path(name).is_absolute()), key=len, reverse=True):
        if folder != Path(folder).anchor:
            message = re.sub(re.escape(folder) + _REST, lambda match: Path(match.group()).name, message)
    return message


def is_disk_full(error: BaseException) -> bool:
    """Whether an error was caused by a full disk or an exceeded quota."""
    return any(isinstance(cause, OSError) and cause.errno in _DISK_FULL for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
