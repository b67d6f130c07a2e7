"""Cases of :mod:`benchmarks.same_labels`: commands that are run in each of two checkouts."""

from __future__ import annotations

import inspect
import json
import os
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

HELP_S = 0.2
"""Limit of the CPU seconds of ``s2vnet --help`` on a free core."""
TIMEOUT_S = 1200


class CaseError(Exception):
    """A command ended with an unexpected exit code, or took too long."""


@dataclass
class Run:
    """A case in one checkout. Commands run in `folder`/out, whose files are compared."""

    source: Path
    """Checkout."""
    folder: Path
    cache: Path
    """Cache folder of the checkout: exported graphs, and the demo's images."""
    inputs: Path
    old: Path
    """Results of the old checkout, whose prompt logs both replay."""
    threads: int
    messages: list[str] = field(default_factory=list)
    """Output of the commands."""

    @property
    def out(self) -> Path:
        """Folder of the files that are compared."""
        return self.folder / "out"

    def case(self, name: str) -> float | None:
        """Run a case of :data:`CASES`, and return its seconds if it measures any. Raises CaseError when it fails."""
        case = CASES[name]
        if callable(case):
            return case(self)
        for line in case:
            self.line(line)
        return None

    def line(self, text: str) -> None:
        """Run a line: ``OPTIONS [< FILE] [=> EXIT_CODE]`` of the command line, or ``copy FILE``."""
        words = self.words(text)
        if words[0] == "copy":
            shutil.copy(words[1], self.out)
            return
        code = int(words.pop()) if "=>" in words else 0
        typed = Path(words[words.index("<") + 1]).read_text() if "<" in words else ""
        plain = [word for n, word in enumerate(words) if word not in ("<", "=>") and words[n - 1] != "<"]
        self.python("-m", "s2vnet", *plain, code=code, typed=typed)

    def words(self, text: str) -> list[str]:
        """Split a line into words and substitute the folders {demo}, {data} (of images), {old} and {scratch}."""
        folders = {"inputs": self.inputs, "demo": self.inputs / "demo", "data": self.inputs / "data", "old": self.old}
        return [word.format(**folders, scratch=self.folder / "scratch") for word in shlex.split(text)]

    def python(self, *words: str, code: int = 0, typed: str = "") -> str:
        """Run this Python and return its output. Raises CaseError unless it ends with `code`."""
        process = subprocess.run(
            [sys.executable, *words],
            cwd=self.out,
            env=self.environment(),
            input=typed,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        self.messages += [f"$ {' '.join(words)}", process.stdout, process.stderr]
        if process.returncode != code:
            last = (process.stderr.strip().splitlines() or ["nothing printed"])[-1]
            raise CaseError(f"{' '.join(words[2:4])}: exit code {process.returncode}, not {code}: {last[:200]}")
        return process.stdout

    def start(self, text: str) -> subprocess.Popen[str]:
        """Start a line of the command line, to be interrupted."""
        return subprocess.Popen(
            [sys.executable, "-m", "s2vnet", *self.words(text)],
            cwd=self.out,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        """Environment of every process: this checkout, its own cache, number of threads, a fixed terminal width."""
        values = {k: v for k, v in os.environ.items() if not k.startswith(("S2VNET_", "PYTHON"))}
        values |= {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "100", "TERM": "dumb"}
        return values | {"PYTHONPATH": str(self.source / "src"), "S2VNET_CACHE": str(self.cache)}


def help_seconds(run: Run) -> float:
    """Median seconds of ``s2vnet --help``; on a machine with a free core they are checked, as CPU seconds."""
    seconds, used = [], []
    for _ in range(6):
        start, before = time.perf_counter(), cpu_seconds()
        run.line("--help")
        seconds.append(time.perf_counter() - start)
        used.append(cpu_seconds() - before)
    if os.getloadavg()[0] < (os.cpu_count() or 1) and min(used) > HELP_S:
        raise CaseError(f"--help takes {min(used):.3f} CPU seconds at best, more than {HELP_S}")
    return statistics.median(seconds[1:])  # the first one may have compiled modules


def cpu_seconds() -> float:
    """CPU seconds of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def interrupts(run: Run) -> None:
    """Ctrl+C ends a session, which keeps its prompts, and a folder of images, with 130."""
    with run.start("interact -m hippocampus-mr -i {demo}/mr.nii.gz -o labels.nii.gz --log prompts.json") as session:
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdin.write("point Anterior 13 30 16\n")
        session.stdin.flush()
        session.stdout.readline()  # the prompt has been answered
        _interrupt(session)
    with run.start("predict -m abdomen-ct -i {demo}/slow -o {scratch}/labels") as folder:
        while folder.poll() is None and not list(run.folder.glob("scratch/labels/*.nii.gz")):
            time.sleep(0.05)
        _interrupt(folder)


def _interrupt(process: subprocess.Popen[str], code: int = 130) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
    if process.returncode != code:
        raise CaseError(f"an interrupted command ended with {process.returncode} in place of {code}")


def server(run: Run) -> None:
    """The server's OpenAPI schema, and the labels of a session with a prompt."""
    with run.start("serve -m hippocampus-mr --data {demo}/served --port 0 --state {scratch}") as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1].rstrip("/")
            for name in ("openapi.json", *(f"{at}/openapi.json" for at in ("monailabel", "nninteractive", "itksnap"))):
                schema = json.loads(_fetch(f"{address}/{name}"))
                run.messages += json.dumps(schema, indent=1).splitlines()
                (run.out / name.replace("/", "-")).write_text(json.dumps(without_texts(schema)))
            info = json.loads(_fetch(f"{address}/monailabel/info/"))
            (run.out / "monailabel-info.json").write_text(json.dumps(without_texts(info)))
            session = json.loads(_fetch(f"{address}/api/sessions", {"image": "mr.nii.gz"}))["session"]
            prompt = {"kind": "point", "class_id": 1, "voxel": [13, 30, 16]}
            _fetch(f"{address}/api/sessions/{session}/prompts", {"entries": [prompt]})
            (run.out / "labels.nii.gz").write_bytes(_fetch(f"{address}/api/sessions/{session}/labels"))
        except BaseException:
            process.kill()
            raise
        _interrupt(process)


def _fetch(address: str, sent: dict[str, Any] | None = None) -> bytes:
    """Body of a response, also of an error."""
    body = None if sent is None else json.dumps(sent).encode()
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())
    except HTTPError as error:
        return error.read()


def without_texts(schema: Any) -> Any:
    """Remove descriptions and names of functions from a schema, which are not part of the interface."""
    if isinstance(schema, list):
        return [without_texts(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    texts = {"description", "summary", "operationId"}
    return {k: without_texts(v) for k, v in schema.items() if not (k in texts and isinstance(v, str))}


def python_names(run: Run) -> None:
    """The public Python names: automatic labels, prompts, undo, and a replayed log."""
    log = run.words("{old}/interact-mr/out/prompts.json")[0]
    image = run.words("{demo}/mr.nii.gz")[0]
    run.python("-c", f"from pathlib import Path\n{inspect.getsource(_session)}\n_session({image!r}, {log!r})")


def _session(image: str, log: str) -> None:
    from s2vnet import Segmenter, Session, read_image, write_labels

    segmenter, volume = Segmenter.from_pretrained("hippocampus-mr", runtime="torch"), read_image(image)
    write_labels("automatic.nii.gz", segmenter.segment(volume).labels())
    session = Session(segmenter, volume)
    write_labels("no-prompts.nii.gz", session.result)
    session.add_point(class_id=1, voxel=(13, 30, 16))
    session.add_point(class_id=2, voxel=(12, 27, 18), positive=False)
    write_labels("two-points.nii.gz", session.result)
    session.undo()
    write_labels("undone.nii.gz", session.result)
    session.redo()
    session.add_box(class_id=2, start=(4, 5, 18), stop=(25, 25, 40))
    session.save_log(Path("prompts.json"))
    write_labels("box.nii.gz", session.result)
    replayed = Session(segmenter, volume)
    replayed.replay(Path(log))
    write_labels("replayed.nii.gz", replayed.result)


MR = "-m hippocampus-mr -i {demo}/mr.nii.gz -o labels.nii.gz"
CT = "-m abdomen-ct -i {demo}/ct.nii.gz -o labels.nii.gz"
BTCV = "-m abdomen-ct -i {data}/btcv.nii.gz -o labels.nii.gz"
HIPPOCAMPUS = "-m hippocampus-mr -i {data}/hippocampus.nii.gz -o labels.nii.gz"
SERIES = "-m abdomen-ct -i {demo}/series"
POINTS = "--log prompts.json --point liver,85,55,40 --point 'right kidney,88,40,23' --not spleen,60,60,40"
COMMANDS = (
    "import",
    "plan",
    "train",
    "export",
    "predict",
    "interact",
    "evaluate",
    "view",
    "serve",
    "export-log",
    "demo",
)
CASES: dict[str, Callable[[Run], float | None] | Sequence[str]] = {
    "help-seconds": help_seconds,
    "help-texts": [f"{command} --help" for command in COMMANDS],
    "exit-codes": [
        "--version",
        "no-such-command => 2",
        "predict -m hippocampus-mr => 2",
        "predict --no-such-option => 2",
        "train --devices 0 -o {scratch}/run x => 2",
        "predict -m hippocampus-mr -i {demo}/missing.nii.gz -o labels.nii.gz => 1",
        "predict -m hippocampus-mr -i {demo}/damaged.nii.gz -o labels.nii.gz => 1",
        "predict -m no-such-model -i {demo}/mr.nii.gz -o labels.nii.gz => 1",
        f"predict {MR} --runtime none => 1",
        f"interact {MR} --point Anterior,99,0,0 => 1",
        "evaluate -i {demo}/mr.nii.gz -g {demo}/mr.nii.gz -o report.txt => 1",
    ],
    "interrupts": interrupts,
    **{
        f"predict-{name}-{runtime}": [f"predict {options} --volumes --runtime {runtime}"]
        for name, options in (("ct", CT), ("mr", MR), ("btcv", BTCV), ("hippocampus", HIPPOCAMPUS))
        for runtime in ("torch", "onnxruntime", "openvino")
    },
    "predict-extras": [f"predict {MR} --volumes --probabilities --uncertainty --overlay"],
    "predict-averaged": [f"predict {MR} -m hippocampus-mr --classes Posterior"],
    "predict-max-memory-ct": [f"predict {CT} --max-memory 1200MB"],
    "predict-max-memory-btcv": [f"predict {BTCV} --max-memory 1200MB"],
    "predict-folder": ["predict -m hippocampus-mr -i {demo}/many -o labels --volumes"],
    "predict-workers": ["predict -m hippocampus-mr -i {demo}/many -o labels --volumes --workers 2"],
    "dicom": [f"predict {SERIES} -o labels.dcm", f"predict {SERIES} -o labels.rtstruct.dcm"],
    "dicom-zip": [f"predict {SERIES}.zip -o labels.nii.gz"],
    "dicom-interact": [f"interact {SERIES} -o labels.dcm --point liver,30,50,12"],
    "interact-mr": ["copy {demo}/drawn.nii.gz", f"interact {MR} --log prompts.json < {{demo}}/typed.txt"],
    "interact-ct": [f"interact {CT} {POINTS}"],
    "interact-ct-openvino": [f"interact {CT} {POINTS} --runtime openvino"],
    **{
        f"replay-{name}": [
            f"copy {{old}}/interact-{name}/out/prompts.json",
            f"interact {options} --log prompts.json",
            "export-log prompts.json -o prompts.csv",
        ]
        for name, options in (("mr", MR), ("ct", CT))
    },
    "python-names": python_names,
    "server": server,
    "demo-abdomen": ["demo -o ."],
    "demo-hippocampus": ["demo --scene hippocampus -o ."],
    "evaluate": [
        "evaluate -i {old}/interact-mr/out/labels.nii.gz -g {old}/predict-mr-torch/out/labels.nii.gz -o report.json"
    ],
    "evaluate-interactive": [
        "evaluate --interactive --rounds 2 -m hippocampus-mr -i {data}/hippocampus.nii.gz"
        " -g {data}/hippocampus-labels.nii.gz -o report.json"
    ],
    "train": [
        "train {data}/Dataset001_Three -f all -o {scratch}/run --epochs 1 -c steps_per_epoch=4 --device cpu",
        "copy {scratch}/run/model.safetensors",
        "predict -m {scratch}/run -i {data}/hippocampus.nii.gz -o labels.nii.gz --probabilities",
    ],
}
"""Cases by name: lines, or a function that may return seconds. Lines with {data} need --data."""
QUICK = {"help-seconds", "predict-ct-torch", "predict-mr-torch", "predict-extras", "dicom", "interact-mr"}
QUICK |= {"interact-ct", "replay-mr", "replay-ct", "python-names", "server", "evaluate"}


def definition(name: str) -> str:
    """Return a text that changes when a case is edited."""
    case = CASES[name]
    return f"{inspect.getsource(case)} {inspect.getsource(_session)}" if callable(case) else repr(list(case))
