"""``s2vnet serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2vnet.cli.options import (
    DEFAULT_MODEL,
    AnyModality,
    Device,
    Runtime,
    ServedModels,
    StateFolder,
    key_values,
    validate_settings,
)
from s2vnet.server.settings import Settings
from s2vnet.utils.extras import require_extra
from s2vnet.utils.folders import state_folder


def serve(
    models: ServedModels = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of scans that clients may open; default: uploads only.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one reachable from other machines needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one.", min=0, max=65535)] = 1537,
    token: Annotated[
        str | None, typer.Option(envvar="S2VNET_TOKEN", help="Secret that clients have to send, 16 characters or more.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages may use this server, as https://ohif.example.org; may be repeated."),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file, to serve by https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    state: StateFolder = None,
    settings: Annotated[
        list[str] | None, typer.Option("-n", "--set", help="Limit as KEY=VALUE: memory_mb=8192, lease_s=600, ...")
    ] = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    any_modality: AnyModality = False,
) -> None:
    """Serve the viewer and the API to many clients, a session each.

    Example: s2vnet serve -m abdomen-ct,hippocampus-mr --data scans --port 1537
    """
    require_server()
    from s2vnet.server.run import run

    names = models or [DEFAULT_MODEL]
    values: dict[str, object] = {
        "models": tuple(names),
        "data": data,
        "host": host,
        "port": port,
        "token": token,
        "device": device,
    }
    values |= {
        "any_modality": any_modality,
        "allow_origins": tuple(allow_origin or ()),
        "runtime": runtime,
        "state": state or state_folder(),
        **key_values(settings),
    }
    checked = validate_settings(Settings, values)
    run(checked, lambda address, _: typer.echo(f"serving {', '.join(names)} at {address}"), tls_certificate, tls_key)


def require_server() -> None:
    """Raise InputError if packages of the server are missing."""
    modules = ("blosc2", "fastapi", "limits", "python_multipart", "uvicorn", "websockets")
    require_extra("serve", "the server", *modules)
