// Dispatch and combine of a few tokens, where the time of a wait is what counts: no barrier, data carry their own flags.
//
// Some CTAs only send, the others only receive, so nobody that is waited for waits. A buffer is written again two epochs later; that is safe because each
// call waits for a word of every rank (routing, or combine's hello), so no rank is more than one call ahead of another.
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
        words[2 * i] = static_cast<uint32_t>(__ldg(p.experts + entry - 1));
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
  if (__syncthreads_or(lost)) return false;
  // An expert has a slot for each token, so one that a token names again is left out. Entries of a token are looked at by one thread, from the last on.
  for (int row = threadIdx.x; row < shape.ranks * shape.latency_tokens; row += kThreads) {
    if (row % shape.latency_tokens >= tokens[row / shape.latency_tokens]) continue;
    uint16_t* own = entries + row * shape.top_k;
    for (int k = shape.top_k - 1; k > 0; --k) {
      for (int earlier = 0; earlier < k; ++earlier) {
        if (own[earlier] == own[k]) own[k] = kNoExpert;
      }
    }
  }
  __syncthreads();
  return true;
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
  const uint32_t epoch = begin_call(group, counter, p.finish != 0);
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

__device__ inline void send_returns(const LatencyCombineParams& p, uint32_t epoch) {
  constexpr int kAtOnce = 4;  // rows in flight
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int piece = lane % 8;
  const int bytes = 2 * shape.hidden;
  const int lines = shape.return_lines();
  const int items = (lines + kLinesPerItem - 1) / kLinesPerItem;  // of a row
  const int capacity = static_cast<int>(shape.latency_rows());
  const auto* tokens = reinterpret_cast<const int32_t*>(p.handle + p.handle_at.tokens);
  const auto* rows = reinterpret_cast<const int32_t*>(p.handle + p.handle_at.rows);
  const auto* weights = reinterpret_cast<const float*>(p.handle + p.handle_at.weights);
  if (blockIdx.x == 0 && threadIdx.x / 8 < shape.ranks && takes_part(group, threadIdx.x / 8)) {
    const int64_t hello = group.offsets.hello + (static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * kLineBytes;
    put_line(group.peers[threadIdx.x / 8] + hello + piece * 16, sealed(make_uint4(0, 0, 0, 0), epoch));
  }
  const auto rows_of = [&](int item) {
    const int row = item / items;
    const bool used = item < capacity * items && lane < shape.top_k && takes_part(group, row / shape.latency_tokens) &&
                      row % shape.latency_tokens < tokens[row / shape.latency_tokens];
    return used ? rows[row * shape.top_k + lane] : -1;
  };
  const int step = p.senders * kWarps;
  int next = rows_of(blockIdx.x + p.senders * (threadIdx.x / 32));
  for (int item = blockIdx.x + p.senders * (threadIdx.x / 32); item < capacity * items; item += step) {
    const int row = item / items;
    const int source = row / shape.latency_tokens;
    const int token = row % shape.latency_tokens;
    const int mine = next;
    const float weight = mine >= 0 ? weights[row * shape.top_k + lane] : 0.0f;
    next = rows_of(item + step);
    unsigned left = __ballot_sync(0xffffffffu, mine >= 0);
    if (left == 0) continue;
    const int64_t target =
        group.offsets.returns + ((static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * shape.latency_tokens + token) * lines * kLineBytes;
    const auto line_of = [&](int group_of_lines) { return item % items * kLinesPerItem + 4 * group_of_lines + lane / 8; };
    float sums[kLineGroups][8] = {};
    while (left != 0) {
      uint4 values[kAtOnce][kLineGroups];
      float factors[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int k = left != 0 ? __ffs(static_cast<int>(left)) - 1 : 0;
        const int from = __shfl_sync(0xffffffffu, mine, k);
        const float factor = __shfl_sync(0xffffffffu, weight, k);
        factors[i] = left != 0 ? factor : 0.0f;
#pragma unroll
        for (int g = 0; g < kLineGroups; ++g) {
          const bool wanted = left != 0 && line_of(g) < lines;
          values[i][g] = wanted ? load_piece(p.x + from * p.x_pitch, line_of(g) * kLinePayload + piece * 16, bytes) : make_uint4(0, 0, 0, 0);
        }
        left &= left - 1;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
        for (int g = 0; g < kLineGroups; ++g) add_bf16(sums[g], values[i][g], factors[i]);
      }
    }
#pragma unroll
    for (int g = 0; g < kLineGroups; ++g) {
      if (line_of(g) < lines) put_line(group.peers[source] + target + line_of(g) * kLineBytes + piece * 16, sealed(to_bf16(sums[g]), epoch));
    }
  }
}

__device__ inline void receive_returns(const LatencyCombineParams& p, uint32_t epoch, int receiver, int receivers) {
  constexpr int kAtOnce = 2;  // ranks waited for at once
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int piece = lane % 8;
  const int bytes = 2 * shape.hidden;
  const int lines = shape.return_lines();
  const int items = (lines + kLinesPerItem - 1) / kLinesPerItem;  // of a row
  const uint8_t* window = group.peers[shape.rank];
  const auto* handle_ranks = reinterpret_cast<const uint64_t*>(p.handle + p.handle_at.ranks);
  for (int item = receiver + receivers * warp; item < p.tokens * items; item += receivers * kWarps) {
    const int token = item / items;
    uint64_t left = handle_ranks[token] & group.active;
    const auto line_of = [&](int group_of_lines) { return item % items * kLinesPerItem + 4 * group_of_lines + lane / 8; };
    float sums[kLineGroups][8] = {};
    while (left != 0) {
      int ranks[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        ranks[i] = left != 0 ? __ffsll(static_cast<long long>(left)) - 1 : -1;
        left &= left - 1;
      }
      uint4 values[kAtOnce * kLineGroups];
      const auto line_at = [&](int i) -> const uint8_t* {
        const int line = line_of(i % kLineGroups);
        const int rank = ranks[i / kLineGroups];
        if (rank < 0 || line >= lines) return nullptr;
        return window + group.offsets.returns +
               (((static_cast<int64_t>(epoch % 2) * shape.ranks + rank) * shape.latency_tokens + token) * lines + line) * kLineBytes;
      };
      if (!await_lines(group, Phase::kReturn, epoch, line_at, [&](int i) { return ranks[i / kLineGroups]; }, values)) return;
#pragma unroll
      for (int i = 0; i < kAtOnce * kLineGroups; ++i)
        add_bf16(sums[i % kLineGroups], values[i]);  // the last lane's upper half is the seal, and is not stored
    }
#pragma unroll
    for (int g = 0; g < kLineGroups; ++g) {
      if (line_of(g) >= lines) continue;
      const int offset = line_of(g) * kLinePayload + piece * 16;
      if (p.residual != nullptr) add_bf16(sums[g], load_piece(p.residual + token * p.residual_pitch, offset, bytes));
      const uint4 rounded = to_bf16(sums[g]);
      uint8_t* target = p.out + token * p.out_pitch + offset;
      if (offset < bytes) *reinterpret_cast<uint2*>(target) = make_uint2(rounded.x, rounded.y);
      if (offset + 8 < bytes && piece != 7) *reinterpret_cast<uint2*>(target + 8) = make_uint2(rounded.z, rounded.w);
    }
  }
  if (receiver != 0) return;
  // Those who had no rows of this rank have said so.
  for (int rank = warp; rank < shape.ranks; rank += kWarps) {
    const uint8_t* hello = window + group.offsets.hello + (static_cast<int64_t>(epoch % 2) * shape.ranks + rank) * kLineBytes;
    uint4 value[1];
    if (takes_part(group, rank) &&
        !await_lines(group, Phase::kReturn, epoch, [&](int) { return lane < 8 ? hello : nullptr; }, [&](int) { return rank; }, value)) {
      return;
    }
  }
}

__global__ __launch_bounds__(kThreads, 1) void latency_combine_kernel(const __grid_constant__ LatencyCombineParams p) {
  const Group& group = p.group;
  Counter& counter = group.state->channel[group.channel].latency_combine;
  const uint32_t epoch = begin_call(group, counter, p.finish != 0);
  if (epoch == 0) return;
  if (static_cast<int>(blockIdx.x) < p.senders) {
    send_returns(p, epoch);
  } else {
    receive_returns(p, epoch, static_cast<int>(blockIdx.x) - p.senders, static_cast<int>(gridDim.x) - p.senders);
  }
}

}  // namespace h4j::moe
