"""Check that two checkouts of this project give the same labels on one machine, voxel by voxel.

python -m benchmarks.same_labels OLD_CHECKOUT NEW_CHECKOUT -o FOLDER --data ../shared/data

Each case runs both checkouts by the command line, or by the public names of ``s2vnet``, with this Python and the same
number of threads, and compares what they write: labels, probabilities, DICOM objects, prompt logs, reports, exit codes
and the server's OpenAPI schema. What they print, such as help texts, is compared for information only. Images are those
of ``s2vnet demo`` and, with --data, a training case each of BTCV and of the hippocampus dataset.

FOLDER keeps results by commit, processor, package versions and threads, so that an interrupted comparison is resumed
and OLD does not run again. A checkout with local changes, and cases that failed or were edited, always run. The table
is printed row by row and written to FOLDER/results.json. The exit code is 1 if any case differs or fails.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.comparison import inputs as same_labels_inputs
from benchmarks.comparison.cases import CASES, QUICK, CaseError, Run, cpu_seconds, definition
from benchmarks.comparison.inputs import prepare_inputs
from benchmarks.comparison.written_files import differences
from benchmarks.measures.environment import processor

PACKAGES = ("numpy", "scipy", "torch", "onnxruntime", "openvino")
TIMES = re.compile(r"[0-9.]+ s\b|1/[0-9]+ of|Seconds per.*|127\.0\.0\.1:[0-9]+")
"""Parts of messages that differ from run to run."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Checkout:
    """A checkout and the folder of its results."""

    source: Path
    results: Path
    commit: str
    """``changed`` where files differ from the last commit."""


def find_checkout(source: Path, folder: Path, threads: int) -> Checkout:
    """Return a checkout whose results are in a folder by commit and machine below `folder`."""
    queries = (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "src", "pyproject.toml"])
    head, changed = (subprocess.check_output(["git", "-C", source, *words], text=True).strip() for words in queries)
    commit = "changed" if changed else head
    about = repr((processor(), sys.version, [version(name) for name in PACKAGES], threads))
    results = folder / f"{commit[:12]}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
    if changed:
        shutil.rmtree(results, ignore_errors=True)
    (results / "out").mkdir(parents=True, exist_ok=True)
    run = Run(source, results, results / "cache", results, results, threads)
    imported = Path(run.python("-c", "import s2vnet; print(s2vnet.__file__)").strip())
    if not imported.resolve().is_relative_to(source.resolve()):
        raise SystemExit(f"{source}: s2vnet is imported from {imported}")
    return Checkout(source, results, commit)


def run_case(name: str, checkout: Checkout, inputs: Path, old: Path, threads: int) -> Record:
    """Run a case unless it has a valid record; return its record: key, error or None, seconds, and figure."""
    folder = checkout.results / name
    run = Run(checkout.source, folder, checkout.results / "cache", inputs, old, threads)
    file, key = folder / "record.json", hashlib.sha256(f"{inputs} {old} {definition(name)}".encode()).hexdigest()
    if file.is_file() and (earlier := json.loads(file.read_text()))["key"] == key and earlier["error"] is None:
        return dict(earlier)
    shutil.rmtree(folder, ignore_errors=True)
    for path in (run.out, folder / "scratch", run.cache):
        path.mkdir(parents=True, exist_ok=True)
    for image in (inputs / "cache").glob("*.nii.gz"):
        shutil.copy(image, run.cache)
    start, used, error, figure = time.perf_counter(), cpu_seconds(), None, None
    try:
        figure = run.case(name)
    except (CaseError, LookupError, OSError, ValueError, subprocess.TimeoutExpired) as problem:
        error = f"{type(problem).__name__}: {problem}"
    record = {"key": key, "error": error, "seconds": round(time.perf_counter() - start, 2), "figure": figure}
    record["cpu_seconds"] = round(cpu_seconds() - used, 2)
    shutil.rmtree(folder / "scratch")
    messages = "\n".join(run.messages)
    for results in (old, checkout.results):
        messages = messages.replace(str(results), "OLD")
    (folder / "messages.txt").write_text(messages)
    file.write_text(json.dumps(record))
    return record


def compare(old: Path, new: Path, records: Sequence[Record]) -> Record:
    """Return a row of the table from a case's two folders and records: equal, or the differences or failures."""
    names = ("old", "new")
    problems = [f"{name} failed: {one['error']}" for name, one in zip(names, records, strict=True) if one["error"]]
    problems = problems or differences(old / "out", new / "out")
    texts = [TIMES.sub("_", (folder / "messages.txt").read_text()).splitlines() for folder in (old, new)]
    changed = sum(line.startswith(("+", "-")) for line in difflib.unified_diff(texts[0], texts[1], n=0))
    row = {"case": new.name, "equal": not problems, "differences": problems, "message_lines_changed": changed}
    return row | {key: [one[key] for one in records] for key in ("seconds", "cpu_seconds", "figure")}


def show(row: Record) -> None:
    """Print a row."""
    seconds = "".join(f"{value:8.1f}" for value in (*row["seconds"], *row["cpu_seconds"]))
    text = "equal" if row["equal"] else "; ".join(row["differences"][:4])
    text += " (median {:.3f} s, {:.3f} s)".format(*row["figure"]) if None not in row["figure"] else ""
    text += f" [messages differ: {row['message_lines_changed']} lines]" if row["message_lines_changed"] else ""
    print(f"{row['case']:32}{seconds}  {text}", flush=True)  # noqa: T201


def main() -> int:
    """Run the cases in both checkouts, compare, print and write the results; return 1 if any differs or fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="Checkout to compare with.")
    parser.add_argument("new", type=Path, help="Checkout to check.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Folder for inputs and results.")
    parser.add_argument("--data", type=Path, help="Folder of Dataset013_BTCV and Dataset004_Hippocampus.")
    parser.add_argument("--quick", action="store_true", help="Only some of the cases, with torch.")
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="NAME", help="Only cases with one of these prefixes."
    )
    parser.add_argument("--again", action="store_true", help="Run the new checkout again even if it has not changed.")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by default in a shell's background job
    output = given.output.resolve()
    if given.again:
        shutil.rmtree(output / "new", ignore_errors=True)
    old = find_checkout(given.old.resolve(), output / "old", given.threads)
    new = find_checkout(given.new.resolve(), output / "new", given.threads)
    version_key = hashlib.sha256(Path(same_labels_inputs.__file__).read_bytes()).hexdigest()[:8]
    inputs = output / f"inputs-{version_key}"
    fetching = Run(old.source, old.results, inputs / "cache", inputs, old.results, given.threads)
    prepare_inputs(inputs, given.data, lambda options: fetching.line(f"demo {options}"))
    unavailable = [] if given.data else [name for name, case in CASES.items() if "{data}" in repr(case)]
    names = [name for name in CASES if (name in QUICK or not given.quick) and name not in unavailable]
    rows: list[Record] = []
    print(f"{'case':32}{'s old':>8}{'s new':>8}{'CPU old':>8}{'CPU new':>8}")  # noqa: T201
    for name in (name for name in names if name.startswith(tuple(given.cases))):
        records = [run_case(name, checkout, inputs, old.results, given.threads) for checkout in (old, new)]
        rows.append(compare(old.results / name, new.results / name, records))
        show(rows[-1])
        about = {"old": old.commit, "new": new.commit, "hardware": processor(), "threads": given.threads}
        (output / "results.json").write_text(json.dumps({**about, "cases": rows}, indent=1) + "\n")
    bad = sum(not row["equal"] for row in rows)
    print(f"{len(rows) - bad} of {len(rows)} cases are equal")  # noqa: T201
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
