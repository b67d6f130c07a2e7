"""Operations on a session's history, and the limits that hold before its scan is open."""

from __future__ import annotations

from collections.abc import Collection

from s2vnet.errors import InputError
from s2vnet.interactive.history import History, Log
from s2vnet.interactive.voxelize import is_box, num_prompt_voxels
from s2vnet.prompts import NewClass, Scribble
from s2vnet.server.schemas import Add, Operation, Remove, Replace

MAX_PROMPT_VOXELS = 2**25
"""Limit for all prompts of a session together; a positive box counts as two voxels."""


MAX_SCRIBBLE_VOXELS = 250_000
"""Limit for all scribbles of a session together, whose voxels are sent as numbers with every state."""


def apply_operation(history: History, operation: Operation) -> History:
    """Return the history after an operation; the same object if the operation has no effect.

    Raises:
        InputError: no such index in the log.
    """
    if isinstance(operation, Add):
        return history.add(*operation.entries)
    if isinstance(operation, Remove):
        return history.remove(operation.index)
    if isinstance(operation, Replace):
        return history if operation.entries == history.log else history.push(operation.entries)
    if operation.op == "reset":
        return history.push(()) if history.log else history
    return history.undo() if operation.op == "undo" else history.redo()


def check_log(log: Log, classes: Collection[int]) -> None:
    """Check prompts without the image.

    Raises:
        InputError: too many voxels, an unknown class, or a class that is added twice.
    """
    if sum(2 if is_box(entry) else num_prompt_voxels(entry) for entry in log) > MAX_PROMPT_VOXELS:
        raise InputError(f"prompts of more than {MAX_PROMPT_VOXELS} voxels together; draw smaller ones")
    if sum(len(entry.voxels) for entry in log if isinstance(entry, Scribble)) > MAX_SCRIBBLE_VOXELS:
        raise InputError(f"scribbles of more than {MAX_SCRIBBLE_VOXELS} voxels together; send large ones as masks")
    added = [entry.class_id for entry in log if isinstance(entry, NewClass)]
    for class_id in added:
        if class_id in classes or added.count(class_id) > 1:
            raise InputError(f"there is a class {class_id} already")
    unknown = {entry.class_id for entry in log} - set(classes) - set(added)
    if unknown:
        raise InputError(f"no class {min(unknown)}; the model knows 0 to {max(classes)}")
