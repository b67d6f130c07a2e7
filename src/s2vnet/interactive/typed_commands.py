"""Text commands for sessions, and prompt logs as tables."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from s2vnet.errors import InputError
from s2vnet.interactive.prompt_log import read_log
from s2vnet.interactive.session import Session
from s2vnet.interactive.voxelize import is_prompt
from s2vnet.io.files import read_labels
from s2vnet.prompts import Box, Entry, Extent, Lasso, Lock, Mask, NewClass, Point, Scribble, Voxel
from s2vnet.utils.atomic_write import atomic_write

COMMANDS = "point, not, scribble, lasso, box, mask, class, lock, unlock, remove, undo, redo, list, quit"


def class_by_name(names: Mapping[int, str], text: str) -> int:
    """Label value of a class given by value or name, case-insensitive.

    Raises:
        InputError: no such class.
    """
    for value, name in names.items():
        if text == str(value) or text.lower() == name.lower():
            return value
    known = ", ".join(f"{value} {name}" for value, name in names.items())
    raise InputError(f"no class {text!r}; classes of the model: {known}")


def run_command(session: Session, line: str) -> str | None:
    """Run one command on a session; return a reply, or None for ``quit``.

    Raises:
        InputError: an unknown command or class, or invalid voxels.
    """
    word, *rest = line.split() or [""]
    if word != "mask":  # a file's name may contain commas
        word, *rest = line.replace(",", " ").split() or [""]
    if word in ("quit", "exit"):
        return None
    if word in ("undo", "redo"):
        changed = session.undo() if word == "undo" else session.redo()
        return _describe_change(session) if changed else f"nothing to {word}"
    if word == "list":
        return "\n".join(f"{n} {describe(entry)}" for n, entry in enumerate(session.log)) or "no prompts"
    if word == "remove":
        session.remove(_numbers(rest, 1)[0])
        return _describe_change(session)
    if word == "class" and rest:
        return f"class {session.add_class(' '.join(rest))} {' '.join(rest)}"
    if word in ("lock", "unlock") and rest:
        session.lock(class_by_name(session.class_names, " ".join(rest)), word == "lock")
        return _describe_change(session)
    if word in ("point", "not") and len(rest) > 3:
        class_id = class_by_name(session.class_names, " ".join(rest[:-3]))
        session.add_point(class_id, _voxel(rest[-3:]), word == "point")
        return _describe_change(session)
    if word == "box" and len(rest) > 6:
        class_id = class_by_name(session.class_names, " ".join(rest[:-6]))
        session.add_box(class_id, _voxel(rest[-6:-3]), _voxel(rest[-3:]))
        return _describe_change(session)
    if word in ("scribble", "lasso") and len(rest) > 3:
        name, voxels = _voxels(rest)
        class_id = class_by_name(session.class_names, name)
        if word == "scribble":
            session.add_scribble(class_id, voxels)
        else:
            session.add_lasso(class_id, _shared_axis(voxels), voxels)
        return _describe_change(session)
    if word == "mask" and len(rest) > 1:
        *parts, file = _words(line)[1:]
        class_id = class_by_name(session.class_names, " ".join(parts))
        mask = read_labels(Path(file))
        session.geometry.require_same_grid(mask.geometry, f"{file}: image and mask")
        session.add_mask(class_id, mask.data > 0)
        return _describe_change(session)
    if not word:
        return ""
    raise InputError(f"cannot read {line!r}; commands are {COMMANDS}")


def describe(entry: Entry) -> str:
    """Description of one log entry."""
    if isinstance(entry, Lock):
        return f"{'lock' if entry.locked else 'unlock'} class {entry.class_id}"
    if isinstance(entry, NewClass):
        return f"class {entry.class_id} {entry.name}"
    if isinstance(entry, Extent):
        return f"extent: class {entry.class_id} from {entry.start} to {entry.stop}"
    sign = "" if entry.positive else "not "
    return f"{entry.kind}: {sign}class {entry.class_id} at {_describe_voxels(entry)}"


def write_table(log: Path, output: Path) -> None:
    """Write a prompt log as CSV or Markdown: number, kind, class, positive, place (voxels i j k).

    Raises:
        InputError: unreadable log, or another file ending.
    """
    head = ["number", "kind", "class", "positive", "place (i j k)"]
    rows = []
    for n, e in enumerate(read_log(log).entries):
        positive = e.positive if is_prompt(e) else not isinstance(e, Lock) or e.locked
        rows.append(
            [str(n), e.kind, str(e.class_id), str(positive).lower(), _describe_voxels(e) if is_prompt(e) else ""]
        )
    if output.suffix == ".csv":
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([head, *rows])
        text = stream.getvalue()
    elif output.suffix == ".md":
        text = "".join("| " + " | ".join(row) + " |\n" for row in [head, ["---"] * len(head), *rows])
    else:
        raise InputError(f"{output}: name a .csv or .md file")
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _describe_voxels(entry: Point | Scribble | Lasso | Box | Mask) -> str:
    if isinstance(entry, Point):
        return " ".join(map(str, entry.voxel))
    if isinstance(entry, Box | Mask):
        return f"{' '.join(map(str, entry.start))} to {' '.join(map(str, entry.stop))}"
    voxels = entry.voxels if isinstance(entry, Scribble) else entry.vertices
    return f"{len(voxels)} voxels from {' '.join(map(str, voxels[0]))}"


def _describe_change(session: Session) -> str:
    if session.changed_region is None:
        return "nothing changed"
    return "changed " + " ".join(f"{s.start}:{s.stop}" for s in session.changed_region)


def _words(line: str) -> list[str]:
    """Words of a line; quoted words may contain spaces.

    Raises:
        InputError: a quote is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InputError(f"cannot read {line!r} ({error})") from error


def _numbers(words: list[str], count: int) -> list[int]:
    if len(words) != count or not all(re.fullmatch("-?[0-9]+", word) for word in words):
        raise InputError(f"{' '.join(words)!r}: {count} whole numbers are needed")
    return [int(word) for word in words]


def _voxels(words: list[str]) -> tuple[str, list[Voxel]]:
    """A class name, and the voxels whose indices follow it."""
    numeric = [n for n in range(1, len(words)) if all(re.fullmatch("-?[0-9]+", word) for word in words[n:])]
    start = next((n for n in numeric if (len(words) - n) % 3 == 0), len(words))  # a name may end in a number
    numbers = words[start:]
    if not numbers:
        raise InputError(f"{' '.join(words[1:])!r}: voxels are given as three whole numbers each")
    return " ".join(words[:start]), [_voxel(numbers[n : n + 3]) for n in range(0, len(numbers), 3)]


def _shared_axis(voxels: list[Voxel]) -> int:
    """Last axis along which all voxels have the same index; 2 where there is none."""
    return max((axis for axis in range(3) if len({voxel[axis] for voxel in voxels}) == 1), default=2)


def _voxel(words: list[str]) -> Voxel:
    i, j, k = _numbers(words, 3)
    return i, j, k
