"""Client of a DICOMweb archive: searches by QIDO, series by WADO, results by STOW.

dicomweb-client makes the requests; here they get time-outs, attempts with exponential delays, and errors of one line
that name the archive but no patient. A series is complete if exactly the instances were received that the archive lists
both before and afterwards.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import requests
import tenacity
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset, dcmread
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    ContentDecodingError,
    HTTPError,
    InvalidHeader,
    RequestException,
    SSLError,
    Timeout,
    TooManyRedirects,
)

from s2vnet.errors import InputError
from s2vnet.io.dicomweb.address import Address, is_loopback, is_uid
from s2vnet.io.dicomweb.credentials import HOW_TO_SET, find_credentials
from s2vnet.io.dicomweb.multipart import PART, CutOff, parse_media_type, save_parts
from s2vnet.io.library_output import quiet_libraries

Result = TypeVar("Result")
ATTEMPTS = 5
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0
"""Seconds to connect, and between two packets of an answer."""
MAX_DELAY_S = 30.0
CA_BUNDLE = "REQUESTS_CA_BUNDLE"
"""Environment variable: file of the certificate authorities that https trusts instead of the usual ones."""
_CHUNK_NBYTES = 1 << 18
_ONE_MESSAGE = 1 << 40
"""Bytes beyond which dicomweb-client splits a message, which it could not send a second time."""
_RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
_DICOM = "application/dicom"
_SOP_INSTANCE, _SERIES_INSTANCE = "00080018", "0020000E"

logging.getLogger("dicomweb_client").addHandler(logging.NullHandler())  # else its warnings, with URLs, are printed


class ArchiveUnavailable(InputError):
    """The archive did not answer, or not completely, in several attempts; the same request may succeed later."""


class _Retry(Exception):
    """A request failed in a way that may pass; the message says how."""

    def __init__(self, reason: str, delay_s: float | None = None) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


class Archive:
    """An archive at an address, to be closed. Not thread-safe: each thread makes its own."""

    def __init__(self, address: Address, *, attempts: int = ATTEMPTS, delay_s: float = 1.0) -> None:
        """Prepare requests; none is sent.

        Args:
            address: of the archive; its study and series are not used.
            attempts: number of attempts at a request.
            delay_s: seconds before the second attempt, doubled with each further one, at most MAX_DELAY_S.

        Raises:
            InputError: credentials that cannot be used, see :func:`.credentials.find_credentials`.
        """
        self.name = address.archive
        """Address of the archive, for messages."""
        self._attempts, self._delay_s = attempts, delay_s
        self._session = requests.Session()
        self._session.trust_env = not is_loopback(address.host)  # a proxy of the environment would not reach it
        self._session.auth = find_credentials(address.host)
        self._session.max_redirects = 0  # else images could come from, and credentials go to, another machine
        if bundle := os.environ.get(CA_BUNDLE):
            self._session.verify = bundle
        timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        self._client = DICOMwebClient(
            address.root, self._session, permissive_uid=True, timeout=timeout, chunk_size=_ONE_MESSAGE
        )
        self._client.set_http_retry_params(retry=False)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def search_studies(self, filters: Mapping[str, str], fields: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
        """Yield the studies that match filters, as DICOM JSON; an archive may ignore a filter.

        Raises:
            InputError: refused, or as ArchiveUnavailable.
        """
        yield from self._pages(self._client.search_for_studies, "0020000D", search_filters=filters, fields=fields)

    def search_series(
        self, study: str | None, filters: Mapping[str, str], fields: tuple[str, ...] = ()
    ) -> Iterator[dict[str, Any]]:
        """Yield the series, of one study unless it is None, that match filters; as :meth:`search_studies`."""
        search = self._client.search_for_series
        yield from self._pages(
            search, _SERIES_INSTANCE, study_instance_uid=study, search_filters=filters, fields=fields
        )

    def instances(self, study: str, series: str) -> frozenset[str]:
        """SOPInstanceUIDs of a series; empty where the archive has no such series. Raises as :meth:`search_studies`."""
        search = self._client.search_for_instances
        found = self._pages(search, _SOP_INSTANCE, study_instance_uid=study, series_instance_uid=series)
        return frozenset(attribute(each, _SOP_INSTANCE) for each in found)

    def download(self, study: str, series: str, folder: Path) -> frozenset[str]:
        """Fetch all instances of a series to files ``UID.dcm``; those that an earlier attempt received are kept.

        Args:
            study: StudyInstanceUID.
            series: SeriesInstanceUID.
            folder: existing folder.

        Returns:
            SOPInstanceUIDs of the series.

        Raises:
            InputError: no such series, the disk is full, or refused.
            ArchiveUnavailable: connection lost, or instances arrive at the archive, or leave it, all the time.
        """
        received: set[str] = set()

        def attempt() -> frozenset[str]:
            expected = self._require_instances(study, series)
            if not received:
                self._receive(self._url(study, series), series, folder, received)
            for instance in sorted(expected - received):
                self._receive(f"{self._url(study, series)}/instances/{instance}", series, folder, received)
            now = self._require_instances(study, series)
            if missing := len(now - received):
                raise _Retry(f"{missing} of the series' {len(now)} images have not been received")
            if surplus := received - now:
                for instance in surplus:
                    (folder / f"{instance}.dcm").unlink(missing_ok=True)
                received.difference_update(surplus)
                raise _Retry(f"{len(surplus)} images left the series meanwhile")
            if now != expected:
                raise _Retry(f"the series grew from {len(expected)} to {len(now)} images meanwhile")
            return now

        try:
            return self._try(attempt)
        except OSError as error:
            raise InputError(f"cannot write the series' images: {error.strerror}; free space on this disk") from error
        finally:
            (folder / PART).unlink(missing_ok=True)

    def has_instance(self, study: str, series: str, instance: str) -> bool:
        """Whether the archive has an object. Raises as :meth:`search_studies`."""
        return instance in self.instances(study, series)

    @quiet_libraries()
    def store(self, dataset: Dataset) -> bool:
        """Store an object unless the archive has it already, also where an earlier attempt's answer was lost.

        Returns:
            Whether it was stored now.

        Raises:
            InputError: refused, or the archive has no space.
            ArchiveUnavailable: no answer.
        """
        study, series, instance = (
            str(dataset[name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        )

        def attempt() -> bool:
            if self.has_instance(study, series, instance):
                return False
            answer = self._client.store_instances([dataset], study)
            stored = [str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or ()]
            if instance not in stored and not self.has_instance(study, series, instance):
                codes = [f"{item.FailureReason:04X}" for item in answer.get("FailedSOPSequence") or ()]
                raise InputError(
                    f"{self.name}: the result was not stored (failure {', '.join(codes) or 'not stated'}); "
                    "see the archive's log"
                )
            return True

        return self._try(attempt)

    def _require_instances(self, study: str, series: str) -> frozenset[str]:
        found = self.instances(study, series)
        if not found:
            raise InputError(f"{self.name}: no series {series}; it may have been deleted, or be in another archive")
        if not all(map(is_uid, found)):
            raise InputError(f"{self.name}: series {series} has images whose SOPInstanceUID is not a UID")
        return found

    def _url(self, study: str, series: str) -> str:
        return f"{self._client.base_url}/studies/{study}/series/{series}"

    def _receive(self, url: str, series: str, folder: Path, received: set[str]) -> None:
        """Fetch the instances at a URL to a folder, and add their UIDs to those received."""

        def keep(file: Path) -> None:
            try:
                header = dcmread(file, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"], stop_before_pixels=True)
                instance, own_series = str(header.SOPInstanceUID), str(header.SeriesInstanceUID)
            except OSError:
                raise
            except Exception as error:  # pydicom has an exception type for each of many faults
                raise _Retry("an image arrived that is not DICOM") from error
            if own_series != series or not is_uid(instance):
                raise InputError(f"{self.name}: sent an image of another series than {series}; see the archive's log")
            file.replace(folder / f"{instance}.dcm")
            received.add(instance)

        accepted = f'multipart/related; type="{_DICOM}"; transfer-syntax=*'
        timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        with self._session.get(url, headers={"Accept": accepted}, stream=True, timeout=timeout) as answer:
            answer.raise_for_status()
            kind, boundary = parse_media_type(answer.headers.get("content-type", ""))
            chunks = answer.iter_content(_CHUNK_NBYTES)
            if kind == _DICOM:  # some archives send a single instance as it is
                file = folder / PART
                with file.open("wb") as stream:
                    stream.writelines(chunks)
                keep(file)
            elif boundary is None:
                raise InputError(f"{self.name}: sends {kind} instead of DICOM; correct the path of its address")
            else:
                save_parts(chunks, boundary, folder, keep)

    def _pages(self, search: Callable[..., Any], key: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Yield all results of a search that an archive may answer in parts; each once, by the attribute `key`."""
        seen: set[str] = set()
        options = {name: value for name, value in options.items() if value}
        while True:
            offset = {"offset": len(seen)} if seen else {}
            page = self._try(lambda offset=offset: search(**offset, **options))  # type: ignore[misc]
            new = [each for each in page if attribute(each, key) and attribute(each, key) not in seen]
            yield from new
            seen.update(attribute(each, key) for each in new)
            if not new:  # the end, or an archive that ignores the offset
                return

    def _try(self, function: Callable[[], Result]) -> Result:
        """Call a function; again after faults that may pass, later each time."""
        usual = tenacity.wait_exponential(self._delay_s, MAX_DELAY_S)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome and state.outcome.exception()
            stated = error.delay_s if isinstance(error, _Retry) else None
            return usual(state) if stated is None else min(stated, MAX_DELAY_S)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=wait,
            retry=tenacity.retry_if_exception_type(_Retry),
            reraise=True,
        )
        try:
            result: Result = retrying(self._translated, function)
            return result
        except _Retry as error:
            raise ArchiveUnavailable(
                f"{self.name}: {error}, in {self._attempts} attempts; run the command again later"
            ) from error.__cause__

    def _translated(self, function: Callable[[], Result]) -> Result:
        """Call a function; raise _Retry for faults that may pass, and InputError for others."""
        try:
            return function()
        except HTTPError as error:
            raise self._refusal(error) from error
        except SSLError as error:
            cause = _cause(error, ssl.SSLCertVerificationError)
            if cause is None:
                raise _Retry("the encrypted connection failed") from error
            raise InputError(
                f"{self.name}: its certificate is not trusted ({cause.verify_message}); if it is your hospital's own, "
                f"name the file of its certificate authority in {CA_BUNDLE}"
            ) from error
        except Timeout as error:
            raise _Retry("no answer in time") from error
        except TooManyRedirects as error:
            raise InputError(f"{self.name}: redirects to another address; give that one") from error
        except (ChunkedEncodingError, ContentDecodingError, CutOff) as error:
            raise _Retry("the connection was lost") from error
        except ConnectionError as error:
            raise _Retry("does not answer") from error
        except requests.exceptions.JSONDecodeError as error:
            raise InputError(
                f"{self.name}: not a DICOMweb service; correct the path of its address (Orthanc's: /dicom-web)"
            ) from error
        except (InvalidHeader, UnicodeEncodeError) as error:
            raise InputError(f"{self.name}: the credentials cannot be sent; {HOW_TO_SET}") from error
        except RequestException as error:
            raise _Retry(f"the request failed ({type(error).__name__})") from error

    def _refusal(self, error: HTTPError) -> Exception:
        """What an answer's status means."""
        status = error.response.status_code
        if status in _RETRIED:
            after = error.response.headers.get("retry-after", "")
            return _Retry(f"answers with status {status}", float(after) if after.isdigit() else None)
        if status in (401, 403):
            return InputError(f"{self.name}: refuses these credentials (status {status}); {HOW_TO_SET}")
        if status == 404:
            return InputError(f"{self.name}: no such study, series or service; check its path (Orthanc's: /dicom-web)")
        if status in (413, 507):
            return InputError(f"{self.name}: has no space for the result (status {status}); tell its operator")
        return InputError(f"{self.name}: refuses the request (status {status}); see the archive's log")


def attribute(dataset: Mapping[str, Any], tag: str) -> str:
    """First value of an attribute of a data set in DICOM JSON, as text; empty where there is none."""
    values = dataset.get(tag, {}).get("Value") or [""]
    return str(values[0]).strip()


def _cause(error: BaseException | None, kind: type[ssl.SSLCertVerificationError]) -> Any:
    """The exception of a kind that led to an error, also through the arguments of libraries' own."""
    for _ in range(10):
        if error is None or isinstance(error, kind):
            return error
        reason = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
    return None
