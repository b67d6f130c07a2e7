"""OHIF's plugin of MONAI Label 0.8.5: its client and its reader in node, and its client in a page of another origin."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from s2vnet.interactive.session import Session
from s2vnet.io.files import read_labels

HERE = Path(__file__).parent
TOKEN = "a-secret-of-many-characters"
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium")
PAGE = """<!doctype html><script src="node_modules/axios/dist/axios.min.js"></script>
<script type="importmap">{"imports": {"axios": "./axios.mjs"}}</script>
<script type="module">
  import MonaiLabelClient from './MonaiLabelClient.mjs';
  import { callAll } from './ohif_calls.mjs';
  window.run = async (address, series, voxels) => {
    const done = await callAll(MonaiLabelClient, address, series, new Uint8Array(voxels));
    for (const name of Object.keys(done)) {
      if (done[name].data instanceof ArrayBuffer) done[name].data = Array.from(new Uint8Array(done[name].data));
    }
    return done;
  };
</script>
"""
Serve = Callable[..., str]
Own = Callable[[str], Session]


@pytest.fixture
def modules(clients: Path, tmp_path: Path) -> Path:
    """The plugin's modules beside the packages that they import."""
    folder = tmp_path / "ohif"
    plugin = clients / "data" / "data" / "monailabel" / "plugins" / "ohifv3" / "extensions" / "monai-label" / "src"
    shutil.copytree(clients / "npm", folder)
    for file in ("services/MonaiLabelClient.js", "utils/SegmentationReader.js"):
        shutil.copyfile(plugin / file, folder / f"{Path(file).stem}.mjs")
    shutil.copyfile(HERE / "ohif_calls.mjs", folder / "ohif_calls.mjs")
    (folder / "axios.mjs").write_text("export default window.axios;\n")
    (folder / "index.html").write_text(PAGE)
    return folder


@pytest.fixture
def page_origin(modules: Path) -> Iterator[str]:
    """Origin of the page."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map: ClassVar = {".mjs": "text/javascript", ".js": "text/javascript", ".html": "text/html"}

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(modules)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def series(scans: Path) -> str:
    """SeriesInstanceUID of the series, which is all that OHIF knows of it."""
    return str(pydicom.dcmread(next((scans / "series").iterdir())).SeriesInstanceUID)


def check(done: dict[str, Any]) -> None:
    """Every call but the training succeeded, and training says why it cannot begin."""
    failed = {name: call for name, call in done.items() if name != "header" and call.get("status") != 200}
    assert set(failed) == {"run_train"}
    info = done["info"]["data"]
    info = json.loads(info) if isinstance(info, str) else info
    assert set(info["models"]) == {"automatic", "clicks", "object", "scribbles"}
    assert done["is_train_running"]["data"] is False


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("path", ["/", "/monailabel/", "/monailabel"])
def test_every_call_in_node(serve: Serve, modules: Path, series: str, own: Own, tmp_path: Path, path: str) -> None:
    """Also by an address without the last slash, of which OHIF removes the last part."""
    session, address = own("series"), serve()
    (tmp_path / "voxels").write_bytes(session.labels.tobytes(order="F"))
    shutil.copyfile(HERE / "ohif_node.mjs", modules / "ohif_node.mjs")
    command = [str(NODE), "ohif_node.mjs", str(modules), address + path, series, str(tmp_path / "voxels")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=modules)
    assert ran.returncode == 0, ran.stderr
    done = json.loads(ran.stdout)
    check(done)
    assert done["header"] == {"sizes": [18, 20, 6], "type": "uint8"}
    np.testing.assert_array_equal(done["segmentation"]["data"], session.labels.ravel(order="F"))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("token", [None, TOKEN])
def test_every_call_in_a_page_of_another_origin(
    serve: Serve, page_origin: str, series: str, own: Own, tmp_path: Path, token: str | None
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    session = own("series")
    path = "/" if token is None else f"/token/{token}/"
    allowed, closed = serve(allow_origins=(page_origin,), token=token), serve(state=tmp_path / "other")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{page_origin}/index.html")
        page.wait_for_function("() => window.run !== undefined")
        voxels = list(session.labels.tobytes(order="F"))
        done = page.evaluate(
            "([address, series, voxels]) => run(address, series, voxels)", [allowed + path, series, voxels]
        )
        refused = page.evaluate("address => axios.get(address).catch(error => error.message)", f"{closed}/info/")
        browser.close()
    assert refused == "Network Error"
    check(done)
    (tmp_path / "labels.nrrd").write_bytes(bytes(done["infer automatic"]["data"]))
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nrrd").data, session.labels)
    assert sitk.ReadImage(str(tmp_path / "labels.nrrd")).GetPixelID() == sitk.sitkUInt8
