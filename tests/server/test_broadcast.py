"""Listeners receive the state first, then only what changes."""

from __future__ import annotations

import json
import threading

import numpy as np

from s2vnet.server.broadcast import Broadcast
from s2vnet.server.schemas import Scan, State, unpack_block

SHAPE = (4, 5, 6)
STATE = State(
    model="abdomen-ct",
    session="one", image=Scan(id="a", name="a"), shape=SHAPE, affine=None, plane=None, status="ready", progress=1.0,
    revision=3, shown=3, entries=(), can_undo=False, can_redo=False, notes=(), unlike=(), formats=(),
)  # fmt: skip


def test_a_listener_receives_the_state_all_labels_and_then_changes() -> None:
    broadcast, messages = Broadcast(threading.RLock()), []
    broadcast.set_shape(SHAPE)
    with broadcast.listen(messages.append, lambda: STATE, lambda: True):
        assert broadcast.has_listeners
        labels = np.zeros(SHAPE, np.uint8)
        labels[1:3, 2, 4] = 7
        broadcast.send_labels(np.s_[0:4, 0:5, 3:5], labels[:, :, 3:5], revision=4, final=False)
        broadcast.send_labels(np.s_[0:4, 0:5, 0:6], labels, revision=4, final=True)  # nothing new
        broadcast.send_problem("no such class")
    broadcast.send("not received any more")
    state, first, change, problem = messages
    assert json.loads(state)["session"] == "one"
    header, all_labels = unpack_block(first)  # type: ignore[arg-type]
    assert (header.shape, header.revision, header.final, all_labels.any()) == (SHAPE, 3, True, False)
    header, changed = unpack_block(change)  # type: ignore[arg-type]
    assert (header.start, header.shape, header.revision, header.final) == ((1, 2, 4), (2, 1, 1), 4, False)
    assert (changed == 7).all()
    assert json.loads(problem) == {"type": "problem", "detail": "no such class", "key": None}
    assert not broadcast.has_listeners


def test_the_region_that_was_not_sent_is_known() -> None:
    broadcast = Broadcast(threading.RLock())
    assert broadcast.nbytes == 0
    broadcast.set_shape(SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    assert broadcast.unsent_region(labels) is None
    labels[2, 3, 4] = 1
    assert broadcast.unsent_region(labels) == np.s_[2:3, 3:4, 4:5]
    assert broadcast.nbytes == labels.nbytes
