"""The viewer's page in Chromium, as a user and as a test see it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.image
import numpy as np
import numpy.typing as npt
from listening import listening
from pydantic import TypeAdapter

from s2vnet.inference.segmenter import Segmenter
from s2vnet.prompts import Entry, Voxel
from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.settings import Settings

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
PATIENCE_S = 60
Labels = npt.NDArray[np.uint8]
_entries: TypeAdapter[list[Entry]] = TypeAdapter(list[Entry])


@contextmanager
def running(settings: Settings, segmenter: Segmenter | None, port: int = 0) -> Iterator[int]:
    """A server on a port of this machine, free if none is named."""
    models = None if segmenter is None else ModelLibrary.of(segmenter)
    with listening(create_app(settings, models), port=port, ws="auto") as address:
        yield int(address.rpartition(":")[2])


class Viewer:
    """The page, as a user and as a test see it."""

    def __init__(self, page: Any, port: int) -> None:
        self.page, self.port = page, port
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def open(self, scan: str = "one.nii.gz") -> Viewer:
        """Choose a scan from the list, look at its axial slices, and take the tool for points."""
        self.page.goto(f"http://127.0.0.1:{self.port}/")
        self.page.get_by_role("button", name=scan, exact=True).click()
        self.until("s2vnet.ready")
        self.page.get_by_label("View").select_option("axial")
        self.press("p")
        return self

    def until(self, condition: str) -> None:
        """Wait for a condition in JavaScript, in a way that the page's content security policy allows."""
        look = "() => (%s) ? done() : Date.now() > end ? fail(Error('waited in vain')) : setTimeout(look, 10)"
        start = f"() => new Promise((done, fail) => {{ const end = Date.now() + {PATIENCE_S * 1000}; const look = "
        self.page.evaluate(start + look % condition + "; look(); })")

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate("() => s2vnet.state")
        return found

    def entries(self) -> list[Entry]:
        return _entries.validate_python(self.state()["entries"])

    def labels(self) -> Labels:
        flat = self.page.evaluate("() => Array.from(s2vnet.labels)")
        return np.array(flat, np.uint8).reshape(self.state()["shape"])

    def go(self, voxel: Voxel) -> None:
        self.page.evaluate("voxel => s2vnet.scene.goTo(voxel)", list(voxel))

    def at(self, voxel: Voxel) -> tuple[float, float]:
        """Where a voxel of the slice that is shown lies on the page."""
        where = self.page.evaluate("voxel => s2vnet.scene.canvasOf(...voxel)", list(voxel))
        assert where is not None, f"{voxel} is not on the screen"
        box = self.page.locator("#slices").bounding_box()
        return box["x"] + where["x"], box["y"] + where["y"]

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Do something that is one operation, and wait for what it gives."""
        before = self.state()["revision"]
        yield
        self.until(f"s2vnet.state.revision === {before + 1} && s2vnet.ready")

    def click(self, voxel: Voxel, **options: Any) -> None:
        self.go(voxel)
        with self.asking():
            self.page.mouse.click(*self.at(voxel), **options)

    def draw(self, *voxels: Voxel) -> None:
        """Press, move and let go."""
        self.go(voxels[0])
        with self.asking():
            self.page.mouse.move(*self.at(voxels[0]))
            self.page.mouse.down()
            for voxel in voxels[1:]:
                self.page.mouse.move(*self.at(voxel))
            self.page.mouse.up()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def picture(self) -> npt.NDArray[np.float32]:
        """The slices as they are on the screen, grey."""
        self.page.evaluate("() => new Promise(done => { s2vnet.scene.flush(); requestAnimationFrame(done); })")
        png = self.page.locator("#slices").screenshot()
        return np.asarray(matplotlib.image.imread(io.BytesIO(png))[..., :3].min(-1), np.float32)
