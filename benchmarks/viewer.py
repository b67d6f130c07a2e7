"""Drawing in the viewer's page, in Chromium with and without a GPU's rasterizer: window steps and scrolling.

python -m benchmarks.viewer -o docs/results/viewer.json

The page is the viewer's own; the scan and its labels are made in the page, so that no network computes meanwhile.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.measures.environment import processor, provenance, write_result
from s2vnet.server.app import VIEWER

ARGUMENTS = ["--no-sandbox", "--disable-quic"]
GRAPHICS = {
    "swiftshader": ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
    "default": [],
}
"""Chromium's flags: WebGL on the processor, as on machines without a GPU; and Chromium's own choice."""
VIEWPORT = {"width": 1280, "height": 720}
INFO = {
    "model": "none", "model_sha256": "", "channels": ["CT"], "max_upload_mb": 1,
    "classes": [{"id": k, "name": f"class {k}", "color": color} for k, color in enumerate(
        ["#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442"])],
}  # fmt: skip
OPEN = """
async ([ni, nj, nk]) => {
  const { scene } = s2vnet;
  document.getElementById("start").hidden = true;
  const buffer = new ArrayBuffer(352 + 2 * ni * nj * nk), head = new DataView(buffer);
  head.setInt32(0, 348, true);
  [3, ni, nj, nk, 1, 1, 1, 1].forEach((n, at) => head.setInt16(40 + 2 * at, n, true));
  head.setInt16(70, 4, true);
  head.setInt16(72, 16, true);
  [1, 0.8, 0.8, 1.5, 1, 1, 1, 1].forEach((n, at) => head.setFloat32(76 + 4 * at, n, true));
  head.setFloat32(108, 352, true);
  head.setFloat32(112, 1, true);
  head.setInt16(254, 1, true);
  [[0.8, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 1.5, 0]].forEach((row, n) =>
    row.forEach((value, m) => head.setFloat32(280 + 16 * n + 4 * m, value, true)));
  head.setUint32(344, 0x00312b6e, true);
  const voxels = new Int16Array(buffer, 352), labels = new Uint8Array(ni * nj * nk);
  let at = 0, noise = 1;
  for (let k = 0; k < nk; k++) for (let j = 0; j < nj; j++) for (let i = 0; i < ni; i++) {
    const [x, y, z] = [2 * i / ni - 1, 2 * j / nj - 1, 2 * k / nk - 1];
    noise = (noise * 1103515245 + 12345) & 0x7fffffff;
    const part = Math.hypot(x, 1.3 * y, 0.5 * z) > 0.9 ? 0 : 1 + ((3 * (x + 1)) & 1) + 2 * ((3 * (y + 1)) & 1);
    voxels[at++] = (part ? 40 * part - 60 : -1000) + (noise & 63);
    if (Math.hypot(x, 1.3 * y, 0.5 * z) < 0.8) labels[(i * nj + j) * nk + k] = part;
  }
  const start = performance.now();
  await scene.open(buffer, [-160, 240]);
  scene.flush();
  const opened = performance.now();
  scene.setColors(INFO.map(({ id, color }) => ({ id, color, visible: true })));
  scene.showLabels(labels);
  scene.flush();
  return { image_ms: opened - start, labels_ms: performance.now() - opened };
}
""".replace("INFO", json.dumps(INFO["classes"]))
REPEAT = """
async ([layout, kind, count, seconds]) => {
  const { scene } = s2vnet;
  const shape = scene.shape, steps = {
    window: (n) => scene.setWindow(-160 + n, 240 + n),
    axial: () => scene.step(2, 1),
    three: () => { for (const axis of [0, 1, 2]) scene.step(axis, 1); },
  };
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  document.getElementById("layout").value = layout;
  scene.setLayout(layout);
  scene.goTo(shape.map((length) => (length >> 1) - 30));
  for (let n = 0; n < 3; n++) await frame();
  const draws = [], start = performance.now();
  let done = 0;
  for (; done < count && performance.now() - start < 1000 * seconds; done++) {
    const before = performance.now();
    steps[kind](done);
    scene.flush();
    draws.push(performance.now() - before);
    await frame();
  }
  const took = performance.now() - start;
  draws.sort((a, b) => a - b);
  return {
    steps: done, median_draw_ms: draws[draws.length >> 1], frames_per_second: (1000 * done) / took,
  };
}
"""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 200])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=40, help="most of one measurement")
    parser.add_argument("--graphics", nargs="+", choices=list(GRAPHICS), default=list(GRAPHICS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    results = {graphics: measure(GRAPHICS[graphics], arguments) for graphics in arguments.graphics}
    where = provenance(f"{processor()}, no GPU, Chromium at {VIEWPORT['width']} x {VIEWPORT['height']}")
    write_result(arguments.output, {**where, "shape": arguments.shape, **results})


def measure(flags: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Open a scan of the shape and measure each kind of step."""
    from playwright.sync_api import sync_playwright

    with viewer_server() as address, sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=[*ARGUMENTS, *flags])
        page = browser.new_page(viewport=VIEWPORT)
        page.set_default_timeout(600_000)
        page.route("**/api/info", lambda route: route.fulfill(json=INFO))
        page.route("**/api/scans", lambda route: route.fulfill(json=[]))
        page.route("**/api/sessions", lambda route: route.fulfill(json=[]))
        page.goto(address)
        page.wait_for_function("() => window.s2vnet?.tools")
        result: dict[str, Any] = {"open": page.evaluate(OPEN, arguments.shape)}
        for layout, kind in (("planes", "window"), ("planes", "axial"), ("planes", "three"), ("planes3d", "axial")):
            step = page.evaluate(REPEAT, [layout, kind, arguments.steps, arguments.seconds])
            result[f"{kind} in {layout}"] = {name: round(value, 2) for name, value in step.items()}
        browser.close()
    return result


@contextmanager
def viewer_server() -> Iterator[str]:
    """Serve the viewer's files on a free port; yields the page's address."""
    handler = functools.partial(_QuietHandler, directory=str(VIEWER))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """No line per request."""


if __name__ == "__main__":
    main()
