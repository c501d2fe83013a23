// Geometry of permute, read by host and device.
#pragma once

#include <cstdint>

#include "runtime/fault.h"

namespace h4j::permute {

inline constexpr int kMaxTopK = 32;

// Moving: a warp a piece of a token's row, 16 bytes a lane and load. So many loads are in flight before the first store.
inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kCtasPerSm = 4;
inline constexpr int kLoads = 4;
inline constexpr int kPieceBytes = kLoads * 32 * 16;  // of out
inline constexpr int kExpertBits = 10;
inline constexpr int kMaxExperts = 1 << kExpertBits;
// Where it counts no more than so many ids an SM, each CTA that moves finds its places by counting all ids for itself: a launch ahead takes longer.
inline constexpr int64_t kMaxCountsPerSm = 32768;
inline constexpr int kQuadsAhead = 4;  // loads of four ids in flight a thread

// Else routing, ahead of it: one cluster, whose warps number a stretch of the ids each.
inline constexpr int kRouteThreads = kMaxExperts;  // a thread an expert while starts are summed
inline constexpr int kRouteWarps = kRouteThreads / 32;
inline constexpr int kMaxRouteCtas = 8;
inline constexpr int kIdsPerRouteCta = 1024;  // that are worth a CTA more

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
  int32_t counts;        // 1: CTAs that move count the ids themselves, no kernel goes ahead
  int32_t padding_ctas;  // the first CTAs of the grid clear rows of padding
  int32_t scale_ctas;    // the next ones copy scales
};

// Of a CTA that counts all ids.
struct CountStorage {
  int32_t next[kMaxExperts];          // counts of ids ahead of this CTA's, then the row of its next id
  int32_t ends[kMaxExperts];          // counts of ids, then group_ends
  int32_t padding_ends[kMaxExperts];  // rows of padding of the experts up to this one
  int32_t places[kWarps * kMaxTopK];
  uint64_t scan[kWarps];
  int32_t first_bad;
};

struct RouteStorage {
  int32_t totals[kMaxExperts];  // this CTA's ids of each expert, read by the others of the cluster
  int32_t next[kMaxExperts];    // the row of this CTA's first id of each expert
  uint64_t scan[kRouteWarps];
  int32_t first_bad;
  // Behind it, [kRouteWarps][experts]: ids in a warp's stretch, then those of the warps before it, then of its own earlier ids too.
};

constexpr int64_t route_shared_bytes(int experts) { return static_cast<int64_t>(sizeof(RouteStorage)) + int64_t{kRouteWarps} * experts * 4; }

}  // namespace h4j::permute
