// Dispatch and combine of a few tokens, where the time of a wait is what counts: no barrier, data carry their own flags.
//
// A warp that waits has sent all of its part, or never sends: nobody waits who is waited for. In dispatch half of a CTA's warps send rows while the others exchange the
// routing; then all place the rows that come. In combine every warp sends its part, then completes its share of this rank's own tokens. What is sent first is loaded while
// the epoch is on its way. A buffer is written again two epochs later; that is safe because each call waits for a word of every rank (routing, or combine's hello), so no
// rank is more than one call ahead of another.
#pragma once

#include "moe/combine/bf16_sum.cuh"
#include "moe/group/sm90_peer.cuh"
#include "moe/latency/latency_layout.h"
#include "tile/fp8.cuh"

namespace h4j::moe {

// ---- Dispatch, sending

// Experts and weights of all tokens to every rank: entry 0 holds the count of tokens, then [tokens][top_k]. Sent by the warps from `first` on of every CTA.
struct RoutingSender {
  const LatencyDispatchParams& p;
  int first;

  __device__ int lines() const { return (1 + p.tokens * p.group.shape.top_k + kEntriesPerLine - 1) / kEntriesPerLine; }
  __device__ int first_line() const {
    const int group = static_cast<int>(threadIdx.x) / 8 - first * 4;  // of eight lanes
    return group < 0 ? INT_MAX : static_cast<int>(blockIdx.x) + group * static_cast<int>(gridDim.x);
  }
  __device__ int step() const { return static_cast<int>(gridDim.x) * (kWarps - first) * 4; }

  __device__ uint4 piece_of(int line) const {
    const int top_k = p.group.shape.top_k;
    const int piece = threadIdx.x % 8;
    const int entry = line * kEntriesPerLine + piece * 2;  // the first of two
    int k = (entry + top_k - 1) % top_k;                   // of its token; entry 0 is none
    uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (entry + i == 0) {
        words[0] = static_cast<uint32_t>(p.tokens);
      } else if (entry + i <= p.tokens * top_k && !(piece == 7 && i == 1)) {
        const int32_t* own = p.experts + entry + i - 1;
        const int expert = __ldg(own);
        words[2 * i + 1] = p.weights != nullptr ? __float_as_uint(__ldg(p.weights + entry + i - 1)) : 0;
        // An expert has a slot for each token, so one that a token names again is left out.
        bool again = false;
#pragma unroll 4
        for (int back = 1; back <= k; ++back) again |= __ldg(own - back) == expert;
        words[2 * i] = again ? ~0u : static_cast<uint32_t>(expert);
      }
      k = k + 1 == top_k ? 0 : k + 1;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }

  __device__ void put(int line, uint4 piece, uint32_t epoch) const {
    const Group& group = p.group;
    const Shape& shape = group.shape;
    const uint4 value = sealed(piece, epoch);
    const int64_t target = group.offsets.routing +
                           ((static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * shape.routing_lines() + line) * kLineBytes +
                           threadIdx.x % 8 * 16;
#pragma unroll 1
    for (int rank = 0; rank < shape.ranks; ++rank) {
      if (takes_part(group, rank)) put_line(group.peers[rank] + target, value);
    }
  }
};

// Casts with four lanes a block, eight blocks a pass: few instructions and few shuffles in a row, since a warp has a piece for itself.
__device__ inline void stage_cast(const __nv_bfloat16* source, int elements, bool power_of_two, uint8_t* staged, float* scales) {
  using Vector = tile::Vector8<__nv_bfloat16>;
  constexpr int kOctets = 4;  // of a lane
  constexpr int kLanes = 16 / kOctets;
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int base = 0; base < elements; base += 256 * kOctets) {
    const int begin = base + lane * 8 * kOctets;
    Vector loaded[kOctets];
#pragma unroll
    for (int i = 0; i < kOctets; ++i) loaded[i] = begin + 8 * i < elements ? Vector(Vector::load(source + begin + 8 * i)) : Vector(Vector::zero());
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < kOctets; ++i) amax = fmaxf(amax, loaded[i].largest_magnitude());
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, distance));
    const float scale = tile::block_scale(amax, power_of_two);
#pragma unroll
    for (int i = 0; i < kOctets; ++i) {
      float values[8];
      loaded[i].to_floats(values);
      if (begin + 8 * i < elements) *reinterpret_cast<uint2*>(staged + begin + 8 * i) = tile::quantize8(values, scale);
    }
    if (lane % kLanes == 0 && begin < elements) scales[begin / kScaleBlock] = scale;
  }
}

// Values, then scales, of a segment of a row in shared memory.
__device__ inline void stage_segment(const LatencyDispatchParams& p, int token, int segment, uint8_t* staged) {
  const Shape& shape = p.group.shape;
  const int lane = threadIdx.x % 32;
  const int first = segment * shape.segment_blocks() * kScaleBlock;  // element
  const int elements = min(shape.hidden - first, shape.segment_blocks() * kScaleBlock);
  auto* scales = reinterpret_cast<float*>(staged + shape.segment_blocks() * kScaleBlock);
  const uint8_t* row = p.x + token * p.x_pitch;
  if (p.cast) {
    const auto* source = reinterpret_cast<const __nv_bfloat16*>(row) + first;
    stage_cast(source, elements, p.power_of_two != 0, staged, scales);
  } else {
    const int width = shape.fp8 ? 1 : 2;
#pragma unroll 1
    for (int at = lane * 8; at < elements * width; at += 256)
      *reinterpret_cast<uint2*>(staged + at) = __ldg(reinterpret_cast<const uint2*>(row + first * width + at));
    if (shape.fp8) {
      const int blocks = (elements + kScaleBlock - 1) / kScaleBlock;
#pragma unroll 1
      for (int block = lane; block < blocks; block += 32) scales[block] = __ldg(p.x_scales + (first / kScaleBlock + block) * p.x_scales_ld + token);
    }
  }
  __syncwarp();
}

// What a warp sends of a row, staged and with its destinations; it needs no epoch yet.
struct SegmentSender {
  const LatencyDispatchParams& p;
  int warps;  // of a CTA that send
  uint8_t* staged;

  __device__ int first() const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    return warp < warps ? static_cast<int>(blockIdx.x) + warp * static_cast<int>(gridDim.x) : INT_MAX;
  }
  __device__ int end() const { return p.tokens * kDispatchSegments; }
  __device__ int step() const { return static_cast<int>(gridDim.x) * warps; }

  // Ranks that the item goes to, as bits.
  __device__ uint64_t stage(int item) const {
    const Group& group = p.group;
    const Shape& shape = group.shape;
    const int lane = threadIdx.x % 32;
    const int token = item / kDispatchSegments;
    const int segment = item % kDispatchSegments;
    const int expert = lane < shape.top_k ? __ldg(p.experts + token * shape.top_k + lane) : -1;
    stage_segment(p, token, segment, staged);  // while the experts are on their way
    uint32_t low = 0;
    uint32_t high = 0;
    if (static_cast<unsigned>(expert) < static_cast<unsigned>(shape.experts)) {
      const int rank = rank_of(group, expert);
      if (takes_part(group, rank)) (rank < 32 ? low : high) = 1u << rank % 32;
    }
    const uint64_t ranks = __reduce_or_sync(0xffffffffu, low) | static_cast<uint64_t>(__reduce_or_sync(0xffffffffu, high)) << 32;
    if (segment == 0 && lane == 0) reinterpret_cast<uint64_t*>(p.handle + p.handle_at.ranks)[token] = ranks;
    return ranks;
  }

  __device__ void put(int item, uint64_t ranks, uint32_t epoch) const {
    const Group& group = p.group;
    const Shape& shape = group.shape;
    const int lane = threadIdx.x % 32;
    const int piece = lane % 8;
    const int lines = shape.segment_lines();
    const int64_t row_of_item = (static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * shape.latency_tokens * kDispatchSegments + item;
    const int64_t target = group.offsets.lines + row_of_item * lines * kLineBytes + piece * 16;
#pragma unroll 1
    for (int line = lane / 8; line < lines; line += 4) {
      const auto* payload = reinterpret_cast<const uint2*>(staged + line * kLinePayload + piece * 16);  // 8-byte aligned
      const uint2 front = payload[0];
      const uint2 back = payload[1];
      const uint4 value = sealed(make_uint4(front.x, front.y, back.x, back.y), epoch);
#pragma unroll 1
      for (uint64_t left = ranks; left != 0; left &= left - 1) {
        put_line(group.peers[__ffsll(static_cast<long long>(left)) - 1] + target + line * kLineBytes, value);
      }
    }
    __syncwarp();
  }
};

// ---- Dispatch, receiving

// Every entry's local expert in shared memory, in order of source rank, token and k. False: lost.
__device__ inline bool receive_routing(const LatencyDispatchParams& p, uint32_t epoch, int first_warp, bool lost, uint16_t* entries,
                                       int32_t* tokens) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 - first_warp;
  const int warps = kWarps - first_warp;
  const int piece = lane % 8;
  const int per_source = shape.latency_tokens * shape.top_k;
  auto* weights = reinterpret_cast<float*>(p.handle + p.handle_at.weights);
  // Warps share the lines of a source where there are more warps than sources.
  const int sharing = max(1, warps / shape.ranks);
#pragma unroll 1
  for (int source = warp < 0 ? shape.ranks : warp / sharing; source < shape.ranks && !lost; source += max(1, warps / sharing)) {
    if (!takes_part(group, source)) continue;
    const uint8_t* lines = group.peers[shape.rank] + group.offsets.routing +
                           (static_cast<int64_t>(epoch % 2) * shape.ranks + source) * shape.routing_lines() * kLineBytes;
    // The first line has the count of tokens, and so says how many lines there are: it is loaded with each batch of the others.
    constexpr int kAtOnce = 5;
    int used = 1;
    int used_lines = 1;
#pragma unroll 1
    for (int line0 = warp % sharing * 4; line0 < max(used_lines, sharing * 4); line0 += kAtOnce * sharing * 4) {
      const auto line_of = [&](int i) { return line0 + i * sharing * 4 + lane / 8; };
      const auto address = [&](int i) {
        return i == 0 ? lines : line_of(i - 1) < shape.routing_lines() ? lines + line_of(i - 1) * kLineBytes : nullptr;
      };
      int count = 0;
      const auto ready = [&](const uint4(&loaded)[kAtOnce + 1]) {
        if (!__all_sync(0xffffffffu, piece != 7 || is_sealed(loaded[0], epoch))) return false;
        count = min(static_cast<int>(__shfl_sync(0xffffffffu, loaded[0].x, 0)), shape.latency_tokens);
        used = 1 + count * shape.top_k;
        used_lines = (used + kEntriesPerLine - 1) / kEntriesPerLine;
        bool whole = true;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) whole = whole && (piece != 7 || line_of(i) >= used_lines || is_sealed(loaded[i + 1], epoch));
        return whole;
      };
      uint4 all[kAtOnce + 1];
      if (!poll_lines(group, Phase::kRouting, epoch, address, [&](int) { return source; }, ready, all)) {
        lost = true;
        break;
      }
      if (warp % sharing == 0 && lane == 0) tokens[source] = count;
      const uint4* values = all + 1;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const uint32_t words[4] = {values[j].x, values[j].y, values[j].z, values[j].w};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int entry = line_of(j) * kEntriesPerLine + piece * 2 + i;
          if (entry == 0 || entry >= used || line_of(j) >= used_lines || (piece == 7 && i == 1)) continue;
          const int local = static_cast<int>(words[2 * i]) - shape.first_expert();
          const bool here = static_cast<unsigned>(local) < static_cast<unsigned>(shape.local_experts());
          entries[source * per_source + entry - 1] = here ? static_cast<uint16_t>(local) : kNoExpert;
          if (blockIdx.x == 0) weights[source * per_source + entry - 1] = __uint_as_float(words[2 * i + 1]);
        }
      }
    }
  }
  return !__syncthreads_or(lost);
}

// Where entries go among the rows of their expert: entries are counted in order, each warp a range of them.
struct Places {
  const uint16_t* entries;  // local experts
  uint16_t* within;         // rows of the expert from the same range before this entry
  uint16_t* before;         // [kWarps][experts_per_rank] rows of earlier ranges
  int shift;                // a warp's range is 2^shift entries
  int experts;

  __device__ int of(int entry) const {
    const uint16_t expert = entries[entry];
    return expert == kNoExpert ? -1 : within[entry] + before[(entry >> shift) * experts + expert];
  }
};

__device__ inline void place_entries(const LatencyDispatchParams& p, const Places& places, int total, bool tells) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  uint16_t* counts = places.before + warp * places.experts;
  constexpr int kChunks = 4;  // of 32 entries, looked at together
#pragma unroll 1
  for (int base = warp << places.shift; base < min(total, (warp + 1) << places.shift); base += 32 * kChunks) {
    const int end = min(total, (warp + 1) << places.shift);
    uint16_t experts[kChunks];
    unsigned same[kChunks];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) experts[i] = base + 32 * i + lane < end ? places.entries[base + 32 * i + lane] : kNoExpert;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) same[i] = __match_any_sync(0xffffffffu, experts[i]);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      int before = 0;
      if (experts[i] != kNoExpert) {
        before = counts[experts[i]];
        places.within[base + 32 * i + lane] = static_cast<uint16_t>(before + __popc(same[i] & ((1u << lane) - 1)));
      }
      __syncwarp();
      if (experts[i] != kNoExpert && lane == __ffs(static_cast<int>(same[i])) - 1)
        counts[experts[i]] = static_cast<uint16_t>(before + __popc(same[i]));
      __syncwarp();
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int expert = threadIdx.x; expert < places.experts; expert += kThreads) {
    int counted[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) counted[w] = places.before[w * places.experts + expert];
    int sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      places.before[w * places.experts + expert] = static_cast<uint16_t>(sum);
      sum += counted[w];
    }
    if (tells && expert < p.group.shape.local_experts()) p.expert_rows[expert] = sum;
  }
  __syncthreads();
}

// The receiving of pieces of rows; made before the routing is there, so that only what depends on it is left then.
struct SegmentReceiver {
  static constexpr int kAtOnce = 4;
  const LatencyDispatchParams& p;
  uint8_t* staged;
  uint32_t reciprocal;  // of latency_tokens, exact for rows below 2^15 and tokens to 2^9
  int capacity, lines_of_segment, blocks_of_segment, width;
  int64_t out_pitch, scales_ld;
  const uint8_t* window;

  __device__ SegmentReceiver(const LatencyDispatchParams& params, uint8_t* shared, uint32_t epoch)
      : p(params),
        staged(shared),
        reciprocal((1u << 31) / static_cast<uint32_t>(params.group.shape.latency_tokens) + 1),
        capacity(static_cast<int>(params.group.shape.latency_rows())),
        lines_of_segment(params.group.shape.segment_lines()),
        blocks_of_segment(params.group.shape.segment_blocks()),
        width(params.group.shape.fp8 ? 1 : 2),
        out_pitch(params.out_pitch),
        scales_ld(params.out_scales_ld),
        window(params.group.peers[params.group.shape.rank] + params.group.offsets.lines +
               static_cast<int64_t>(epoch % 2) * capacity * kDispatchSegments * lines_of_segment * kLineBytes) {}

  __device__ int first() const { return static_cast<int>(blockIdx.x + gridDim.x * (threadIdx.x / 32)); }
  __device__ int step() const { return static_cast<int>(gridDim.x) * kWarps; }
  __device__ int end() const { return capacity * kDispatchSegments; }

  // Items of all sources side by side, so that warps are busy whatever the sources' counts. False: lost.
  __device__ bool receive(int item, const Places& places, const int32_t* tokens, uint32_t epoch) const {
    const Shape& shape = p.group.shape;
    const int lane = threadIdx.x % 32;
    const int row = item / kDispatchSegments;  // source * latency_tokens + token
    const int segment = item % kDispatchSegments;
    const int source = static_cast<int>(static_cast<uint64_t>(row) * reciprocal >> 31);
    if (row - source * shape.latency_tokens >= tokens[source]) return true;
    const uint8_t* lines = window + static_cast<int64_t>(item) * (lines_of_segment * kLineBytes);
    uint4 values[kAtOnce];
    int line0 = lane / 8;
    const uint8_t* addresses[kAtOnce];
    const auto line_of = [&](int i) { return line0 + 4 * i; };
    const auto ask = [&] {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) addresses[i] = line_of(i) < lines_of_segment ? lines + line_of(i) * kLineBytes : nullptr;
      ask_lines(addresses, values);
    };
    ask();  // before it is known where they go, or that they come
    // Lane k finds where the token's row for its k-th expert goes.
    const int first_block = segment * blocks_of_segment;
    int place = -1;
    uint8_t* target = nullptr;
    float* column = nullptr;
    if (lane < shape.top_k) {
      const int entry = row * shape.top_k + lane;
      const int among = places.of(entry);
      if (among >= 0) {
        const int expert = places.entries[entry];
        place = expert * capacity + among;
        target = p.out + place * out_pitch + first_block * kScaleBlock * width;
        column = p.out_scales + (static_cast<int64_t>(expert) * shape.blocks() + first_block) * scales_ld + among;
      }
      if (segment == 0) reinterpret_cast<int32_t*>(p.handle + p.handle_at.rows)[entry] = place;
    }
    const unsigned copies = __ballot_sync(0xffffffffu, place >= 0);
    if (copies == 0) return true;

    const int piece = lane % 8;
#pragma unroll 1
    for (;;) {
      if (!await_asked(p.group, Phase::kLines, epoch, addresses, [&](int) { return source; }, values)) return false;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (addresses[i] == nullptr) continue;
        auto* payload = reinterpret_cast<uint2*>(staged + line_of(i) * kLinePayload + piece * 16);
        payload[0] = make_uint2(values[i].x, values[i].y);
        if (piece != 7) payload[1] = make_uint2(values[i].z, values[i].w);
      }
      line0 += 4 * kAtOnce;
      if (line0 - lane / 8 >= lines_of_segment) break;
      ask();
    }
    __syncwarp();
    // From registers to all places, a kilobyte at a time; lane k has the addresses.
    const int elements = min(shape.hidden - first_block * kScaleBlock, blocks_of_segment * kScaleBlock);
    const int bytes = elements * width;
    const bool scaled = shape.fp8 && lane * kScaleBlock < elements;
    const float scale = scaled ? reinterpret_cast<const float*>(staged + blocks_of_segment * kScaleBlock)[lane] : 0.0f;
#pragma unroll 1
    for (int base = lane * 16; base - lane * 16 < bytes; base += 1024) {
      const uint4 front = base < bytes ? *reinterpret_cast<const uint4*>(staged + base) : make_uint4(0, 0, 0, 0);
      const uint4 back = base + 512 < bytes ? *reinterpret_cast<const uint4*>(staged + base + 512) : make_uint4(0, 0, 0, 0);
#pragma unroll 2
      for (unsigned left = copies; left != 0; left &= left - 1) {
        const int k = __ffs(static_cast<int>(left)) - 1;
        uint8_t* to = reinterpret_cast<uint8_t*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(target), k)) + base;
        float* scale_to = reinterpret_cast<float*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(column), k));
        if (base + 16 <= bytes) {
          *reinterpret_cast<uint4*>(to) = front;
        } else if (base < bytes) {
          *reinterpret_cast<uint2*>(to) = make_uint2(front.x, front.y);
        }
        if (base + 528 <= bytes) {
          *reinterpret_cast<uint4*>(to + 512) = back;
        } else if (base + 512 < bytes) {
          *reinterpret_cast<uint2*>(to + 512) = make_uint2(back.x, back.y);
        }
        if (scaled && base == lane * 16) scale_to[lane * scales_ld] = scale;
      }
    }
    __syncwarp();
    return true;
  }
};

__global__ __launch_bounds__(kThreads, 1) void latency_dispatch_kernel(const __grid_constant__ LatencyDispatchParams p) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ int32_t tokens[kMaxRanks];
  const Group& group = p.group;
  const Shape& shape = group.shape;
  // In a whole call half of the warps send rows, while the others, which wait for the routing, send it. Neither half waits for the other before that is done.
  const int parts = p.start && p.finish ? 2 : 1;
  const int part = static_cast<int>(threadIdx.x) / (kThreads / parts);
  const int first_receiver = p.start ? kWarps / 2 * (p.finish ? 1 : 2) : 0;  // warp
  CallBegin begin(group, group.state->channel[group.channel].latency_dispatch, part, parts);
  const int entry_bytes = static_cast<int>(latency_entry_bytes(shape));
  const int count_bytes = static_cast<int>(latency_count_bytes(shape));
  auto* entries = reinterpret_cast<uint16_t*>(shared);
  const Places places{entries, reinterpret_cast<uint16_t*>(shared + entry_bytes), reinterpret_cast<uint16_t*>(shared + 2 * entry_bytes),
                      max(5, 32 - __clz(static_cast<int>(shape.latency_rows() * shape.top_k - 1) / kWarps)), shape.experts_per_rank};
  uint8_t* staged = shared + 2 * entry_bytes + count_bytes + static_cast<int>(threadIdx.x) / 32 * static_cast<int>(latency_piece_bytes(shape));
  const RoutingSender routing{p, !p.start ? kWarps : p.finish ? first_receiver : 0};
  const SegmentSender segments{p, first_receiver, staged};
  // What is sent first is loaded while the epoch is on its way.
  uint32_t epoch = 0;
  int line = routing.first_line();
  int item = segments.first();
  do {
    uint4 piece{};
    uint64_t ranks = 0;
    if (line < routing.lines()) piece = routing.piece_of(line);
    if (item < segments.end()) ranks = segments.stage(item);
    if (epoch == 0) {
      if (static_cast<int>(threadIdx.x) / 32 >= first_receiver) {
        // No entry and no count yet.
        const int first = static_cast<int>(threadIdx.x) - first_receiver * 32;
        const int threads = kThreads - first_receiver * 32;
#pragma unroll 1
        for (int i = first; i < entry_bytes / 4; i += threads) reinterpret_cast<uint32_t*>(entries)[i] = kNoExpert << 16 | kNoExpert;
#pragma unroll 1
        for (int i = first; i < count_bytes / 4; i += threads) reinterpret_cast<uint32_t*>(places.before)[i] = 0;
        if (first < kMaxRanks) tokens[first] = 0;
      }
      epoch = begin.epoch(p.finish != 0);
      if (epoch == 0) break;
    }
    if (line < routing.lines()) routing.put(line, piece, epoch);
    if (item < segments.end()) segments.put(item, ranks, epoch);
    line = line < routing.lines() ? line + routing.step() : line;
    item = item < segments.end() ? item + segments.step() : item;
  } while (line < routing.lines() || item < segments.end());
  __syncwarp();
  bool whole = true;
  if (p.finish) {
    const SegmentReceiver receiver(p, staged, epoch);
    if (!receive_routing(p, epoch, first_receiver, epoch == 0, entries, tokens)) {
      if (epoch != 0) leave(group);
      return;
    }
    if (blockIdx.x == 0 && threadIdx.x < shape.ranks) {
      reinterpret_cast<int32_t*>(p.handle + p.handle_at.tokens)[threadIdx.x] = tokens[threadIdx.x];
      if (p.received != nullptr) p.received[threadIdx.x] = tokens[threadIdx.x];
    }
    place_entries(p, places, static_cast<int>(shape.latency_rows()) * shape.top_k, blockIdx.x == 0);
#pragma unroll 1
    for (int i = receiver.first(); i < receiver.end(); i += receiver.step()) {
      whole = receiver.receive(i, places, tokens, epoch);
      if (!whole) break;
    }
  } else if (epoch == 0) {
    return;
  }
  if (p.start && blockIdx.x == gridDim.x - 1) check_experts(p.experts, p.tokens * shape.top_k, shape.experts, p.fault);
  if (!whole) leave(group);
}

// ---- Combine. A line holds 60 elements; lane 8i + j of a warp has elements 8j.. of line i, the last lane four of them.

__device__ inline uint4 load_piece(const uint8_t* row, int offset, int bytes) {
  uint2 front = make_uint2(0, 0);
  uint2 back = make_uint2(0, 0);
  if (offset < bytes) front = *reinterpret_cast<const uint2*>(row + offset);
  if (offset + 8 < bytes && threadIdx.x % 8 != 7) back = *reinterpret_cast<const uint2*>(row + offset + 8);
  return make_uint4(front.x, front.y, back.x, back.y);
}

inline constexpr int kLineGroups = 2;  // of four lines, which a warp instruction holds
inline constexpr int kLinesPerItem = 4 * kLineGroups;

// A warp's items: eight lines of a row, summed over the row's experts at this rank. Rows of other ranks' tokens come first and are sent; those of this rank's own
// tokens take in what the others send. So a warp that waits has sent all of its part.
struct Summing {
  static constexpr int kAtOnce = 4;       // rows in flight
  static constexpr int kRanksAtOnce = 2;  // waited for at once
  // Lane k has the k-th expert's row and weight; of an own token, all have the other ranks that it went to.
  struct Experts {
    int row;
    float weight;
    uint64_t ranks;
  };
  // Rows whose loads are under way, and the experts that are left.
  struct Loaded {
    uint4 values[kAtOnce][kLineGroups];
    float factors[kAtOnce];
    unsigned left;
  };
  const LatencyCombineParams& p;
  int lines, items_of_row, sent;  // items below `sent` are sent

  __device__ explicit Summing(const LatencyCombineParams& params)
      : p(params),
        lines(params.group.shape.return_lines()),
        items_of_row((lines + kLinesPerItem - 1) / kLinesPerItem),
        sent((params.group.shape.ranks - 1) * params.group.shape.latency_tokens * items_of_row) {}

  __device__ int first() const { return (p.start ? 0 : sent) + static_cast<int>(blockIdx.x + gridDim.x * (threadIdx.x / 32)); }
  __device__ int step() const { return static_cast<int>(gridDim.x) * kWarps; }
  __device__ int end() const { return p.finish ? sent + p.tokens * items_of_row : sent; }
  __device__ bool is_own(int item) const { return item >= sent; }
  __device__ int source_of(int item) const {
    const int other = item / (items_of_row * p.group.shape.latency_tokens);
    return is_own(item) ? p.group.shape.rank : other + (other >= p.group.shape.rank ? 1 : 0);
  }
  __device__ int token_of(int item) const { return is_own(item) ? (item - sent) / items_of_row : item / items_of_row % p.group.shape.latency_tokens; }
  __device__ int line_of(int item, int group_of_lines) const {
    return item % items_of_row * kLinesPerItem + 4 * group_of_lines + static_cast<int>(threadIdx.x % 32) / 8;
  }
  __device__ int offset_of(int item, int group_of_lines) const {
    return line_of(item, group_of_lines) * kLinePayload + static_cast<int>(threadIdx.x % 8) * 16;
  }

  // Asked for together, and used if the source has the token.
  __device__ Experts experts_of(int item) const {
    const Shape& shape = p.group.shape;
    const int lane = threadIdx.x % 32;
    if (item >= end()) return {-1, 0.0f, 0};
    const int source = source_of(item);
    const int token = token_of(item);
    Experts found{-1, 0.0f, 0};
    if (is_own(item)) {
      found.ranks = reinterpret_cast<const uint64_t*>(p.handle + p.handle_at.ranks)[token] & p.group.active & ~(uint64_t{1} << shape.rank);
    }
    if (lane < shape.top_k) {
      const int count = reinterpret_cast<const int32_t*>(p.handle + p.handle_at.tokens)[source];
      const int64_t entry = (static_cast<int64_t>(source) * shape.latency_tokens + token) * shape.top_k + lane;
      found.row = reinterpret_cast<const int32_t*>(p.handle + p.handle_at.rows)[entry];
      found.weight = reinterpret_cast<const float*>(p.handle + p.handle_at.weights)[entry];
      if (!takes_part(p.group, source) || token >= count) found.row = -1;
    }
    return found;
  }

  __device__ void load(int item, const Experts& experts, Loaded& loaded) const {
    const int bytes = 2 * p.group.shape.hidden;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const bool used = loaded.left != 0;
      const int k = used ? __ffs(static_cast<int>(loaded.left)) - 1 : 0;
      const int from = __shfl_sync(0xffffffffu, experts.row, k);
      const float factor = __shfl_sync(0xffffffffu, experts.weight, k);
      loaded.factors[i] = used ? factor : 0.0f;
#pragma unroll
      for (int g = 0; g < kLineGroups; ++g) {
        const bool wanted = used && line_of(item, g) < lines;
        loaded.values[i][g] = wanted ? load_piece(p.x + from * p.x_pitch, offset_of(item, g), bytes) : make_uint4(0, 0, 0, 0);
      }
      loaded.left &= loaded.left - 1;
    }
  }

  __device__ void begin(int item, const Experts& experts, Loaded& loaded) const {
    loaded.left = __ballot_sync(0xffffffffu, experts.row >= 0);
    load(item, experts, loaded);
  }

  __device__ void put(int item, const float (&sums)[kLineGroups][8], uint32_t epoch) const {
    const Group& group = p.group;
    const Shape& shape = group.shape;
    const int64_t target =
        group.offsets.returns +
        ((static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * shape.latency_tokens + token_of(item)) * lines * kLineBytes;
#pragma unroll
    for (int g = 0; g < kLineGroups; ++g) {
      if (line_of(item, g) >= lines) continue;
      put_line(group.peers[source_of(item)] + target + line_of(item, g) * kLineBytes + threadIdx.x % 8 * 16, sealed(to_bf16(sums[g]), epoch));
    }
  }

  // Adds the other ranks' sums, in their order, and the residual row. False: lost.
  __device__ bool finish(int item, float (&sums)[kLineGroups][8], uint64_t left, uint32_t epoch) const {
    const Group& group = p.group;
    const Shape& shape = group.shape;
    const int piece = threadIdx.x % 8;
    const int bytes = 2 * shape.hidden;
    const int token = token_of(item);
    const uint8_t* window = group.peers[shape.rank] + group.offsets.returns;
    uint4 residual[kLineGroups];
#pragma unroll
    for (int g = 0; g < kLineGroups; ++g) {
      residual[g] = p.residual != nullptr && line_of(item, g) < lines ? load_piece(p.residual + token * p.residual_pitch, offset_of(item, g), bytes)
                                                                      : make_uint4(0, 0, 0, 0);
    }
    while (left != 0) {
      int ranks[kRanksAtOnce];
#pragma unroll
      for (int i = 0; i < kRanksAtOnce; ++i) {
        ranks[i] = left != 0 ? __ffsll(static_cast<long long>(left)) - 1 : -1;
        left &= left - 1;
      }
      uint4 values[kRanksAtOnce * kLineGroups];
      const auto line_at = [&](int i) -> const uint8_t* {
        const int line = line_of(item, i % kLineGroups);
        const int rank = ranks[i / kLineGroups];
        if (rank < 0 || line >= lines) return nullptr;
        return window + (((static_cast<int64_t>(epoch % 2) * shape.ranks + rank) * shape.latency_tokens + token) * lines + line) * kLineBytes;
      };
      if (!await_lines(group, Phase::kReturn, epoch, line_at, [&](int i) { return ranks[i / kLineGroups]; }, values)) return false;
#pragma unroll
      for (int i = 0; i < kRanksAtOnce * kLineGroups; ++i)
        add_bf16(sums[i % kLineGroups], values[i]);  // the last lane's upper half is the seal, and is not stored
    }
#pragma unroll
    for (int g = 0; g < kLineGroups; ++g) {
      if (line_of(item, g) >= lines) continue;
      add_bf16(sums[g], residual[g]);
      const uint4 rounded = to_bf16(sums[g]);
      const int offset = offset_of(item, g);
      uint8_t* target = p.out + token * p.out_pitch + offset;
      if (offset < bytes) *reinterpret_cast<uint2*>(target) = make_uint2(rounded.x, rounded.y);
      if (offset + 8 < bytes && piece != 7) *reinterpret_cast<uint2*>(target + 8) = make_uint2(rounded.z, rounded.w);
    }
    return true;
  }

  // `experts` and `loaded` are of the warp's first item. The next item's rows are asked for before this one is sent, or waits. False: lost.
  __device__ bool run(Experts experts, Loaded& loaded, uint32_t epoch) const {
    for (int item = first(); item < end(); item += step()) {
      const Experts next = experts_of(item + step());
      const bool any = __any_sync(0xffffffffu, experts.row >= 0);
      float sums[kLineGroups][8] = {};
      for (bool more = any; more;) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
          for (int g = 0; g < kLineGroups; ++g) add_bf16(sums[g], loaded.values[i][g], loaded.factors[i]);
        }
        more = loaded.left != 0;
        if (more) load(item, experts, loaded);
      }
      if (item + step() < end()) begin(item + step(), next, loaded);
      if (is_own(item)) {
        if (!finish(item, sums, experts.ranks, epoch)) return false;
      } else if (any) {
        put(item, sums, epoch);
      }
      experts = next;
    }
    return true;
  }
};

// Combine's word to those who get no rows.
__device__ inline void send_hello(const LatencyCombineParams& p, uint32_t epoch) {
  const Group& group = p.group;
  if (blockIdx.x != 0 || threadIdx.x / 8 >= group.shape.ranks || !takes_part(group, threadIdx.x / 8)) return;
  const int64_t hello = group.offsets.hello + (static_cast<int64_t>(epoch % 2) * group.shape.ranks + group.shape.rank) * kLineBytes;
  put_line(group.peers[threadIdx.x / 8] + hello + threadIdx.x % 8 * 16, sealed(make_uint4(0, 0, 0, 0), epoch));
}

// Those who had no rows of this rank have said so. False: lost.
__device__ inline bool await_hello(const LatencyCombineParams& p, uint32_t epoch) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  if (blockIdx.x != 0) return true;
  for (int rank = threadIdx.x / 32; rank < shape.ranks; rank += kWarps) {
    const uint8_t* hello = group.peers[shape.rank] + group.offsets.hello + (static_cast<int64_t>(epoch % 2) * shape.ranks + rank) * kLineBytes;
    uint4 value[1];
    if (takes_part(group, rank) &&
        !await_lines(group, Phase::kReturn, epoch, [&](int) { return lane < 8 ? hello : nullptr; }, [&](int) { return rank; }, value)) {
      return false;
    }
  }
  return true;
}

__global__ __launch_bounds__(kThreads, 1) void latency_combine_kernel(const __grid_constant__ LatencyCombineParams p) {
  const Group& group = p.group;
  const Summing summing(p);
  Summing::Experts experts{-1, 0.0f, 0};
  Summing::Loaded loaded{};
  const uint32_t epoch = begin_call(group, group.state->channel[group.channel].latency_combine, p.finish != 0, [&] {
    if (summing.first() >= summing.end()) return;
    experts = summing.experts_of(summing.first());
    summing.begin(summing.first(), experts, loaded);
  });
  if (epoch == 0) return;
  if (p.start) send_hello(p, epoch);
  if (!summing.run(experts, loaded, epoch)) return leave(group);
  if (p.finish && !await_hello(p, epoch)) leave(group);
}

}  // namespace h4j::moe
