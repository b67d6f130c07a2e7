"""``s2vnet export-log``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    from s2vnet.interactive import typed_commands as text_commands
else:
    text_commands = LazyModule("s2vnet.interactive.typed_commands")


def export_log(
    log: Annotated[Path, typer.Argument(help="Prompt log of `interact --log`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".csv or .md file.")],
) -> None:
    """Write a prompt log as a table: one row per prompt.

    Example: s2vnet export-log prompts.json -o prompts.csv
    """
    text_commands.write_table(log, output)
    typer.echo(str(output))
