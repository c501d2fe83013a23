// Geometry of the mla_cache_write kernels and of the tokens they write, read by host and device.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "runtime/fault.h"

namespace h4j::mla_cache_write {

inline constexpr int kLatent = 512;
inline constexpr int kRope = 64;
inline constexpr int kTokenDim = kLatent + kRope;
// An FP8 token: latent, scales (the single scale is followed by zeros), rope part.
inline constexpr int kScaleOffset = kLatent;
inline constexpr int kRopeOffset = kScaleOffset + 16;
inline constexpr int kFp8TokenBytes = kRopeOffset + 2 * kRope;

// A warp a token: 16 latent values and one rope pair a lane.
inline constexpr int kThreads = 256;
inline constexpr int kWarpsPerCta = kThreads / 32;
inline constexpr int kCtasPerSm = 5;  // as many as fit at 48 registers a thread, so that none waits for the first to end

struct Params {
  const __nv_bfloat16* in;  // [tokens, 576]
  int64_t in_ld;
  const void* weight;          // [512]
  const float* rope;           // [max_length, 64]: 32 cosines, 32 sines
  const void* positions;       // [tokens], int32 or int64
  const int32_t* requests;     // [tokens] or null
  const int32_t* block_table;  // [max_batch, block_table_ld]
  int64_t block_table_ld;
  uint8_t* cache;  // [pages, page_size, token]
  int64_t token_bytes;
  int64_t page_bytes;
  FaultSite positions_site;
  FaultSite requests_site;
  FaultSite block_table_site;
  int64_t max_length;
  int32_t tokens;
  int32_t max_batch;
  int32_t pages;
  int32_t page_shift;
  int32_t request_tokens;
  int32_t wide_positions;  // int64
  int32_t power_of_two;
  float eps;
};

}  // namespace h4j::mla_cache_write
