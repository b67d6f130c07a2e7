"""Images of a batch: listing (folder, CSV, Parquet, URL), download, and upload of their labels.

URLs are those of fsspec (``s3://bucket/scans``, ``gs://``, ``sftp://``, ``memory://``); the library of a store may have
to be installed: https://filesystem-spec.readthedocs.io. Series of a DICOM archive: :mod:`.archive_series`.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from s2vnet.batch import archive_series
from s2vnet.batch.jobs import plan_jobs
from s2vnet.data.case_files import case_names, file_stem, group_channels
from s2vnet.errors import InputError, NotFoundError
from s2vnet.inference.label_writers import fallback_file, is_label_file
from s2vnet.io.dicom import zip_archive as archive
from s2vnet.io.dicom.zip_archive import is_zip
from s2vnet.io.dicomweb.address import is_address
from s2vnet.io.dicomweb.queries import ANY, Query
from s2vnet.io.files import DETACHED_ENDINGS, ENDINGS, find_ending
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.extras import require_extra
from s2vnet.utils.file_names import fit_file_name, printable
from s2vnet.utils.folders import make_folder

_WINDOWS = os.name == "nt"
LISTS = (".csv", ".parquet")
"""Endings of lists of images."""


class TransientError(Exception):
    """A case failed for another reason than its image, and may succeed later; the message quotes no header."""


@dataclass(frozen=True)
class BatchItem:
    """One image of a batch, and the location of its labels."""

    case: str
    images: tuple[str, ...]
    """Path or URL of each channel, or of one file or folder with all."""
    output: str
    """Path or URL of the label file."""
    labels_exist: bool = False
    """Labels exist already; only their volumes are computed."""
    results: archive_series.ResultRequest | None = None
    """Results that the DICOM archive of the image gets."""
    dicom_files: tuple[str, ...] = ()
    """Local files for these results."""


def is_url(text: str) -> bool:
    """Whether a location is a URL rather than a local path."""
    return "://" in text


def strip_file_scheme(text: str) -> str:
    """Local path of a ``file://`` URL; any other location unchanged."""
    return str(fsspec.core.strip_protocol(text)) if text.startswith("file://") else text


def requires_batch(source: str, target: str) -> bool:
    """Whether only the batch runner can segment a source: a list, or a URL as source or target."""
    return is_url(source) or is_url(target) or source.lower().endswith(LISTS)


def list_items(source: str, target: str, channels: int, query: Query = ANY) -> list[BatchItem]:
    """List the images of a folder (as :func:`s2vnet.batch.jobs.plan_jobs`), of a list, or below a URL.

    A list has a column ``image`` (a URL or path, relative to the list's folder) and optionally a column ``case``. Below
    a URL a case is named by its path relative to the URL; ``_0000`` and so on number channels.

    Args:
        source: folder, list or URL.
        target: folder or URL of the labels.
        channels: number of image channels of the model.
        query: conditions on the series of a DICOM archive.

    Raises:
        InputError: missing or empty source, a list without the column, two cases of one name, a name with a path out
            of the target, labels that would replace an image, or as plan_jobs.
    """
    if is_label_file(Path(target)):
        raise InputError(f"{target}: a batch needs a folder for its labels and summary, not a file")
    if is_address(target):
        raise InputError(f"{target}: name a folder for labels and summary; --store sends results to the archive")
    if is_address(source):
        cases: list[tuple[str, tuple[str, ...]]] = [
            (uid, (address,)) for uid, address in archive_series.list_series(source, query)
        ]
    elif source.lower().endswith(LISTS):
        cases = _listed_cases(source)
    elif is_url(source):
        if f"{target}/".startswith(f"{source.rstrip('/')}/"):
            raise InputError(f"{target}: lies among the images; choose another place for the labels")
        cases = _url_cases(source, channels)
    else:
        jobs = plan_jobs(Path(source), Path("labels" if is_url(target) else target), channels)
        cases = [(job.case.name, tuple(str(image) for image in job.case.images)) for job in jobs]
    items = [
        BatchItem(
            printable(case),
            images,
            join_location(target, fit_file_name(case, find_ending(images[0]) or ".nii.gz")),
        )
        for case, images in cases
    ]
    _require_distinct(items)
    return items


def join_location(folder: str, name: str) -> str:
    """Path or URL of a name in a folder or below a URL."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder, name))


def existing_outputs(items: Sequence[BatchItem], target: str) -> set[str]:
    """Outputs of items that exist. Raises InputError where a store cannot be reached."""
    if not is_url(target):
        return {item.output for item in items if Path(item.output).exists()}
    with _store_errors(target):
        system, path = fsspec.core.url_to_fs(target)
        existing = set(system.find(path))
        return {item.output for item in items if fsspec.core.strip_protocol(item.output) in existing}


@contextmanager
def local_files(item: BatchItem) -> Iterator[BatchItem]:
    """Yield the item with local image files and a temporary output, which is moved to its location at the end.

    Fetched images are deleted. After an exception the output is deleted too, so that labels are complete or missing,
    but for labels that were saved as NIfTI because their format failed. Files beside the labels are moved before them.

    Results for a DICOM archive are stored at the end too, before the output is moved.

    Raises:
        InputError: no such object, or the output cannot be written.
        ResultsExist: the archive has all results.
        TransientError: a store's library failed.
    """
    with ExitStack() as stack:
        names: dict[str, str] = {}
        images, series = item.images, None
        if not item.labels_exist and is_address(images[0]):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s2vnet-")))
            series = archive_series.fetch_series(images[0], item.results, folder)
            names, images = {str(series.folder): images[0]}, (str(series.folder),)
        elif not item.labels_exist and any(map(is_url, images)):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s2vnet-")))
            images = tuple(_fetch(image, folder / str(n)) if is_url(image) else image for n, image in enumerate(images))
            names = dict(zip(images, item.images, strict=True))
        output = stack.enter_context(_existing_labels(item) if item.labels_exist else _store_output(item.output))
        names[str(output)] = item.output
        files = () if series is None else tuple(map(str, series.results))
        try:
            yield replace(item, images=images, output=str(output), dicom_files=files)
            if series is not None:
                series.store()
        except InputError as error:
            if not item.labels_exist and (beside := fallback_file(output)) != output and beside.exists():
                names[str(beside)] = _keep_fallback(beside, item.output)
            for local, location in names.items():
                error = error.relocated(local, location)
            raise error


def put_text(url: str, text: str) -> None:
    """Write a small file to a store."""
    with _store_errors(url):
        system, path = fsspec.core.url_to_fs(url)
        system.pipe_file(path, text.encode())


def get_text(location: str) -> str | None:
    """Read a small file; None where there is none. Raises InputError where it cannot be read."""
    with _store_errors(location):
        try:
            if not is_url(location):
                return Path(location).read_bytes().decode("utf-8", "surrogateescape")
            with fsspec.open(location, "r", encoding="utf-8", newline="") as stream:
                return str(stream.read())
        except FileNotFoundError:
            return None


@contextmanager
def _store_output(output: str) -> Iterator[Path]:
    if not is_url(output):
        path = Path(output)
        make_folder(path.parent)
        with atomic_write(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as name:
        labels = Path(name, output.rsplit("/", 1)[1])
        yield labels
        for file in sorted(labels.parent.iterdir(), key=lambda file: file == labels):
            _put_file(file, f"{output.rsplit('/', 1)[0]}/{file.name}")


def _keep_fallback(file: Path, output: str) -> str:
    """Move labels that were saved beside a label file to its location; return where they are."""
    if not is_url(output):
        return str(file.replace(Path(output).parent / file.name))
    location = f"{output.rsplit('/', 1)[0]}/{file.name}"
    _put_file(file, location)
    return location


def _put_file(file: Path, url: str) -> None:
    with _store_errors(url, TransientError):
        system, path = fsspec.core.url_to_fs(url)
        system.put_file(str(file), path)


@contextmanager
def _existing_labels(item: BatchItem) -> Iterator[Path]:
    if not is_url(item.output):
        yield Path(item.output)
        return
    with tempfile.TemporaryDirectory(prefix="s2vnet-") as name:
        yield Path(_fetch(item.output, Path(name)))


def _fetch(url: str, folder: Path) -> str:
    if url.lower().endswith(DETACHED_ENDINGS):
        raise InputError(f"{url}: an image in two files cannot be fetched; save it as .nrrd, .mha or .nii.gz")
    with _store_errors(url, TransientError):
        system, path = fsspec.core.url_to_fs(url)
        name = PurePosixPath(path).name
        if name in ("", ".."):
            raise InputError(f"{url}: names no image")
        local = folder / name
        folder.mkdir(exist_ok=True)
        try:
            if find_ending(url) is None and not is_zip(url) and system.isdir(path):
                _fetch_folder(url, system, path.rstrip("/"), local)
            else:
                system.get_file(path, str(local))
        except FileNotFoundError as error:
            raise NotFoundError(f"{url}: no such object") from error
        return str(local)


def _fetch_folder(url: str, system: Any, path: str, local: Path) -> None:
    """Fetch all objects below a path; names that would lead out of the folder are refused."""
    for item in system.find(path):
        name = item[len(path) :].lstrip("/")
        if ".." in PurePosixPath(name).parts or "\\" in name:
            raise InputError(f"{url}: an object there is called {name!r}, which is not a file name; rename it")
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        system.get_file(item, str(local / name))


def _listed_cases(source: str) -> list[tuple[str, tuple[str, ...]]]:
    rows = _csv_rows(source) if source.lower().endswith(".csv") else _parquet_rows(source)
    locations: list[str] = []
    base = source.rsplit("/", 1)[0] if is_url(source) else str(Path(source).absolute().parent)
    for number, (image, _) in enumerate(rows, 1):
        if not image:
            raise InputError(f"{source}: row {number} names no image")
        image = strip_file_scheme(image)
        locations.append(image if is_url(image) or Path(image).is_absolute() else join_location(base, image))
    if not locations:
        raise InputError(f"{source}: lists no images")
    names = case_names([file_stem(PurePosixPath(location).name) for location in locations])
    return [(case or name, (location,)) for (_, case), name, location in zip(rows, names, locations, strict=True)]


def _csv_rows(source: str) -> list[tuple[str, str]]:
    text = _decode(source, _get_bytes(source)).lstrip()
    head, *rest = re.split("\r\n|\r|\n", text, maxsplit=1)
    if head.lower().startswith("sep="):  # as Excel writes and reads it
        text = rest[0] if rest else ""
        head = re.split("\r|\n", text, maxsplit=1)[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [row for row in ([cell.strip() for cell in row] for row in reader) if any(row)]
    except csv.Error as error:
        raise InputError(f"{source}: not a table of values ({error}); check its quotation marks") from error
    columns = [name.lower() for name in rows[0]] if rows else []
    _require_column(source, columns)
    for number, row in enumerate(rows[1:], 1):
        if len(row) > len(columns):
            character = "a tab" if delimiter == "\t" else delimiter
            raise InputError(
                f"{source}: row {number} has {len(row)} values for {len(columns)} columns; put a value that contains "
                f"{character} in double quotes"
            )
    cells = [dict(zip(columns, row, strict=False)) for row in rows[1:]]
    return [(row.get("image", ""), row.get("case", "")) for row in cells]


def _decode(source: str, content: bytes) -> str:
    """Text of a list, in UTF-8, or in UTF-16 as spreadsheets write it with a byte order mark."""
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not in UTF-8; save it as CSV UTF-8") from error


def _get_bytes(location: str) -> bytes:
    with _store_errors(location):
        try:
            with fsspec.open(location, "rb") as stream:
                return bytes(stream.read())
        except FileNotFoundError as error:
            raise NotFoundError(f"{location}: no such file") from error


def _parquet_rows(source: str) -> list[tuple[str, str]]:
    require_extra("parquet", "a list in Parquet (not in .csv)", "pyarrow")
    from pyarrow import parquet

    with _store_errors(source), fsspec.open(source, "rb") as stream:
        file = parquet.ParquetFile(stream)
        columns = [name for name in ("image", "case") if name in file.schema_arrow.names]
        _require_column(source, file.schema_arrow.names)
        rows = file.read(columns).to_pylist()
    return [(str(row["image"] or ""), str(row.get("case") or "")) for row in rows]


def _require_column(source: str, columns: Iterable[str]) -> None:
    if "image" not in columns:
        raise InputError(f"{source}: no column 'image' but {', '.join(columns) or 'none'}; name it so in the first row")


def _url_cases(source: str, channels: int) -> list[tuple[str, tuple[str, ...]]]:
    with _store_errors(source):
        system, root = fsspec.core.url_to_fs(source)
        paths = system.find(root)
    files: dict[str, str] = {}
    for path in sorted(paths):
        name = path[len(root) :].lstrip("/") or PurePosixPath(path).name
        if file_stem(name) == name or PurePosixPath(name).name.startswith("."):
            continue
        if file_stem(name) in files:
            raise InputError(f"{source}: two files are case {file_stem(name)}; keep one of them")
        files[file_stem(name)] = system.unstrip_protocol(path)
    if not files:
        raise InputError(
            f"{source}: no images ({' '.join((*ENDINGS, archive.ENDING))}) there; DICOM folders need a list"
        )
    return list(group_channels(source, files, channels).items())


def _require_distinct(items: Sequence[BatchItem]) -> None:
    outputs: set[str] = set()
    for item in items:
        parts = PurePosixPath(item.case).parts
        if not parts or ".." in parts or item.case.startswith("/") or (_WINDOWS and "\\" in item.case):
            raise InputError(f"case {item.case!r} is not a file name; correct the list")
        if item.output in outputs:
            raise InputError(f"two images are case {item.case}; give each a name of its own in a column 'case'")
        outputs.add(item.output)
    real = {output if is_url(output) else str(Path(output).resolve()) for output in outputs}
    for image in (image for item in items for image in item.images):
        if (image if is_url(image) else str(Path(image).resolve())) in real:
            raise InputError(f"{image}: the labels would replace the image; choose another output")


@contextmanager
def _store_errors(location: str, kind: type[Exception] = InputError) -> Iterator[None]:
    """Translate errors of a store's library, which have no common base class, into one line.

    Raises:
        InputError: as raised within.
        Exception: of `kind`, in place of any other.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise kind(f"{location}: cannot be read or written ({reason})") from error
