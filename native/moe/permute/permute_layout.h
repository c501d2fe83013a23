// Geometry of permute, read by host and device.
#pragma once

#include <cstdint>

#include "runtime/fault.h"

namespace h4j::permute {

// One large CTA an SM: every CTA counts all ids, so fewer CTAs count less.
inline constexpr int kThreads = 1024;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kMaxExperts = kThreads;  // a thread an expert while starts are summed
inline constexpr int kMaxTopK = 32;
// Warps that number the ids of a chunk, each a stretch of it.
inline constexpr int kRankWarps = 8;
// Ids whose rows a CTA places at a time: at least 64 tokens.
inline constexpr int kChunkIds = 2048;
// Bytes of a row that a warp moves at a time, 16 bytes a lane and load: so many loads are in flight before the first store.
inline constexpr int kLoads = 4;
inline constexpr int kPieceBytes = kLoads * 32 * 16;

struct Params {
  const int32_t* ids;      // [tokens, top_k]
  const uint8_t* in;       // [tokens, hidden]
  int64_t in_pitch;        // bytes
  const float* in_scales;  // [ceil(hidden/128)] columns
  int64_t in_scales_ld;
  uint8_t* out;       // [rows, hidden]
  int64_t out_pitch;  // bytes
  float* out_scales;  // [ceil(hidden/128)] columns
  int64_t out_scales_ld;
  int32_t* group_ends;  // [experts]
  int32_t* places;      // [tokens, top_k]
  int32_t* sources;     // [rows] or null
  FaultSite bad_ids;
  int32_t tokens;
  int32_t experts;
  int32_t top_k;
  int32_t alignment;
  int32_t hidden;
  int32_t out_row_bytes;
  int32_t blocks;  // of scales in a row; 0: none
  int32_t power_of_two;
};

struct SharedStorage {
  int32_t earlier[kMaxExperts];            // ids of each expert ahead of this CTA's tokens
  int32_t later[kMaxExperts];              // its tokens' and those behind
  int32_t next[kMaxExperts];               // row for the next of this CTA's ids
  int32_t ends[kMaxExperts];               // group_ends
  int32_t padding_ends[kMaxExperts];       // rows of padding of the experts up to this one
  int32_t ranks[kRankWarps][kMaxExperts];  // ids in a warp's stretch, then the row of its next one
  int32_t places[kChunkIds];
  uint64_t scan[kWarps];
  int32_t first_bad;
};

}  // namespace h4j::permute
