// Dispatch and combine of a few tokens, where the time of a wait is what counts: no barrier, data carry their own flags.
//
// In dispatch some CTAs only send, the others only receive; in combine every warp sends its part, then completes its share of this rank's own tokens, and asks for the
// rows that it needs first while the epoch is on its way: nobody waits who is waited for. A buffer is written again two epochs later; that is safe because each call waits for a word of every rank
// (routing, or combine's hello), so no rank is more than one call ahead of another.
#pragma once

#include "moe/combine/bf16_sum.cuh"
#include "moe/group/sm90_peer.cuh"
#include "moe/latency/latency_layout.h"
#include "tile/fp8.cuh"

namespace h4j::moe {

// ---- Dispatch, sending

// Experts and weights of all tokens to every rank: entry 0 holds the count of tokens, then [tokens][top_k].
__device__ inline void send_routing(const LatencyDispatchParams& p, uint32_t epoch) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int piece = threadIdx.x % 8;
  const int entries = 1 + p.tokens * shape.top_k;
  const int lines = (entries + kEntriesPerLine - 1) / kEntriesPerLine;
  const int64_t target = group.offsets.routing + (static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * shape.routing_lines() * kLineBytes;
  for (int line = blockIdx.x * (kThreads / 8) + threadIdx.x / 8; line < lines; line += p.senders * (kThreads / 8)) {
    uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int entry = line * kEntriesPerLine + piece * 2 + i;
      if (entry == 0) {
        words[0] = static_cast<uint32_t>(p.tokens);
      } else if (entry < entries && !(piece == 7 && i == 1)) {
        // An expert has a slot for each token, so one that a token names again is left out.
        int expert = __ldg(p.experts + entry - 1);
        for (int k = 1; k <= (entry - 1) % shape.top_k; ++k) {
          if (__ldg(p.experts + entry - 1 - k) == __ldg(p.experts + entry - 1)) expert = -1;
        }
        words[2 * i] = static_cast<uint32_t>(expert);
        words[2 * i + 1] = p.weights != nullptr ? __float_as_uint(__ldg(p.weights + entry - 1)) : 0;
      }
    }
    const uint4 value = sealed(make_uint4(words[0], words[1], words[2], words[3]), epoch);
    for (int rank = 0; rank < shape.ranks; ++rank) {
      if (takes_part(group, rank)) put_line(group.peers[rank] + target + line * kLineBytes + piece * 16, value);
    }
  }
}

// Values, then scales, of a segment of a row in shared memory.
__device__ inline void stage_segment(const LatencyDispatchParams& p, int token, int segment, uint8_t* staged) {
  using Vector = tile::Vector8<__nv_bfloat16>;
  const Shape& shape = p.group.shape;
  const int lane = threadIdx.x % 32;
  const int first = segment * shape.segment_blocks() * kScaleBlock;  // element
  const int elements = min(shape.hidden - first, shape.segment_blocks() * kScaleBlock);
  auto* scales = reinterpret_cast<float*>(staged + shape.segment_blocks() * kScaleBlock);
  const uint8_t* row = p.x + token * p.x_pitch;
  if (p.cast) {
    const auto* source = reinterpret_cast<const __nv_bfloat16*>(row) + first;
    constexpr int kUnroll = 4;
    for (int base = 0; base < elements; base += 256 * kUnroll) {
      Vector loaded[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int at = base + i * 256 + lane * 8;
        loaded[i] = at < elements ? Vector(Vector::load(source + at)) : Vector(Vector::zero());
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int at = base + i * 256 + lane * 8;
        float values[8];
        loaded[i].to_floats(values);
        float amax = tile::largest_magnitude(values);
#pragma unroll
        for (int step = 8; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, step));
        const float scale = tile::block_scale(amax, p.power_of_two != 0);
        if (at < elements) {
          *reinterpret_cast<uint2*>(staged + at) = tile::quantize8(values, scale);
          if (lane % 16 == 0) scales[at / kScaleBlock] = scale;
        }
      }
    }
  } else {
    const int width = shape.fp8 ? 1 : 2;
    for (int at = lane * 8; at < elements * width; at += 256)
      *reinterpret_cast<uint2*>(staged + at) = __ldg(reinterpret_cast<const uint2*>(row + first * width + at));
    if (shape.fp8) {
      const int blocks = (elements + kScaleBlock - 1) / kScaleBlock;
      for (int block = lane; block < blocks; block += 32) scales[block] = __ldg(p.x_scales + (first / kScaleBlock + block) * p.x_scales_ld + token);
    }
  }
  __syncwarp();
}

__device__ inline void send_segments(const LatencyDispatchParams& p, uint32_t epoch, uint8_t* staged) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int piece = lane % 8;
  auto* handle_ranks = reinterpret_cast<uint64_t*>(p.handle + p.handle_at.ranks);
  for (int item = blockIdx.x + p.senders * (threadIdx.x / 32); item < p.tokens * kDispatchSegments; item += p.senders * kWarps) {
    const int token = item / kDispatchSegments;
    const int segment = item % kDispatchSegments;
    const int expert = lane < shape.top_k ? __ldg(p.experts + token * shape.top_k + lane) : -1;
    stage_segment(p, token, segment, staged);  // while the experts are on their way
    // Destinations as bits, a lane an expert.
    uint32_t low = 0;
    uint32_t high = 0;
    if (static_cast<unsigned>(expert) < static_cast<unsigned>(shape.experts)) {
      const int rank = rank_of(group, expert);
      if (takes_part(group, rank)) (rank < 32 ? low : high) = 1u << rank % 32;
    }
    const uint64_t ranks = __reduce_or_sync(0xffffffffu, low) | static_cast<uint64_t>(__reduce_or_sync(0xffffffffu, high)) << 32;
    if (segment == 0 && lane == 0) handle_ranks[token] = ranks;
    const int64_t target =
        group.offsets.lines + (((static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * shape.latency_tokens + token) * shape.row_lines() +
                               segment * shape.segment_lines()) *
                                  kLineBytes;
    for (int line = lane / 8; line < shape.segment_lines(); line += 4) {
      const auto* payload = reinterpret_cast<const uint2*>(staged + line * kLinePayload + piece * 16);  // 8-byte aligned
      const uint2 front = payload[0];
      const uint2 back = payload[1];
      const uint4 value = sealed(make_uint4(front.x, front.y, back.x, back.y), epoch);
      for (uint64_t left = ranks; left != 0; left &= left - 1) {
        put_line(group.peers[__ffsll(static_cast<long long>(left)) - 1] + target + line * kLineBytes + piece * 16, value);
      }
    }
    __syncwarp();
  }
}

// ---- Dispatch, receiving

// Every entry's local expert in shared memory, in order of source rank, token and k. False: lost.
__device__ inline bool receive_routing(const LatencyDispatchParams& p, uint32_t epoch, int receiver, uint16_t* entries, int32_t* tokens) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int piece = lane % 8;
  const int per_source = shape.latency_tokens * shape.top_k;
  for (int i = threadIdx.x; i < shape.ranks * per_source; i += kThreads) entries[i] = kNoExpert;
  if (threadIdx.x < shape.ranks) tokens[threadIdx.x] = 0;
  __syncthreads();
  auto* weights = reinterpret_cast<float*>(p.handle + p.handle_at.weights);
  bool lost = false;
  // Warps share the lines of a source where there are more warps than sources.
  const int sharing = max(1, kWarps / shape.ranks);
  for (int source = warp / sharing; source < shape.ranks && !lost; source += max(1, kWarps / sharing)) {
    if (!takes_part(group, source)) continue;
    const uint8_t* lines = group.peers[shape.rank] + group.offsets.routing +
                           (static_cast<int64_t>(epoch % 2) * shape.ranks + source) * shape.routing_lines() * kLineBytes;
    // The first line has the count of tokens, and so says how many lines there are: it is loaded with each batch of the others.
    constexpr int kAtOnce = 3;
    int used = 1;
    int used_lines = 1;
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
          if (receiver == 0) weights[source * per_source + entry - 1] = __uint_as_float(words[2 * i + 1]);
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
  int range;                // entries of a warp
  int experts;

  __device__ int of(int entry) const {
    const uint16_t expert = entries[entry];
    return expert == kNoExpert ? -1 : within[entry] + before[entry / range * experts + expert];
  }
};

__device__ inline void place_entries(const LatencyDispatchParams& p, const Places& places, int total, bool tells) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < kWarps * places.experts; i += kThreads) places.before[i] = 0;
  __syncthreads();
  uint16_t* counts = places.before + warp * places.experts;
  for (int base = warp * places.range; base < min(total, (warp + 1) * places.range); base += 32) {
    const uint16_t expert = base + lane < total ? places.entries[base + lane] : kNoExpert;
    const unsigned same = __match_any_sync(0xffffffffu, expert);
    const int before = expert != kNoExpert ? counts[expert] : 0;
    __syncwarp();
    if (expert != kNoExpert) {
      places.within[base + lane] = static_cast<uint16_t>(before + __popc(same & ((1u << lane) - 1)));
      if (lane == __ffs(static_cast<int>(same)) - 1) counts[expert] = static_cast<uint16_t>(before + __popc(same));
    }
    __syncwarp();
  }
  __syncthreads();
  for (int expert = threadIdx.x; expert < places.experts; expert += kThreads) {
    int sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const int count = places.before[w * places.experts + expert];
      places.before[w * places.experts + expert] = static_cast<uint16_t>(sum);
      sum += count;
    }
    if (tells && expert < p.group.shape.local_experts()) p.expert_rows[expert] = sum;
  }
  __syncthreads();
}

__device__ inline void receive_segments(const LatencyDispatchParams& p, uint32_t epoch, int receiver, int receivers, const Places& places,
                                        const int32_t* tokens, uint8_t* staged) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int piece = lane % 8;
  const int capacity = static_cast<int>(shape.latency_rows());
  auto* handle_rows = reinterpret_cast<int32_t*>(p.handle + p.handle_at.rows);
  // Items of all sources side by side, so that warps are busy whatever the sources' counts.
  for (int item = receiver + receivers * warp; item < capacity * kDispatchSegments; item += receivers * kWarps) {
    const int row = item / kDispatchSegments;  // source * latency_tokens + token
    const int segment = item % kDispatchSegments;
    const int source = row / shape.latency_tokens;
    if (row % shape.latency_tokens >= tokens[source]) continue;
    // Lane k finds where the token's row for its k-th expert goes.
    int place = -1;
    if (lane < shape.top_k) {
      const int entry = row * shape.top_k + lane;
      const int among = places.of(entry);
      if (among >= 0) place = places.entries[entry] * capacity + among;
    }
    if (segment == 0 && lane < shape.top_k) handle_rows[row * shape.top_k + lane] = place;
    const unsigned copies = __ballot_sync(0xffffffffu, place >= 0);
    if (copies == 0) continue;

    const uint8_t* lines =
        group.peers[shape.rank] + group.offsets.lines +
        ((static_cast<int64_t>(epoch % 2) * shape.ranks * shape.latency_tokens + row) * shape.row_lines() + segment * shape.segment_lines()) *
            kLineBytes;
    constexpr int kAtOnce = 4;
    for (int line0 = lane / 8; line0 < shape.segment_lines() + lane / 8; line0 += 4 * kAtOnce) {
      const auto line_of = [&](int i) { return line0 + 4 * i; };
      const auto is_wanted = [&](int i) { return line_of(i) < shape.segment_lines(); };
      uint4 values[kAtOnce];
      if (!await_lines(
              group, Phase::kLines, epoch, [&](int i) { return is_wanted(i) ? lines + line_of(i) * kLineBytes : nullptr; },
              [&](int) { return source; }, values)) {
        return;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (!is_wanted(i)) continue;
        auto* payload = reinterpret_cast<uint2*>(staged + line_of(i) * kLinePayload + piece * 16);
        payload[0] = make_uint2(values[i].x, values[i].y);
        if (piece != 7) payload[1] = make_uint2(values[i].z, values[i].w);
      }
    }
    __syncwarp();
    const int width = shape.fp8 ? 1 : 2;
    const int first = segment * shape.segment_blocks() * kScaleBlock;
    const int elements = min(shape.hidden - first, shape.segment_blocks() * kScaleBlock);
    const auto* scales = reinterpret_cast<const float*>(staged + shape.segment_blocks() * kScaleBlock);
    for (unsigned left = copies; left != 0; left &= left - 1) {
      const int to = __shfl_sync(0xffffffffu, place, __ffs(static_cast<int>(left)) - 1);
      uint8_t* target = p.out + to * p.out_pitch + first * width;
      for (int at = lane * 16; at < elements * width; at += 512) {
        if (at + 16 <= elements * width) {
          *reinterpret_cast<uint4*>(target + at) = *reinterpret_cast<const uint4*>(staged + at);
        } else {
          *reinterpret_cast<uint2*>(target + at) = *reinterpret_cast<const uint2*>(staged + at);
        }
      }
      if (shape.fp8) {
        const int blocks = (elements + kScaleBlock - 1) / kScaleBlock;
        float* column = p.out_scales + (static_cast<int64_t>(to / capacity) * shape.blocks() + first / kScaleBlock) * p.out_scales_ld + to % capacity;
        for (int block = lane; block < blocks; block += 32) column[block * p.out_scales_ld] = scales[block];
      }
    }
    __syncwarp();
  }
}

__global__ __launch_bounds__(kThreads, 1) void latency_dispatch_kernel(const __grid_constant__ LatencyDispatchParams p) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ int32_t tokens[kMaxRanks];
  const Group& group = p.group;
  const Shape& shape = group.shape;
  Counter& counter = group.state->channel[group.channel].latency_dispatch;
  const uint32_t epoch = begin_call(group, counter, p.finish != 0, [] {});
  if (epoch == 0) return;
  const int64_t entry_bytes = latency_entry_bytes(shape);
  const int64_t piece_bytes = latency_piece_bytes(shape);
  auto* entries = reinterpret_cast<uint16_t*>(shared);
  auto* within = reinterpret_cast<uint16_t*>(shared + entry_bytes);
  auto* before = reinterpret_cast<uint16_t*>(shared + 2 * entry_bytes);
  uint8_t* staged = shared + 2 * entry_bytes + latency_count_bytes(shape) + threadIdx.x / 32 * piece_bytes;
  if (static_cast<int>(blockIdx.x) < p.senders) {
    send_routing(p, epoch);
    send_segments(p, epoch, staged);
    if (static_cast<int>(blockIdx.x) == p.senders - 1) check_experts(p.experts, p.tokens * shape.top_k, shape.experts, p.fault);
  } else {
    const int receiver = static_cast<int>(blockIdx.x) - p.senders;
    const int receivers = static_cast<int>(gridDim.x) - p.senders;
    if (!receive_routing(p, epoch, receiver, entries, tokens)) return;
    if (receiver == 0 && threadIdx.x < shape.ranks) {
      reinterpret_cast<int32_t*>(p.handle + p.handle_at.tokens)[threadIdx.x] = tokens[threadIdx.x];
      if (p.received != nullptr) p.received[threadIdx.x] = tokens[threadIdx.x];
    }
    const int total = static_cast<int>(shape.latency_rows()) * shape.top_k;
    const Places places{entries, within, before, (total + 32 * kWarps - 1) / (32 * kWarps) * 32, shape.experts_per_rank};
    place_entries(p, places, total, receiver == 0);
    receive_segments(p, epoch, receiver, receivers, places, tokens, staged);
  }
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
  __device__ int token_of(int item) const {
    return is_own(item) ? (item - sent) / items_of_row : item / items_of_row % p.group.shape.latency_tokens;
  }
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
        group.offsets.returns + ((static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * shape.latency_tokens + token_of(item)) * lines * kLineBytes;
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

// Those who had no rows of this rank have said so.
__device__ inline void await_hello(const LatencyCombineParams& p, uint32_t epoch) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  if (blockIdx.x != 0) return;
  for (int rank = threadIdx.x / 32; rank < shape.ranks; rank += kWarps) {
    const uint8_t* hello = group.peers[shape.rank] + group.offsets.hello + (static_cast<int64_t>(epoch % 2) * shape.ranks + rank) * kLineBytes;
    uint4 value[1];
    if (takes_part(group, rank) &&
        !await_lines(group, Phase::kReturn, epoch, [&](int) { return lane < 8 ? hello : nullptr; }, [&](int) { return rank; }, value)) {
      return;
    }
  }
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
  if (!summing.run(experts, loaded, epoch)) return;
  if (p.finish) await_hello(p, epoch);
}

}  // namespace h4j::moe
