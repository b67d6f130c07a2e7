"""``s2vnet page``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.console import progress
from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    from s2vnet.inference import model_list
    from s2vnet.server import static_page
else:
    model_list = LazyModule("s2vnet.inference.model_list")
    static_page = LazyModule("s2vnet.server.static_page")


def page(
    output: Annotated[Path, typer.Option("-o", "--output", help="New or empty folder, or one with an earlier page.")],
    model: Annotated[
        list[str] | None, typer.Option("-m", "--model", help="Model by name or folder; repeat for several.")
    ] = None,
) -> None:
    """Write a web page that segments scans in the browser, without a server and without clicks.

    Any static host can serve it. Scans stay in the browser: once the page is loaded, it sends no request.

    Example: s2vnet page -o public
    """
    models = model or [summary.name for summary in model_list.list_models()]
    with progress() as report:
        static_page.build_page(output, models, lambda done, total: report("exporting", done, total))
    typer.echo(output / "index.html")
