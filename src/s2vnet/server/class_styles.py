"""Classes of a session as its user sees them: the model's and added ones, renamed and recoloured."""

from __future__ import annotations

from collections.abc import Mapping

from s2vnet.errors import InputError
from s2vnet.interactive.history import Log
from s2vnet.interactive.prompt_log import class_names
from s2vnet.server.schemas import ClassStyle, LabelClass
from s2vnet.visualization.palettes import hex_palette

ADDED_COLORS = ("#ff5fd2", "#ffd43b", "#4de1ff", "#b8ff5c", "#ff922b", "#b197fc")
"""Colours of added classes, which the model's have not; they repeat."""


def session_classes(network: Mapping[int, str], log: Log, styles: Mapping[int, ClassStyle]) -> tuple[LabelClass, ...]:
    """Return the classes of a session.

    Args:
        network: names of the model's classes by label value.
        log: the prompt log, which may add classes.
        styles: names and colours that the user chose, by label value.
    """
    palette = hex_palette(max(network) + 1)
    classes = []
    for value, name in class_names(network, log).items():
        added = value not in network
        color = ADDED_COLORS[(value - len(palette)) % len(ADDED_COLORS)] if added else palette[value]
        style = styles.get(value, ClassStyle())
        classes.append(LabelClass(id=value, name=style.name or name, color=style.color or color, added=added))
    return tuple(classes)


def check_style(class_id: int, style: ClassStyle, classes: tuple[LabelClass, ...]) -> None:
    """Check a new style of a class. Raises InputError for an unknown class, and a name that is empty or taken."""
    if class_id not in {each.id for each in classes}:
        raise InputError(f"no such class {class_id}")
    if style.name is None:
        return
    if not style.name.strip() or not style.name.isprintable():
        raise InputError("a class needs a name of printable characters")
    if style.name.casefold() in {each.name.casefold() for each in classes if each.id != class_id}:
        raise InputError(f"there is a class {style.name!r} already")
