"""How long a click takes in the browser, and what many clients at once do to a server.

python benchmarks/serving.py page SCAN -o docs/results/serving-page.json
python benchmarks/serving.py clients SCAN -o docs/results/serving-clients.json --clients 8 --minutes 10
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
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

from machine import processor
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_geometry, read_image
from s2vnet.prompts import Entry
from s2vnet.server.schemas import unpack_block
from s2vnet.utils.atomic_write import atomic_write

ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
SEED = 0
PATIENCE_S = 300.0
MEMORY_MB = {"page": 4096, "clients": 3072}
"""Bound for what the server caches: its default; and less than many clients' scans need."""
NEAR = 12
"""Voxels beyond a class's own at which it is clicked, at most."""
LOOKED_MS = 500
"""From a new slice to the click on it: a user looks, and the browser has drawn it."""
SHARES = {"point": 0.7, "undo": 0.15, "redo": 0.05, "remove": 0.1}
"""Of what clients ask for."""
THOUGHT_S = 2.0
"""Mean time between two wishes of a client; exponential, so that many overtake the answer."""
WATCH = """
() => {
  const { scene } = window.s2vnet, { drawn, showLabels } = scene;
  window.clicked = null;
  scene.showLabels = (...block) => {
    showLabels.apply(scene, block);
    const c = window.clicked;
    if (c && s2vnet.labelAt(...c.voxel) === c.label) c.arrived ??= performance.now();
  };
  scene.drawn = () => {
    drawn();
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
OPENED = """
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
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["page", "clients"])
    parser.add_argument("scan", type=Path)
    parser.add_argument("-m", "--model", default="abdomen-ct")
    parser.add_argument("--clicks", type=int, default=60, help="in the browser")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as state, serving(arguments, Path(state)) as (address, process):
        found = page(arguments, address) if arguments.what == "page" else clients(arguments, address, process)
    shape = read_geometry(arguments.scan).shape
    found |= {
        "shape": shape,
        "seed": SEED,
        "command": f"python benchmarks/serving.py {' '.join(sys.argv[1:])}",
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {processor()}, torch {torch.__version__}",
    }
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201


@contextlib.contextmanager
def serving(arguments: argparse.Namespace, state: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own; its address, and the process."""
    command = [sys.executable, "-m", "s2vnet", "serve", "-m", arguments.model, "--data", str(arguments.scan)]
    command += ["--port", "0", "--state", str(state), "-n", f"memory_mb={MEMORY_MB[arguments.what]}"]
    command += ["-n", "requests_per_minute=100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1], process
    finally:
        process.terminate()
        process.wait()


def places(labels: npt.NDArray[np.uint8], classes: Sequence[int], count: int) -> list[tuple[int, tuple[int, ...]]]:
    """Clicks near the borders of classes that are there, where most mistakes are: a class, and a voxel of another."""
    chance = np.random.default_rng(SEED)
    found = []
    there = [k for k in classes if k and np.count_nonzero(labels == k)]
    while len(found) < count:
        k = int(chance.choice(there))
        voxels = np.argwhere(labels == k)
        voxel = voxels[chance.integers(len(voxels))] + np.array([*chance.integers(-NEAR, NEAR + 1, 2), 0])
        voxel = np.clip(voxel, 0, np.array(labels.shape) - 1)
        if labels[tuple(voxel)] != k:
            found.append((k, tuple(voxel.tolist())))
    return found


def page(arguments: argparse.Namespace, address: str) -> dict[str, Any]:
    """Loading, opening and clicking, as the page itself sees it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), headless=True, args=ARGUMENTS)
        tab = browser.new_page(viewport={"width": 1280, "height": 720})
        tab.set_default_timeout(PATIENCE_S * 1000)
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
        opened = tab.evaluate(OPENED)
        opening = {f"{name}_seconds": (moment - start) / 1000 for name, moment in opened.items()}
        tab.evaluate(WATCH)
        labels = np.array(tab.evaluate("() => Array.from(s2vnet.labels)"), np.uint8)
        labels = labels.reshape(tab.evaluate("() => s2vnet.state.shape"))
        by_layout = {}
        for layout in ("planes", "planes3d"):
            tab.select_option("#layout", layout)
            seen = [click(tab, *place) for place in places(labels, range(1, labels.max() + 1), arguments.clicks)]
            by_layout[layout] = {
                "clicked_slice_arrived_ms": spread([one["arrived"] - one["start"] for one in seen]),
                "clicked_slice_ms": spread([one["seen"] - one["start"] for one in seen]),
                "whole_volume_ms": spread([one["all"] - one["start"] for one in seen]),
                "slices_changed": spread([one["changed"] for one in seen]),
                "renderer_slow": tab.evaluate("() => s2vnet.scene.slow"),
            }
        browser.close()
    mine = address.split("/")[2]
    return {"first_load": first_load, "opening": opening, "clicks": by_layout, "other_hosts": sorted(hosts - {mine})}


def click(tab: Any, label: int, voxel: tuple[int, ...]) -> dict[str, float]:
    """One click with the pointer, then undo; when its slice and when everything was on the screen."""
    tab.evaluate("voxel => s2vnet.scene.goTo(voxel)", list(voxel))
    tab.evaluate("label => s2vnet.tools.chooseClass(label)", label)
    where = tab.evaluate("voxel => s2vnet.scene.canvasOf(...voxel, 2)", list(voxel))
    box = tab.locator("#slices").bounding_box()
    tab.evaluate(
        "c => { window.clicked = { ...c, before: s2vnet.labels.slice(), revision: s2vnet.state.revision }; }",
        {"voxel": list(voxel), "label": label},
    )
    tab.wait_for_timeout(LOOKED_MS)
    tab.mouse.click(box["x"] + where["x"], box["y"] + where["y"])
    tab.wait_for_function("() => window.clicked.all", polling=20)
    found: dict[str, float] = tab.evaluate(
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
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    if not len(values):
        return {"count": 0}
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95)), "count": len(values)}


class Client(threading.Thread):
    """Somebody who clicks at random, does not wait for answers, and looks at all that comes."""

    def __init__(self, number: int, address: str, scan: str, until: float, classes: int) -> None:
        super().__init__()
        self.address, self.scan, self.until = address, scan, until
        self.errors: list[str] = []
        self.seen: list[float] = []
        """Milliseconds from a wish to the first labels that know of it, or to being told that it changes none."""
        self.whole: list[float] = []
        """The same, to all labels; of wishes that no newer one overtook."""
        self.asked = 0
        self.entries: list[Any] = []
        self.labels: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._chance, self._classes = random.Random(SEED + number), classes

    def run(self) -> None:
        """Open, click until the time is over, and wait for the last answer."""
        try:
            self._work()
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _work(self) -> None:
        state = asked(f"{self.address}api/sessions", {"image": self.scan})
        url = f"{self.address.replace('http', 'ws', 1)}api/sessions/{state['session']}/live"
        with connect(url, max_size=None, open_timeout=PATIENCE_S, ping_interval=None) as socket:
            sent: dict[int, float] = {}
            following = time.monotonic()
            while True:
                now, ready = time.monotonic(), state["status"] == "ready"
                if state["status"] == "failed":
                    raise RuntimeError(state["error"])
                if now > self.until and ready and not sent:
                    break
                if state["shape"] and now >= following and now < self.until and state["progress"] == 1:
                    socket.send(json.dumps(self._wish(state)))
                    self.asked += 1
                    following = now + self._chance.expovariate(1 / THOUGHT_S)
                    sent.setdefault(state["revision"] + 1, now)
                try:
                    message = socket.recv(timeout=max(0.01, min(1.0, following - now)))
                except TimeoutError:
                    continue
                if isinstance(message, bytes):
                    revision = self._take(message)
                    for one in [n for n, moment in sent.items() if n <= revision and moment > 0]:
                        self.seen.append(1000 * (time.monotonic() - sent[one]))
                        sent[one] = -sent[one]  # answered, if not yet in full
                    continue
                told = json.loads(message)
                if told["type"] == "problem":
                    raise RuntimeError(told["detail"])
                if (told["revision"], told["shown"]) < (state["revision"], state["shown"]):
                    continue
                state = told
                if state["shape"] and not self.labels.size:
                    self.labels = np.zeros(state["shape"], np.uint8)
                self.entries = state["entries"]
                if state["status"] == "ready" and state["shown"] == state["revision"]:
                    for n, moment in sent.items():
                        passed = 1000 * (time.monotonic() - abs(moment))
                        if moment > 0:
                            self.seen.append(passed)
                        if n == state["revision"]:
                            self.whole.append(passed)
                    sent = {}

    def _wish(self, state: dict[str, Any]) -> dict[str, Any]:
        kind = self._chance.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "remove" and state["entries"]:
            return {"op": "remove", "index": self._chance.randrange(len(state["entries"]))}
        if kind in ("undo", "redo"):
            return {"op": kind}
        voxel = [self._chance.randrange(n // 4, 3 * n // 4) for n in state["shape"]]
        point = {"kind": "point", "class_id": self._chance.randrange(self._classes), "voxel": voxel, "positive": True}
        return {"op": "add", "entries": [point]}

    def _take(self, message: bytes) -> int:
        head, block = unpack_block(message)
        region = tuple(slice(a, a + n) for a, n in zip(head.start, head.shape, strict=True))
        self.labels[region] = block
        return head.revision


def clients(arguments: argparse.Namespace, address: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Clients at once, then whether each one's labels are those that its prompts give by themselves."""
    classes = len(asked(f"{address}api/info")["classes"])
    until = time.monotonic() + 60 * arguments.minutes
    everyone = [Client(n, address, arguments.scan.name, until, classes) for n in range(arguments.clients)]
    for client in everyone:
        client.start()
    cached, resident = [], []
    while any(client.is_alive() for client in everyone):
        time.sleep(2)
        cached.append(asked(f"{address}healthz")["cached_mb"])
        resident.append(resident_mb(process.pid))
    segmenter = Segmenter.from_pretrained(arguments.model, device="cpu")
    session = Session(segmenter, read_image(arguments.scan))
    right = 0
    entries: TypeAdapter[tuple[Entry, ...]] = TypeAdapter(tuple[Entry, ...])
    for client in everyone:
        session.reset()
        session.add(*entries.validate_python(client.entries))
        right += np.array_equal(session.labels, client.labels)
    seen, whole = ([ms for client in everyone for ms in getattr(client, name)] for name in ("seen", "whole"))
    return {
        "clients": arguments.clients,
        "minutes": arguments.minutes,
        "wishes": sum(client.asked for client in everyone),
        "errors": [error for client in everyone for error in client.errors],
        "clients_with_exactly_their_own_labels": right,
        "first_labels_ms": spread(seen),
        "all_labels_ms": spread(whole),
        "memory_bound_mb": MEMORY_MB["clients"],
        "most_cached_mb": max(cached),
        "median_cached_mb": float(np.median(cached)),
        "most_resident_mb": max(resident),
    }


def asked(url: str, content: Any = None) -> Any:
    """JSON of the server."""
    data = None if content is None else json.dumps(content).encode()
    with urlopen(Request(url, data, {"content-type": "application/json"}), timeout=PATIENCE_S) as answer:
        return json.load(answer)


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main()
