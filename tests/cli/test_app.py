"""The command line's entry point: help, exit codes, and errors of one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from command_line import Main, run

from s2vnet import __version__
from s2vnet.cli import app as cli


def test_version_and_help() -> None:
    assert run("--version") == f"s2vnet {__version__}\n"
    out = run("--help")
    assert all(command in out for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_shows_an_example_and_is_listed_by_its_first_line(command: str) -> None:
    help_text = cli.load_command(command).help
    assert f"Example: s2vnet {command}" in help_text
    assert help_text.startswith(cli.COMMANDS[command].summary)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_shows_every_word_of_the_docstring(command: str) -> None:
    shown = "".join(run(command, "--help").split())  # without line breaks; brackets in a docstring are markup
    assert not [word for word in cli.load_command(command).help.split() if word not in shown]


def test_help_imports_no_heavy_library() -> None:
    heavy = ("torch", "numpy", "monai", "pydantic", "scipy", "SimpleITK")
    code = (
        "import sys, s2vnet.cli.app as cli; sys.argv = ['s2vnet', '--help']\n"
        f"try: cli.main()\nexcept SystemExit: print([name for name in {heavy} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert shown.stdout.endswith("[]\n")


def test_an_unknown_command_is_wrong_usage(main: Main) -> None:
    code, lines = main("segmnt")
    assert code == 2
    assert any("No such command" in line for line in lines)


def test_errors_are_one_line_and_exit_with_the_code_of_their_kind(
    model: Path, image: Path, tmp_path: Path, main: Main
) -> None:
    out = tmp_path / "out.nii.gz"
    (tmp_path / "file").write_text("")
    absent, report = tmp_path / "absent", tmp_path / "report.json"
    wrong: list[tuple[list[object], str]] = [
        (["predict", "-m", "absent", "-i", image, "-o", out], "no model 'absent'"),
        (["predict", "-m", model, "-i", absent, "-o", out], "no such file or folder"),
        (["predict", "-m", model, "-i", image, "-o", out, "--classes", "liver"], "no class 'liver'"),
        (["predict", "-m", model, "-i", image, "-o", image], "would replace the image"),
        (["plan", absent, "-o", tmp_path], "dataset.json"),
        (["plan", image.parent.parent, "-o", tmp_path / "file" / "out"], "choose a writable folder"),
        (["interact", "-m", model, "-i", image, "-o", tmp_path / "a.txt"], "unknown image format"),
        (["interact", "-m", model, "-i", image, "-o", image], "would replace the image"),
        (["interact", "-m", model, "-i", image, "-o", out, "--point", "liver,1,2,3"], "no class 'liver'"),
        (["interact", "-m", model, "-i", image, "-o", out, "--not", "right,1,2,99"], "outside the volume"),
        (["evaluate", "-i", image, "-g", image, "-o", tmp_path / "a.txt"], "must be named .json"),
        (["evaluate", "-i", image, "-g", absent, "-o", report], "give two folders, or two files"),
        (["evaluate", "-i", image.parent, "-g", absent, "-o", report], "give two folders, or two files"),
        (["evaluate", "-i", image.parent, "-g", image.parent, "-o", report, "--interactive"], "needs a model"),
        (["export-log", absent, "-o", tmp_path / "a.csv"], "No such file"),
        (["export", "-m", "hippocampus-mr", "-o", tmp_path / "a", "--int8", absent], "no such file or folder"),
    ]
    for args, message in wrong:
        code, lines = main(*args)
        assert (code in (1, 3, 6), len(lines)) == (True, 1), (code, lines)  # input, storage, model
        assert lines[0].startswith("error: ")
        assert message in lines[0]
    assert not out.exists()


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "s2vnet", "plan", tmp_path / "no", "-o", tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith(f"error: {tmp_path / 'no' / 'dataset.json'}: No such file or directory")
    assert found.stderr.count("\n") == 1
    assert found.stdout == ""


def test_other_ends_of_the_entry_point(model: Path, image: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main("--version") == (0, [])
    code, lines = main("predict", "-m", model)
    assert code == 2
    assert any("Missing option" in line for line in lines)

    class Interrupted:
        def isatty(self) -> bool:
            return False

        def __iter__(self) -> Iterator[str]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", Interrupted())
        output = image.parent.parent / "labels.nii.gz"
        code, lines = main("interact", "-m", model, "-i", image, "-o", output)
    assert (code, lines[-1]) == (130, "interrupted; nothing half-written is left")
    assert output.exists()

    def failing(error: BaseException) -> Callable[..., None]:
        def fail(**_: object) -> None:
            raise error

        return fail

    monkeypatch.setattr(cli, "app", failing(typer.Abort()))
    assert main()[0] == 130
    monkeypatch.setattr(cli, "app", failing(RuntimeError("Doe^Jane")))
    code, lines = main()
    assert (code, any("Doe" in line for line in lines)) == (1, False)
    assert lines[-1].startswith("error: unexpected RuntimeError in test_app.py, line ")
    assert lines[-3].endswith(", in fail")
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(RuntimeError, match="Doe"):
        cli.main()
    monkeypatch.setattr(cli, "app", failing(OSError(28, "No space left on device")))
    assert main() == (1, ["error: No space left on device"])


def test_a_file_that_the_system_refuses_is_one_line(
    model: Path, image: Path, tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    code, (line,) = main("predict", "-m", model, "-i", image, "-o", tmp_path / "a.nii.gz")
    assert code == 1
    assert line in {f"error: {path}: Permission denied" for path in (model, image)}
