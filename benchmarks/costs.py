"""Print tables of the results of speed, memory, batch and faults, and draw how time and memory grow.

python -m benchmarks.costs -o docs/images/growth.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.measures.environment import ROOT
from benchmarks.reports.cost_figures import growth
from benchmarks.reports.costs import markdown
from benchmarks.reports.figures import save_figure


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder of result files")
    parser.add_argument("-o", "--output", type=Path, help="PNG file of the figure")
    arguments = parser.parse_args()
    file = arguments.results / "speed.json"
    if arguments.output is not None and file.exists():
        save_figure(arguments.output, growth(json.loads(file.read_text())))
    sys.stdout.write(markdown(arguments.results))


if __name__ == "__main__":
    main()
