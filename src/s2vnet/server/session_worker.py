"""One client's session: requested operations, a background thread that computes them, and messages about the results.

An operation only changes the requested history and returns immediately. The session's thread computes it; a newer
operation supersedes the running one after its current slice, so that the slice of the newest prompt is computed first.

More than 400 lines, because one lock guards the whole class.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from s2vnet.errors import CapacityError, InputError, NotFoundError, S2VNetError, describe_calls
from s2vnet.inference.label_writers import output_formats, require_dicom_source, write_result
from s2vnet.inference.model_set import choose_plan
from s2vnet.interactive.history import History, Log
from s2vnet.interactive.session import Session
from s2vnet.io.files import is_portable_nifti, read_geometry
from s2vnet.io.geometry import Geometry, LabelMap, Region, Volume
from s2vnet.server.broadcast import Broadcast, Listener
from s2vnet.server.class_styles import check_style, session_classes
from s2vnet.server.client_watch import POLL_S, ClientWatch
from s2vnet.server.initial_labels import read_initial, write_initial
from s2vnet.server.memory_budget import SessionMemoryBudget
from s2vnet.server.messages import without_folders
from s2vnet.server.model_library import ModelLibrary, ServedModel
from s2vnet.server.operations import apply_operation, check_log
from s2vnet.server.request_queue import RequestQueue
from s2vnet.server.scan_library import read_scan
from s2vnet.server.scheduler import CLICK, ENCODING, Scheduler
from s2vnet.server.schemas import ClassStyle, Operation, Scan, State
from s2vnet.server.session_record import SessionRecord, image_digest
from s2vnet.utils.memory import is_out_of_memory

Result = TypeVar("Result")
Orient = Callable[[Path, Callable[[], None]], str]
"""Corrects the grid in a scan's file; called with the file and a function to call meanwhile; returns a warning."""
CACHE_FILE = "cached.safetensors"
MAX_KEYS = 64
"""Number of operations whose keys are kept, so that they have no effect where they are sent again."""
STATE_INTERVAL_S = 0.25
"""Shortest interval between two states that report progress."""
_log = logging.getLogger(__name__)


class _Superseded(Exception):
    """A newer operation was requested, or the session was closed or suspended."""


class SessionWorker:
    """A session and its background thread. Thread-safe."""

    def __init__(
        self,
        name: str,
        scan: Scan,
        path: Path,
        folder: Path,
        model: ServedModel,
        scheduler: Scheduler,
        memory: SessionMemoryBudget,
        max_voxels: int,
    ) -> None:
        self.name, self.scan, self.path, self.folder, self.model = name, scan, path, folder, model
        self.last_used = time.monotonic()
        """Monotonic time of the client's last request, seconds."""
        self.label_queue, self.image_queue = RequestQueue(), RequestQueue()
        """Queues of requests for labels, and for the image, which is available earlier."""
        self.revision = self.shown_revision = 0
        self.changed = time.time()
        """Unix time of the last operation, seconds."""
        self.orient: Orient | None = None
        """Correction of the scan's grid that is still to be made, before the scan is read for the first time."""
        self.warnings: tuple[str, ...] = ()
        """What the user has to know of the scan beside what its session says."""
        self.reopened = False
        """Whether this session replaces one that failed."""
        self.refuse_other_modality = False
        """Whether a scan is refused whose modality contradicts the model."""
        self._scheduler, self._memory, self._max_voxels = scheduler, memory, max_voxels
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._broadcast = Broadcast(self._lock)
        self._requested = History()
        self._session: Session | None = None
        self._geometry: Geometry | None = None
        self._image_digest: str | None = None
        """Digest of the image that the prompts refer to; None until the scan has been read."""
        self._error: str | None = None
        self._rejection: str | None = None
        """Why the last prompts were rejected; kept until the next operation."""
        self._unreported_rejection: str | None = None
        """The same; kept until a request for the labels has reported it."""
        self._styles: Mapping[int, ClassStyle] = {}
        """Names and colours that the user chose, by label value."""
        self._taken: tuple[str, ...] = ()
        """Keys of the last operations, at most `MAX_KEYS`."""
        self._progress = 0.0
        self._expected_nbytes = 0
        """Bytes in memory once the image is encoded."""
        self._busy = self._closed = False
        self._suspended = False
        """Whether the scan is not opened before the next request."""

    @classmethod
    def from_record(
        cls,
        folder: Path,
        find: Callable[[SessionRecord], tuple[Scan, Path]],
        models: ModelLibrary,
        scheduler: Scheduler,
        memory: SessionMemoryBudget,
        max_voxels: int,
    ) -> SessionWorker:
        """Restore a session from its folder, without opening its scan, which `find` finds by the record.

        Raises:
            InputError: the record or the scan is missing, or the server does not have the session's model.
        """
        record = SessionRecord.read(folder)
        scan, path = find(record)
        model = models.by_hash(record.model_sha256)
        if model is None:
            named = f"{record.model} ({record.model_sha256:.12})" if record.model else f"{record.model_sha256:.12}"
            served = ", ".join(models.names)
            raise InputError(f"the session is of another model, {named}, than {served}; open the scan again")
        worker = cls(folder.name, scan, path, folder, model, scheduler, memory, max_voxels)
        worker._requested, worker.revision, worker._image_digest = record.history, record.revision, record.image
        worker.warnings, worker.changed = record.warnings, record.changed or worker.changed
        worker._taken, worker._styles = record.taken, record.styles
        return worker

    @property
    def busy(self) -> bool:
        """Whether the session's thread, or a request, is computing."""
        return self._busy

    @property
    def failed(self) -> bool:
        """Whether the session has failed and accepts no operations."""
        return self._error is not None

    @property
    def failed_after_opening(self) -> bool:
        """Whether the session failed after its scan had been opened."""
        return self.failed and self._session is not None

    @property
    def closed(self) -> bool:
        """Whether the session has been closed."""
        return self._closed

    @property
    def has_listeners(self) -> bool:
        """Whether any client is connected to the live stream."""
        return self._broadcast.has_listeners

    @property
    def nbytes(self) -> int:
        """Bytes in memory: the session, and the labels as they were last sent."""
        session = self._session
        return self._broadcast.nbytes + (0 if session is None else session.nbytes)

    @property
    def offloaded_nbytes(self) -> int:
        """Additional bytes once offloaded features are loaded again, or the image has been encoded."""
        return self._expected_nbytes if self._session is None else self._session.offloaded_nbytes

    @property
    def log(self) -> Log:
        """Requested log, whether or not it has been computed."""
        return self._requested.log

    def start(self) -> None:
        """Start the background thread, unless it runs already."""
        with self._lock:
            self._suspended = False
            if not self._busy and not self._closed and self._error is None:
                self._busy = True
                threading.Thread(target=self._run, name=f"session {self.name[:8]}", daemon=True).start()

    def suspend(self) -> None:
        """Stop opening the scan until the next request, unless other clients are connected to the live stream."""
        with self._lock:
            self._suspended = self._session is None and not self.has_listeners

    def apply(self, operation: Operation) -> State:
        """Request an operation, which is computed in the background.

        Undo and redo without a target have no effect, nor does an operation with the key of one of the last
        `MAX_KEYS`.

        Raises:
            InputError: a prompt outside the volume, an unknown class, no such index in the log; or the session failed
                or was closed.
        """
        return self._request(lambda: apply_operation(self._requested, operation), operation.key)

    def set_style(self, class_id: int, style: ClassStyle) -> State:
        """Name and colour a class. Raises InputError for an unknown class, or a name that is empty or taken."""
        with self._lock:
            self._require_open()
            check_style(class_id, style, self.state().classes)
            styles = {**self._styles, class_id: style}
            dataclasses.replace(self._record(self._requested, self.revision), styles=styles).write(self.folder)
            self._styles = styles
            return self._send_state()

    def start_from(self, labels: LabelMap, log: Log) -> None:
        """Start from labels and a log instead of the automatic result; to be called before the session is started."""
        write_initial(self.folder, labels)
        self._requested = History(log)
        self.write_record()

    @property
    def geometry(self) -> Geometry:
        """Grid of the image. Raises CapacityError until the image has been read."""
        if self._geometry is None:
            raise CapacityError("the scan is still being read; try again in a while")
        return self._geometry

    def replace_log(self, entries: Log) -> State:
        """Request another log with an empty history. Raises InputError as :meth:`apply`."""
        return self._request(lambda: self._requested if entries == self._requested.log else History(entries))

    def _request(self, change: Callable[[], History], key: str | None = None) -> State:
        with self._lock:
            self.last_used = time.monotonic()
            self._require_open()
            repeated = key in self._taken
            taken = self._taken if key is None or repeated else (*self._taken, key)[-MAX_KEYS:]
            requested = self._requested if repeated else change()
            if requested is not self._requested:
                self._check(requested.log)
                record = self._record(requested, self.revision + 1)
                changed = time.time()
                dataclasses.replace(record, changed=changed, taken=taken).write(self.folder)
                self._requested, self._rejection, self.changed = requested, None, changed
                self.revision += 1
                self.start()
            self._taken = taken
            return self._send_state()

    def _check(self, log: Log) -> None:
        check_log(log, self.model.classes)
        if self._session is not None:
            self._session.check(log)

    def _require_open(self) -> None:
        if self._error is not None:
            raise InputError(self._error)
        if self._closed:
            raise NotFoundError("no such session; open the scan again")

    def read_image(self) -> Volume:
        """Read the image. Raises InputError when its file is not readable, or has more voxels than the server opens."""
        return read_scan(self.path, self.model.channels, self._max_voxels)

    def plain_file(self) -> Path | None:
        """Return the image's own file if the image has been read and other readers read the file in the same way."""
        return self.path if self._geometry is not None and is_portable_nifti(self.path) else None

    def state(self) -> State:
        """Return the current state."""
        with self._lock:
            session, geometry = self._session, self._geometry
            ready = session is not None and session.history is self._requested
            return State(
                session=self.name,
                image=self.scan,
                model=self.model.name,
                shape=None if geometry is None else geometry.shape,
                affine=None if geometry is None else tuple(tuple(row) for row in geometry.affine.tolist()),
                plane=None if session is None else session.plane,
                status=self._status(ready),
                error=self._error,
                progress=self._progress,
                revision=self.revision,
                shown=self.shown_revision,
                entries=self._requested.log,
                can_undo=bool(self._requested.past),
                can_redo=bool(self._requested.undone),
                notes=self._notes(session) if ready and session is not None else (),
                unlike=() if session is None else (*self.warnings, *session.training_differences),
                formats=output_formats(self.path),
                classes=session_classes(self.model.classes, self._requested.log, self._styles),
                taken=self._taken,
                viewers=self._broadcast.num_listeners,
            )

    def _status(self, ready: bool) -> Literal["opening", "working", "ready", "failed"]:
        if self._error is not None:
            return "failed"
        if self._session is None:
            return "opening"
        return "ready" if ready else "working"

    def _notes(self, session: Session) -> tuple[str, ...]:
        return (*session.geometry.notes, *session.notes, *(() if self._rejection is None else (self._rejection,)))

    def abandon(self) -> bool:
        """Give up requested operations that are not computed yet; False where the scan is still being opened.

        Nothing is given up while other clients are connected to the live stream.
        """
        with self._lock:
            if self._session is None:
                return False
            if self._requested is not self._session.history and not self.has_listeners:
                self._requested = self._session.history
                self._try_write()
            return True

    def wait_ready(self, timeout: float | None = None, client: ClientWatch | None = None) -> Session:
        """Return the session once all requested operations are computed. Raises InputError as :meth:`when_ready`."""
        return self.when_ready(lambda session: session, timeout, client)

    def when_ready(
        self, function: Callable[[Session], Result], timeout: float | None = None, client: ClientWatch | None = None
    ) -> Result:
        """Call a function with the session once all requested operations are computed, and return its result.

        The function has exclusive access to the session, active memory and the scheduler's lock.

        Raises:
            InputError: the scan could not be opened, the session was closed, or prompts were rejected, which is
                reported once.
            CapacityError: the timeout (seconds) is exceeded.
            ClientGone: the client that waits has left.
        """
        with self._idle:
            self.start()
            idle = self._wait_idle(timeout, client)
            self._require_open()
            if not idle or self._session is None:
                raise CapacityError("the session is still computing; ask again in a while")
            if self._unreported_rejection is not None:
                reason, self._unreported_rejection = self._unreported_rejection, None
                raise InputError(reason)
            self._busy, session = True, self._session
        try:
            with self._memory.reserve(self), self._scheduler.acquire(CLICK):
                return function(session)
        finally:
            with self._idle:
                self.last_used, self._busy = time.monotonic(), False
                self._idle.notify_all()
                if self._requested is not session.history:
                    self.start()

    def _wait_idle(self, timeout: float | None, client: ClientWatch | None) -> bool:
        """Wait until nothing is computed, or the session is closed; False after the timeout."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if client is not None:
                client.require()
                left = POLL_S if left is None else min(left, POLL_S)
            if self._idle.wait_for(lambda: not self._busy or self._closed, left):
                return True
            if client is None or (end is not None and time.monotonic() >= end):
                return False

    def save(self, path: Path, timeout: float | None = None, client: ClientWatch | None = None) -> None:
        """Write the up-to-date labels in the format of the path's ending.

        Raises:
            InputError: as :meth:`when_ready`, or the format requires a DICOM series.
        """
        require_dicom_source(path, self.path)
        labels, corrected = self.when_ready(lambda session: (session.result, bool(session.log)), timeout, client)
        classes = self.state().classes
        names, colors = {each.id: each.name for each in classes}, {each.id: each.color for each in classes}
        try:
            write_result(path, labels, names, self.path, corrected=corrected, colors=colors)
        except InputError as error:
            raise InputError(self.public_message(error)) from error

    @contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        """Send a listener the state, all labels, and then every change until the context ends."""
        with self._broadcast.listen(listener, self.state, lambda: not self._busy):
            self._tell_others()
            yield
        self._tell_others()

    def _tell_others(self) -> None:
        """Send the number of listeners to those there are."""
        with self._lock:
            if self._broadcast.num_listeners > 0:
                self._send_state()

    def offload(self) -> None:
        """Move cached features to the disk; only while the session is not active in the memory budget.

        Raises:
            InputError: they cannot be written.
        """
        with self._lock:
            if self._closed or self._session is None:
                return
            try:
                self._session.offload(self.folder / CACHE_FILE)
            except InputError as error:
                raise InputError(self.public_message(error)) from error

    def close(self) -> None:
        """Stop the session; its record stays on the disk."""
        with self._lock:
            self._closed = True
            self._idle.notify_all()
            self._broadcast.send_problem("the session was closed; open the scan again")

    def write_record(self) -> None:
        """Write the record of a new session. Raises InputError when the system refuses to."""
        self._record(self._requested, 0).write(self.folder)

    def _record(self, history: History, revision: int) -> SessionRecord:
        return SessionRecord(
            self.scan,
            self.model.name,
            self.model.sha256,
            self._image_digest,
            revision,
            history,
            self.warnings,
            str(self.path.resolve()),
            self.changed,
            self._taken,
            self._styles,
        )

    def _run(self) -> None:
        """Body of the background thread: compute until all requested operations are done."""
        try:
            if self._session is None:
                self._open()
            while self._compute_requested():
                pass
        except _Superseded:
            with self._idle:
                self._busy = False
                self._idle.notify_all()
                if not self._closed and not self._suspended:  # requested again meanwhile
                    self.start()
        except Exception as error:
            if isinstance(error, S2VNetError) or is_out_of_memory(error):
                self._fail(self.public_message(error))
                return
            _log.error("session %s failed\n%s", self.name[:8], describe_calls(error))
            self._fail("the server failed at this scan; its log says why")

    def _open(self) -> None:
        """Read and encode the scan, and compute the automatic result."""
        progress = self._progress_callback()
        segmenter, needed = self.model.segmenter, 0
        with suppress(S2VNetError):  # reading the image reports what is wrong
            geometry = read_geometry(self.path)
            self._expected_nbytes = segmenter.session_nbytes(geometry)
            needed = segmenter.opening_nbytes(geometry)
        self._memory.require(needed)
        # also read inside, so that sessions that wait hold no volume in memory
        with self._memory.reserve_for_opening(self), self._scheduler.acquire(ENCODING):
            self._require_wanted()
            if self.orient is not None:
                self.warnings, self.orient = (self.orient(self.path, self._pause_opening),), None
                _log.warning("session %s: %s", self.name[:8], *self.warnings)
            volume = self._read_same_image()
            if self.refuse_other_modality:
                choose_plan([segmenter.plan], volume, self.path)
            initial = read_initial(self.folder, volume.geometry)
            session = Session(segmenter, volume, progress, self._send_labels, initial=initial)
        session.volume = None  # can be read again from the file
        with self._lock:
            self._session, self._progress = session, 1.0
            fitting = session.valid_entries(self._requested.log)
            if fitting != self._requested.log:  # requested before the scan's size was known
                self._reject("some prompts lay outside of the scan and were left out", History(fitting))
            if self._requested == History():
                self._requested, revision = session.history, self.revision
            else:
                revision = 0
        self._complete(session, revision)
        self._memory.offload_idle()

    def _progress_callback(self) -> Callable[[int, int], None]:
        last_sent = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal last_sent
            self._progress = done / total
            if time.monotonic() - last_sent > STATE_INTERVAL_S:
                last_sent = time.monotonic()
                self._send_state()
            self._pause_opening()

        return progress

    def _pause_opening(self) -> None:
        """Let clicks run first; scans are encoded one after the other, since each takes its memory."""
        self._require_wanted()
        self._scheduler.yield_to(CLICK)

    def _require_wanted(self) -> None:
        if self._closed or self._suspended:
            raise _Superseded

    def _read_same_image(self) -> Volume:
        """Read the image. Raises InputError when it has changed since the session was opened."""
        volume = self.read_image()
        digest = image_digest(volume)
        if self._image_digest not in (None, digest):
            raise InputError("the scan has changed; open it again")
        with self._lock:
            if self._image_digest is None:
                self._image_digest = digest
                self._try_write()
            self._geometry = volume.geometry
            self._broadcast.set_shape(volume.geometry.shape)
        self._send_state()
        return volume

    def _compute_requested(self) -> bool:
        """Compute the requested history; False if it has been computed already."""
        session = self._session
        assert session is not None
        with self._idle:
            requested, revision = self._requested, self.revision
            if session.history is requested or self._closed:
                self._busy = False
                self._idle.notify_all()
                return False

        def pause() -> None:
            if self._requested is not requested or self._closed:
                raise _Superseded
            self._scheduler.yield_to(CLICK)

        with self._memory.reserve(self), self._scheduler.acquire(CLICK):
            try:
                session.apply(requested, self._send_labels, pause)
            except _Superseded:
                return True
            except Exception as error:
                self._handle_prompt_error(error, session, requested)
        self._complete(session, revision)
        return True

    def _handle_prompt_error(self, error: Exception, session: Session, requested: History) -> None:
        """Reject prompts that cannot be computed; raise the error again if the session cannot continue."""
        reason = self.public_message(error)
        if not isinstance(error, S2VNetError) and not is_out_of_memory(error):
            if not isinstance(error, RuntimeError):
                raise error
            _log.error("session %s failed at a prompt\n%s", self.name[:8], describe_calls(error))
            reason = "the server failed at these prompts; its log says why"
        with self._lock:
            if self._requested is requested:
                self._reject(reason, session.history)
            else:
                self._broadcast.send_problem(reason)

    def _complete(self, session: Session, revision: int) -> None:
        """Send the final labels and state of a computed history."""
        self.shown_revision, self.last_used = revision, time.monotonic()
        if (region := self._broadcast.unsent_region(session.labels)) is not None:
            self._send_labels(region, session.labels[region], final=True)
        self._send_state()

    def _send_labels(self, region: Region, labels: npt.NDArray[np.uint8], final: bool = False) -> None:
        with self._lock:
            self._broadcast.send_labels(region, labels, self.revision, final)

    def _send_state(self) -> State:
        """Send the state; computed and sent under one lock, so that states are sent in order."""
        with self._lock:
            state = self.state()
            self._broadcast.send(state.model_dump_json())
        return state

    def _reject(self, reason: str, accepted: History) -> None:
        """Continue without prompts that cannot be computed, also after a restart."""
        self._requested, self._rejection, self._unreported_rejection = accepted, reason, reason
        self._broadcast.send_problem(reason)
        self._try_write()

    def _try_write(self) -> None:
        """Write the record, unless the session is closed. A failure is only logged, since no request waits for it."""
        try:
            if not self._closed:
                self._record(self._requested, self.revision).write(self.folder)
        except InputError as error:
            _log.warning("session %s keeps its older record: %s", self.name[:8], self.public_message(error))

    def public_message(self, error: Exception) -> str:
        """Return an error's message without the server's folders."""
        out_of_memory = is_out_of_memory(error) and not isinstance(error, S2VNetError)
        text = "not enough memory for this; crop the scan" if out_of_memory else str(error)
        text = text.replace(str(self.path), self.scan.name).replace(str(self.folder), "the session")
        return without_folders(text, (self.folder.parents[1], self.path.parent))

    def _fail(self, reason: str) -> None:
        with self._idle:
            self._error, self._busy = reason, False
            self._idle.notify_all()
        self._send_state()
