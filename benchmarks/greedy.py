"""Peak memory of a server under requests that ask for more than it has.

python -m benchmarks.greedy SCAN -o docs/results/greedy.json

Each request is sent to the same server; its process' largest resident memory is read after each one and reset. Requests
whose work needs more than the bound have to be refused, and nothing may take the process above the bound by more than
10 %.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import numpy.typing as npt

from benchmarks.measures.environment import processor, provenance, write_result
from benchmarks.protocol_clients import scan_variants
from benchmarks.serving import serving
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Volume
from s2vnet.server.protocols.array_codec import pack

TIMEOUT_S = 400.0
HUGE = (512, 512, 1024)
"""Voxels of an image that unpacks from a few hundred bytes."""
DRAWN = 1_500_000
"""Voxels of a large scribble."""
UPLOADED_MB = 1024
SESSIONS = 12
PIECE = 1 << 26
POLL_S = 0.2
ALLOWED = 1.1
"""Largest memory relative to the bound."""


class Greedy:
    """Requests to one server."""

    def __init__(self, address: str, volume: Volume, name: str) -> None:
        """Args: address with a slash at its end, a scan that fits, and its id on the server."""
        self._client = httpx.Client(base_url=address, timeout=TIMEOUT_S)
        self._volume, self._name = volume, name
        # built beforehand, since building them would delay this process' own measurements
        drawing = np.zeros(volume.data.shape[1:], np.uint8)
        drawing.reshape(-1)[:DRAWN] = 1
        self._drawing, self._packed_drawing = drawing, pack(drawing)
        self._packed_scan, self._packed_zeros = pack(volume.data), pack(np.zeros((1, *HUGE), np.uint8))
        self._gzipped_zeros = _zeros(4 * int(np.prod(HUGE)))
        self._nifti = {dtype: _huge_nifti(np.dtype(dtype)) for dtype in ("uint8", "float64")}
        self._archive = _huge_archive()
        self._million_prompts = json.dumps({"spleen": [[1, 2, 3]] * 1_000_000})

    def __enter__(self) -> Greedy:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def requests(self) -> dict[str, Callable[[], list[int]]]:
        """Return the requests by name; each returns the status codes of its responses."""
        return {
            "nnInteractive: image of zeros": self._huge_array,
            "ITK-SNAP: image of zeros": self._huge_gzip,
            "MONAI Label: image of zeros": lambda: [self._infer(self._nifti["uint8"])],
            "MONAI Label: image of zeros, float64": lambda: [self._infer(self._nifti["float64"])],
            "MONAI Label: label map of zeros": self._huge_label,
            "MONAI Label: zip archive of zeros": self._zip,
            "viewer: 1 GB": self._upload,
            "nnInteractive: scribble of 1.5 million voxels, 5 times": lambda: self._draw("scribble"),
            "nnInteractive: lasso of 1.5 million voxels, 5 times": lambda: self._draw("lasso"),
            "nnInteractive: as many scribbles at once": self._draw_at_once,
            "ITK-SNAP: scribble of 1.5 million voxels": self._draw_in_snap,
            "JSON of a million prompts": self._many_prompts,
            "JSON, deeply nested": self._nested,
            f"{SESSIONS} sessions at once": self._sessions,
        }

    def _claim(self, image: bool = True) -> dict[str, str]:
        claimed = self._client.post("nninteractive/any/RAS/claim").raise_for_status().json()
        lease = {"x-lease-token": claimed["lease_token"]}
        if image:
            sent = self._client.post("nninteractive/set_image", content=self._packed_scan, headers=lease)
            sent.raise_for_status()
            while (code := self._client.post("nninteractive/predict", headers=lease).status_code) == 503:
                time.sleep(POLL_S)
            if code != 200:
                raise RuntimeError(f"the scan of the benchmark is refused with status {code}")
        return lease

    @contextlib.contextmanager
    def _leased(self, image: bool = True) -> Iterator[dict[str, str]]:
        lease = self._claim(image)
        try:
            yield lease
        finally:
            self._client.post("nninteractive/release", headers=lease)

    def _huge_array(self) -> list[int]:
        with self._leased(image=False) as lease:
            sent = self._client.post("nninteractive/set_image", content=self._packed_zeros, headers=lease)
            codes = [sent.status_code]
            while codes[-1] in (200, 503) and len(codes) < 10:
                codes.append(self._client.post("nninteractive/predict", headers=lease).status_code)
        return codes

    def _huge_gzip(self) -> list[int]:
        name = self._client.get("v2/start_session/s2vnet").raise_for_status().json()["session_id"]
        sent = {"file": self._gzipped_zeros}
        form = {"metadata": json.dumps({"dimensions": HUGE})}
        code = self._client.post(f"v2/upload_raw/{name}", files=sent, data=form).status_code
        self._client.get(f"v2/end_session/{name}")
        return [code]

    def _infer(self, content: bytes, name: str = "zeros.nii.gz") -> int:
        sent = {"file": (name, content)}
        return self._client.post("infer/automatic?output=json", files=sent, data={"params": "{}"}).status_code

    def _huge_label(self) -> list[int]:
        label = {"label": ("label.nii.gz", self._nifti["float64"])}
        return [self._client.put(f"datastore/label?image={self._name}&tag=final", files=label).status_code]

    def _zip(self) -> list[int]:
        return [self._infer(self._archive, "series.zip")]

    def _upload(self) -> list[int]:
        piece = np.random.default_rng(0).bytes(1 << 20)
        with tempfile.TemporaryFile() as file:
            for _ in range(UPLOADED_MB):
                file.write(piece)
            file.seek(0)
            return [self._client.post("api/scans", files={"file": ("big.nii", file)}).status_code]

    def _draw(self, tool: str) -> list[int]:
        with self._leased() as lease:
            headers = lease | {"x-meta": json.dumps({"include_interaction": True})}
            url = f"nninteractive/add_{tool}_interaction"
            return [self._client.post(url, content=self._packed_drawing, headers=headers).status_code for _ in range(5)]

    def _draw_at_once(self) -> list[int]:
        with self._leased() as lease:
            headers = lease | {"x-meta": json.dumps({"include_interaction": True})}

            def draw(_: int) -> int:
                return self._client.post(
                    "nninteractive/add_scribble_interaction", content=self._packed_drawing, headers=headers
                ).status_code

            with ThreadPoolExecutor(5) as pool:
                return list(pool.map(draw, range(5)))

    def _draw_in_snap(self) -> list[int]:
        name = self._client.get("v2/start_session/s2vnet").raise_for_status().json()["session_id"]
        shape = self._volume.data.shape[1:]
        form = {"metadata": json.dumps({"dimensions": shape})}

        def send(route: str, array: npt.NDArray[Any]) -> int:
            sent = {"file": gzip.compress(array.astype("<f4").tobytes(order="F"), 1)}
            return self._client.post(f"v2/{route}/{name}?foreground=true", files=sent, data=form).status_code

        codes = [send("upload_raw", self._volume.data[0]), send("process_scribble_interaction", self._drawing)]
        self._client.get(f"v2/end_session/{name}")
        return codes

    def _many_prompts(self) -> list[int]:
        url = f"infer/clicks?image={self._name}&output=json"
        return [self._client.post(url, data={"params": self._million_prompts}).status_code]

    def _nested(self) -> list[int]:
        url = f"infer/clicks?image={self._name}&output=json"
        return [self._client.post(url, data={"params": "[" * 500_000}).status_code]

    def _sessions(self) -> list[int]:
        def work(n: int) -> int:
            with self._leased() as lease:
                middle = [size // 2 for size in self._volume.data.shape[1:3]]
                body = {"coordinates": [*middle, n], "include_interaction": True}
                return self._client.post("nninteractive/add_point_interaction", json=body, headers=lease).status_code

        with ThreadPoolExecutor(SESSIONS) as pool:
            return list(pool.map(work, range(SESSIONS)))


def _zeros(size: int) -> bytes:
    """Gzip data of zeros: the same member again and again."""
    count, rest = divmod(size, PIECE)
    return gzip.compress(bytes(PIECE), 9) * count + gzip.compress(bytes(rest), 9)


def _huge_nifti(dtype: np.dtype[Any]) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(HUGE)
    header.set_data_dtype(dtype)
    header.set_zooms((0.7, 0.7, 1.0))
    header.set_sform(np.diag([0.7, 0.7, 1.0, 1.0]), code=1)
    content = io.BytesIO()
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    header.write_to(content)
    return gzip.compress(content.getvalue().ljust(352, b"\0"), 9) + _zeros(int(np.prod(HUGE)) * dtype.itemsize)


def _huge_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        zeros = bytes(1 << 20)
        for n in range(64):
            with archive.open(f"{n}.dcm", "w") as file:
                for _ in range(32):
                    file.write(zeros)
    return content.getvalue()


def memory_mb(pid: int, name: str) -> float:
    """Return VmRSS or VmHWM of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def watch(client: httpx.Client, stop: threading.Event, slowest: list[float]) -> None:
    """Measure ``/healthz`` until `stop` is set."""
    while not stop.wait(POLL_S):
        begun = time.monotonic()
        with contextlib.suppress(httpx.TransportError):  # a connection that the server closes between two requests
            client.get("healthz")
        slowest.append(1000 * (time.monotonic() - begun))


def main() -> None:
    """Send all requests and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("-m", "--model", default="abdomen-ct")
    parser.add_argument("--memory-mb", type=int, default=2048, help="bound of the server")
    parser.add_argument("--slices", type=int, default=40, help="of the scan that fits")
    parser.add_argument("--only", default="", help="requests whose name contains this")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    (volume,) = scan_variants(read_image(arguments.scan), arguments.slices, 1)
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "scans")
        folder.mkdir()
        write_image(folder / "scan.nii.gz", volume)
        served = argparse.Namespace(model=arguments.model, scan=folder, memory_mb=arguments.memory_mb)
        with contextlib.ExitStack() as resources:
            address, process = resources.enter_context(serving(served, Path(temporary, "state")))
            greedy = resources.enter_context(Greedy(address, volume, "scan.nii.gz"))
            before = memory_mb(process.pid, "VmRSS")
            for name, send in greedy.requests().items():
                if arguments.only not in name:
                    continue
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # resets VmHWM
                begun, stop, health = time.monotonic(), threading.Event(), list[float]()
                with httpx.Client(base_url=address, timeout=TIMEOUT_S) as client:
                    watching = threading.Thread(target=watch, args=(client, stop, health), daemon=True)
                    watching.start()
                    codes = send()
                    stop.set()
                    watching.join()
                measured[name] = {
                    "status": codes,
                    "seconds": time.monotonic() - begun,
                    "peak_mb": memory_mb(process.pid, "VmHWM"),
                    "slowest_healthz_ms": max(health, default=None),
                }
                print(name, measured[name], flush=True)  # noqa: T201
    largest = max(each["peak_mb"] for each in measured.values())
    result = {
        "memory_bound_mb": arguments.memory_mb,
        "before_mb": before,
        "largest_peak_mb": largest,
        "largest_relative_to_bound": largest / arguments.memory_mb,
        "held": largest <= ALLOWED * arguments.memory_mb,
        "requests": measured,
        **provenance(f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {processor()}", arguments.scan),
    }
    write_result(arguments.output, result)


if __name__ == "__main__":
    main()
