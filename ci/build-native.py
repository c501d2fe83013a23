#!/usr/bin/env python3
"""Builds the configured native library, prints what was slow to compile, and holds the build to its budget of CPU seconds."""

import resource
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "target" / "native"
BUDGET = 1300  # CPU seconds of a build from nothing: ten minutes on two cores, with some reserve


def finished():
    """The lines of ninja's log: start and end in milliseconds, time stamp, output, hash."""
    log = BUILD / ".ninja_log"
    return log.read_text().splitlines() if log.exists() else []


def main():
    before = set(finished())
    status = subprocess.run(["cmake", "--build", BUILD], check=False).returncode
    if status != 0:
        return status
    compiled = [line.split("\t") for line in finished() if line not in before and ".o\t" in line]
    for start, end, _, output, _ in sorted(compiled, key=lambda step: int(step[0]) - int(step[1])):
        seconds = (int(end) - int(start)) / 1000
        if seconds >= 5:
            print(f"{seconds:6.0f} s  {Path(output).stem}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = usage.ru_utime + usage.ru_stime
    if compiled:
        print(f"{total:6.0f} s  CPU time of {len(compiled)} sources, at most {BUDGET} s")
    if total > BUDGET:
        print(f"build-native: took {total:.0f} CPU seconds, at most {BUDGET}: make kernels cheaper to compile", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
