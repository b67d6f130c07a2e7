"""Take docs/images/viewer.png: the viewer in Chromium at 1280 x 720, with the scan that `s2vnet demo` fetches.

python scripts/screenshot.py demo/image.nii.gz
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

from s2vnet.server.app import create_app
from s2vnet.server.settings import Settings

TARGET = Path(__file__).parent.parent / "docs" / "images" / "viewer.png"
BROWSER = shutil.which("chromium") or "chromium"
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
PLACE, CLICKS = [80, 60, 85], [("2", [82, 42, 85]), ("0", [19, 36, 85])]
"""Voxel at which the planes intersect; clicks as pairs of a class's key and a voxel."""


def main(scan: Path) -> None:
    """Serve the scan, click, and take the screenshot."""
    with tempfile.TemporaryDirectory() as state:
        config = uvicorn.Config(
            create_app(Settings(models=("abdomen-ct",), data=scan, state=Path(state))), port=0, log_level="error"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        take(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/")
        server.should_exit = True
        thread.join()


def take(address: str) -> None:
    """Take the screenshot of a running server's page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=BROWSER_ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(120_000)
        page.goto(address)
        ready = (
            "new Promise(done => { const look = () => window.s2vnet?.ready ? done() : setTimeout(look, 50); look(); })"
        )
        page.get_by_text(Path(sys.argv[1]).name).first.click()
        page.evaluate(f"() => {ready}")
        page.keyboard.press("p")
        page.evaluate("place => s2vnet.scene.goTo(place)", PLACE)
        for key, voxel in CLICKS:
            page.keyboard.press(key)
            position = page.evaluate("voxel => s2vnet.scene.canvasOf(...voxel, 2)", voxel)
            box = page.locator("#slices").bounding_box()
            before = page.evaluate("() => s2vnet.state.revision")
            page.mouse.click(box["x"] + position["x"], box["y"] + position["y"])
            while page.evaluate("() => s2vnet.state.revision") == before:
                time.sleep(0.05)
            page.evaluate(f"() => {ready}")
        page.select_option("#layout", "planes3d")
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.screenshot(path=str(TARGET))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
