"""Latency of a click in the browser, and a server under many simultaneous clients.

python -m benchmarks.serving page SCAN -o docs/results/serving-page.json
python -m benchmarks.serving clients SCAN -o docs/results/serving-clients.json --clients 8 --minutes 10
python -m benchmarks.serving protocols SCAN -o docs/results/serving-protocols.json --minutes 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from websockets.sync.client import connect

from benchmarks.measures.environment import processor, provenance, write_result
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_geometry, read_image
from s2vnet.prompts import Entry
from s2vnet.server.schemas import unpack_block

BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
SEED = 0
TIMEOUT_S = 300.0
MEMORY_MB = {"page": 4096, "clients": 3072, "protocols": 4096}
"""Memory limits of the server (``memory_mb``): the default, and one that the scans of many clients exceed."""
MAX_OFFSET = 12
"""Largest distance in plane, in voxels, of a click from the class's own voxels."""
VIEW_MS = 500
"""Pause between showing a slice and clicking on it, so that the browser has drawn it."""
OPERATIONS = {"point": 0.7, "undo": 0.15, "redo": 0.05, "remove": 0.1}
"""Shares of the operations that clients request."""
REQUEST_INTERVAL_S = 2.0
"""Mean of the exponentially distributed interval of a client's requests; many are sent before the previous response."""
OBSERVE_CLICKS = """
() => {
  const { scene } = window.s2vnet, { onDraw, showLabels } = scene;
  window.clicked = null;
  scene.showLabels = (...block) => {
    showLabels.apply(scene, block);
    const c = window.clicked;
    if (c && s2vnet.labelAt(...c.voxel) === c.label) c.arrived ??= performance.now();
  };
  scene.onDraw = () => {
    onDraw();
    const c = window.clicked;
    if (!c) return;
    const here = s2vnet.labelAt(...c.voxel) === c.label;
    if (here && !c.seen) requestAnimationFrame(() => { c.seen ??= performance.now(); });
    if (c.seen && s2vnet.ready && s2vnet.state.revision > c.revision) c.all ??= performance.now();
  };
  document.getElementById("slices").addEventListener("pointerup", (event) => {
    if (window.clicked) window.clicked.start ??= event.timeStamp;
  }, true);
}
"""
OPENING_TIMES = """
async () => {
  const { s2vnet } = window;
  const wait = async (test) => {
    while (!test()) await new Promise((done) => setTimeout(done, 5));
    return performance.now();
  };
  const image = await wait(() => s2vnet.scene?.shape);
  const first = await wait(() => s2vnet.scene?.shape && s2vnet.labels?.some((label) => label));
  const all = await wait(() => s2vnet.ready);
  return { image, first, all };
}
"""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["page", "clients", "protocols"])
    parser.add_argument("scan", type=Path)
    parser.add_argument("-m", "--model", default="abdomen-ct")
    parser.add_argument("--clicks", type=int, default=60, help="in the browser")
    parser.add_argument("--clients", type=int, default=8, help="those of the server's own page, or of nnInteractive")
    parser.add_argument(
        "--monailabel", type=int, default=4, help="clients of MONAI Label, beside those of nnInteractive"
    )
    parser.add_argument("--slices", type=int, default=100, help="of the scans of these clients")
    parser.add_argument("--images", type=int, default=3, help="different scans of these clients")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.memory_mb = MEMORY_MB[arguments.what]
    if arguments.what == "protocols":
        from benchmarks.protocol_clients import protocols

        write_result(arguments.output, protocols(arguments))
        return
    with tempfile.TemporaryDirectory() as state, serving(arguments, Path(state)) as (address, process):
        result = page(arguments, address) if arguments.what == "page" else clients(arguments, address, process)
    shape = read_geometry(arguments.scan).shape
    result |= {
        "shape": shape,
        "seed": SEED,
        **provenance(f"{os.cpu_count()} cores, {processor()}, torch {torch.__version__}", arguments.scan),
    }
    write_result(arguments.output, result)


@contextlib.contextmanager
def serving(arguments: argparse.Namespace, state: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a server in a subprocess; yield its address and the process."""
    command = [sys.executable, "-m", "s2vnet", "serve", "-m", arguments.model, "--data", str(arguments.scan)]
    command += ["--port", "0", "--state", str(state), "-n", f"memory_mb={arguments.memory_mb}"]
    command += ["-n", "requests_per_minute=100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1], process
    finally:
        process.terminate()
        process.wait()


def click_positions(
    labels: npt.NDArray[np.uint8], classes: Sequence[int], count: int
) -> list[tuple[int, tuple[int, ...]]]:
    """Draw clicks near the borders of the predicted classes: a class, and a voxel of another label."""
    rng = np.random.default_rng(SEED)
    clicks: list[tuple[int, tuple[int, ...]]] = []
    present = [k for k in classes if k and np.count_nonzero(labels == k)]
    while len(clicks) < count:
        k = int(rng.choice(present))
        voxels = np.argwhere(labels == k)
        voxel = voxels[rng.integers(len(voxels))] + np.array([*rng.integers(-MAX_OFFSET, MAX_OFFSET + 1, 2), 0])
        voxel = np.clip(voxel, 0, np.array(labels.shape) - 1)
        if labels[tuple(voxel)] != k:
            clicks.append((k, tuple(voxel.tolist())))
    return clicks


def page(arguments: argparse.Namespace, address: str) -> dict[str, Any]:
    """Measure loading, opening and clicking with the page's own clock."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=BROWSER_ARGUMENTS
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 720})
        tab.set_default_timeout(TIMEOUT_S * 1000)
        hosts: set[str] = set()
        received = 0

        def count(event: dict[str, Any]) -> None:
            nonlocal received
            received += event["encodedDataLength"]

        network = tab.context.new_cdp_session(tab)
        network.send("Network.enable")
        network.on("Network.loadingFinished", count)
        tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        tab.goto(address)
        row = tab.get_by_text(arguments.scan.name).first
        row.wait_for()
        loaded = tab.evaluate("() => performance.now()")
        first_load = {"seconds": loaded / 1000, "compressed_mb": received / 1e6}
        start = tab.evaluate("() => performance.now()")
        row.click()
        opened = tab.evaluate(OPENING_TIMES)
        opening = {f"{name}_seconds": (moment - start) / 1000 for name, moment in opened.items()}
        tab.evaluate(OBSERVE_CLICKS)
        labels = np.array(tab.evaluate("() => Array.from(s2vnet.labels)"), np.uint8)
        labels = labels.reshape(tab.evaluate("() => s2vnet.state.shape"))
        by_layout = {}
        for layout in ("planes", "planes3d"):
            tab.select_option("#layout", layout)
            times = [
                click(tab, *position)
                for position in click_positions(labels, range(1, labels.max() + 1), arguments.clicks)
            ]
            by_layout[layout] = {
                "clicked_slice_arrived_ms": spread([one["arrived"] - one["start"] for one in times]),
                "clicked_slice_ms": spread([one["seen"] - one["start"] for one in times]),
                "whole_volume_ms": spread([one["all"] - one["start"] for one in times]),
                "slices_changed": spread([one["changed"] for one in times]),
                "renderer_slow": tab.evaluate("() => s2vnet.scene.slow"),
            }
        browser.close()
    own = address.split("/")[2]
    return {"first_load": first_load, "opening": opening, "clicks": by_layout, "other_hosts": sorted(hosts - {own})}


def click(tab: Any, label: int, voxel: tuple[int, ...]) -> dict[str, float]:
    """Click with the pointer and undo; return when the clicked slice and when the whole volume was updated (ms)."""
    tab.evaluate("voxel => s2vnet.scene.goTo(voxel)", list(voxel))
    tab.evaluate("label => s2vnet.tools.chooseClass(label)", label)
    position = tab.evaluate("voxel => s2vnet.scene.canvasOf(...voxel, 2)", list(voxel))
    box = tab.locator("#slices").bounding_box()
    tab.evaluate(
        "c => { window.clicked = { ...c, before: s2vnet.labels.slice(), revision: s2vnet.state.revision }; }",
        {"voxel": list(voxel), "label": label},
    )
    tab.wait_for_timeout(VIEW_MS)
    tab.mouse.click(box["x"] + position["x"], box["y"] + position["y"])
    tab.wait_for_function("() => window.clicked.all", polling=20)
    times: dict[str, float] = tab.evaluate(
        """() => {
          const { before, arrived, seen, all, start } = window.clicked, nk = s2vnet.state.shape[2];
          const changed = new Set();
          before.forEach((label, at) => { if (label !== s2vnet.labels[at]) changed.add(at % nk); });
          window.clicked = null;
          return { arrived, seen, all, start, changed: changed.size };
        }"""
    )
    tab.evaluate("() => { window.undone = s2vnet.state.revision; }")
    tab.keyboard.press("Control+z")
    tab.wait_for_function("() => s2vnet.ready && s2vnet.state.revision > window.undone", polling=20)
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and count."""
    if not len(values):
        return {"count": 0}
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95)), "count": len(values)}


class Client(threading.Thread):
    """Client that sends random requests without waiting for responses, and applies every update that it receives."""

    def __init__(self, number: int, address: str, scan: str, until: float, classes: int) -> None:
        super().__init__()
        self.address, self.scan, self.until = address, scan, until
        self.errors: list[str] = []
        self.first_ms: list[float] = []
        """Milliseconds from a request to the first labels that include it, or to the message that it changes none."""
        self.all_ms: list[float] = []
        """Milliseconds from a request to all labels, for requests that were not superseded."""
        self.requests = 0
        self.entries: list[Any] = []
        self.labels: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._random, self._classes = random.Random(SEED + number), classes

    def run(self) -> None:
        """Open a session, send requests until the time is over, and wait for the last response."""
        try:
            self._work()
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _work(self) -> None:
        state = fetch_json(f"{self.address}api/sessions", {"image": self.scan})
        url = f"{self.address.replace('http', 'ws', 1)}api/sessions/{state['session']}/live"
        with connect(url, max_size=None, open_timeout=TIMEOUT_S, ping_interval=None) as socket:
            sent: dict[int, float] = {}
            next_request = time.monotonic()
            while True:
                now, ready = time.monotonic(), state["status"] == "ready"
                if state["status"] == "failed":
                    raise RuntimeError(state["error"])
                if now > self.until and ready and not sent:
                    break
                if state["shape"] and now >= next_request and now < self.until and state["progress"] == 1:
                    socket.send(json.dumps(self._request(state)))
                    self.requests += 1
                    next_request = now + self._random.expovariate(1 / REQUEST_INTERVAL_S)
                    sent.setdefault(state["revision"] + 1, now)
                try:
                    message = socket.recv(timeout=max(0.01, min(1.0, next_request - now)))
                except TimeoutError:
                    continue
                if isinstance(message, bytes):
                    revision = self._apply(message)
                    for number in [n for n, moment in sent.items() if n <= revision and moment > 0]:
                        self.first_ms.append(1000 * (time.monotonic() - sent[number]))
                        sent[number] = -sent[number]  # computed in part
                    continue
                update = json.loads(message)
                if update["type"] == "problem":
                    raise RuntimeError(update["detail"])
                if (update["revision"], update["shown"]) < (state["revision"], state["shown"]):
                    continue
                state = update
                if state["shape"] and not self.labels.size:
                    self.labels = np.zeros(state["shape"], np.uint8)
                self.entries = state["entries"]
                if state["status"] == "ready" and state["shown"] == state["revision"]:
                    for n, moment in sent.items():
                        elapsed = 1000 * (time.monotonic() - abs(moment))
                        if moment > 0:
                            self.first_ms.append(elapsed)
                        if n == state["revision"]:
                            self.all_ms.append(elapsed)
                    sent = {}

    def _request(self, state: dict[str, Any]) -> dict[str, Any]:
        kind = self._random.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
        if kind == "remove" and state["entries"]:
            return {"op": "remove", "index": self._random.randrange(len(state["entries"]))}
        if kind in ("undo", "redo"):
            return {"op": kind}
        voxel = [self._random.randrange(n // 4, 3 * n // 4) for n in state["shape"]]
        point = {"kind": "point", "class_id": self._random.randrange(self._classes), "voxel": voxel, "positive": True}
        return {"op": "add", "entries": [point]}

    def _apply(self, message: bytes) -> int:
        head, block = unpack_block(message)
        region = tuple(slice(a, a + n) for a, n in zip(head.start, head.shape, strict=True))
        self.labels[region] = block
        return head.revision


def clients(arguments: argparse.Namespace, address: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Run simultaneous clients, then compare each one's labels with those that its prompts give offline."""
    classes = len(fetch_json(f"{address}api/info")["models"][0]["classes"])
    until = time.monotonic() + 60 * arguments.minutes
    threads = [Client(n, address, arguments.scan.name, until, classes) for n in range(arguments.clients)]
    for client in threads:
        client.start()
    cached, resident = [], []
    while any(client.is_alive() for client in threads):
        time.sleep(2)
        cached.append(fetch_json(f"{address}healthz")["cached_mb"])
        resident.append(resident_mb(process.pid))
    segmenter = Segmenter.from_pretrained(arguments.model, device="cpu", runtime="torch")
    session = Session(segmenter, read_image(arguments.scan))
    correct = 0
    entries: TypeAdapter[tuple[Entry, ...]] = TypeAdapter(tuple[Entry, ...])
    for client in threads:
        session.reset()
        session.add(*entries.validate_python(client.entries))
        correct += np.array_equal(session.labels, client.labels)
    first, complete = ([ms for client in threads for ms in getattr(client, name)] for name in ("first_ms", "all_ms"))
    return {
        "clients": arguments.clients,
        "minutes": arguments.minutes,
        "wishes": sum(client.requests for client in threads),
        "errors": [error for client in threads for error in client.errors],
        "clients_with_exactly_their_own_labels": correct,
        "first_labels_ms": spread(first),
        "all_labels_ms": spread(complete),
        "memory_bound_mb": MEMORY_MB["clients"],
        "most_cached_mb": max(cached),
        "median_cached_mb": float(np.median(cached)),
        "most_resident_mb": max(resident),
    }


def fetch_json(url: str, content: Any = None) -> Any:
    """Request JSON from the server, by POST if there is content."""
    data = None if content is None else json.dumps(content).encode()
    with urlopen(Request(url, data, {"content-type": "application/json"}), timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main()
