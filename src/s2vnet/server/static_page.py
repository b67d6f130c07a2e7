"""Page that segments scans in the browser, without a server: static files, which any web host can serve.

The page is the viewer with a back end in the tab (``viewer/local``): the networks' ONNX graphs run in ONNX Runtime's
WebAssembly build. A service worker keeps all files for offline use, and no request leaves the page once it is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from s2vnet._version import __version__
from s2vnet.data.modality import model_modality
from s2vnet.errors import InputError
from s2vnet.inference.backends import find_graphs
from s2vnet.inference.segmenter import find_model
from s2vnet.model.checkpoint import load_model
from s2vnet.utils.atomic_write import atomic_write, require_writable
from s2vnet.utils.folders import make_folder
from s2vnet.visualization.palettes import hex_palette

_VIEWER = Path(__file__).parent / "viewer"
_SUFFIXES = (".css", ".html", ".js", ".mjs", ".svg", ".txt", ".wasm")
_SERVICE_WORKER, _MODELS = "service_worker.js", "models.json"
_LIBRARY = _VIEWER / "vendor" / "ort.wasm.min.mjs"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "content-security-policy": f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers with which the service worker answers; threads need the cross-origin ones (https://web.dev/coop-coep)."""
_REPLACEMENTS = {
    '<meta charset="utf-8">': '<meta charset="utf-8">\n'
    f'<meta http-equiv="content-security-policy" content="{CONTENT_SECURITY_POLICY}">',
    '<link rel="stylesheet" href="style.css">': '<link rel="stylesheet" href="style.css">\n'
    '<link rel="stylesheet" href="local/style.css">',
    '<script type="module" src="main.js"></script>': '<script type="module" src="local/page.js"></script>',
}
"""Text of the viewer's index.html, and what the page has instead."""


def build_page(
    output: Path, models: Sequence[str | Path], progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write the page into a folder: a new or empty one, or one with an earlier page.

    Args:
        output: the folder.
        models: models by name or folder; the first one is chosen when the page is opened.
        progress: called with models exported.

    Raises:
        CheckpointError: unknown or damaged model.
        InputError: the folder holds something else or is not writable, or a library is not installed.
    """
    if not _LIBRARY.is_file():
        raise InputError("the viewer's libraries are missing: in the clone of s2vnet, run `pip install -e .`")
    make_folder(output)
    if any(output.iterdir()) and not (output / _SERVICE_WORKER).is_file():
        raise InputError(f"{output} holds other files; choose a new or empty folder")
    require_writable(output)
    contents = dict(_viewer_files())
    descriptions = []
    for done, model in enumerate(models):
        progress(done, len(models))
        description, graphs = _describe_model(model)
        descriptions.append(description)
        contents |= {f"models/{description['name']}/{file.name}": file.read_bytes() for file in graphs}
    contents[_MODELS] = _json({"version": __version__, "models": descriptions})
    contents[_SERVICE_WORKER] = _service_worker(contents)
    for name, content in contents.items():
        make_folder((output / name).parent)
        with atomic_write(output / name) as temporary:
            temporary.write_bytes(content)
    progress(len(models), len(models))


def _viewer_files() -> Iterable[tuple[str, bytes]]:
    """Name and content of the viewer's files, with the page's index.html."""
    for file in sorted(_VIEWER.rglob("*")):
        name = file.relative_to(_VIEWER).as_posix()
        if file.suffix not in _SUFFIXES or name == f"local/{_SERVICE_WORKER}":
            continue
        yield name, _index().encode() if name == "index.html" else file.read_bytes()


def _index() -> str:
    text = (_VIEWER / "index.html").read_text(encoding="utf-8")
    for old, new in _REPLACEMENTS.items():
        assert text.count(old) == 1, f"index.html has not exactly one {old}"
        text = text.replace(old, new)
    return text


def _describe_model(model: str | Path) -> tuple[dict[str, object], Sequence[Path]]:
    """Entry of a model in models.json, and the files of its graphs that the page needs."""
    folder = find_model(model)
    trained = load_model(folder)
    plan = trained.plan
    names = {value: name for name, value in plan["labels"].items()}
    colours = hex_palette(max(names) + 1)
    description = {
        "name": folder.resolve().name,
        "sha256": trained.sha256,
        "channels": plan["channels"],
        "modality": model_modality(plan["channels"]),
        "classes": [{"id": k, "name": names[k], "color": colours[k]} for k in sorted(names)],
        "config": trained.model.config.model_dump(mode="json"),
        "plan": plan,
    }
    return description, [file for file in find_graphs(trained, folder) if file.stem in ("encode", "decode")]


def _service_worker(contents: Mapping[str, bytes]) -> bytes:
    """Service worker with the list of the page's files and a version that changes with any of them."""
    source = (_VIEWER / "local" / _SERVICE_WORKER).read_bytes()
    digest = hashlib.sha256(source)
    for name in sorted(contents):
        digest.update(f"{name}\n{hashlib.sha256(contents[name]).hexdigest()}\n".encode())
    constants = {"VERSION": digest.hexdigest()[:16], "FILES": sorted(contents), "HEADERS": HEADERS}
    lines = [f"const {name} = {json.dumps(value)};\n".encode() for name, value in constants.items()]
    return b"".join([*lines, b"\n", source])


def _json(content: object) -> bytes:
    return (json.dumps(content) + "\n").encode()
