"""A server that listens on a port of this machine, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

PATIENCE_S = 60


@contextmanager
def listening(application: Any, **options: Any) -> Iterator[str]:
    """Run an application; its address has no slash at the end.

    Args:
        application: as uvicorn takes it.
        options: of uvicorn, other than the defaults: any free port, and no WebSockets.
    """
    defaults = {"port": 0, "ws": "none", "log_level": "error", "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(application, **(defaults | options)))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
