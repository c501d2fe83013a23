#!/usr/bin/env python3
"""Prints how long each source took in the latest native build; with --enforce fails when their sum exceeds the budget.

    ci/compile-seconds.py [--enforce]

One compile job keeps one core busy, so the sum is close to CPU seconds. Sources that ccache served count what they took.
"""

import sys
from pathlib import Path

BUDGET = 1300  # seconds of a build from nothing: ten minutes on two cores, with some reserve


def main(arguments):
    log = Path(__file__).resolve().parent.parent / "target" / "native" / ".ninja_log"
    seconds = {}
    for line in log.read_text().splitlines()[1:]:
        start, end, _, output, _ = line.split("\t")
        if output.endswith(".o"):
            seconds[output] = (int(end) - int(start)) / 1000
    for source, time in sorted(seconds.items(), key=lambda entry: -entry[1]):
        if time >= 5:
            print(f"{time:6.0f} s  {Path(source).stem}")
    total = sum(seconds.values())
    print(f"{total:6.0f} s  {len(seconds)} sources, at most {BUDGET} s")
    return 1 if "--enforce" in arguments and total > BUDGET else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
