// Geometry, schedule and parameters of MLA decode, read by host and device.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "runtime/fault.h"

namespace h4j::mla {

inline constexpr int kTokenDim = 576;  // latent (also the value) and rope part of a cached token
inline constexpr int kValueDim = 512;
inline constexpr int kRows = 64;   // query rows of a CTA: the M of one WGMMA; a row is a (token, head) pair of one request
inline constexpr int kBlock = 64;  // cached tokens of a step
inline constexpr int kChunk = 64;  // dims of one 128-byte swizzle row
inline constexpr int kChunks = kTokenDim / kChunk;
inline constexpr int kValueChunks = kValueDim / kChunk;
inline constexpr int kChunkBytes = 64 * 128;
inline constexpr int kThreads = 3 * 128;  // one loading and two math warp groups
// A block of tokens may be given back in parts: the values of either math group, and the rope part, whose place probabilities take.
inline constexpr int kRopePart = 2;
inline constexpr int kFreeParts = kRopePart + 1;
inline constexpr int kAllParts = kRopePart;  // where it is given back as a whole, that barrier stands for all

// First chunk of a part; that of the part behind the last is where the block ends.
constexpr int part_begin(int part) { return part <= kRopePart ? part * (kValueChunks / kRopePart) : kChunks; }

// An FP8 token: 512 E4M3 values, their scales (four, or one and zeros), 64 BF16 values of the rope part.
inline constexpr int kFp8TokenBytes = 656;
inline constexpr int kFp8ScalesAt = kValueDim;
inline constexpr int kFp8RopeAt = kFp8ScalesAt + 4 * 4;
inline constexpr int kTokenBox = 8;  // tokens of a box that holds them whole: as many as the swizzle repeats after
// Blocks a part from which threads fetch tokens where there is one row tile, whatever the page size. Boxes marked as the first to leave the L2 are fast
// at once and then lose 4 % (measured: boxes ahead at 33 blocks, threads at 64).
inline constexpr int kLongPart = 48;

// What a part pays for starting on a request, in blocks: loading Q and storing the result. Included in the cost that the schedule balances.
inline constexpr int kRequestOverheadBlocks = 2;

// What a partial result costs all parts together, in blocks: 64 rows of 512 floats written and read again against 64 tokens of 576 BF16 values.
inline constexpr float kPartialBlocks = 2.0f * kRows * kValueDim * 4 / (kBlock * kTokenDim * 2);
// What merging any partial results at all costs, in blocks of one part: about 6 us against 3.1 us a block (measured).
inline constexpr float kMergeBlocks = 2.0f;
// Warps of an SM, at most, that merging has while a row may get more than one.
inline constexpr int kMergeWarpsPerSm = 32;
// CTAs that few rows are divided between, at most, while all CTAs run side by side: a second wave costs more than what a row's CTAs save.
inline constexpr int kMergeSlices = 4;
inline constexpr int kMergeCtasPerSm = 4;
// The same where a row has one warp and a warp many rows: it has more registers then. It looks at 32 of them at most, one a lane.
inline constexpr int kMergeCtasPerSmOfManyRows = 3;
inline constexpr int kMergeRowsPerWarp = 32;
// Shares that the schedule tries.
inline constexpr int kShares = 6;

// The schedule, int32 values in device memory, written once per decode step and read by every layer's launch:
//   header   [4]               first entry of a block table that names no page, request << 32 | column, all ones: none; blocks a part (cost units)
//   parts    [parts][8]        first request, last request, end block of the last (counted from its first block), which of the two lie in other parts
//                              too and whether parts are long; and the stretch of the first request: its length, query tokens, absolute first block, blocks. So a part starts
//                              loading after one read.
//   requests [max_batch]       where the request's cost begins; one more entry closes the table
// A part has two partial results at most: number 2 * part of its first request, 2 * part + 1 of its last where that is another.
inline constexpr int kBadPageAt = 0;  // uint64
inline constexpr int kShareAt = 2;
inline constexpr int kFirstCut = 1;
inline constexpr int kLastCut = 2;
inline constexpr int kLong = 4;  // the same in all parts

struct ScheduleLayout {
  int parts;
  int max_batch;

  constexpr int64_t parts_at() const { return 4; }
  constexpr int64_t requests_at() const { return parts_at() + int64_t{8} * parts; }
  constexpr int64_t size() const { return requests_at() + max_batch + 1; }
  constexpr int64_t max_splits() const { return int64_t{2} * parts; }
};

struct ScheduleParams {
  const int32_t* lengths;   // [batch]
  const int32_t* q_tokens;  // [batch] or null: s_q for all
  int32_t* schedule;
  int32_t batch;
  int32_t s_q;
  int32_t window;      // 0: none
  int32_t max_length;  // longer lengths are cut to it
  float partial_cost;  // of a partial result, in blocks of one part
  FaultSite bad_length;
  FaultSite bad_q_tokens;
  ScheduleLayout layout;
};

// How tokens come into shared memory.
enum class Source {
  kBoxes,       // BF16 by TMA, half the dims of 64 tokens at a time
  kGroupBoxes,  // the same of eight tokens, for pages of fewer than 64
  kTokenBoxes,  // BF16 by TMA, eight whole tokens at a time, or by threads where parts are long or pages small; with one row tile
  kTokens,      // BF16 by threads, for pages of fewer than eight tokens and several row tiles
  kFp8,         // E4M3 as they are
};

// The parts of a buffer in the order in which they come free, are fetched and are multiplied by Q: group 1 multiplies by its own probabilities first, so that its half of
// the second block is the first to come free.
constexpr int part_in_turn(int buffer, int turn) { return turn < kRopePart ? (buffer + turn) % 2 : turn; }

// Whether a block's parts are given back one by one. Where it is fetched as a whole, that would be for nothing.
constexpr bool by_parts(Source source) { return source != Source::kTokenBoxes; }

// Whether scores wait at a chunk of dims for what has been fetched: the chunks of a part arrive together, or all of a block.
constexpr bool arrives_with(Source source, int chunk) {
  return chunk == 0 || (by_parts(source) && (chunk == part_begin(1) || chunk == part_begin(kRopePart)));
}

// Where a block's BF16 tokens lie in shared memory: bytes from one chunk of dims to the next, and from eight tokens to the next eight. A box lies in one piece,
// whatever its dims.
constexpr bool by_eight_tokens(Source source) { return source == Source::kGroupBoxes || source == Source::kTokenBoxes; }
constexpr int chunk_stride(Source source) { return by_eight_tokens(source) ? kTokenBox * 128 : kChunkBytes; }
constexpr int token_group_stride(Source source) { return by_eight_tokens(source) ? kChunks * kTokenBox * 128 : kTokenBox * 128; }

struct Params {
  CUtensorMap q;               // [batch][9][s_q * heads][64] BF16, box [1, 9, 64, 64]
  const uint8_t* q_rows;       // the same for loads by threads
  int64_t q_row_bytes;         // between rows
  CUtensorMap cache;           // [pages][9][page_size][64] BF16, box [1, 4, 64, 64] or [1, 4, 8, 64], of whole tokens [1, 9, 8, 64]
  CUtensorMap cache_chunk;     // the same, box [1, 1, 64, 64] or [1, 1, 8, 64]
  const uint8_t* tokens;       // the same for loads that are not boxes: [pages][page_size] tokens of the format
  int64_t page_bytes;          // between pages
  int64_t token_bytes;         // between tokens
  const int32_t* block_table;  // [batch, block_table_ld]
  int64_t block_table_ld;
  const int32_t* lengths;
  const int32_t* q_tokens;
  int32_t* schedule;
  const float* sink;   // [heads] or null
  void* out;           // [batch, s_q, heads, 512] BF16, packed
  float* lse;          // [batch, heads, s_q]
  float* partial_out;  // [split][row tile][64][512]
  float* partial_lse;  // [split][row tile][64], base 2
  float scale_log2;    // softmax scale * log2(e)
  int32_t heads;
  int32_t s_q;
  int32_t batch;
  int32_t row_tiles;
  int32_t page_shift;  // log2(page_size)
  int32_t window;
  int32_t causal;
  int32_t max_length;
  int32_t pages;
  int32_t scales;         // of an FP8 token: 4 or 1
  int32_t warps_per_row;  // of the merging kernel
  FaultSite bad_page;
  ScheduleLayout layout;
};

// A divisor in use many times: non-negative numbers by it, whose quotients are far below 2^20. The estimate is off by one at most.
struct Share {
  constexpr explicit Share(int share) : Share(share, 1.0f / static_cast<float>(share)) {}
  constexpr Share(int share, float estimate) : blocks(share), inverse(estimate) {}

  constexpr int part_of(int cost) const {
    const int part = static_cast<int>(static_cast<float>(cost) * inverse);
    const int rest = cost - part * blocks;
    return rest < 0 ? part - 1 : rest >= blocks ? part + 1 : part;
  }

  int blocks;
  float inverse;
};

// Parts that a request's blocks lie in.
constexpr int pieces(int begin, int blocks, const Share& share) {
  return blocks > 0 ? share.part_of(begin + blocks - 1) - share.part_of(begin) + 1 : 0;
}

// Blocks of a request that any of its tokens sees.
struct BlockRange {
  int first;
  int count;
};

constexpr BlockRange block_range(int length, int tokens, int window, int max_length) {
  length = length < 0 ? 0 : length > max_length ? max_length : length;
  int begin = window > 0 ? length - (tokens - 1) - window : 0;
  begin = begin < 0 ? 0 : begin / kBlock;
  const int end = (length + kBlock - 1) / kBlock;
  return {begin, end > begin ? end - begin : 0};
}

}  // namespace h4j::mla
