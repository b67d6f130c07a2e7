"""A DICOMweb archive: complete series or an error, nothing stored twice, faults in one line."""

from __future__ import annotations

import gc
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from disks import files_limited_to
from listening import listening
from pydicom.uid import generate_uid

from s2vnet.errors import InputError
from s2vnet.io.dicom.series import read_series

pytest.importorskip("dicomweb_client", reason="dicomweb-client (the extra dicomweb) is not installed")

from orthanc_server import PASSWORD, Orthanc

from s2vnet.io.dicomweb.address import Address, parse_address
from s2vnet.io.dicomweb.archive import CA_BUNDLE, Archive, ArchiveUnavailable

WriteSeries = Callable[..., None]
VOXELS = np.random.default_rng(0).integers(-900, 900, (40, 30, 12)).astype(np.int16)


@pytest.fixture
def series(tmp_path: Path, write_series: WriteSeries) -> Path:
    folder = tmp_path / "series"
    folder.mkdir()
    write_series(folder, VOXELS)
    return folder


def uids_of(series: Path) -> tuple[str, str]:
    header = pydicom.dcmread(next(series.iterdir()), stop_before_pixels=True)
    return str(header.StudyInstanceUID), str(header.SeriesInstanceUID)


def connect(archive: Orthanc, attempts: int = 2) -> Archive:
    return Archive(parse_address(archive.address), attempts=attempts, delay_s=0.01)


def test_a_series_is_received_as_it_was_stored(orthanc: Orthanc, series: Path, tmp_path: Path) -> None:
    orthanc.add(series.iterdir())
    study, uid = uids_of(series)
    target = tmp_path / "received"
    target.mkdir()
    instances = connect(orthanc).download(study, uid, target)
    assert {file.name for file in target.iterdir()} == {f"{instance}.dcm" for instance in instances}
    assert len(instances) == VOXELS.shape[2]
    np.testing.assert_array_equal(read_series(target).data, read_series(series).data)


def test_a_series_that_is_not_there(orthanc: Orthanc, tmp_path: Path) -> None:
    archive = connect(orthanc)
    assert archive.instances("1.2.3", "1.2.4") == frozenset()
    with pytest.raises(InputError, match=r"no series 1\.2\.4; it may have been deleted"):
        archive.download("1.2.3", "1.2.4", tmp_path)
    assert list(archive.search_studies({})) == []


def test_an_object_is_stored_once(orthanc: Orthanc, series: Path) -> None:
    archive, result = connect(orthanc), pydicom.dcmread(next(series.iterdir()))
    assert archive.store(result)
    assert not archive.store(result)
    assert len(orthanc.get("/instances")) == 1


def test_wrong_credentials_are_refused_at_once(
    orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("S2VNET_DICOMWEB_PASSWORD", "another secret")
    started = time.monotonic()
    archive = Archive(parse_address(orthanc.address))
    for call in (lambda: list(archive.search_studies({})), lambda: archive.download("1.2", "1.3", tmp_path)):
        with pytest.raises(InputError, match="refuses these credentials") as refused:
            call()
        assert "secret" not in str(refused.value)
        assert PASSWORD not in str(refused.value)
    assert time.monotonic() - started < 1


def test_nobody_answers(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.kill()
    with pytest.raises(ArchiveUnavailable, match="does not answer, in 2 attempts; run the command again later"):
        connect(orthanc).download("1.2", "1.3", tmp_path)


def test_an_archive_that_comes_back_is_asked_again(orthanc: Orthanc, series: Path, tmp_path: Path) -> None:
    orthanc.add(series.iterdir())
    orthanc.kill()
    threading.Timer(1.0, orthanc.start).start()
    archive = Archive(parse_address(orthanc.address), attempts=8, delay_s=0.2)
    assert len(archive.download(*uids_of(series), tmp_path)) == VOXELS.shape[2]


def test_a_full_disk(orthanc: Orthanc, series: Path, tmp_path: Path) -> None:
    orthanc.add(series.iterdir())
    target = tmp_path / "received"
    target.mkdir()
    with files_limited_to(1000), pytest.raises(InputError, match="cannot write the series' images: File too large"):
        connect(orthanc).download(*uids_of(series), target)
    assert list(target.iterdir()) == []


def test_a_series_that_grows_meanwhile(orthanc: Orthanc, series: Path, tmp_path: Path) -> None:
    files = sorted(series.iterdir())
    orthanc.add(files[:6])
    archive, pending = connect(orthanc, attempts=2), iter(files[6:])
    listed = archive.instances

    def grow(study: str, uid: str) -> frozenset[str]:
        found = listed(study, uid)
        orthanc.add([file] if (file := next(pending, None)) else [])
        return found

    archive.instances = grow  # type: ignore[method-assign]
    with pytest.raises(ArchiveUnavailable, match=r"1 of the series' \d+ images have not been received"):
        archive.download(*uids_of(series), tmp_path)
    again = connect(orthanc, attempts=20)
    listed, again.instances = again.instances, grow  # type: ignore[method-assign]
    target = tmp_path / "again"
    target.mkdir()
    assert len(again.download(*uids_of(series), target)) == len(list(target.iterdir())) == len(files)


class _Answers:
    """ASGI application: lists two instances, and answers requests for their files in a way that a test chooses."""

    def __init__(self, bodies: list[tuple[int, list[tuple[bytes, bytes]], bytes]]) -> None:
        self.bodies, self.requests = bodies, 0

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return
        if scope["path"].endswith("/instances"):
            content = b"[]" if b"offset" in scope["query_string"] else b'[{"00080018":{"vr":"UI","Value":["1.5"]}}]'
            status, headers = 200, [(b"content-type", b"application/dicom+json")]
        else:
            status, headers, content = self.bodies[min(self.requests, len(self.bodies) - 1)]
            self.requests += 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _image(tmp_path: Path) -> bytes:
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID, image.SeriesInstanceUID = generate_uid(), "1.5", "1.3"
    image.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    return (tmp_path / "one.dcm").read_bytes()


def _multipart(image: bytes, end: bytes = b"\r\n--x--\r\n", start: bytes = b"") -> bytes:
    return start + b"--x\r\nContent-Type: application/dicom\r\n\r\n" + image + end


MULTIPART = [(b"content-type", b'multipart/related; type="application/dicom"; boundary=x')]


def test_answers_that_are_cut_off_or_busy_are_asked_for_again(tmp_path: Path) -> None:
    image, target = _image(tmp_path), tmp_path / "received"
    target.mkdir()
    cut = _Answers(
        [
            (503, [(b"retry-after", b"0")], b""),
            (200, MULTIPART, _multipart(image[:-100], b"")),
            (200, MULTIPART, _multipart(image, b"\r\n--x\r\n")),
            (200, MULTIPART, _multipart(image, start=b"a preamble\r\n")),
        ]
    )
    with listening(cut) as root:
        archive = Archive(Address(root), attempts=4, delay_s=0.01)
        assert archive.download("1.2", "1.3", target) == {"1.5"}
    assert [file.read_bytes() for file in target.iterdir()] == [image]
    assert cut.requests in (3, 4)  # the third was complete but for its end


@pytest.mark.parametrize(
    ("status", "headers", "content", "message"),
    [
        (200, MULTIPART, b"--x\r\n\r\nno dicom\r\n--x--", "an image arrived that is not DICOM, in 2 attempts"),
        (200, MULTIPART, b"y" * 100_000, "the connection was lost, in 2 attempts"),
        (200, [(b"content-type", b"text/html")], b"<html>", "sends text/html instead of DICOM"),
        (302, [(b"location", b"http://127.0.0.1:9/")], b"", "redirects to another address"),
        (404, [], b"", "no such study, series or service"),
        (410, [], b"", r"refuses the request \(status 410\)"),
        (500, [], b"", "answers with status 500, in 2 attempts"),
        (507, [], b"", "has no space"),
    ],
)
def test_other_answers_are_explained(
    status: int, headers: list[tuple[bytes, bytes]], content: bytes, message: str, tmp_path: Path
) -> None:
    with listening(_Answers([(status, headers, content)])) as root:
        archive = Archive(Address(root), attempts=2, delay_s=0.01)
        with pytest.raises(InputError, match=message):
            archive.download("1.2", "1.3", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_image_of_another_series_is_refused(tmp_path: Path) -> None:
    image, target = _image(tmp_path), tmp_path / "received"
    target.mkdir()
    with listening(_Answers([(200, [(b"content-type", b"application/dicom")], image)])) as root:
        archive = Archive(Address(root), attempts=1)
        assert archive.download("1.2", "1.3", target) == {"1.5"}
        with pytest.raises(InputError, match=r"an image of another series than 1\.4"):
            archive.download("1.2", "1.4", target)


def test_a_page_that_is_no_service(tmp_path: Path) -> None:
    async def page(scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": b"<html>"})

    with listening(page) as root, pytest.raises(InputError, match="not a DICOMweb service"):
        list(Archive(Address(root), attempts=1).search_studies({}))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    if (program := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True)
    return paths


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_certificates_are_checked(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CA_BUNDLE, raising=False)
    target = tmp_path / "received"
    target.mkdir()
    answers = _Answers([(200, MULTIPART, _multipart(_image(tmp_path)))])
    with listening(answers, ssl_certfile=certificate[0], ssl_keyfile=certificate[1]) as root:
        address = parse_address(root.replace("http", "dicomwebs"))
        with pytest.raises(InputError, match=r"certificate is not trusted \(.*self.signed certificate\); .*CA_BUNDLE"):
            Archive(address).download("1.2", "1.3", target)
        assert answers.requests == 0
        monkeypatch.setenv(CA_BUNDLE, str(certificate[0]))
        assert Archive(address).download("1.2", "1.3", target) == {"1.5"}
    gc.collect()  # asyncio does not close the socket of a failed handshake
