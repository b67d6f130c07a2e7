"""``s2vnet view``."""

from __future__ import annotations

import contextlib
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, urlsplit

import typer

from s2vnet.cli.console import note
from s2vnet.cli.options import (
    DEFAULT_MODEL,
    AnyModality,
    Device,
    Runtime,
    Series,
    ServedModels,
    StateFolder,
    validate_settings,
)
from s2vnet.cli.serve import require_server
from s2vnet.errors import InputError
from s2vnet.io.dicom.series import select_series
from s2vnet.io.files import read_lazy_image
from s2vnet.server.saved_address import SavedAddress
from s2vnet.server.settings import Settings
from s2vnet.utils.folders import cache_folder, state_folder

KEEP_DAYS = 365
"""Days after their last use for which sessions and uploaded scans are kept."""
LOCAL_PORT = 1538
"""Port of ``--local``, always the same, since browsers keep the page by its address."""

if TYPE_CHECKING:
    from fastapi import FastAPI

    from s2vnet.server.session_store import SessionStore


def view(
    scan: Annotated[Path | None, typer.Argument(help="Image, DICOM folder or .zip; or a folder of scans.")] = None,
    model: ServedModels = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 chooses a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    state: StateFolder = None,
    series: Series = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    any_modality: AnyModality = False,
    local: Annotated[
        bool, typer.Option("--local", help="Compute in the browser, without clicks: serve the page of `s2vnet page`.")
    ] = False,
) -> None:
    """Show a scan in a browser, segment it and correct it by clicks. No data leaves this machine.

    Example: s2vnet view scan.nii.gz
    """
    if local:
        if scan is not None:
            raise InputError("--local opens no scan; leave it out, and drop the scan on the page")
        return _serve_local(model, port, browser)
    require_server()
    from s2vnet.server.app import viewer_hint
    from s2vnet.server.run import run

    if (hint := viewer_hint()) is not None:
        raise InputError(hint)
    if series is not None and scan is None:
        raise InputError("--series needs a scan; name a DICOM folder or .zip")
    state = state or state_folder()
    saved = SavedAddress(state, scan)
    values = {"port": port, "token": saved.token, "device": device, "runtime": runtime}
    values |= {"list_sessions": True, "keep_days": KEEP_DAYS}

    def show_page(address: str, application: FastAPI) -> None:
        saved.save(urlsplit(address).port or 0)
        page = f"{address}?token={saved.token}{_page_of(application.state.store)}"
        typer.echo(page)
        typer.echo("Press Ctrl+C to stop; sessions are saved", err=True)
        if browser:
            webbrowser.open(page)

    models = model or [DEFAULT_MODEL]
    with select_series(scan or Path(), series) as data:
        if len(models) == 1 and scan is not None and not any_modality:
            _require_modality(models[0], data)
        values |= {"models": tuple(models), "any_modality": any_modality}
        values |= {"state": state, "data": scan and data}
        run(validate_settings(Settings, values), show_page, preferred_port=None if port else saved.port)


def _serve_local(models: list[str] | None, port: int, browser: bool) -> None:
    """Serve the page that segments in the browser until an interrupt."""
    from s2vnet.inference.model_list import list_models
    from s2vnet.server.static_host import host_page
    from s2vnet.server.static_page import build_page

    folder = cache_folder() / "page"
    build_page(folder, models or [summary.name for summary in list_models()])
    with host_page(folder, port or LOCAL_PORT) as address, contextlib.suppress(KeyboardInterrupt):
        typer.echo(address)
        typer.echo("Press Ctrl+C to stop; the page works without this program once it is loaded", err=True)
        if browser:
            webbrowser.open(address)
        threading.Event().wait()


def _page_of(store: SessionStore) -> str:
    """Fragment of the page's address for the only scan, whose newest session is opened before the browser connects.

    That is the session, or the choice between sessions where there are any with prompts; empty for several scans.
    """
    scans = store.scans.list_scans()
    if len(scans) != 1:
        return ""
    sessions = [session for session in store.summaries(()) if session.image.id == scans[0].id]
    worker = store.get(sessions[0].session) if sessions else store.open(scans[0].id)
    if store.models.only is None:
        note(f"{scans[0].name}: segmented by {worker.model.name}")
    return f"#scan={quote(scans[0].id)}" if any(session.prompts for session in sessions) else f"#{worker.name}"


def _require_modality(name: str, scan: Path) -> None:
    """Raise InputError where a scan contradicts the modality of the model; a folder's are checked when opened."""
    from s2vnet.inference.model_set import choose_plan
    from s2vnet.inference.segmenter import load_plan

    plan = load_plan(name)
    if scan.is_file():
        image = read_lazy_image(scan, fill_nonfinite=0.0, frames_as_channels=len(plan.channels) > 1)
        choose_plan([plan], image, scan)
