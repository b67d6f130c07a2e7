"""Search for series in an archive by modality, date of the study and description."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

from s2vnet.errors import InputError
from s2vnet.io.dicom.series import NON_IMAGE_MODALITIES
from s2vnet.io.dicomweb.address import Address, is_uid
from s2vnet.io.dicomweb.archive import Archive, attribute
from s2vnet.io.dicomweb.queries import ANY, Query

_STUDY, _SERIES, _MODALITY, _DATE = "0020000D", "0020000E", "00080060", "00080020"
_DESCRIPTION, _INSTANCES = "0008103E", "00201209"
_FIELDS = ("SeriesDescription", "NumberOfSeriesRelatedInstances")


class FoundSeries(NamedTuple):
    """A series of images in an archive."""

    study: str
    """StudyInstanceUID."""
    uid: str
    """SeriesInstanceUID."""
    modality: str
    date: str
    """StudyDate as YYYYMMDD; empty where there is none."""
    description: str
    images: int | None
    """Number of images; None where the archive does not say."""


def find_series(archive: Archive, address: Address, query: Query = ANY) -> Iterator[FoundSeries]:
    """Yield the series of images at an address that match a query, study by study.

    Archives may ignore conditions, so all are checked here again. Series that accompany images (SEG, RTSTRUCT, reports)
    are left out.

    Raises:
        InputError: as :meth:`.Archive.search_studies`.
    """
    for study, day in _studies(archive, address, query):
        filters = {"Modality": query.modality} if query.modality else {}
        filters |= {"SeriesInstanceUID": address.series} if address.series else {}
        for each in archive.search_series(study, filters, _FIELDS):
            count = attribute(each, _INSTANCES)
            found = FoundSeries(
                study,
                attribute(each, _SERIES),
                attribute(each, _MODALITY),
                day or attribute(each, _DATE),
                attribute(each, _DESCRIPTION),
                int(count) if count.isdecimal() else None,
            )
            if is_uid(found.uid) and address.series in (None, found.uid) and _matches(found, query):
                yield found


def require_series(archive: Archive, address: Address) -> FoundSeries:
    """Return the series of an address. Raises InputError where it names none, or one that the archive does not have."""
    found = next(find_series(archive, address), None) if address.series else None
    if found is None:
        raise InputError(f"{address}: no series of images at this address")
    return found


def _studies(archive: Archive, address: Address, query: Query) -> Iterator[tuple[str, str]]:
    """UID and date of the studies that may hold matching series."""
    if address.study is not None:
        filters = {"StudyInstanceUID": address.study}
    elif address.series is not None:
        for each in archive.search_series(None, {"SeriesInstanceUID": address.series}):
            if attribute(each, _SERIES) == address.series:
                yield attribute(each, _STUDY), attribute(each, _DATE)
        return
    else:
        filters = {"ModalitiesInStudy": query.modality} if query.modality else {}
        if query.since or query.until:
            filters["StudyDate"] = f"{_compact(query.since)}-{_compact(query.until)}"
    for each in archive.search_studies(filters, ("StudyDate",)):
        study, day = attribute(each, _STUDY), attribute(each, _DATE)
        if is_uid(study) and address.study in (None, study) and _within(day, query):
            yield study, day


def _matches(found: FoundSeries, query: Query) -> bool:
    wanted, description = (query.modality or "").upper(), (query.description or "").casefold()
    if found.modality in NON_IMAGE_MODALITIES or (wanted and found.modality.upper() != wanted):
        return False
    return description in found.description.casefold() and _within(found.date, query)


def _within(day: str, query: Query) -> bool:
    if query.since is None and query.until is None:
        return True
    return bool(day) and _compact(query.since) <= day <= (_compact(query.until) or "99991231")


def _compact(day: date | None) -> str:
    return "" if day is None else day.strftime("%Y%m%d")
