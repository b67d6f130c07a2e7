from __future__ import annotations

import pytest

from s2vnet.cli.console import counter, note, refuse
from s2vnet.errors import S2VNetError


def test_every_expected_error_is_of_one_kind() -> None:
    with pytest.raises(S2VNetError, match="no"):
        refuse("no")


def test_a_note_stays_out_of_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    note("look twice")
    assert capsys.readouterr() == ("", "note: look twice\n")


def test_a_counter_counts_its_calls() -> None:
    told: list[tuple[str, int, int]] = []
    count = counter(lambda *what: told.append(what), "cases", 2)
    count("a")
    count("b")
    assert told == [("cases", 1, 2), ("cases", 2, 2)]
