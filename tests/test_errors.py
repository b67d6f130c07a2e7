"""Errors are one line, and derive from each other as documented."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from s2vnet.errors import (
    CapacityError,
    CheckpointError,
    InputError,
    MissingDependencyError,
    NotFoundError,
    OutOfMemory,
    S2VNetError,
    StorageError,
    describe_calls,
    unexpected,
)

STATUS_AND_EXIT_CODE = {
    InputError: (422, 1),
    NotFoundError: (404, 1),
    CapacityError: (503, 7),
    StorageError: (507, 3),
    MissingDependencyError: (501, 4),
    OutOfMemory: (422, 5),
    CheckpointError: (422, 6),
}
"""Public: clients and scripts depend on them."""


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


@pytest.mark.parametrize("kind", STATUS_AND_EXIT_CODE)
def test_each_kind_has_its_status_and_exit_code(kind: type[S2VNetError]) -> None:
    assert (kind.http_status, kind.exit_code) == STATUS_AND_EXIT_CODE[kind]


def test_the_path_is_a_field_of_the_error() -> None:
    error = NotFoundError("no such file", path=Path("a") / "b.nii")
    assert str(error) == f"{Path('a/b.nii')}: no such file"
    assert str(StorageError("cannot write {path}: full", path="b.nii")) == "cannot write b.nii: full"
    assert str(InputError("no path")) == "no path"
    restored = pickle.loads(pickle.dumps(error))
    assert (type(restored), str(restored), restored.path) == (NotFoundError, str(error), error.path)


def test_a_relocated_error_names_the_new_place() -> None:
    error = OutOfMemory("too large", path="/tmp/x/1/scan.nii")
    moved = error.relocated("/tmp/x", "archive.zip")
    assert (type(moved), str(moved)) == (OutOfMemory, "archive.zip/1/scan.nii: too large")
    assert str(error.relocated("/tmp/x/1/scan.nii", "s3://scan.nii")) == "s3://scan.nii: too large"
    assert str(error.relocated("/elsewhere", "archive.zip")) == str(error)
    assert str(InputError("no path").relocated("/tmp", "x")) == "no path"
