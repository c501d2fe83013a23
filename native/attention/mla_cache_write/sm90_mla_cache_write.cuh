// RMSNorm of the latent, RoPE of the rope part, and the token into its page: one pass over memory.
#pragma once

#include "attention/mla_cache_write/mla_cache_write_layout.h"
#include "hopper4j.h"
#include "tile/fault.cuh"
#include "tile/fp8.cuh"
#include "tile/rms_norm.cuh"
#include "tile/rope.cuh"

namespace h4j::mla_cache_write {

// Where a token goes, or which value says that it goes nowhere.
struct Place {
  int64_t position;
  uint8_t* slot;          // null: nowhere
  const FaultSite* site;  // null: padding, or all is well
  int64_t index;
  int64_t got;
  int64_t end;  // allowed: 0..end - 1
};

__device__ inline Place find_place(const Params& params, int token) {
  Place place{};
  place.position =
      params.wide_positions ? static_cast<const int64_t*>(params.positions)[token] : static_cast<const int32_t*>(params.positions)[token];
  if (place.position == -1) return place;
  const auto bad = [&](const FaultSite& site, int64_t index, int64_t got, int64_t end) {
    place.site = &site, place.index = index, place.got = got, place.end = end;
    return place;
  };
  if (place.position < 0 || place.position >= params.max_length) return bad(params.positions_site, token, place.position, params.max_length);
  const int request = params.requests != nullptr ? params.requests[token] : token / params.request_tokens;
  if (request < 0 || request >= params.max_batch) return bad(params.requests_site, token, request, params.max_batch);
  const int64_t entry = request * params.block_table_ld + (place.position >> params.page_shift);
  const int page = params.block_table[entry];
  if (page < 0 || page >= params.pages) return bad(params.block_table_site, entry, page, params.pages);
  place.slot = params.cache + page * params.page_bytes + (place.position & ((int64_t{1} << params.page_shift) - 1)) * params.token_bytes;
  return place;
}

// A warp that met a bad value looks whether an earlier token has one too, so that the first is named whichever warp comes first.
__device__ inline void report_first(const Params& params, int token) {
  const int lane = threadIdx.x % 32;
  for (int begin = 0; begin <= token; begin += 32) {
    const Place place = begin + lane <= token ? find_place(params, begin + lane) : Place{};
    const unsigned bad = __ballot_sync(0xffffffffu, place.site != nullptr);
    if (bad == 0) continue;
    if (lane == __ffs(bad) - 1) tile::report_fault(*place.site, place.index, place.got, 0, place.end - 1);
    return;
  }
}

// Two vectors of 8 latent values a lane: elements 8 * lane and 256 + 8 * lane, so that 16 neighbours hold a 1x128 block.
template <int kFormat>
__device__ void store_latent(uint8_t* slot, const float (&latent)[2][8], bool power_of_two) {
  const int lane = threadIdx.x % 32;
  if constexpr (kFormat == H4J_MLA_CACHE_BF16) {
#pragma unroll
    for (int v = 0; v < 2; ++v) tile::Bf16x8::store(reinterpret_cast<__nv_bfloat16*>(slot) + v * 256 + lane * 8, latent[v]);
  } else {
    float amax[2] = {tile::half_warp_largest(tile::largest_magnitude(latent[0])), tile::half_warp_largest(tile::largest_magnitude(latent[1]))};
    auto* scales = reinterpret_cast<float*>(slot + kScaleOffset);
    if constexpr (kFormat == H4J_MLA_CACHE_FP8_TOKEN) {
      const float largest = fmaxf(amax[0], amax[1]);
      amax[0] = amax[1] = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 16));
      if (lane < 4) scales[lane] = lane == 0 ? tile::block_scale(amax[0], power_of_two) : 0.0f;
    }
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const float scale = tile::block_scale(amax[v], power_of_two);
      *reinterpret_cast<uint2*>(slot + v * 256 + lane * 8) = tile::quantize8_times(latent[v], tile::reciprocal_of(scale));
      if (kFormat == H4J_MLA_CACHE_FP8_BLOCKS && lane % 16 == 0) scales[v * 2 + lane / 16] = scale;
    }
  }
}

template <int kFormat, class Weight>
__global__ void __launch_bounds__(kThreads, kCtasPerSm) mla_cache_write_kernel(const __grid_constant__ Params params) {
  const int lane = threadIdx.x % 32;
  const Weight* weight = static_cast<const Weight*>(params.weight);
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerCta;
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarpsPerCta + threadIdx.x / 32; token < params.tokens; token += warps) {
    const __nv_bfloat16* in = params.in + token * params.in_ld;
    const tile::Bf16x8 x[2] = {tile::Bf16x8::load(in + lane * 8), tile::Bf16x8::load(in + 256 + lane * 8)};
    const float2 pair = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(in + kLatent + 2 * lane));
    const Place place = find_place(params, static_cast<int>(token));  // the same in all lanes
    if (place.slot == nullptr) {
      if (place.site != nullptr) report_first(params, static_cast<int>(token));
      continue;
    }
    const float* rope = params.rope + place.position * kRope;
    const float2 rotated = tile::rotate(pair, __ldg(rope + lane), __ldg(rope + kRope / 2 + lane));
    const float inverse_rms = tile::inverse_rms<1>(x, kLatent, params.eps, nullptr);
    float latent[2][8];
#pragma unroll
    for (int v = 0; v < 2; ++v) tile::normalize8<Weight>(x[v], tile::Vector8<Weight>::load(weight + v * 256 + lane * 8), inverse_rms, latent[v]);
    store_latent<kFormat>(place.slot, latent, params.power_of_two != 0);
    constexpr int kOffset = kFormat == H4J_MLA_CACHE_BF16 ? 2 * kLatent : kRopeOffset;
    reinterpret_cast<__nv_bfloat162*>(place.slot + kOffset)[lane] = __float22bfloat162_rn(rotated);
  }
}

}  // namespace h4j::mla_cache_write
