"""Messages of a session to its listeners: states, problems, and changed labels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from s2vnet.io.geometry import Region
from s2vnet.prompts import Voxel
from s2vnet.server.schemas import Block, Problem, State, pack_block
from s2vnet.utils.components import bounding_box

Listener = Callable[[str | bytes], None]
"""Receives a message, JSON text or a binary block of labels; must not block."""


class Broadcast:
    """Listeners of a session, and the labels as they were last sent to them. Guarded by the session's lock."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._listeners: list[Listener] = []
        self._labels: npt.NDArray[np.uint8] | None = None
        """Labels (I, J, K) as last sent; None until the image's shape is known."""

    @property
    def has_listeners(self) -> bool:
        """Whether there are any listeners."""
        return bool(self._listeners)

    @property
    def num_listeners(self) -> int:
        """Number of listeners."""
        return len(self._listeners)

    @property
    def nbytes(self) -> int:
        """Bytes in memory of the labels as last sent."""
        return 0 if self._labels is None else self._labels.nbytes

    def set_shape(self, shape: Voxel) -> None:
        """Start with background labels of a shape (I, J, K)."""
        self._labels = np.zeros(shape, np.uint8)

    @contextmanager
    def listen(self, listener: Listener, state: Callable[[], State], final: Callable[[], bool]) -> Iterator[None]:
        """Send a listener the state, all labels, and then every message until the block ends.

        Args:
            listener: receives the messages.
            state: returns the current state.
            final: returns whether the current labels are final.
        """
        with self._lock:
            self._listeners.append(listener)
            first = state()
            listener(first.model_dump_json())
            if self._labels is not None:
                listener(_block(self._labels, (0, 0, 0), first.revision, final()))
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def send(self, message: str | bytes) -> None:
        """Send a message to all listeners."""
        with self._lock:
            for listener in self._listeners:
                listener(message)

    def send_problem(self, detail: str) -> None:
        """Send an error message."""
        self.send(Problem(detail=detail).model_dump_json())

    def send_labels(self, region: Region, labels: npt.NDArray[np.uint8], revision: int, final: bool) -> None:
        """Send the part of the labels of a region (I, J, K) that differs from those last sent."""
        assert self._labels is not None
        with self._lock:
            changed = bounding_box(self._labels[region] != labels)
            if changed is None:
                return
            i, j, k = (a.start + b.start for a, b in zip(region, changed, strict=True))
            self._labels[region][changed] = labels[changed]
            self.send(_block(labels[changed], (i, j, k), revision, final))

    def unsent_region(self, labels: npt.NDArray[np.uint8]) -> Region | None:
        """Return the bounding box of all voxels that differ from the labels as last sent; None if there are none."""
        assert self._labels is not None
        return bounding_box(labels != self._labels)


def _block(labels: npt.NDArray[np.uint8], start: Voxel, revision: int, final: bool) -> bytes:
    i, j, k = labels.shape
    return pack_block(Block(revision=revision, start=start, shape=(i, j, k), final=final), labels)
