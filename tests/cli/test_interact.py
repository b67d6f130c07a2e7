"""``s2vnet interact``: prompts by options, by a log and typed."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Main, run

from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels


def test_prompts_by_options_by_a_log_and_typed_are_one(model: Path, image: Path, tmp_path: Path) -> None:
    log, names = tmp_path / "log.json", [tmp_path / f"{n}.nii.gz" for n in range(4)]
    common = ["interact", "-m", model, "-i", image, "--device", "cpu"]
    shown = run(*common, "-o", names[0], "--log", log, "--point", "left box,3,5,2", "--not", "2,8,6,3")
    assert shown.splitlines()[-1] == f"{names[0]}: 2 prompts"
    run(*common, "-o", names[1], "--log", log)
    typed = "point left box 3 5 2\n\nnot 2 8 6 3\nlist\nquit\nundo\n"
    shown = run(*common, "-o", names[2], "--log", tmp_path / "typed.json", stdin=typed)
    lines = shown.splitlines()
    assert lines[2:4] == ["0 point: class 1 at 3 5 2", "1 point: not class 2 at 8 6 3"]
    run(*common, "-o", names[3], stdin="")
    session = Session(Segmenter.from_pretrained(model, device="cpu"), read_image(image))
    automatic = session.labels
    session.add_point(1, (3, 5, 2))
    session.add_point(2, (8, 6, 3), positive=False)
    for name, expected in zip(names, [session.labels] * 3 + [automatic], strict=True):
        np.testing.assert_array_equal(read_labels(name).data, expected)
    assert json.loads(log.read_text()) == json.loads((tmp_path / "typed.json").read_text())
    for ending in ("csv", "md"):
        assert run("export-log", log, "-o", tmp_path / f"log.{ending}") == f"{tmp_path / f'log.{ending}'}\n"
    assert (tmp_path / "log.csv").read_text().splitlines()[1] == "0,point,1,true,3 5 2"
    assert (tmp_path / "log.md").read_text().startswith("| number | kind |")


def test_a_wrong_prompt_ends_what_nobody_watches_and_keeps_the_rest(
    model: Path, image: Path, tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, output = tmp_path / "log.json", tmp_path / "a.nii.gz"
    common = ["interact", "-m", model, "-i", image, "-o", output, "--log", log]
    wrong = ["error: no class 'liver'; classes of the model: 0 background, 1 left box, 2 right"]
    assert main(*common, "--point", "1,3,5,2", "--point", "liver,1,1,1") == (1, wrong)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sys, "stdin", io.StringIO("point 1 3 5 2\npoint liver 1 1 1\n"))
    assert main(*common) == (1, wrong)
    assert [file.name for file in tmp_path.iterdir()] == ["log.json"]
    assert len(json.loads(log.read_text())["entries"]) == 1


def test_a_wrong_prompt_can_be_typed_again_and_an_interrupt_keeps_the_labels(
    model: Path, image: Path, tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def __next__(self) -> str:
            line = super().__next__()
            if line == "interrupt\n":
                raise KeyboardInterrupt
            return line

    monkeypatch.setattr(sys, "stdin", Terminal("point liver 1 1 1\npoint 1 3 5 2\ninterrupt\n"))
    code, lines = main("interact", "-m", model, "-i", image, "-o", tmp_path / "a.nii.gz", "--log", tmp_path / "l.json")
    assert code == 130
    said = ["commands", "classes", "error", "interrupted; nothing half-written is left"]
    assert [line.split(":")[0] for line in lines] == said
    assert read_labels(tmp_path / "a.nii.gz").data[3, 5, 2] == 1
    assert len(json.loads((tmp_path / "l.json").read_text())["entries"]) == 1


@pytest.mark.parametrize("command", ["interact", "evaluate"])
def test_where_nothing_can_be_written_is_said_before_the_work(
    model: Path, image: Path, tmp_path: Path, main: Main, command: str
) -> None:
    given: list[object] = (
        ["-m", model, "-i", image, "-o"] if command == "interact" else ["-i", image, "-g", image, "-o"]
    )
    name, folder = "a.nii.gz" if command == "interact" else "r.json", tmp_path / "nowhere"
    code, lines = main(command, *given, folder / name)
    reason = "No such file or directory; choose an existing, writable folder"
    assert (code, lines) == (3, [f"error: cannot write to {folder}: {reason}"])
    if command == "interact":
        assert main(command, *given, tmp_path / "a.nii.gz", "--log", tmp_path / "a.nii.gz")[0] == 1


def test_channels_in_a_folder_are_one_image_and_are_never_replaced(
    model: Path, image: Path, tmp_path: Path, main: Main
) -> None:
    case = tmp_path / "case"
    case.mkdir()
    shutil.copy(image, case / "x_0000.nii.gz")
    before = (case / "x_0000.nii.gz").read_bytes()
    code, lines = main("interact", "-m", model, "-i", case, "-o", case / "x_0000.nii.gz", "--point", "1,3,5,2")
    assert code == 1
    assert "the labels would replace the image" in lines[0]
    assert main("interact", "-m", model, "-i", case, "-o", tmp_path / "a.nii.gz", "--point", "1,3,5,2") == (0, [])
    assert (case / "x_0000.nii.gz").read_bytes() == before
    assert read_labels(tmp_path / "a.nii.gz").data[3, 5, 2] == 1


def test_what_a_later_prompt_overrules_is_noted(model: Path, image: Path, tmp_path: Path, main: Main) -> None:
    points = ["--point", "1,3,5,2", "--point", "2,3,5,2"]
    code, lines = main("interact", "-m", model, "-i", image, "-o", tmp_path / "a.nii.gz", *points)
    assert (code, lines) == (0, ["note: prompt 1 overrules prompt 0 where they overlap"])
