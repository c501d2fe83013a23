#!/usr/bin/env python3
"""Makes the golden files: what conversion, quantisation, the block-scaled product, attention and its cache give when other software computes them.

Usage: generate.py [OUTPUT_FOLDER]    (default: benchmarks/src/main/resources/golden of this repository)
The README beside this file says what the files hold and how to run it. Output is the same, byte for byte, on every run.
"""
import gzip
import math
import pathlib
import sys

import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save

E4M3_MAX, E5M2_MAX, NAN_CODE = 448.0, 57344.0, 0x7F


# ---- conversion ----

def splitmix64(seed, count):
    """The first `count` numbers of the SplitMix64 sequence (Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def seeded_floats(seed, count):
    """FP32 bit patterns from SplitMix64: the upper half of each number, but where bit 0 is set the exponent is moved into 2^-22 .. 2^21,
    around the range of FP8, and where bits 0 and 1 are set the 18 lowest fraction bits are cleared, which makes ties common."""
    z = splitmix64(seed, count)
    bits = (z >> np.uint64(32)).astype(np.uint32)
    exponent = (np.uint64(105) + ((z >> np.uint64(2)) & np.uint64(63)) % np.uint64(44)).astype(np.uint32)
    near = (z & np.uint64(1)) != 0
    tie = near & ((z & np.uint64(2)) != 0)
    bits = np.where(near, (bits & np.uint32(0x807FFFFF)) | (exponent << np.uint32(23)), bits)
    bits = np.where(tie, bits & np.uint32(0xFFFC0000), bits)
    return bits.view(np.float32)


def to_fp8(x, kind):
    """Codes of the saturating conversion of float32 `x`, by torch, and the same by ml_dtypes or an error."""
    dtype, limit, other = {
        "e4m3": (torch.float8_e4m3fn, E4M3_MAX, ml_dtypes.float8_e4m3fn),
        "e5m2": (torch.float8_e5m2, E5M2_MAX, ml_dtypes.float8_e5m2),
    }[kind]
    clamped = x.clamp(-limit, limit)
    codes = clamped.to(dtype).view(torch.uint8)
    with np.errstate(invalid="ignore"):
        again = torch.from_numpy(clamped.numpy().astype(other).view(np.uint8))
    nan = x.isnan()
    if not torch.equal(codes[~nan], again[~nan]):
        raise AssertionError(f"torch and ml_dtypes differ in {kind}")
    return torch.where(nan, torch.tensor(NAN_CODE, dtype=torch.uint8), codes)


def conversion(seed=20260311, count=1 << 20):
    every_bf16 = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).float()
    floats = torch.from_numpy(seeded_floats(seed, count))
    tensors = {}
    for kind in ("e4m3", "e5m2"):
        tensors[f"bf16.{kind}"] = to_fp8(every_bf16, kind)
        tensors[f"f32.{kind}"] = to_fp8(floats, kind)
    return tensors, {"seed": str(seed)}


# ---- quantisation ----

def quantize(x, block_rows, power_of_two):
    """The DeepSeek-V3.2-Exp variant: amax at least 1e-4, s = amax * (1/448) in FP32 or the next power of two, q = E4M3(x / s)."""
    rows, cols = x.shape
    codes = torch.empty(rows, cols, dtype=torch.uint8)
    scales = torch.empty(-(-rows // block_rows), -(-cols // 128), dtype=torch.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = (slice(i * block_rows, (i + 1) * block_rows), slice(j * 128, (j + 1) * 128))
            b = x[block].float()
            amax = b.abs().nan_to_num(nan=0.0, posinf=float("inf")).amax().clamp(min=1e-4)
            s = amax * torch.tensor(1.0 / 448.0, dtype=torch.float32)
            if power_of_two and s.isfinite():
                mantissa, exponent = torch.frexp(s)  # mantissa in [0.5, 1)
                s = torch.ldexp(torch.tensor(1.0), exponent - (1 if mantissa == 0.5 else 0))
            codes[block] = to_fp8(b / s, "e4m3")
            scales[i, j] = s
    return codes.view(torch.float8_e4m3fn), scales


def dequantize(codes, scales, block_rows, dtype):
    rows, cols = codes.shape
    wide = scales.repeat_interleave(block_rows, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
    return (codes.float() * wide).to(dtype)


def hard_input(generator, rows, cols, dtype):
    """Normal values whose size varies from block to block, and what is awkward: zeros, subnormals, a tiny block, infinities, NaN."""
    x = torch.randn(rows, cols, generator=generator)
    x *= torch.exp2(torch.randint(-12, 12, (rows, 1), generator=generator).float())
    limit = torch.finfo(dtype)
    x[0, :8] = torch.tensor([0.0, -0.0, limit.smallest_normal, -limit.smallest_normal / 4, limit.smallest_normal * limit.eps, 1.0, -1.0, 0.5])
    if rows > 2:
        x[1, :] = 0.0
        x[2, :] = 1e-6 * torch.randn(cols, generator=generator)
    if rows > 4 and cols > 128:
        x[3, 5] = float("nan")
        x[3, 130] = float("inf")
        x[4, 131] = float("-inf")
        x[4, 132] = float("nan")
        x[4, 7] = limit.max
    return x.to(dtype)


def quantisation():
    generator = torch.Generator().manual_seed(11)
    tensors = {}
    for block_rows, shapes in ((1, ((1, 8), (5, 264), (19, 392))), (128, ((3, 8), (128, 128), (130, 136)))):
        for rows, cols in shapes:
            for tag, dtype in (("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)):
                case = f"{block_rows}.{tag}.{rows}x{cols}"
                x = tensors[f"in.{case}"] = hard_input(generator, rows, cols, dtype)
                for kind in ("F32", "POWER_OF_TWO"):
                    codes, scales = quantize(x, block_rows, kind == "POWER_OF_TWO")
                    tensors[f"values.{kind}.{case}"] = codes
                    tensors[f"scales.{kind}.{case}"] = scales
                    tensors[f"back.{kind}.{case}"] = dequantize(codes, scales, block_rows, dtype)
    return tensors, None


# ---- product ----

def nearest_bf16(x):
    """float64 to bfloat16 rounded once: of the neighbours of the result that went through float32, the nearest, ties to even."""
    near = x.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16).astype(np.int32)
    best, best_distance = None, None
    for step in (0, -1, 1):
        candidate = np.clip((near & 0x7FFF) + step, 0, 0x7F80) | (near & 0x8000)
        value = candidate.astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
        distance = np.abs(value - x)
        if best is None:
            best, best_distance = candidate, distance
        else:
            better = (distance < best_distance) | ((distance == best_distance) & (candidate % 2 == 0))
            best, best_distance = np.where(better, candidate, best), np.where(better, distance, best_distance)
    return torch.from_numpy(best.astype(np.uint16)).view(torch.bfloat16)


def product(a, sa, b, sb, c):
    """float64 throughout; the dot product of a block is exact in float64, so its order does not matter."""
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.float64)
    sb_of_n = sb.double().repeat_interleave(128, 0)[: b.shape[0]]
    for kb in range(sa.shape[1]):
        k = slice(kb * 128, (kb + 1) * 128)
        total += (a[:, k].double() @ b[:, k].double().T) * (sa[:, kb : kb + 1].double() * sb_of_n[:, kb])
    return total if c is None else total + c.double()


def fp8_operand(generator, rows, k, block_rows):
    """Values of normal data in the first half of the rows, any finite codes in the others; scales over a few powers of two."""
    normal = (torch.randn(rows, k, generator=generator) * 100).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    codes = torch.randint(0, 127, (rows, k), generator=generator, dtype=torch.uint8)
    codes += 128 * torch.randint(0, 2, (rows, k), generator=generator, dtype=torch.uint8)
    codes[: (rows + 1) // 2] = normal[: (rows + 1) // 2]
    scales = torch.exp(torch.randn(-(-rows // block_rows), -(-k // 128), generator=generator)) * 2**-8
    return codes.view(torch.float8_e4m3fn), scales


def products():
    generator = torch.Generator().manual_seed(12)
    tensors = {}
    ms, ns, ks = (1, 3, 65), (8, 24, 136), (16, 112, 128, 272)
    for k in ks:
        for m in ms:
            tensors[f"a.{m}.{k}"], tensors[f"sa.{m}.{k}"] = fp8_operand(generator, m, k, 1)
        for n in ns:
            tensors[f"b.{n}.{k}"], tensors[f"sb.{n}.{k}"] = fp8_operand(generator, n, k, 128)
    for m in ms:
        for n in ns:
            c = (torch.randn(m, n, generator=generator) * 16).to(torch.bfloat16)
            tensors[f"c.{m}.{n}"] = c
            for k in ks:
                operands = [tensors[f"{name}.{k}"] for name in (f"a.{m}", f"sa.{m}", f"b.{n}", f"sb.{n}")]
                for label, addend in (("d", None), ("dc", c)):
                    exact = product(*operands, addend).numpy()
                    tensors[f"{label}.f32.{m}.{n}.{k}"] = torch.from_numpy(exact.astype(np.float32))
                    tensors[f"{label}.bf16.{m}.{n}.{k}"] = nearest_bf16(exact)
    return tensors, None


# ---- attention ----

TOKEN_DIM, VALUE_DIM = 576, 512


def run_and_keep(module, config, hidden, positions):
    """Runs transformers' eager attention and keeps what went into its softmax: rotated queries and what a cache would hold."""
    kept = {}
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as source

    eager = source.eager_attention_forward

    def keep(attention, query, key, value, *args, **kwargs):
        kept["query"], kept["key"] = query, key
        kept["scale"] = kwargs["scaling"]
        out, weights = eager(attention, query, key, value, *args, **kwargs)
        kept["out"] = out
        return out, weights

    source.eager_attention_forward = keep
    try:
        rotary = source.DeepseekV3RotaryEmbedding(config)(hidden, positions)
        rotary = tuple(part.to(hidden.dtype) for part in rotary)
        length = hidden.shape[1]
        mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype).triu(1)[None, None]
        module(hidden, rotary, mask)
    finally:
        source.eager_attention_forward = eager
    return kept


def latent_attention():
    """transformers' DeepseekV3Attention, which expands keys and values: its inputs as an absorbed decode sees them, and its output before o_proj."""
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    tensors = {}
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0}
    for name, rope in (("plain", {"rope_type": "default", "rope_theta": 10000.0}), ("yarn", yarn)):
        generator = torch.Generator().manual_seed(21)
        config = DeepseekV3Config(hidden_size=64, num_attention_heads=3, num_key_value_heads=3, q_lora_rank=24, kv_lora_rank=VALUE_DIM,
                                  qk_nope_head_dim=16, qk_rope_head_dim=TOKEN_DIM - VALUE_DIM, v_head_dim=16, max_position_embeddings=2560,
                                  rope_interleave=True, attention_bias=False, rope_parameters=rope, attn_implementation="eager")
        module = DeepseekV3Attention(config, layer_idx=0).double().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.2
                values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread + (1.0 if parameter.dim() == 1 else 0.0)
                parameter.copy_(values.float())
            hidden = torch.randn(1, 70, 64, generator=generator, dtype=torch.float64)
            kept = run_and_keep(module, config, hidden, torch.arange(70)[None])
            latent, _ = module.kv_a_proj_with_mqa(hidden).split([VALUE_DIM, TOKEN_DIM - VALUE_DIM], dim=-1)
            tokens = torch.cat([module.kv_a_layernorm(latent)[0], kept["key"][0, 0, :, 16:]], dim=-1)
        chosen = [0, 1, 37, 69]
        expand = module.kv_b_proj.weight.detach().view(3, 32, VALUE_DIM)
        tensors[f"{name}.tokens"] = tokens.float()
        tensors[f"{name}.q_nope"] = kept["query"][0, :, chosen, :16].transpose(0, 1).float().contiguous()
        tensors[f"{name}.q_rope"] = kept["query"][0, :, chosen, 16:].transpose(0, 1).float().contiguous()
        tensors[f"{name}.w_uk"] = expand[:, :16].float().contiguous()
        tensors[f"{name}.w_uv"] = expand[:, 16:].float().contiguous()
        tensors[f"{name}.out"] = kept["out"][0, chosen].float().contiguous()
        tensors[f"{name}.positions"] = torch.tensor(chosen, dtype=torch.int32)
        tensors[f"{name}.scale"] = torch.tensor([kept["scale"]], dtype=torch.float64).float()
    return tensors, None


def paged_attention(q, tokens, tokens_in_use, causal, window, sink, scale):
    """Plain softmax attention of one request in float64; rows without keys give 0 and infinity."""
    s_q, heads, _ = q.shape
    out = torch.zeros(s_q, heads, VALUE_DIM, dtype=torch.float64)
    lse = torch.full((heads, s_q), float("inf"), dtype=torch.float64)
    for t in range(tokens_in_use):
        end = len(tokens) - (tokens_in_use - 1 - t) if causal else len(tokens)
        begin = max(0, end - window) if window else 0
        if end <= begin:
            continue
        seen = tokens[begin:end].double()
        scores = q[t].double() @ seen.T * scale
        lse[:, t] = torch.logsumexp(scores, dim=-1)
        if sink is None:
            weights = torch.softmax(scores, dim=-1)
        else:
            weights = torch.softmax(torch.cat([scores, sink.double()[:, None]], dim=-1), dim=-1)[:, :-1]
        out[t] = weights @ seen[:, :VALUE_DIM]
    return out, lse


def fp8_cache(values, scales_per_token):
    """656-byte tokens: 512 E4M3, four F32 scales of 128 values each or one scale and zeros, 64 BF16; and what they stand for."""
    latent = values[:, :VALUE_DIM].float().view(len(values), scales_per_token, -1)
    scales = (latent.abs().amax(dim=-1, keepdim=True) / E4M3_MAX).float()
    codes = (latent / scales).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    rope = values[:, VALUE_DIM:].contiguous()
    padded = torch.zeros(len(values), 4)
    padded[:, :scales_per_token] = scales[:, :, 0]
    stored = torch.cat([codes.view(len(values), -1).view(torch.uint8), padded.view(torch.uint8), rope.view(torch.uint8)], dim=1)
    return stored, torch.cat([(codes.float() * scales).view(len(values), -1), rope.float()], dim=1)


def decode(scales_per_token=0, page_sizes=(1, 16, 64)):
    """One cache of 256 slots read with several page sizes, BF16 or FP8; a case is page size, causal, window, sink, ragged."""
    generator = torch.Generator().manual_seed(22)
    scale = torch.tensor([192**-0.5 * (0.1 * math.log(40) + 1) ** 2], dtype=torch.float64).float()
    slots, heads, s_q, lengths = 256, 3, 2, [0, 1, 63, 66]
    q = torch.randn(len(lengths), s_q, heads, TOKEN_DIM, generator=generator).to(torch.bfloat16)
    cache = (torch.randn(slots, TOKEN_DIM, generator=generator) * 0.1).to(torch.bfloat16)
    stored = cache
    if scales_per_token:
        stored, cache = fp8_cache(cache, scales_per_token)
    sink = torch.randn(heads, generator=generator)
    tensors = {"q": q, "cache": stored, "sink": sink, "scale": scale, "lengths": torch.tensor(lengths, dtype=torch.int32),
               "q_tokens": torch.tensor([2, 1, 0, 2], dtype=torch.int32)}
    for page_size in page_sizes:
        width = -(-max(lengths) // page_size)
        table = torch.full((len(lengths), width), 2147480000, dtype=torch.int32)
        order = torch.randperm(slots // page_size, generator=generator).tolist()
        for r, length in enumerate(lengths):
            for i in range(-(-length // page_size)):
                table[r, i] = order.pop()
        tensors[f"table.{page_size}"] = table
        paged = cache.view(slots // page_size, page_size, TOKEN_DIM)
        for causal, window, with_sink, ragged in ((1, 0, 0, 0), (0, 0, 1, 0), (1, 40, 0, 1), (1, 20, 1, 0)):
            outs, lses = [], []
            for r, length in enumerate(lengths):
                tokens = torch.cat([paged[table[r, j // page_size], j % page_size][None] for j in range(length)]) if length else cache[:0]
                in_use = int(tensors["q_tokens"][r]) if ragged else s_q
                out, lse = paged_attention(q[r], tokens, in_use, causal, window, sink if with_sink else None, scale.double().item())
                outs.append(out)
                lses.append(lse)
            case = f"{page_size}.{causal}.{window}.{with_sink}.{ragged}"
            tensors[f"out.{case}"] = nearest_bf16(torch.stack(outs).numpy())
            tensors[f"lse.{case}"] = torch.stack(lses).float()
    return tensors, None


# ---- what is fused with quantisation ----

def fused_quantisation():
    """SwiGLU and RMSNorm by torch in float64, rounded once to FP32 and quantised with 1x128 blocks."""
    generator = torch.Generator().manual_seed(13)
    tensors = {}
    for rows, cols in ((1, 8), (5, 264), (9, 520)):
        gate, up = (torch.randn(rows, cols, generator=generator) * 3).to(torch.bfloat16), torch.randn(rows, cols, generator=generator).to(torch.bfloat16)
        weights = torch.rand(rows, generator=generator) * 2.5
        activated = torch.nn.functional.silu(gate.double()) * up.double()
        case = f"{rows}x{cols}"
        tensors[f"swiglu.in.{case}"] = torch.cat([gate, up], dim=1)
        tensors[f"swiglu.weights.{case}"] = weights
        x = (torch.randn(rows, cols, generator=generator) * torch.exp2(torch.randint(-6, 6, (rows, 1), generator=generator).float())).to(torch.bfloat16)
        residual = torch.randn(rows, cols, generator=generator).to(torch.bfloat16)
        weight = torch.randn(cols, generator=generator).to(torch.bfloat16)
        summed = x + residual  # torch adds in FP32 and rounds once
        normed = {kind: torch.nn.functional.rms_norm(value.double(), (cols,), weight.double(), 1e-6) for kind, value in (("plain", x), ("residual", summed))}
        tensors |= {f"rmsnorm.in.{case}": x, f"rmsnorm.residual.{case}": residual, f"rmsnorm.weight.{case}": weight, f"rmsnorm.sum.{case}": summed}
        tensors[f"rmsnorm.normalized.{case}"] = nearest_bf16(normed["plain"].numpy())
        for kind in ("F32", "POWER_OF_TWO"):
            for name, value in (("swiglu.plain", activated), ("swiglu.weighted", activated * weights.double()[:, None]),
                                ("rmsnorm.plain", normed["plain"]), ("rmsnorm.residual", normed["residual"])):
                codes, scales = quantize(value.float(), 1, kind == "POWER_OF_TWO")
                tensors[f"{name}.values.{kind}.{case}"] = codes
                tensors[f"{name}.scales.{kind}.{case}"] = scales
    return tensors, None


# ---- latent cache ----

def latent_cache():
    """transformers' DeepseekV3RMSNorm and rotary embedding of what a latent projection gives: the tokens that a cache would hold, unrounded."""
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as source

    tensors = {}
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0}
    positions = torch.tensor([0, 1, 2, 17, 100, 1023, 4095, 5000])
    for name, rope in (("plain", {"rope_type": "default", "rope_theta": 10000.0}), ("yarn", yarn)):
        generator = torch.Generator().manual_seed(23)
        config = DeepseekV3Config(kv_lora_rank=VALUE_DIM, qk_rope_head_dim=TOKEN_DIM - VALUE_DIM, max_position_embeddings=163840, rope_parameters=rope)
        norm = source.DeepseekV3RMSNorm(VALUE_DIM, eps=1e-6).double()
        x = (torch.randn(len(positions), TOKEN_DIM, generator=generator) * 2).to(torch.bfloat16)
        weight = (torch.randn(VALUE_DIM, generator=generator) * 0.2 + 1).to(torch.bfloat16)
        with torch.no_grad():
            norm.weight.copy_(weight.double())
            latent = norm(x[:, :VALUE_DIM].double())
            cos, sin = source.DeepseekV3RotaryEmbedding(config)(x.float(), positions[None])
            part = x[None, None, :, VALUE_DIM:].double()
            _, turned = source.apply_rotary_pos_emb_interleave(part, part, cos.double(), sin.double())
        half = (TOKEN_DIM - VALUE_DIM) // 2
        # The first members of all pairs come before the second ones there; a cache that keeps pairs together has them interleaved.
        pairs = turned[0, 0].view(len(positions), 2, half).transpose(1, 2).reshape(len(positions), 2 * half)
        tensors[f"{name}.in"], tensors[f"{name}.weight"] = x, weight
        tensors[f"{name}.rope"] = torch.cat([cos[0, :, :half], sin[0, :, :half]], dim=-1).contiguous()
        tensors[f"{name}.tokens"] = torch.cat([latent, pairs], dim=-1).float()
    tensors["positions"] = positions.to(torch.int32)
    return tensors, None


# ---- mixture of experts ----

def in_order(choice, ids, weights):
    """Ids and their weights by falling choice, which torch.topk leaves open."""
    order = choice.gather(1, ids).argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order).int(), weights.gather(1, order)


def gate():
    """transformers' DeepseekV3TopkRouter with an identity for its weight, so that its input is its logits; and top-k of torch's softmax in float64."""
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    generator = torch.Generator().manual_seed(31)
    tensors = {}
    tokens = 48
    for experts, groups, kept, top_k, normalize, scale in ((256, 8, 4, 8, 1, 2.5), (64, 4, 2, 6, 0, 1.0), (24, 1, 1, 3, 1, 16.0)):
        config = DeepseekV3Config(hidden_size=experts, n_routed_experts=experts, n_group=groups, topk_group=kept, num_experts_per_tok=top_k,
                                  norm_topk_prob=bool(normalize), routed_scaling_factor=scale)
        router = DeepseekV3TopkRouter(config)
        bias = 0.3 * torch.rand(experts, generator=generator)
        with torch.no_grad():
            router.weight.copy_(torch.eye(experts))
            router.e_score_correction_bias.copy_(bias)
            logits, weights, ids = router(2 * torch.randn(tokens, experts, generator=generator))
        case = f"SIGMOID.{experts}.{groups}.{kept}.{top_k}.{normalize}.{scale:g}"
        tensors[f"logits.{case}"], tensors[f"bias.{case}"] = logits, bias
        tensors[f"ids.{case}"], tensors[f"weights.{case}"] = in_order(logits.sigmoid() + bias, ids, weights)
    logits = 2 * torch.randn(tokens, 60, generator=generator)
    scores = logits.double().softmax(dim=1)
    weights, ids = scores.topk(4, dim=1)
    case = "SOFTMAX.60.1.1.4.0.1"
    tensors[f"logits.{case}"], tensors[f"bias.{case}"] = logits, torch.zeros(60)
    tensors[f"ids.{case}"], tensors[f"weights.{case}"] = in_order(scores, ids, weights.float())
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, None


def expert_layer():
    """A layer of routed experts by torch in float64: tokens and activations quantised, projections rounded to BF16, sums rounded once to BF16."""
    generator = torch.Generator().manual_seed(37)
    tokens, hidden, intermediate, experts, top_k = 12, 272, 144, 4, 2

    def dequantized(x):
        codes, scales = quantize(x, 1, False)
        return codes.double() * scales.double().repeat_interleave(128, 1)[:, : x.shape[1]]

    tensors = {"x": torch.randn(tokens, hidden, generator=generator).bfloat16(), "weights": torch.rand(tokens, top_k, generator=generator),
               "ids": torch.rand(tokens, experts, generator=generator).argsort(dim=1)[:, :top_k].int().contiguous()}
    tensors["ids"][3, 1] = -1
    matrices = {}
    for name, rows, cols in (("gate_up", 2 * intermediate, hidden), ("down", hidden, intermediate)):
        pairs = [quantize(torch.randn(rows, cols, generator=generator) / cols**0.5, 128, False) for _ in range(experts)]
        tensors[name] = torch.stack([codes.view(torch.uint8) for codes, _ in pairs]).view(torch.float8_e4m3fn)
        tensors[f"{name}_scales"] = torch.stack([scales for _, scales in pairs])
        matrices[name] = [codes.double() * scales.double().repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
                          for codes, scales in pairs]
    x = dequantized(tensors["x"].float())
    out = torch.zeros(tokens, hidden, dtype=torch.float64)
    for t in range(tokens):
        for j in range(top_k):
            expert = int(tensors["ids"][t, j])
            if expert < 0:
                continue
            gate, up = nearest_bf16((matrices["gate_up"][expert] @ x[t]).numpy()).double().chunk(2)
            activated = dequantized((torch.nn.functional.silu(gate) * up).float()[None])[0]
            row = nearest_bf16((matrices["down"][expert] @ activated).numpy()).double()
            out[t] += tensors["weights"][t, j].double() * row
    tensors["out"] = nearest_bf16(out.numpy())
    return tensors, None


FILES = {
    "conversion": conversion,
    "quantize": quantisation,
    "fused_quantize": fused_quantisation,
    "gemm": products,
    "latent_attention": latent_attention,
    "latent_cache": latent_cache,
    "mla_decode": decode,
    "mla_decode_fp8_blocks": lambda: decode(4, (16,)),
    "mla_decode_fp8_token": lambda: decode(1, (16,)),
    "moe_gate": gate,
    "expert_layer": expert_layer,
}


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "benchmarks/src/main/resources/golden"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for name, make in FILES.items():
        tensors, metadata = make()
        packed = save(tensors, metadata)
        path = folder / f"{name}.safetensors.gz"
        path.write_bytes(gzip.compress(packed, 9, mtime=0))
        print(f"{path.name}: {len(tensors)} tensors, {len(packed)} bytes, {path.stat().st_size} compressed")


if __name__ == "__main__":
    main()
