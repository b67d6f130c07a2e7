"""One client's session: what it has asked for, what has been worked out of that, and who is told.

Asking costs nothing and is answered at once; a thread works, and begins anew when something newer is asked for. So
the newest prompt's slice comes first, and work that nobody needs any more ends with the slice that it is at.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from s2vnet.errors import InputError, S2VNetError
from s2vnet.inference.label_writers import output_formats, require_dicom_source, write_result
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.history import History, Log
from s2vnet.interactive.session import Session, num_prompt_voxels
from s2vnet.interactive.voxelize import is_box
from s2vnet.io.dicom.zip_archive import open_series_folder
from s2vnet.io.files import count_voxels, is_portable_nifti, read_geometry, read_image
from s2vnet.io.geometry import Geometry, Region, Volume
from s2vnet.prompts import Entry
from s2vnet.server.memory_budget import SessionMemoryBudget
from s2vnet.server.request_queue import RequestQueue
from s2vnet.server.scheduler import CLICK, ENCODING, Scheduler
from s2vnet.server.schemas import Add, Block, Problem, Remove, Replace, Scan, State, Step, pack_block
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.components import bounding_box
from s2vnet.utils.json_io import read_json
from s2vnet.utils.memory import is_out_of_memory

Operation = Add | Remove | Step | Replace
Listener = Callable[[str | bytes], None]
"""Takes a message, JSON or a block; never waits."""
Result = TypeVar("Result")
MOST_VOXELS = 2**25
"""Of all prompts of a session together; of a box around a class, two corners."""
RECORD = "session.json"
CACHED = "cached.safetensors"
RECORD_FORMAT = 1
_entries: TypeAdapter[tuple[Entry, ...]] = TypeAdapter(tuple[Entry, ...])
_log = logging.getLogger(__name__)


class _Stale(Exception):
    """Something newer is wanted, or nobody wants anything any more."""


class SessionWorker:
    """A session that a client holds. Safe to call from any thread."""

    def __init__(
        self,
        name: str,
        scan: Scan,
        path: Path,
        folder: Path,
        segmenter: Segmenter,
        turns: Scheduler,
        room: SessionMemoryBudget,
        max_voxels: int,
    ) -> None:
        self.name, self.scan, self.folder = name, scan, folder
        self.asked = time.monotonic()
        """When its client last said something."""
        self.line, self.image_line = RequestQueue(), RequestQueue()
        """Where requests wait for labels, and for the image, which is there earlier."""
        self.revision = self.shown = 0
        self.anew = False
        """Whether it is there in place of one that failed."""
        self.path = path
        self._segmenter, self._turns, self._room, self._max_voxels = segmenter, turns, room, max_voxels
        self._lock = threading.RLock()
        self._done = threading.Condition(self._lock)
        self._wanted = History()
        self._session: Session | None = None
        self._geometry: Geometry | None = None
        self._sent: npt.NDArray[np.uint8] | None = None
        self._image: str | None = None
        """What tells its image from another of the same name, once that has been opened."""
        self._error: str | None = None
        self._lost: str | None = None
        """Why the last prompts were left out; until the next operation."""
        self._unsaid: str | None = None
        """The same, until somebody who waited for them has been told."""
        self._progress = 0.0
        self._expected = 0
        """Memory in bytes that it will take."""
        self._working = self._closed = False
        self._listeners: list[Listener] = []

    @classmethod
    def of_record(
        cls,
        folder: Path,
        find: Callable[[str], Path],
        segmenter: Segmenter,
        turns: Scheduler,
        room: SessionMemoryBudget,
        max_voxels: int,
    ) -> SessionWorker:
        """A session as it was when this or an earlier server last wrote it down; it still has to be opened.

        Raises:
            InputError: its record or its scan is not there any more, or it is of another model.
        """
        try:
            record = read_json(folder / RECORD)
            if record["format"] != RECORD_FORMAT:
                raise ValueError(f"format {record['format']}")
            entries = _entries.validate_python(record["entries"])
            logs = {key: tuple(tuple(entries[n] for n in log) for log in record[key]) for key in ("past", "undone")}
            history = History(tuple(entries[n] for n in record["log"]), logs["past"], logs["undone"])
            scan, sha256, revision, image = (
                Scan.model_validate(record["scan"]),
                record["model_sha256"],
                int(record["revision"]),
                record.get("image"),
            )
        except (OSError, OverflowError, ValueError, KeyError, TypeError, IndexError, ValidationError) as error:
            raise InputError("no such session; open the scan again") from error
        held = cls(folder.name, scan, find(scan.id), folder, segmenter, turns, room, max_voxels)
        if sha256 != held._segmenter.sha256:
            raise InputError(f"the session is of another model ({sha256:.12}); open the scan again")
        held._wanted, held.revision, held._image = history, revision, image
        return held

    @property
    def busy(self) -> bool:
        """Whether something is being worked out."""
        return self._working

    @property
    def failed(self) -> bool:
        """Whether it takes nothing any more."""
        return self._error is not None

    @property
    def failed_at_work(self) -> bool:
        """Whether it failed after its scan had been opened."""
        return self.failed and self._session is not None

    @property
    def nbytes(self) -> int:
        """Memory in bytes of what is kept of it: the session, and the labels as they were last told."""
        session, sent = self._session, self._sent
        return (0 if sent is None else sent.nbytes) + (0 if session is None else session.nbytes)

    @property
    def offloaded_nbytes(self) -> int:
        """Memory in bytes that it takes besides when what was put away comes back, or when it is encoded."""
        return self._expected if self._session is None else self._session.offloaded_nbytes

    @property
    def closed(self) -> bool:
        """Whether nobody needs it any more."""
        return self._closed

    def start(self) -> None:
        """Work on whatever is wanted, if nothing does so yet."""
        with self._lock:
            if not self._working and not self._closed and self._error is None:
                self._working = True
                threading.Thread(target=self._work, name=f"session {self.name[:8]}", daemon=True).start()

    def ask(self, operation: Operation) -> State:
        """Take an operation; what it gives comes later. An undo with nothing to undo is none.

        Raises:
            InputError: a prompt outside of the volume, of an unknown class, or of no number in the log; or the scan
                could not be opened.
        """
        return self._want(lambda: self._after(operation))

    def begin(self, entries: Log) -> State:
        """Another log, with nothing before it to go back to. Raises InputError as :meth:`ask`."""
        return self._want(lambda: self._wanted if entries == self._wanted.log else History(entries))

    def _want(self, change: Callable[[], History]) -> State:
        with self._lock:
            self.asked = time.monotonic()
            self._require_open()
            wanted = change()
            if wanted is not self._wanted:
                self._check(wanted.log)
                self.write(wanted, self.revision + 1)
                self._wanted, self._lost = wanted, None
                self.revision += 1
                self.start()
            return self._tell_state()

    def _check(self, log: Log) -> None:
        """What can be told of prompts so far; their place only once the scan is open."""
        if sum(2 if is_box(entry) else num_prompt_voxels(entry) for entry in log) > MOST_VOXELS:
            raise InputError(f"prompts of more than {MOST_VOXELS} voxels together; draw smaller ones")
        unknown = {entry.class_id for entry in log} - set(self._segmenter.class_names)
        if unknown:
            raise InputError(f"no class {min(unknown)}; the model knows 0 to {max(self._segmenter.class_names)}")
        if self._session is not None:
            self._session.check(*log)

    def _require_open(self) -> None:
        if self._error is not None:
            raise InputError(self._error)
        if self._closed:
            raise InputError("no such session; open the scan again")

    def read(self) -> Volume:
        """The image. Raises InputError when its file is not readable, or has more voxels than the server opens."""
        return read_scan(self.path, len(self._segmenter.plan.channels), self._max_voxels)

    def file(self) -> Path | None:
        """The image's own file, if it has been read and says to everybody what :meth:`read` gives."""
        return self.path if self._geometry is not None and is_portable_nifti(self.path) else None

    def state(self) -> State:
        """How it stands now."""
        with self._lock:
            session, geometry = self._session, self._geometry
            ready = session is not None and session.history is self._wanted
            status: Literal["opening", "working", "ready", "failed"] = "working"
            if self._error is not None:
                status = "failed"
            elif session is None:
                status = "opening"
            elif ready:
                status = "ready"
            return State(
                session=self.name,
                image=self.scan,
                shape=None if geometry is None else geometry.shape,
                affine=None if geometry is None else tuple(tuple(row) for row in geometry.affine.tolist()),
                plane=None if session is None else session.plane,
                status=status,
                error=self._error,
                progress=self._progress,
                revision=self.revision,
                shown=self.shown,
                entries=self._wanted.log,
                can_undo=bool(self._wanted.past),
                can_redo=bool(self._wanted.undone),
                notes=self._notes(session) if ready and session is not None else (),
                unlike=() if session is None else tuple(session.training_differences),
                formats=output_formats(self.path),
            )

    def _notes(self, session: Session) -> tuple[str, ...]:
        return (*session.notes, *(() if self._lost is None else (self._lost,)))

    def wait(self, timeout: float | None = None) -> Session:
        """The session once everything asked for has been worked out.

        Raises:
            InputError: as :meth:`use`.
        """
        return self.use(lambda session: session, timeout)

    def use(self, call: Callable[[Session], Result], timeout: float | None = None) -> Result:
        """What a call of the session gives, once everything asked for has been worked out, and with nobody else at it.

        Raises:
            InputError: the scan could not be opened, the session was closed, the time is over, or prompts were left
                out; the last is said once.
        """
        with self._done:
            self.start()
            done = self._done.wait_for(lambda: not self._working or self._closed, timeout)
            self._require_open()
            if not done or self._session is None:
                raise InputError("the session is still at work; ask again")
            if self._unsaid is not None:
                why, self._unsaid = self._unsaid, None
                raise InputError(why)
            self._working, session = True, self._session
        try:
            with self._room.place(self), self._turns.turn(CLICK):
                return call(session)
        finally:
            with self._done:
                self.asked, self._working = time.monotonic(), False
                self._done.notify_all()
                if self._wanted is not session.history:
                    self.start()

    def save(self, path: Path, timeout: float | None = None) -> None:
        """Write the labels of everything asked for in the format that the path ends with.

        Raises:
            InputError: as :meth:`use`, or a series that the format cannot refer to.
        """
        require_dicom_source(path, self.path)
        found, corrected = self.use(lambda session: (session.result, bool(session.log)), timeout)
        try:
            write_result(path, found, self._segmenter.class_names, self.path, corrected=corrected)
        except InputError as error:
            raise InputError(self.in_words(error)) from error

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Tell a listener how it stands, all labels that there are, and then every change, until the block ends."""
        with self._lock:
            listener(self.state().model_dump_json())
            if self._sent is not None:
                listener(self._block(self._sent, (0, 0, 0), final=not self._working))
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    @property
    def heard(self) -> bool:
        """Whether somebody listens."""
        return bool(self._listeners)

    def offload(self) -> None:
        """Move what is cached to the disk; only while it has no place in the room.

        Raises:
            InputError: the system refuses to.
        """
        with self._lock:
            if self._closed or self._session is None:
                return
            try:
                self._session.offload(self.folder / CACHED)
            except InputError as error:
                raise InputError(self.in_words(error)) from error

    def close(self) -> None:
        """End its work; its record stays."""
        with self._lock:
            self._closed = True
            self._done.notify_all()
            self._tell_problem("the session was closed; open the scan again")

    def write(self, history: History | None = None, revision: int = 0) -> None:
        """Write down what makes it: scan, model and history. Raises InputError when the system refuses to."""
        wanted = history or self._wanted
        number: dict[int, int] = {}  # logs share their entries, and comparing large ones takes long
        entries: list[Entry] = []
        logs = {"log": [wanted.log], "past": wanted.past, "undone": wanted.undone}
        for log in (log for group in logs.values() for log in group):
            for entry in log:
                if id(entry) not in number:
                    number[id(entry)] = len(entries)
                    entries.append(entry)
        places = {key: [[number[id(e)] for e in log] for log in logs[key]] for key in logs}
        record = {
            "format": RECORD_FORMAT,
            "scan": self.scan.model_dump(),
            "model_sha256": self._segmenter.sha256,
            "image": self._image,
            "revision": revision,
            "entries": _entries.dump_python(tuple(entries), mode="json"),
            **places,
            "log": places["log"][0],
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the session cannot be written down ({error.strerror}); tell who runs the server"
            ) from error
        with atomic_write(self.folder / RECORD) as temporary:
            temporary.write_text(json.dumps(record))

    def _after(self, operation: Operation) -> History:
        if isinstance(operation, Add):
            return self._wanted.add(*operation.entries)
        if isinstance(operation, Remove):
            return self._wanted.remove(operation.index)
        if isinstance(operation, Replace):
            same = operation.entries == self._wanted.log
            return self._wanted if same else self._wanted.push(operation.entries)
        if operation.op == "reset":
            return self._wanted.push(()) if self._wanted.log else self._wanted
        return self._wanted.undo() if operation.op == "undo" else self._wanted.redo()

    def _work(self) -> None:
        """Until nothing is left that was asked for."""
        try:
            if self._session is None:
                self._open()
            while self._next():
                pass
        except _Stale:
            with self._done:
                self._working = False
                self._done.notify_all()
        except Exception as error:
            if isinstance(error, S2VNetError) or is_out_of_memory(error):
                self._fail(self.in_words(error))
                return
            _log.exception("session %s failed", self.name[:8])
            self._fail("the server failed at this scan; its log says why")

    def _open(self) -> None:
        told = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told
            if self._closed:
                raise _Stale
            self._progress = done / total
            if time.monotonic() - told > 0.25:
                told = time.monotonic()
                self._tell_state()
            self._turns.offer(CLICK)  # to clicks alone: one scan after the other, for each takes its memory

        with suppress(S2VNetError):  # reading will say what is wrong
            self._expected = self._segmenter.session_nbytes(read_geometry(self.path))
        # reading too, so that no volume is held that waits
        with self._room.opening(self), self._turns.turn(ENCODING):
            if self._closed:
                raise _Stale
            volume = self.read()
            image = _identity(volume)
            if self._image not in (None, image):
                raise InputError("the scan is another than it was; open it again")
            with self._lock:
                if self._image is None:
                    self._image = image
                    self._rewrite()
                self._geometry = volume.geometry
                self._sent = np.zeros(volume.geometry.shape, np.uint8)
            self._tell_state()
            session = Session(self._segmenter, volume, progress, self._show)
        session.volume = None  # its file has it
        with self._lock:
            self._session, self._progress = session, 1.0
            fitting = session.valid_entries(self._wanted.log)
            if fitting != self._wanted.log:  # they came before the scan's size was known
                self._lose("some prompts lay outside of the scan and were left out", History(fitting))
            if self._wanted == History():
                self._wanted, revision = session.history, self.revision
            else:
                revision = 0
        self._finish(session, revision)
        self._room.tidy()

    def _next(self) -> bool:
        """Work out what is wanted; False when nothing more is."""
        session = self._session
        assert session is not None
        with self._done:
            wanted, revision = self._wanted, self.revision
            if session.history is wanted or self._closed:
                self._working = False
                self._done.notify_all()
                return False

        def pause() -> None:
            if self._wanted is not wanted or self._closed:
                raise _Stale
            self._turns.offer(CLICK)

        with self._room.place(self), self._turns.turn(CLICK):
            try:
                session.apply(wanted, self._show, pause)
            except _Stale:
                return True
            except Exception as error:
                why = self.in_words(error)
                if not isinstance(error, S2VNetError) and not is_out_of_memory(error):
                    if not isinstance(error, RuntimeError):
                        raise
                    _log.exception("session %s failed at a prompt", self.name[:8])
                    why = "the server failed at these prompts; its log says why"
                with self._lock:
                    if self._wanted is wanted:
                        self._lose(why, session.history)
                    else:
                        self._tell_problem(why)
        self._finish(session, revision)
        return True

    def _finish(self, session: Session, revision: int) -> None:
        """Tell what the slices have not told yet."""
        assert self._sent is not None
        self.shown, self.asked = revision, time.monotonic()
        if (region := bounding_box(session.labels != self._sent)) is not None:
            self._show(region, session.labels[region], final=True)
        self._tell_state()

    def _show(self, region: Region, labels: npt.NDArray[np.uint8], final: bool = False) -> None:
        """Tell of labels, if they are others than those told before."""
        assert self._sent is not None
        with self._lock:
            inner = bounding_box(self._sent[region] != labels)
            if inner is None:
                return
            i, j, k = (a.start + b.start for a, b in zip(region, inner, strict=True))
            changed = labels[inner]
            self._sent[region][inner] = changed
            self._tell(self._block(changed, (i, j, k), final))

    def _block(self, labels: npt.NDArray[np.uint8], start: tuple[int, int, int], final: bool) -> bytes:
        i, j, k = labels.shape
        return pack_block(Block(revision=self.revision, start=start, shape=(i, j, k), final=final), labels)

    def _tell(self, message: str | bytes) -> None:
        with self._lock:
            for listener in self._listeners:
                listener(message)

    def _tell_state(self) -> State:
        """Under one lock, so that an older state is never told after a newer one."""
        with self._lock:
            state = self.state()
            self._tell(state.model_dump_json())
        return state

    def _tell_problem(self, why: str) -> None:
        self._tell(Problem(detail=why).model_dump_json())

    def _lose(self, why: str, left: History) -> None:
        """Go on without prompts that cannot be worked out, also after a restart."""
        self._wanted, self._lost, self._unsaid = left, why, why
        self._tell_problem(why)
        self._rewrite()

    def _rewrite(self) -> None:
        """Write down what nobody asked for, so that nobody waits for it; nothing of one that has been closed."""
        try:
            if not self._closed:
                self.write(self._wanted, self.revision)
        except InputError as error:
            _log.warning("session %s keeps its older record: %s", self.name[:8], self.in_words(error))

    def in_words(self, error: Exception) -> str:
        """The error without where files lie here."""
        short = is_out_of_memory(error) and not isinstance(error, S2VNetError)
        text = "not enough memory for this; crop the scan" if short else str(error)
        return text.replace(str(self.path), self.scan.name).replace(str(self.folder), "the session")

    def _fail(self, why: str) -> None:
        with self._done:
            self._error, self._working = why, False
            self._done.notify_all()
        self._tell_state()


def _identity(volume: Volume) -> str:
    """The same for the same image: of its grid, and of so many of its voxels that reading takes longer."""
    found = hashlib.blake2b(digest_size=16)
    for part in (repr(volume.data.shape).encode(), volume.geometry.affine.tobytes()):
        found.update(part)
    found.update(volume.data[:, ::7, ::7, ::3].tobytes())
    return found.hexdigest()


def read_scan(path: Path, channels: int, most: int) -> Volume:
    """An image for a model of so many channels. Raises InputError when it is not readable, or of too many voxels."""
    with open_series_folder(path) as found:  # an archive is unpacked once
        voxels = count_voxels(found)
        if voxels > most:
            raise InputError(f"{voxels} voxels, more than the {most} that this server opens; crop the scan")
        return read_image(found, frames_as_channels=channels > 1)
