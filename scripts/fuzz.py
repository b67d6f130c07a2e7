"""Fuzz what s2vnet reads, guided by coverage (atheris, `pip install atheris`; Python 3.11 to 3.13):

    python scripts/fuzz.py nrrd --seconds 600 -o findings
    python scripts/fuzz.py all --seconds 3600

A finding is any exception other than S2VNetError, more than 5 s or 3 GB for one input, or the end of the process.
Each kind of finding is reported once, and its input is written to the output folder. Targets and seeds:
tests/plugins/hostile.py.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS_PER_INPUT, MEGABYTES, LONGEST = 5, 3072, 1 << 16
GRACE_SECONDS = 180
"""Seconds added to the time limit of a process, for its start on a busy machine."""
ADDRESS_SPACE = 16 << 30
"""Limit beyond which allocations fail; torch alone maps several GB that it never uses."""
INSTRUMENTED = ["s2vnet", "nibabel", "pydicom", "highdicom", "json", "zipfile", "gzip"]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "plugins")]


def main() -> None:
    """Fuzz each target for its share of the time, in subprocesses; exit code 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="all, or one of tests/plugins/hostile.py")
    parser.add_argument("--seconds", type=int, default=60, help="in total")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs") / "fuzz", help="corpora and findings")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fuzz(options.target, options.seconds, options.output)
        return
    from hostile import TARGETS

    names = list(TARGETS) if options.target == "all" else [options.target]
    if unknown := set(names) - set(TARGETS):
        sys.exit(f"no target {unknown.pop()}; choose all or one of {' '.join(TARGETS)}")
    findings = 0
    for name in names:
        findings += run(name, options.seconds // len(names), options.output)
    sys.exit(1 if findings else 0)


def run(name: str, seconds: int, output: Path) -> int:
    """Fuzz one target, with a new process after each crash; return the number of findings."""
    from hostile import TARGETS

    corpus, findings = output / "corpus" / name, output / "findings" / name
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed in TARGETS[name].seeds(Path(folder)):
            (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    end, executions = time.monotonic() + seconds, 0
    while (left := int(end - time.monotonic())) > 0:
        command = [sys.executable, __file__, name, "--child", "--seconds", str(left), "-o", str(output)]
        with (output / f"{name}.log").open("w") as log:
            try:
                code = subprocess.run(
                    command, stdout=log, stderr=log, timeout=left + GRACE_SECONDS, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                sys.stderr.write(f"{name}: killed after its time limit\n")
                code = 0
        output_text = (output / f"{name}.log").read_text(errors="replace")
        executions += _executions(output_text)
        if code == 0:
            break
        sys.stderr.write("\n".join(output_text.splitlines()[-12:]) + "\n")
    kept = sorted(file.name for file in findings.iterdir() if file.suffix != ".txt")
    tests = len(list(corpus.iterdir()))
    sys.stdout.write(
        f"{name}: {seconds} s, {executions} inputs, corpus of {tests}, {len(kept)} findings {' '.join(kept)}\n"
    )
    sys.stdout.flush()
    return len(kept)


def _executions(log: str) -> int:
    """Number of inputs according to libFuzzer's last report."""
    return max(map(int, re.findall(r"^(?:#|stat::number_of_executed_units: +)(\d+)", log, re.MULTILINE)), default=0)


def fuzz(name: str, seconds: int, output: Path) -> None:
    """Fuzz in this process until the time is over or an input crashes it."""
    import atheris

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with atheris.instrument_imports(include=INSTRUMENTED):
        import hostile
    target, counts = hostile.TARGETS[name], collections.Counter[str]()
    findings, dictionary = output / "findings" / name, output / "dictionary"
    dictionary.write_text("\n".join(f'"{_escaped(token)}"' for token in hostile.TOKENS if len(token) < 64))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:

        def run_input(data: bytes) -> None:
            try:
                hostile.is_accepted(target, data, Path(folder))
            except Exception as error:
                kind = _kind(error)
                counts[kind] += 1
                if counts[kind] == 1:
                    stem = findings / f"{type(error).__name__}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
                    stem.write_bytes(data)
                    stem.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))

        limits = [f"-timeout={SECONDS_PER_INPUT}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={LONGEST}"]
        limits += [f"-max_total_time={seconds}", f"-artifact_prefix={findings}{os.sep}", f"-dict={dictionary}"]
        atheris.Setup([sys.argv[0], str(output / "corpus" / name), *limits, "-print_final_stats=1"], run_input)
        with contextlib.suppress(KeyboardInterrupt):
            atheris.Fuzz()


def _kind(error: Exception) -> str:
    """Key of a finding: the exception, and the innermost line of s2vnet."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "s2vnet" in Path(frame.filename).parts]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} {place}"


def _escaped(token: bytes) -> str:
    return "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\x{c:02x}" for c in token)


if __name__ == "__main__":
    main()
