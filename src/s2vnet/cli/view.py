"""``s2vnet view``."""

from __future__ import annotations

import secrets
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.options import Device, Model, Runtime, Series, StateFolder, validate_settings
from s2vnet.cli.serve import require_server
from s2vnet.errors import InputError
from s2vnet.io.dicom.series import select_series
from s2vnet.server.settings import Settings
from s2vnet.utils.folders import state_folder

if TYPE_CHECKING:
    from fastapi import FastAPI

    from s2vnet.server.session_store import SessionStore


def view(
    scan: Annotated[Path | None, typer.Argument(help="Image, DICOM folder or .zip; or a folder of scans.")] = None,
    model: Model = "abdomen-ct",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 chooses a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    state: StateFolder = None,
    series: Series = None,
    device: Device = "auto",
    runtime: Runtime = "torch",
) -> None:
    """Show a scan in a browser, segment it and correct it by clicks. No data leaves this machine.

    Example: s2vnet view scan.nii.gz
    """
    require_server()
    from s2vnet.server.app import viewer_hint
    from s2vnet.server.run import run

    if (hint := viewer_hint()) is not None:
        raise InputError(hint)
    if series is not None and scan is None:
        raise InputError("--series needs a scan; name a DICOM folder or .zip")
    token = secrets.token_urlsafe(24)
    values = {"model": model, "port": port, "token": token, "device": device, "runtime": runtime}

    def show_page(address: str, application: FastAPI) -> None:
        page = f"{address}?token={token}{_only_session(application.state.store)}"
        typer.echo(page)
        typer.echo("Press Ctrl+C to stop; sessions are saved", err=True)
        if browser:
            webbrowser.open(page)

    with select_series(scan or Path(), series) as data:
        values |= {"state": state or state_folder(), "data": scan and data}
        run(validate_settings(Settings, values), show_page)


def _only_session(store: SessionStore) -> str:
    """Fragment of the page's address: the session of the only scan, opened before the browser connects; else empty."""
    scans = store.scans.list_scans()
    return f"#{store.open(scans[0].id).name}" if len(scans) == 1 else ""
