"""Series of a DICOMweb archive as images of a batch, and the archive as the place of their results.

A result is looked for before any work, and again right before it is stored; nothing is stored where the series changed
after it was fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from s2vnet.errors import InputError
from s2vnet.io.dicomweb.address import Address, parse_address
from s2vnet.io.dicomweb.queries import Query
from s2vnet.io.dicomweb.results import KINDS, ResultUIDs, read_result, result_uids
from s2vnet.utils.extras import require_extra

if TYPE_CHECKING:
    from s2vnet.io.dicomweb.archive import Archive

RESULTS_STORED = "its results are in the archive"


class ResultsExist(Exception):
    """The archive has all results of a case already."""


@dataclass(frozen=True)
class ResultRequest:
    """Results of a case that its archive is to get."""

    kinds: tuple[str, ...]
    """Keys of :data:`s2vnet.io.dicomweb.results.KINDS`."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What the labels depend on besides the images."""


@dataclass(frozen=True)
class FetchedSeries:
    """A series in a local folder, and the files of its results."""

    address: Address
    folder: Path
    instances: frozenset[str]
    """SOPInstanceUIDs."""
    results: Mapping[Path, ResultUIDs]
    """UIDs by the file that the result is written to."""

    def store(self) -> None:
        """Store the results. Raises InputError if the series has changed, or as :meth:`.archive.Archive.store`."""
        if not self.results:
            return
        with _connect(self.address) as archive:
            if (now := archive.instances(*_uids(self.address))) != self.instances:
                raise InputError(
                    f"{self.address}: changed from {len(self.instances)} to {len(now)} images while it was segmented; "
                    "nothing is stored; run the command again"
                )
            for file, uids in self.results.items():
                archive.store(read_result(file, uids))


def require_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return kinds of results. Raises InputError for an unknown one, or where packages to write it are missing."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"no kind of result {kind!r}; choose of {', '.join(KINDS)}")
        if kind != "rtstruct":
            require_extra("dicom", "DICOM SEG", "highdicom")
    return kinds


def list_series(source: str, query: Query) -> list[tuple[str, str]]:
    """SeriesInstanceUIDs and addresses of the series at an address that match a query.

    Raises:
        InputError: an invalid address, nothing found, packages are missing, or as
            :func:`s2vnet.io.dicomweb.search.find_series`.
    """
    address = parse_address(source)
    with _connect(address) as archive:
        from s2vnet.io.dicomweb.search import find_series

        found = list(find_series(archive, address, query))
    if not found:
        raise InputError(f"{address}: no series of images there that match; see the options of the query")
    return [(each.uid, str(address._replace(study=each.study, series=each.uid))) for each in found]


def fetch_series(source: str, request: ResultRequest | None, folder: Path) -> FetchedSeries:
    """Fetch a series to a new folder in a folder.

    Args:
        source: address with study and series.
        request: results that are to be stored later.
        folder: existing folder for the images and the results.

    Raises:
        ResultsExist: all results are in the archive.
        InputError: as :meth:`.archive.Archive.download`.
    """
    address = parse_address(source)
    study, series = _uids(address)
    kinds, options = (request.kinds, request.options) if request is not None else ((), {})
    with _connect(address) as archive:
        if kinds and not _missing(archive, study, kinds, archive.instances(study, series), options):
            raise ResultsExist(RESULTS_STORED)
        images, results = folder / series, folder / "results"
        images.mkdir()
        results.mkdir()
        instances = archive.download(study, series, images)
        missing = _missing(archive, study, kinds, instances, options)
    if kinds and not missing:
        raise ResultsExist(RESULTS_STORED)
    files = {results / f"labels{KINDS[kind]}": uids for kind, uids in missing.items()}
    return FetchedSeries(address, images, instances, files)


def _missing(
    archive: Archive, study: str, kinds: tuple[str, ...], instances: frozenset[str], options: Mapping[str, object]
) -> dict[str, ResultUIDs]:
    """UIDs by kind of the results that the archive does not have."""
    uids = {kind: result_uids(kind, instances, options) for kind in kinds}
    return {kind: each for kind, each in uids.items() if not archive.has_instance(study, *each)}


def _connect(address: Address) -> Archive:
    require_extra("dicomweb", "a DICOM archive", "dicomweb_client", "python_multipart", "requests", "tenacity")
    from s2vnet.io.dicomweb.archive import Archive

    return Archive(address)


def _uids(address: Address) -> tuple[str, str]:
    if address.study is None or address.series is None:
        raise InputError(f"{address}: names no series; add /studies/UID/series/UID")
    return address.study, address.series
