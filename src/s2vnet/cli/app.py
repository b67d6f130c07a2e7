"""The command line. A command's module is imported when the command is invoked, so that ``s2vnet --help`` is fast."""

from __future__ import annotations

import io
import os
import sys
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
import typer.main
from typer.core import TyperGroup

from s2vnet._version import __version__
from s2vnet.errors import S2VNetError, describe_calls, unexpected
from s2vnet.utils.memory import is_out_of_memory, out_of_memory

OPTIONS: dict[str, Any] = {"add_completion": False, "rich_markup_mode": "rich", "pretty_exceptions_enable": False}

TRACEBACK = "S2VNET_TRACEBACK"
"""Environment variable that lets unexpected errors end in Python's traceback, which shows their text."""


class Command(NamedTuple):
    """Location of a command, and its line in the list of commands."""

    module: str
    """Module in this package; the command is its function of the same name."""
    summary: str
    """First line of that function's docstring."""


COMMANDS = {
    "import": Command(
        "import_dataset", "Convert an official release to a dataset in nnU-Net's raw layout, with its usual split."
    ),
    "plan": Command("plan", "Choose plane, sampling, intensities and network size for a dataset."),
    "train": Command("train", "Train one network."),
    "models": Command("models", "List models: name, modality, plane, size, classes, licence."),
    "export": Command("export", "Write a model with its ONNX graphs, for --runtime and for your own programs."),
    "predict": Command("predict", "Segment images automatically."),
    "interact": Command("interact", "Correct a segmentation by prompts, from options, a saved log, or typed in."),
    "evaluate": Command("evaluate", "Score predictions, or a model under a simulated user."),
    "view": Command(
        "view", "Show a scan in a browser, segment it and correct it by clicks. No data leaves this machine."
    ),
    "serve": Command("serve", "Serve the viewer and the API to many clients, a session each."),
    "page": Command(
        "page", "Write a web page that segments scans in the browser, without a server and without clicks."
    ),
    "export-log": Command("export_log", "Write a prompt log as a table: one row per prompt."),
    "demo": Command("demo", "Segment a public image automatically, then correct it by simulated clicks."),
}
"""Commands by name, in the order of the help."""


class LazyGroup(TyperGroup):
    """Group of placeholder commands that imports the command that is invoked."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return name, command and remaining arguments of the command that the arguments begin with."""
        name, _, remaining = super().resolve_command(ctx, args)
        return name, name and load_command(name), remaining


@cache
def load_command(name: str) -> Any:
    """Import a command's module and return it as a click command."""
    module = COMMANDS[name].module
    single = typer.Typer(**OPTIONS)
    single.command(name)(getattr(import_module(f"s2vnet.cli.{module}"), module))
    return typer.main.get_command(single)


app = typer.Typer(
    cls=LazyGroup,
    help="Segment whole 3D volumes with one 2D network, automatically and interactively, every class at once.",
    no_args_is_help=True,
    **OPTIONS,
)
for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.summary)(lambda: None)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(f"s2vnet {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line: an expected error becomes one line and its exit code, an interrupt exit code 130."""
    # torch reads this when it is imported; by default its threads spin while they wait, which makes it tens of times
    # slower on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be text, and the locale may know few characters
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)  # exit code of a typer.Exit, else None
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code = _report(error)
    if code == 130:
        typer.echo("interrupted; nothing half-written is left", err=True)
    sys.exit(code)


def _report(error: Exception) -> int:
    """Print an error and return the exit code: an expected one (user or system) in one line.

    Of any other, the calls that led to it come before that line, but not its message, which may quote a header. With
    the environment variable :data:`TRACEBACK` it is raised again.
    """
    error = out_of_memory(error) if is_out_of_memory(error) else error
    if isinstance(error, S2VNetError):
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    if isinstance(error, OSError) and error.filename:
        typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
        return 1
    if isinstance(error, ImportError):  # an optional package that is installed, but broken
        typer.echo(f"error: {' '.join(str(error).split())}; install the package again", err=True)
        return 1
    if hasattr(error, "show"):  # a click.UsageError
        error.show()
        return 2
    if isinstance(error, OSError) and error.strerror:
        typer.echo(f"error: {error.strerror}", err=True)
        return 1
    if os.environ.get(TRACEBACK):
        raise error
    typer.echo(describe_calls(error), err=True)
    typer.echo(f"error: {unexpected(error)} ({TRACEBACK}=1 shows its text, which may quote a header)", err=True)
    return 1


if __name__ == "__main__":
    main()
