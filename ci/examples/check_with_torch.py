#!/usr/bin/env python3
"""Writes what `hopper4j check` judges: the operands of a block-scaled FP8 product and the product that torch computes from them.

    python3 ci/examples/check_with_torch.py FOLDER [M N K]
    ./hopper4j check --op fp8_gemm_nt --inputs FOLDER/in.safetensors --output FOLDER/theirs.safetensors

Replace `product` by a call of the kernel to be judged. With --wrong the scales of B are taken a block too far, which check must find. Needs torch alone.
"""

import argparse
import json
import struct
from pathlib import Path

import torch

BLOCK = 128
TAGS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}


def save(path, tensors):
    """The safetensors format: the length of a JSON header, the header, the bytes."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": TAGS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def quantize(x, rows):
    """E4M3 values and F32 scales of blocks of `rows` x 128."""
    m, k = x.shape
    padded = torch.zeros(-(-m // rows) * rows, -(-k // BLOCK) * BLOCK)
    padded[:m, :k] = x
    blocks = padded.view(-1, rows, padded.shape[1] // BLOCK, BLOCK)
    scales = blocks.abs().amax(dim=(1, 3)).clamp(min=1e-4) / 448
    values = (blocks / scales[:, None, :, None]).view_as(padded)[:m, :k]
    return values.to(torch.float8_e4m3fn), scales


def dequantize(values, scales, rows):
    m, k = values.shape
    wide = scales.repeat_interleave(rows, dim=0)[:m].repeat_interleave(BLOCK, dim=1)[:, :k]
    return values.double() * wide.double()


def product(a, a_scales, b, b_scales):
    return (dequantize(a, a_scales, 1) @ dequantize(b, b_scales, BLOCK).T).to(torch.bfloat16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sizes", type=int, nargs="*", default=[64, 576, 1024], metavar="M N K")
    parser.add_argument("--wrong", action="store_true")
    arguments = parser.parse_args()
    m, n, k = arguments.sizes
    torch.manual_seed(20261125)
    a, a_scales = quantize(torch.randn(m, k), 1)
    b, b_scales = quantize(torch.randn(n, k) * (1 + torch.arange(k) // BLOCK % 3), BLOCK)
    used = b_scales.roll(1, dims=1) if arguments.wrong else b_scales
    arguments.folder.mkdir(parents=True, exist_ok=True)
    save(arguments.folder / "in.safetensors", {"a": a, "a_scales": a_scales, "b": b, "b_scales": b_scales})
    save(arguments.folder / "theirs.safetensors", {"d": product(a, a_scales, b, used)})


if __name__ == "__main__":
    main()
