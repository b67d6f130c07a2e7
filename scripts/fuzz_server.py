"""Send requests of any content to all routes of a server, in rounds of other random ones, until the time is over:

    python scripts/fuzz_server.py --seconds 1800

The requests are those of the property tests and of schemathesis in `tests/server/test_any_request.py` and
`tests/server/test_schema.py`, which fail where the server answers with the status 500. Exit code 1 if a round fails;
its seed reproduces it: `S2VNET_EXAMPLES=N pytest FILES --hypothesis-seed=SEED`.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
INTERRUPTED = 2
"""Exit code of pytest."""
FILES = ["tests/server/test_any_request.py", "tests/server/test_schema.py"]


def main() -> None:
    """Run rounds; the last one is ended when the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--examples", type=int, default=100, help="of each route and round")
    arguments = parser.parse_args()
    begun, failed = time.monotonic(), 0
    while (left := begun + arguments.seconds - time.monotonic()) > 0:
        seed = secrets.randbits(32)
        options = f"-q --timeout 0 -p no:cacheprovider --hypothesis-seed={seed}".split()
        command = [sys.executable, "-m", "pytest", *options, *FILES]
        environment = {**os.environ, "S2VNET_EXAMPLES": str(arguments.examples)}
        round_begun = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            output, _ = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then reports what has failed so far
            output, _ = process.communicate()
        failed += bool(re.search("^(FAILED|ERROR)", output, re.MULTILINE)) or process.returncode not in (0, INTERRUPTED)
        sys.stdout.write(f"seed {seed}, {time.monotonic() - round_begun:.0f} s\n{output[-4000:]}\n")
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
