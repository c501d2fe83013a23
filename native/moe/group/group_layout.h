// What stands where in the window that a rank's peers write and read, and in its own state. Every rank computes the same from the same spec, so a
// kernel reaches a peer's memory by the peer's base address and an offset.
#pragma once

#include <cstdint>

#include "hopper4j.h"

namespace h4j::moe {

inline constexpr int kMaxRanks = 64;
inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxTopK = 32;
inline constexpr int kMaxHidden = 16384;
inline constexpr int kMaxLatencyTokens = 512;
inline constexpr int kMaxChannels = 4;
inline constexpr int kMaxCtas = 144;  // CTAs of a kernel that signal their end
inline constexpr int kThreads = 512;  // of every kernel here
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kScaleBlock = 128;
inline constexpr int kTokenGroup = 32;  // tokens that one ballot counts
inline constexpr int kReducedRows = 2;  // partial rows behind one flag: a fence costs microseconds, a reader wants its row soon

// A line of 128 bytes is written by eight lanes of one warp instruction and so becomes visible as a whole: its last word is the epoch that tells the
// reader so, 120 bytes are payload.
inline constexpr int kLineBytes = 128;
inline constexpr int kLinePayload = 120;
inline constexpr int kEntriesPerLine = kLinePayload / 8;  // (expert, weight) pairs
inline constexpr int kDispatchSegments = 8;               // pieces of a row that different warps send and receive

constexpr int64_t up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int64_t parts(int64_t value, int64_t part) { return (value + part - 1) / part; }

// Order of a call's phases, as a status names them.
enum class Phase : uint32_t { kCounts = 1, kRows = 2, kReady = 3, kRead = 4, kPartials = 5, kRouting = 6, kLines = 7, kReturn = 8 };

struct Shape {
  int ranks, rank, experts, experts_per_rank, top_k, hidden, max_tokens, latency_tokens;
  bool fp8;

  constexpr int blocks() const { return (hidden + kScaleBlock - 1) / kScaleBlock; }
  constexpr int first_expert() const { return rank * experts_per_rank; }
  constexpr int local_experts() const {
    const int left = experts - first_expert();
    return left < 0 ? 0 : left < experts_per_rank ? left : experts_per_rank;
  }
  constexpr int64_t max_rows() const { return static_cast<int64_t>(ranks) * max_tokens; }
  constexpr int64_t row_ld() const { return fp8 ? (hidden + 15) / 16 * 16 : hidden; }  // elements
  constexpr int64_t row_pitch() const { return fp8 ? row_ld() : 2 * row_ld(); }        // bytes
  constexpr int64_t partial_pitch() const { return 2 * static_cast<int64_t>(hidden); }
  constexpr int64_t scales_ld() const { return (max_rows() + 3) / 4 * 4; }
  // Latency: a row's pieces of whole scale blocks; the values first, then the FP8 scales.
  constexpr int segment_blocks() const { return (blocks() + kDispatchSegments - 1) / kDispatchSegments; }
  constexpr int segment_bytes() const { return segment_blocks() * (fp8 ? kScaleBlock + 4 : 2 * kScaleBlock); }
  constexpr int segment_lines() const { return (segment_bytes() + kLinePayload - 1) / kLinePayload; }
  constexpr int row_lines() const { return kDispatchSegments * segment_lines(); }
  constexpr int return_lines() const { return (2 * hidden + kLinePayload - 1) / kLinePayload; }
  constexpr int routing_lines() const { return (1 + latency_tokens * top_k + kEntriesPerLine - 1) / kEntriesPerLine; }
  constexpr int64_t latency_rows() const { return static_cast<int64_t>(ranks) * latency_tokens; }
};

// Offsets in bytes from the start of a channel's part of the window; [2] is the parity of the epoch.
struct Offsets {
  int64_t counts;         // u64 [2][source][destination]: epoch in the high word, rows in the low one
  int64_t expert_counts;  // u64 [2][source][experts_per_rank]: the same for this rank's experts
  int64_t done;           // u32 [2][source][kMaxCtas]: epoch, when a CTA of the source has sent all its rows
  int64_t ready;          // u32 [2][source]: epoch, when the source's partial rows may be read
  int64_t read;           // u32 [2][source][kMaxCtas]: epoch, when a CTA of the source has read all it wants from here
  int64_t arrived;        // u32 [max_rows]: epoch, when the row is there; expert layout
  int64_t reduced;        // u32 [source][parts(max_tokens, kReducedRows)]: epoch, when the source's partial rows of this rank's tokens are written
  int64_t rows;           // [max_rows] rows of row_pitch bytes
  int64_t scales;         // F32 [blocks][scales_ld]; on the way to the expert layout [max_rows][blocks]
  int64_t experts;        // I32 [max_rows][top_k], this rank's own numbers
  int64_t weights;        // F32 [max_rows][top_k]
  int64_t places;         // I32 [max_rows][top_k]: how many rows of the same source for the same expert come before
  int64_t partials;       // BF16 [max_rows][hidden]
  int64_t routing;        // lines [2][source][routing_lines]
  int64_t lines;          // lines [2][source][latency_tokens][row_lines]
  int64_t hello;          // lines [2][source]: combine's word to those who get no rows
  int64_t returns;        // lines [2][source][latency_tokens][return_lines]
  int64_t missed;         // u32 [source]: of channel 0, for all of them: the rank + 1 that the source waited for in vain
  int64_t channel_bytes;
};

constexpr Offsets offsets_of(const Shape& s) {
  Offsets o{};
  int64_t at = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t start = at;
    at = up(at + bytes, 256);
    return start;
  };
  const int64_t ranks = s.ranks;
  o.counts = take(2 * ranks * ranks * 8);
  o.expert_counts = take(2 * ranks * s.experts_per_rank * 8);
  o.done = take(2 * ranks * kMaxCtas * 4);
  o.ready = take(2 * ranks * 4);
  o.read = take(2 * ranks * kMaxCtas * 4);
  o.arrived = take(s.max_rows() * 4);
  o.reduced = take(ranks * parts(s.max_tokens, kReducedRows) * 4);
  o.rows = take(s.max_rows() * s.row_pitch());
  o.scales = take(s.fp8 ? s.blocks() * s.scales_ld() * 4 : 0);
  o.experts = take(s.max_rows() * s.top_k * 4);
  o.weights = take(s.max_rows() * s.top_k * 4);
  o.places = take(s.max_rows() * s.top_k * 4);
  o.partials = take(s.max_rows() * s.partial_pitch());
  const int64_t latency = s.latency_tokens > 0 ? 2 * ranks * kLineBytes : 0;
  o.routing = take(latency * s.routing_lines());
  o.lines = take(latency * s.latency_tokens * s.row_lines());
  o.hello = take(latency);
  o.returns = take(latency * s.latency_tokens * s.return_lines());
  o.missed = take(ranks * 4);
  o.channel_bytes = at;
  return o;
}

// A call of a channel runs through one kernel, or two for halves. Its epoch is the count of calls before it, plus one.
struct Counter {
  uint32_t epoch;    // calls that have ended
  uint32_t arrived;  // CTAs of the running call that are done
  uint32_t ticket;   // next work of the running call
  uint32_t second_ticket;
  uint32_t indexed;  // CTAs of the running call that have indexed their part of the rows
};

// A rank's own memory, not seen by peers.
struct State {
  uint32_t aborted;   // a wait timed out: every kernel of the group ends at once from now on
  uint32_t settling;  // a thread is finding out which rank to name
  uint32_t reserved[30];
  struct Channel {
    Counter dispatch, combine, latency_dispatch, latency_combine;
  } channel[kMaxChannels];
};

// In mapped host memory. A rank is named as rank + 1, so that 0 is no report. Until it is settled it is the rank that was waited for, which may itself miss another.
inline constexpr uint64_t kSettled = uint64_t{1} << 63;
struct Status {
  uint64_t report;  // kSettled | phase << 48 | channel << 32 | rank + 1
  uint64_t epoch;
  uint64_t closed;  // bit r: rank r, of this process, has closed its group, and its window is about to go
};

// What every kernel of a group is given.
struct Group {
  uint8_t* peers[kMaxRanks];  // the channel's part of each rank's window
  State* state;
  Status* status;
  uint64_t active;  // bit r: rank r takes part
  uint64_t deadline_ns;
  uint32_t expert_divisor;  // 2^20 / experts_per_rank, rounded up: (expert * it) >> 20 is the rank, exactly for experts below 1024
  int32_t channel;
  Shape shape;
  Offsets offsets;
};

}  // namespace h4j::moe
