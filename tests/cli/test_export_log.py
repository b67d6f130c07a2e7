"""``s2vnet export-log``: a prompt log as a table."""

from __future__ import annotations

from pathlib import Path

from command_line import Main, run


def test_a_log_becomes_a_table(model: Path, image: Path, tmp_path: Path) -> None:
    log, table = tmp_path / "log.json", tmp_path / "log.csv"
    run("interact", "-m", model, "-i", image, "-o", tmp_path / "a.nii.gz", "--log", log, "--point", "right,8,6,3")
    assert run("export-log", log, "-o", table) == f"{table}\n"
    assert table.read_text().splitlines()[1:] == ["0,point,2,true,8 6 3"]


def test_a_table_has_a_known_ending(tmp_path: Path, main: Main) -> None:
    code, lines = main("export-log", tmp_path / "log.json", "-o", tmp_path / "log.txt")
    assert (code, len(lines)) == (1, 1)
    assert list(tmp_path.iterdir()) == []
