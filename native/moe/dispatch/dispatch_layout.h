// The handle that dispatch leaves for combine and for a later dispatch with the same routing, and the parameters of the kernels.
#pragma once

#include "moe/group/group_layout.h"
#include "runtime/fault.h"

namespace h4j::moe {

// In memory of the caller: this header, then slots [tokens][ranks], then rows and weights [max_rows][top_k] of the expert layout,
// and the slot of each of its rows.
struct Handle {
  int32_t sent[kMaxRanks];          // rows from here to each rank
  int32_t first[kMaxRanks];         // where they begin there
  int32_t received[kMaxRanks + 1];  // rows from each rank, then all of them
  int32_t reserved[3];
};

struct HandleOffsets {
  int64_t slots;          // I32 [max_tokens][ranks]: the token's row at each rank, -1: not sent there
  int64_t rows;           // I32 [max_rows][top_k]: row of the expert layout, -1: not an expert of this rank
  int64_t weights;        // F32 [max_rows][top_k]
  int64_t slots_of_rows;  // I32 [most_expert_rows]: the slot that a row of the expert layout comes from
  int64_t bytes;
};

inline constexpr int kMostAlignment = 256;
// Rows of the expert layout: every token of every rank with all its experts, and each expert's last rows fill their alignment.
constexpr int64_t most_expert_rows(const Shape& s) { return s.max_rows() * s.top_k + int64_t{s.experts_per_rank} * (kMostAlignment - 1); }

constexpr HandleOffsets handle_offsets(const Shape& s, bool expert_layout) {
  HandleOffsets o{};
  o.slots = up(sizeof(Handle), 256);
  o.rows = up(o.slots + int64_t{4} * s.max_tokens * s.ranks, 256);
  o.weights = up(o.rows + (expert_layout ? s.max_rows() * s.top_k * 4 : 0), 256);
  o.slots_of_rows = up(o.weights + (expert_layout ? s.max_rows() * s.top_k * 4 : 0), 256);
  o.bytes = up(o.slots_of_rows + (expert_layout ? most_expert_rows(s) * 4 : 0), 256);
  return o;
}

// The table of ballots that every CTA keeps: [groups of 32 tokens][ranks] bits and rows before.
constexpr int64_t table_bytes(int64_t tokens, int ranks) { return parts(tokens, kTokenGroup) * ranks * 8; }

// The expert layout also keeps counts by expert, some entries, and where each source's rows of each local expert begin.
constexpr int64_t dispatch_shared_bytes(const Shape& s, bool expert_layout) {
  return table_bytes(s.max_tokens, s.ranks) + (expert_layout ? 4 * (2 * int64_t{s.experts} + 2 * kThreads + (s.ranks + 2) * s.experts_per_rank) : 0);
}

// Rank layout with a cast: each warp gathers the scales of a few tokens, so that they leave side by side.
inline constexpr int kCastTokens = 4;
constexpr int64_t strip_bytes(const Shape& s) { return int64_t{s.blocks()} * kCastTokens * 4; }
constexpr int64_t cast_shared_bytes(const Shape& s) { return table_bytes(s.max_tokens, s.ranks) + kWarps * strip_bytes(s); }

struct DispatchParams {
  Group group;
  const uint8_t* x;
  int64_t x_pitch;  // bytes
  const float* x_scales;
  int64_t x_scales_ld;
  const int32_t* experts;
  const float* weights;
  uint8_t* handle;
  HandleOffsets handle_at;
  int32_t* received;  // null: not wanted
  // Expert layout
  uint8_t* out;
  int64_t out_pitch;
  int64_t out_rows;
  float* out_scales;
  int64_t out_scales_ld;
  int32_t* expert_rows;
  FaultSite fault;
  int32_t alignment;
  int32_t tokens;
  int32_t reuse;
  int32_t power_of_two;
  int32_t start, finish;  // which halves this kernel does; finish is the number of CTAs of the one that starts
};

}  // namespace h4j::moe
