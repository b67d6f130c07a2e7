"""Addresses of archives: https, or http to this machine; without passwords."""

from __future__ import annotations

import pytest

from s2vnet.errors import InputError
from s2vnet.io.dicomweb.address import HTTP_HOSTS, Address, is_address, is_uid, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("dicomwebs://pacs.example.org/dicom", Address("https://pacs.example.org/dicom")),
        ("dicomweb://localhost:8042/dicom-web/", Address("http://localhost:8042/dicom-web")),
        ("dicomweb://[::1]:8042", Address("http://[::1]:8042")),
        ("dicomwebs://h/a/studies/1.2", Address("https://h/a", "1.2")),
        ("dicomwebs://h/studies/1.2/series/1.3/", Address("https://h", "1.2", "1.3")),
        ("dicomweb://127.0.0.1/a/b/series/1.3", Address("http://127.0.0.1/a/b", None, "1.3")),
    ],
)
def test_an_address_and_its_parts(text: str, address: Address) -> None:
    assert is_address(text)
    assert parse_address(text) == address == parse_address(str(address))


def test_other_locations_are_no_addresses() -> None:
    assert not any(map(is_address, ("scans", "https://host/a", "s3://bucket", "dicomweb", "/data/dicomweb/a")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dicomweb://pacs.example.org/dicom", "without encryption; write dicomwebs://"),
        ("dicomweb://127.0.0.1.example.org/", "without encryption"),
        ("dicomwebs://", "not an address"),
        ("dicomwebs://host:port/", "not an address"),
        ("dicomwebs://host/dicom?x=1", "not an address"),
        ("dicomwebs://host/a/../b", "not an address"),
        ("dicomwebs://host/studies/abc", "the UID of the study"),
        ("dicomwebs://host/studies/1.2/series/..", "the UID of the series"),
    ],
)
def test_addresses_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_address(text)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="must not contain a user or password") as refused:
        parse_address("dicomwebs://reader:hunter2@host/dicom")
    assert "hunter2" not in str(refused.value)


def test_http_to_hosts_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HTTP_HOSTS, "archive, Orthanc")
    assert parse_address("dicomweb://orthanc:8042/dicom-web").root == "http://orthanc:8042/dicom-web"
    with pytest.raises(InputError, match="without encryption"):
        parse_address("dicomweb://other:8042/dicom-web")


def test_uids() -> None:
    assert all(map(is_uid, ("1", "1.2.840.0", "1" * 64)))
    assert not any(map(is_uid, ("", "1.", ".1", "1..2", "a", "1/2", "1" * 65, "١.٢", "1\n")))
