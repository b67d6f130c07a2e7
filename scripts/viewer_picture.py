"""Make docs/images/viewer.webp: the viewer in Chromium while a scan of `make demo` is corrected by two clicks.

python scripts/viewer_picture.py demo/image.nii.gz
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from s2vnet.server.app import create_app
from s2vnet.server.settings import Settings

TARGET = Path(__file__).parent.parent / "docs" / "images" / "viewer.webp"
MAX_BYTES = 2_000_000
BROWSER = shutil.which("chromium") or "chromium"
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
VIEW, SIZE = {"width": 1280, "height": 720}, (1120, 630)
"""Size of the browser's page, and of the picture, in pixels."""
CLICKS = [("2", (82, 42, 85), True), ("1", (19, 36, 85), False)]
"""Key of a class, voxel (i, j, k), and whether the voxel is of the class."""
READY = "new Promise(done => { const look = () => window.s2vnet?.ready ? done() : setTimeout(look, 50); look(); })"
POINTER = """([x, y]) => {
  let arrow = document.getElementById("picture-pointer");
  if (!arrow) {
    arrow = document.body.appendChild(document.createElement("div"));
    arrow.id = "picture-pointer";
    arrow.style = "position: fixed; z-index: 9999; pointer-events: none; font-size: 28px; color: white; " +
      "text-shadow: 0 0 3px black, 0 0 3px black; transform: translate(-4px, -4px)";
    arrow.textContent = "\\u2196";
  }
  arrow.style.left = `${x}px`;
  arrow.style.top = `${y}px`;
}"""
"""Draws a pointer: screenshots do not contain the mouse's."""


def main(scan: Path) -> None:
    """Serve the scan, click, and write the picture."""
    with tempfile.TemporaryDirectory() as state, serving(scan, Path(state)) as address:
        frames = list(take(address, scan.name))
    images = [Image.open(io.BytesIO(png)).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS) for png, _ in frames]
    durations = [milliseconds for _, milliseconds in frames]
    images[0].save(TARGET, save_all=True, append_images=images[1:], duration=durations, loop=0, quality=80, method=6)
    size = TARGET.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{TARGET}: {size} bytes, more than {MAX_BYTES}")
    print(f"{TARGET}: {len(images)} frames, {size} bytes")  # noqa: T201


@contextmanager
def serving(scan: Path, state: Path) -> Iterator[str]:
    """Run a server for a scan; yields the viewer's address."""
    settings = Settings(model="abdomen-ct", data=scan, state=state)
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def take(address: str, name: str) -> Iterator[tuple[bytes, int]]:
    """Yield screenshots (PNG) with the time that each is shown, in milliseconds."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=BROWSER_ARGUMENTS)
        page = browser.new_page(viewport=VIEW)
        page.set_default_timeout(300_000)
        page.goto(address)
        page.get_by_text(name).first.click()
        page.evaluate(f"() => {READY}")
        page.select_option("#layout", "planes3d")
        page.keyboard.press("p")  # the tool for points
        page.evaluate("place => s2vnet.scene.goTo(place)", CLICKS[0][1])
        yield screenshot(page), 1800
        for key, voxel, positive in CLICKS:
            page.evaluate("place => s2vnet.scene.goTo(place)", voxel)
            page.keyboard.press(key)
            position = page.evaluate("voxel => s2vnet.scene.canvasOf(...voxel, 2)", voxel)
            box = page.locator("#slices").bounding_box()
            x, y = box["x"] + position["x"], box["y"] + position["y"]
            page.evaluate(POINTER, [x, y])
            yield screenshot(page), 1400
            revision = page.evaluate("() => s2vnet.state.revision")
            page.mouse.move(x, y)
            if not positive:
                page.keyboard.down("Shift")  # inverts one prompt
            page.mouse.click(x, y)
            page.keyboard.up("Shift")
            while page.evaluate("() => s2vnet.state.revision") == revision:
                time.sleep(0.02)
            page.evaluate(f"() => {READY}")
            yield screenshot(page), 900
            time.sleep(1)  # changed voxels flash
            yield screenshot(page), 1600
        browser.close()


def screenshot(page: Any) -> bytes:
    """Return the page as PNG, after the next frame was drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return bytes(page.screenshot())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
