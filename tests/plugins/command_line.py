"""Commands in this process, and options of the smallest training there is."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import CliRunner

from s2vnet.cli import app as cli

SMALL = ["-c", "steps_per_epoch=1", "-c", "batch_size=1", "-c", "clip_length=2"]
SMALL += ["-n", "dim=32", "-n", "mask_dim=8", "--device", "cpu"]
Main = Callable[..., tuple[int, list[str]]]


def run(*args: object, stdin: str = "", code: int = 0) -> str:
    """Standard output of a command in this process; any error but an exit is raised."""
    result = CliRunner().invoke(cli.app, [str(a) for a in args], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout
