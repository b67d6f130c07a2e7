"""``s2vnet view``."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
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
from s2vnet.data.case_files import is_image_folder
from s2vnet.errors import InputError
from s2vnet.io.dicom.series import select_series
from s2vnet.io.files import find_ending, read_lazy_image
from s2vnet.server.saved_address import SavedAddress
from s2vnet.server.settings import Settings
from s2vnet.utils.folders import state_folder

KEEP_DAYS = 365
"""Days after their last use for which sessions and uploaded scans are kept."""

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

    with select_series(scan or Path(), series) as data:
        values |= {
            "model": _choose_model(model or [DEFAULT_MODEL], scan and data, any_modality),
            "any_modality": any_modality,
        }
        values |= {"state": state, "data": scan and data}
        run(validate_settings(Settings, values), show_page, preferred_port=None if port else saved.port)


def _page_of(store: SessionStore) -> str:
    """Fragment of the page's address for the only scan, whose newest session is opened before the browser connects.

    That is the session, or the choice between sessions where there are any with prompts; empty for several scans.
    """
    scans = store.scans.list_scans()
    if len(scans) != 1:
        return ""
    sessions = [session for session in store.summaries(()) if session.image.id == scans[0].id]
    name = store.get(sessions[0].session).name if sessions else store.open(scans[0].id).name
    return f"#scan={quote(scans[0].id)}" if any(session.prompts for session in sessions) else f"#{name}"


def _choose_model(names: Sequence[str], scan: Path | None, any_modality: bool) -> str:
    """Name of the model for a scan, or for the first one of a folder.

    Raises:
        InputError: The scan contradicts the modality of all models, or several models without a scan.
    """
    from s2vnet.inference.model_set import choose_plan, group_models

    groups = group_models(names)
    if any(len(members) > 1 for _, members in groups):
        raise InputError("the viewer does not average models; name one of each modality")
    if len(groups) > 1 and (scan is None or not scan.exists()):
        raise InputError("several models need a scan to choose by; name one")
    if scan is None or not scan.exists() or (len(groups) == 1 and (any_modality or scan.is_dir())):
        return names[0]  # of a folder, each scan is checked when it is opened
    plans = [plan for plan, _ in groups]
    files = sorted(file for file in scan.iterdir() if find_ending(file)) if is_image_folder(scan) else [scan]
    image = read_lazy_image(files[0], fill_nonfinite=0.0, frames_as_channels=len(plans[0].channels) > 1)
    chosen = str(groups[choose_plan(plans, image, files[0])][1][0])
    if len(groups) > 1:
        note(f"{files[0].name}: segmented by {chosen}")
    return chosen
