"""Documentation that can be checked is checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from s2vnet import __version__
from s2vnet.cli.app import COMMANDS, load_command

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_reference_and_has_an_example(command: str) -> None:
    assert f"s2vnet {command}" in (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert "Example: s2vnet " + command in (load_command(command).help or "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_is_still_to_be_filled_in(page: Path) -> None:
    assert not re.findall(r"(?m)@[A-Z]+@|^[A-Z]+_[A-Z_]+$|TODO|TBD|XXX", page.read_text(encoding="utf-8"))


def test_changelog_tells_of_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_file_of_more_than_400_lines_says_why() -> None:
    folders, endings = ("src", "tests", "benchmarks", "scripts"), ("py", "js")
    for file in (file for folder in folders for ending in endings for file in (ROOT / folder).rglob(f"*.{ending}")):
        lines = file.read_text(encoding="utf-8").splitlines()
        explained = any(line.startswith("More than 400 lines, because") for line in lines[:12])
        assert len(lines) <= 400 or explained or "vendor" in file.parts, file
