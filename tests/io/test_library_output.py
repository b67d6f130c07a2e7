"""No value of an image's header reaches streams, logs or warnings through a library."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest

from s2vnet.io.library_output import LOGGERS, quiet_libraries

NAME = "Doe^Jane"


def _speak() -> None:
    warnings.warn(f"invalid value {NAME}", stacklevel=1)
    for name in (*LOGGERS, *(f"{name}.part" for name in LOGGERS)):
        logging.getLogger(name).error("invalid value %s", NAME)


def test_warnings_and_records_are_dropped_within_the_block_only(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = [list(warnings.filters), [logging.getLogger(name).propagate for name in LOGGERS]]
    with quiet_libraries(), quiet_libraries():
        _speak()
    assert (caplog.text, capfd.readouterr().err) == ("", "")
    assert before == [list(warnings.filters), [logging.getLogger(name).propagate for name in LOGGERS]]
    with pytest.warns(UserWarning, match="Doe"):
        _speak()
    assert NAME in caplog.text


def test_another_thread_that_resets_the_filters_changes_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def library_call() -> None:
        with quiet_libraries():
            entered.set()
            reset.wait(10)
            _speak()

    entered, reset = threading.Event(), threading.Event()
    thread = threading.Thread(target=library_call)
    thread.start()
    entered.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        reset.set()
        thread.join()
    assert capfd.readouterr().err == ""


def test_a_program_that_sends_warnings_to_its_log_gets_none(caplog: pytest.LogCaptureFixture) -> None:
    logging.captureWarnings(True)
    try:
        with quiet_libraries():
            _speak()
    finally:
        logging.captureWarnings(False)
    assert caplog.text == ""
