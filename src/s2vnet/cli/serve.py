"""The commands `view` and `serve`: options to settings. Heavy libraries load when one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.console import Device, Model, Runtime, key_values, refuse, settings_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from s2vnet.server.session_store import SessionStore

StateFolder = Annotated[
    Path | None, typer.Option("--state", help="Folder for sessions and scans that were sent; default: the user's.")
]


def view(
    scan: Annotated[Path | None, typer.Argument(help="Image, DICOM folder or .zip; or a folder of scans.")] = None,
    model: Model = "abdomen-ct",
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    state: StateFolder = None,
    series: Annotated[
        str | None, typer.Option(help="Of a DICOM folder or .zip with several series: number or UID.")
    ] = None,
    device: Device = "auto",
    runtime: Runtime = "torch",
) -> None:
    """Look at a scan in a browser, segment it and correct it by clicks. Nothing leaves this machine.

    Example: s2vnet view scan.nii.gz
    """
    import secrets
    import webbrowser

    _require_serve()
    from s2vnet.io.dicom.series import select_series
    from s2vnet.server.app import viewer_hint
    from s2vnet.server.run import run
    from s2vnet.server.settings import Settings

    if (hint := viewer_hint()) is not None:
        refuse(hint)
    token = secrets.token_urlsafe(24)
    if series is not None and scan is None:
        refuse("--series needs the scan that it is of")
    values = {"model": model, "port": port, "token": token, "device": device, "state": _state(state)}
    values["runtime"] = runtime

    def started(address: str, application: FastAPI) -> None:
        page = f"{address}?token={token}{_only_scan(application)}"
        typer.echo(page)
        typer.echo("Ctrl+C ends it; what was asked for is kept", err=True)
        if browser:
            webbrowser.open(page)

    with select_series(scan or Path(), series) as data:
        run(settings_of(Settings, {**values, "data": scan and data}), started)


def serve(
    model: Model = "abdomen-ct",
    data: Annotated[Path | None, typer.Option(help="Folder whose scans clients may open; else they send them.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine with a token only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 1537,
    token: Annotated[
        str | None, typer.Option(envvar="S2VNET_TOKEN", help="Secret that clients have to send, 16 characters or more.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file, to serve by https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    state: StateFolder = None,
    settings: Annotated[
        list[str] | None, typer.Option("-n", "--set", help="Limit as KEY=VALUE: memory_mb=8192, lease_s=600, ...")
    ] = None,
    device: Device = "auto",
    runtime: Runtime = "torch",
) -> None:
    """Serve the viewer and the API to many clients, a session each.

    Example: s2vnet serve -m abdomen-ct --data scans --port 1537
    """
    _require_serve()
    from s2vnet.server.run import run
    from s2vnet.server.settings import Settings

    values = {"model": model, "data": data, "host": host, "port": port, "token": token, "device": device}
    values["runtime"] = runtime
    chosen = settings_of(Settings, {**values, "state": _state(state), **key_values(settings)})
    run(chosen, lambda address, _: typer.echo(f"serving {model} at {address}"), tls_certificate, tls_key)


def _only_scan(application: FastAPI) -> str:
    """Where there is one scan, the page's address ends with its session, which is at work before a browser is there."""
    store: SessionStore = application.state.store
    scans = store.scans.listed()
    return f"#{store.open(scans[0].id).name}" if len(scans) == 1 else ""


def _require_serve() -> None:
    from s2vnet.utils.extras import require_extra

    modules = ("blosc2", "fastapi", "limits", "python_multipart", "uvicorn", "websockets")
    require_extra("serve", "the server", *modules)


def _state(given: Path | None) -> Path:
    from s2vnet.utils.folders import state_folder

    return given or state_folder()
