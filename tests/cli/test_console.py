from __future__ import annotations

import pytest

from s2vnet.cli.console import count_cases, note, note_mismatch


def test_notes_go_to_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    note("look twice")
    note_mismatch("case0", "a spacing of 9 mm")
    assert capsys.readouterr() == ("", "note: look twice\nnote: case0: unlike the training data: a spacing of 9 mm\n")


def test_each_finished_case_counts() -> None:
    reports: list[tuple[str, int, int]] = []
    done = count_cases(lambda *report: reports.append(report), "cases", 2)
    done("a")
    done("b")
    assert reports == [("cases", 1, 2), ("cases", 2, 2)]
