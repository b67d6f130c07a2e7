"""Errors are one line, and derive from each other as documented."""

from __future__ import annotations

import pytest

from s2vnet.errors import CheckpointError, InputError, OutOfMemory, S2VNetError, describe_calls, unexpected


@pytest.mark.parametrize("error", [S2VNetError, InputError, OutOfMemory, CheckpointError])
def test_an_error_is_one_line_whatever_its_message_holds(error: type[S2VNetError]) -> None:
    assert str(error("no file 'a\nb\r\nc\u2028d'; choose another")) == "no file 'a b c d'; choose another"
    assert str(error()) == ""


def test_what_catches_which_error() -> None:
    assert issubclass(OutOfMemory, InputError)
    assert issubclass(InputError, ValueError)
    assert issubclass(InputError, S2VNetError)
    assert issubclass(CheckpointError, S2VNetError)
    assert not issubclass(CheckpointError, InputError)


def test_unexpected_errors_are_described_without_their_messages() -> None:
    def fails() -> None:
        try:
            raise KeyError("Doe^Jane")
        except KeyError as error:
            raise RuntimeError("Doe^Jane") from error

    with pytest.raises(RuntimeError) as caught:
        fails()
    assert unexpected(caught.value).startswith("unexpected RuntimeError in test_errors.py, line ")
    *calls, last = describe_calls(caught.value).splitlines()
    assert last == "RuntimeError"
    assert calls[-1].endswith(", in fails")
    assert "Doe" not in "".join(calls)
