#!/usr/bin/env python3
"""Names every missing piece of an operation, from the C header to the verify command. ci/operations.txt is the table."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "native/include/hopper4j.h"
PIECES = ("variant", "spec", "plan", "reference", "contract-test", "verify")
FURTHER_PIECES = ("bench", "fuzz")  # checked where the table lists them
VARIANT_FILES = ("instances.def", "README.md", "*_layout.h", "*_api.cpp", "*_test.cpp", "sm90_*.cuh")


def table():
    """Operation -> piece -> [(path, word or None)]."""
    operations = {}
    for line in (ROOT / "ci" / "operations.txt").read_text().splitlines():
        fields = line.split("#")[0].split()
        if fields:
            operation, piece, path, *word = fields
            operations.setdefault(operation, {}).setdefault(piece, []).append((path, word[0] if word else None))
    return operations


def missing(operations, header):
    planned = set(re.findall(r"\bh4j_(\w+)_plan\(", header))
    for operation in sorted(planned - set(operations)):
        yield f"{operation}: {HEADER} plans it, ci/operations.txt does not list it"

    for operation, pieces in operations.items():
        # A schedule that several launches share is bound by itself; such an operation has no eager form.
        schedules = [word for _, word in pieces.get("schedule", [])]
        bound = [operation, *schedules]
        functions = [f"{operation}_plan", *(f"{name}_{bind}" for name in bound for bind in ("bind", "rebind"))]
        # Nor has one whose plans are bound on an open group.
        eager = not schedules and "group" not in pieces
        for function in [*functions, operation] if eager else functions:
            if f"h4j_{function}(" not in header:
                yield f"{operation}: header: {HEADER} has no h4j_{function}"
        for piece in (*PIECES, *FURTHER_PIECES, "group"):
            if piece not in pieces and piece in PIECES:
                yield f"{operation}: {piece}: ci/operations.txt has no line for it"
            for path, word in pieces.get(piece, []):
                place = ROOT / path
                if not place.exists():
                    yield f"{operation}: {piece}: {path} is missing"
                elif piece == "variant":
                    for pattern in VARIANT_FILES:
                        if not any(place.glob(pattern)):
                            yield f"{operation}: {piece}: {path}/{pattern} is missing"
                elif word and word not in place.read_text():
                    yield f"{operation}: {piece}: {path} does not mention {word}"

    listed = {path for pieces in operations.values() for path, _ in pieces.get("variant", [])}
    for instances in sorted(ROOT.glob("native/*/*/instances.def")):
        folder = instances.parent.relative_to(ROOT).as_posix()
        if folder not in listed:
            yield f"{folder}: ci/operations.txt lists no operation for this variant"


def main():
    gaps = list(missing(table(), (ROOT / HEADER).read_text()))
    for gap in gaps:
        print(f"check-operations: {gap}", file=sys.stderr)
    return 1 if gaps else 0


if __name__ == "__main__":
    sys.exit(main())
