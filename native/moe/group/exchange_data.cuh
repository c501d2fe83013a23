// What the tests of dispatch and combine send, and what must arrive: all of it follows from seeds, so that each rank knows the data of every other and checks
// on the device what came. The checks share nothing with the kernels: places are counted by going through all entries in order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "hopper4j.h"

namespace h4j::testing {
// Each test file has its own: what is warmed up must be the very kernels that run, and kernels of a header are of one file.
namespace {

inline constexpr int kCheckThreads = 512;
inline constexpr int kCheckBlock = 128;  // elements that share a scale

// What of a call every rank knows.
struct Exchange {
  uint64_t routing_seed, row_seed;
  int32_t ranks, rank, experts, per_rank, top_k, hidden;
  int32_t most_tokens;  // of a rank in a call
  int32_t alignment;
  int32_t latency, expert_layout, fp8, cast, residual;
  int32_t plain_routing;  // distinct experts, all tokens: what is timed
  uint64_t active;

  __host__ __device__ int blocks() const { return (hidden + kCheckBlock - 1) / kCheckBlock; }
  __host__ __device__ int local_experts() const {
    const int left = experts - rank * per_rank;
    return left < 0 ? 0 : left < per_rank ? left : per_rank;
  }
  __host__ __device__ int64_t row_bytes() const { return int64_t{hidden} * (fp8 ? 1 : 2); }
};

__host__ __device__ inline uint64_t mixed(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15u + b + 0x632be59bd9b4e019u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// Tokens of a rank: none in one call of eight, all in one of four.
__host__ __device__ inline int tokens_of(const Exchange& e, int source) {
  if ((e.active >> source & 1) == 0) return 0;
  const uint64_t random = mixed(e.routing_seed, 0x10000u + static_cast<unsigned>(source));
  if (e.plain_routing || random % 4 == 1) return e.most_tokens;
  return random % 8 == 0 ? 0 : static_cast<int>(random / 8 % static_cast<unsigned>(e.most_tokens + 1));
}

__host__ __device__ inline int drawn_expert(const Exchange& e, uint64_t random) {
  // Every fourth call is skewed: nearly all rows go to a sixteenth of the experts, which one or two ranks have.
  if (mixed(e.routing_seed, 7) % 4 == 0 && random % 16 != 1) return static_cast<int>(random / 16 % static_cast<unsigned>((e.experts + 15) / 16));
  return static_cast<int>(random / 16 % static_cast<unsigned>(e.experts));
}

// The k-th expert of a token: now and then none, or the one before once more.
__host__ __device__ inline int expert_of(const Exchange& e, int source, int token, int k) {
  const uint64_t at = (static_cast<uint64_t>(source) << 40) + static_cast<uint64_t>(token) * 64;
  if (e.plain_routing) {  // distinct, and each as likely: a stride that shares no factor with 2^n experts
    const uint64_t random = mixed(e.routing_seed, at);
    return static_cast<int>((random + static_cast<uint64_t>(k) * (random >> 32 | 1)) % static_cast<unsigned>(e.experts));
  }
  const uint64_t random = mixed(e.routing_seed, at + static_cast<unsigned>(k));
  if (random % 16 == 0) return -1;
  if (k > 0 && random % 32 == 3) return drawn_expert(e, mixed(e.routing_seed, at + static_cast<unsigned>(k) - 1));
  return drawn_expert(e, random);
}

// The number of the token's k-th expert at `rank`, or -1. In latency calls an expert that the token has named before is left out.
__host__ __device__ inline int local_of(const Exchange& e, int rank, int source, int token, int k) {
  const int expert = expert_of(e, source, token, k);
  if (expert < 0 || expert / e.per_rank != rank || (e.active >> rank & 1) == 0) return -1;
  if (e.latency) {
    for (int earlier = 0; earlier < k; ++earlier) {
      if (expert_of(e, source, token, earlier) == expert) return -1;
    }
  }
  return expert % e.per_rank;
}

__host__ __device__ inline bool goes_to(const Exchange& e, int rank, int source, int token) {
  bool goes = false;
  for (int k = 0; k < e.top_k; ++k) goes = goes || local_of(e, rank, source, token, k) >= 0;
  return goes;
}

__host__ __device__ inline float weight_of(const Exchange& e, int source, int token, int k) {
  const uint64_t random =
      mixed(e.routing_seed ^ 0x55, (static_cast<uint64_t>(source) << 40) + static_cast<uint64_t>(token) * 64 + static_cast<unsigned>(k));
  return (static_cast<float>(random & 0xffffff) - 8388608.0f) / 8388608.0f;
}

// Four bytes of a row as it travels. Any bits, but for rows that are cast: those are numbers, and the first of each scale block has the largest magnitude.
__device__ inline uint32_t row_word(const Exchange& e, int source, int token, int word) {
  uint64_t random = mixed(e.row_seed, (static_cast<uint64_t>(source) << 48) + (static_cast<uint64_t>(token) << 20) + static_cast<unsigned>(word) / 2);
  auto bits = static_cast<uint32_t>(word % 2 != 0 ? random >> 32 : random);
  if (e.cast) {
    for (int i = 0; i < 4; ++i) {
      if ((bits >> 8 * i & 0x7f) == 0x7f) bits ^= 1u << 8 * i;
    }
    if (word % (kCheckBlock / 4) == 0) bits |= 0x7e, bits &= ~1u;
  }
  return bits;
}

__device__ inline int exponent_of(const Exchange& e, int source, int token, int block) {
  return static_cast<int>(
             mixed(e.row_seed ^ 0x77, (static_cast<uint64_t>(source) << 40) + static_cast<uint64_t>(token) * 1024 + static_cast<unsigned>(block)) %
             9) -
         4;
}

// The bits of a row's scale. Those of a cast row are powers of two, so that the cast is exact.
__device__ inline uint32_t scale_bits(const Exchange& e, int source, int token, int block) {
  if (e.cast) return __float_as_uint(exp2f(static_cast<float>(exponent_of(e, source, token, block))));
  return static_cast<uint32_t>(
      mixed(e.row_seed ^ 0x99, (static_cast<uint64_t>(source) << 40) + static_cast<uint64_t>(token) * 1024 + static_cast<unsigned>(block)));
}

// An element that comes back for a token from a rank: of the k-th expert's row, or of the rank's one row with k = 0.
__device__ inline float returned(const Exchange& e, int rank, int source, int token, int k, int column) {
  const uint64_t random = mixed(e.row_seed ^ 0xbb, (static_cast<uint64_t>(rank * 64 + source) << 48) + (static_cast<uint64_t>(token) << 24) +
                                                       static_cast<uint64_t>(column) * 32 + static_cast<unsigned>(k));
  return __bfloat162float(__float2bfloat16_rn((static_cast<float>(random & 0xffff) - 32768.0f) / 32768.0f));
}
__device__ inline float residual_of(const Exchange& e, int token, int column) { return returned(e, 63, e.rank, token, 31, column); }

// What a rank has found wrong, in its own memory.
struct Findings {
  unsigned long long wrong;
  int32_t what, call, source, token, place, got, need;
  int32_t unused;
  unsigned long long rows, sums;  // that were compared
  double error, size;             // of combine: squares against sums in double
};
enum What : int32_t { kNothing, kReceived, kRange, kRow, kScale, kExpertNumber, kWeight, kSum };

__device__ inline void wrong(Findings& f, What what, int call, int source, int token, int place, int64_t got, int64_t need) {
  if (atomicAdd(&f.wrong, 1ull) != 0) return;
  f.what = what, f.call = call, f.source = source, f.token = token, f.place = place, f.got = static_cast<int32_t>(got),
  f.need = static_cast<int32_t>(need);
}

struct Memory {
  uint8_t* x;  // [most_tokens] rows of x_pitch bytes
  int64_t x_pitch;
  float* x_scales;
  int64_t x_scales_ld;
  int32_t* experts;
  float* weights;
  int32_t* received;
  const uint8_t* rows;  // of the group's buffers in the rank layout, else of `out`
  int64_t pitch;
  const float* scales;
  int64_t scales_ld;
  const int32_t* row_experts;  // rank layout
  const float* row_weights;
  const int32_t* expert_rows;
  __nv_bfloat16* back;  // rows that combine reads: partial rows, or rows of the layout of `out`
  int64_t back_ld;
  __nv_bfloat16* residual;
  __nv_bfloat16* sums;
  // The oracle
  int32_t* slots;   // [ranks * most_tokens][2]: source and token of each row of the rank layout
  int32_t* counts;  // [local experts]
  int32_t* within;  // [ranks * most_tokens * top_k]: how many of the expert's rows come before
  Findings* findings;
};

// ---- Before the call

static __global__ void fill_tokens(Exchange e, Memory m) {
  const int tokens = tokens_of(e, e.rank);
  for (int token = blockIdx.x; token < tokens; token += gridDim.x) {
    for (int k = threadIdx.x; k < e.top_k; k += blockDim.x) {
      m.experts[token * e.top_k + k] = expert_of(e, e.rank, token, k);
      m.weights[token * e.top_k + k] = weight_of(e, e.rank, token, k);
    }
    if (e.cast) {
      auto* row = reinterpret_cast<__nv_bfloat16*>(m.x + token * m.x_pitch);
      for (int i = threadIdx.x; i < e.hidden; i += blockDim.x) {
        __nv_fp8_e4m3 code;
        code.__x = static_cast<uint8_t>(row_word(e, e.rank, token, i / 4) >> i % 4 * 8);
        row[i] = __float2bfloat16_rn(ldexpf(static_cast<float>(code), exponent_of(e, e.rank, token, i / kCheckBlock)));
      }
      continue;
    }
    auto* row = reinterpret_cast<uint32_t*>(m.x + token * m.x_pitch);
    for (int i = threadIdx.x; i < e.row_bytes() / 4; i += blockDim.x) row[i] = row_word(e, e.rank, token, i);
    if (!e.fp8) continue;
    for (int i = threadIdx.x; i < e.blocks(); i += blockDim.x)
      m.x_scales[i * m.x_scales_ld + token] = __uint_as_float(scale_bits(e, e.rank, token, i));
  }
}

// Keeps a stream late by up to so long.
static __global__ void delay(uint64_t nanoseconds) {
  uint64_t begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    __nanosleep(500);
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

// ---- What must come

// How many of `mine` of the CTA's threads before this one are true, and of all of them.
__device__ inline int2 count_before(bool mine) {
  __shared__ int sums[kCheckThreads / 32];
  const unsigned bits = __ballot_sync(0xffffffffu, mine);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = __popc(bits);
  __syncthreads();
  int2 counts = make_int2(__popc(bits & ((1u << threadIdx.x % 32) - 1)), 0);
  for (int warp = 0; warp < kCheckThreads / 32; ++warp) {
    counts.x += warp < static_cast<int>(threadIdx.x / 32) ? sums[warp] : 0;
    counts.y += sums[warp];
  }
  return counts;
}

// CTA i counts the rows of the i-th local expert in order; the last one lists the rows of the rank layout.
static __global__ __launch_bounds__(kCheckThreads) void list_rows(Exchange e, Memory m, int call) {
  const int expert = static_cast<int>(blockIdx.x);
  int total = 0;
  for (int source = 0; source < e.ranks; ++source) {
    const int begin = total;
    const int tokens = tokens_of(e, source);
    if (expert < static_cast<int>(gridDim.x) - 1) {
      for (int base = 0; base < tokens * e.top_k; base += kCheckThreads) {
        const int entry = base + static_cast<int>(threadIdx.x);
        const bool here = entry < tokens * e.top_k && local_of(e, e.rank, source, entry / e.top_k, entry % e.top_k) == expert;
        const int2 counts = count_before(here);
        if (here) m.within[static_cast<int64_t>(source) * e.most_tokens * e.top_k + entry] = total + counts.x;
        total += counts.y;
      }
      continue;
    }
    for (int base = 0; base < tokens; base += kCheckThreads) {
      const int token = base + static_cast<int>(threadIdx.x);
      const bool here = token < tokens && goes_to(e, e.rank, source, token);
      const int2 counts = count_before(here);
      if (here) m.slots[2 * (total + counts.x)] = source, m.slots[2 * (total + counts.x) + 1] = token;
      total += counts.y;
    }
    if (threadIdx.x == 0) {
      const int need = e.latency ? tokens : total - begin;
      if ((e.active >> source & 1) != 0 && m.received[source] != need) wrong(*m.findings, kReceived, call, source, -1, -1, m.received[source], need);
    }
  }
  if (threadIdx.x != 0) return;
  if (expert < static_cast<int>(gridDim.x) - 1) {
    m.counts[expert] = total;
  } else if (!e.latency) {
    m.received[e.ranks + 1] = total;  // for the checks that follow
    if (m.received[e.ranks] != total) wrong(*m.findings, kReceived, call, e.ranks, -1, -1, m.received[e.ranks], total);
  }
}

// First row of each local expert, and the end of the last, for all threads of a CTA.
__device__ inline void find_starts(const Exchange& e, const Memory& m, int32_t* starts) {
  if (threadIdx.x == 0) {
    int at = 0;
    for (int expert = 0; expert < e.local_experts(); ++expert) {
      starts[expert] = e.latency ? expert * e.ranks * e.most_tokens : at;
      at += (m.counts[expert] + e.alignment - 1) / e.alignment * e.alignment;
    }
  }
  __syncthreads();
}

// A warp compares one row.
__device__ inline void check_row(const Exchange& e, const Memory& m, int call, int source, int token, int64_t place, int64_t scale0) {
  const int lane = threadIdx.x % 32;
  const auto* row = reinterpret_cast<const uint32_t*>(m.rows + place * m.pitch);
  for (int i = lane; i < e.row_bytes() / 4; i += 32) {
    const uint32_t need = row_word(e, source, token, i);
    if (row[i] != need) wrong(*m.findings, kRow, call, source, token, static_cast<int>(place), row[i], need);
  }
  for (int i = lane; e.fp8 && i < e.blocks(); i += 32) {
    const uint32_t got = __float_as_uint(m.scales[scale0 + i * m.scales_ld]);
    const uint32_t need = scale_bits(e, source, token, i);
    if (got != need) wrong(*m.findings, kScale, call, source, token, static_cast<int>(place), got, need);
  }
  if (lane == 0) atomicAdd(&m.findings->rows, 1ull);
}

static __global__ __launch_bounds__(kCheckThreads) void check_ranks(Exchange e, Memory m, int call) {
  const int warps = static_cast<int>(gridDim.x) * kCheckThreads / 32;
  for (int slot = static_cast<int>(blockIdx.x * kCheckThreads + threadIdx.x) / 32; slot < m.received[e.ranks + 1]; slot += warps) {
    const int source = m.slots[2 * slot];
    const int token = m.slots[2 * slot + 1];
    check_row(e, m, call, source, token, slot, slot);
    for (int k = threadIdx.x % 32; k < e.top_k; k += 32) {
      const int64_t at = static_cast<int64_t>(slot) * e.top_k + k;
      const int need = local_of(e, e.rank, source, token, k);
      if (m.row_experts[at] != need) wrong(*m.findings, kExpertNumber, call, source, token, k, m.row_experts[at], need);
      if (__float_as_uint(m.row_weights[at]) != __float_as_uint(weight_of(e, source, token, k))) {
        wrong(*m.findings, kWeight, call, source, token, k, __float_as_uint(m.row_weights[at]), __float_as_uint(weight_of(e, source, token, k)));
      }
    }
  }
}

static __global__ __launch_bounds__(kCheckThreads) void check_experts_rows(Exchange e, Memory m, int call) {
  extern __shared__ int32_t starts[];
  find_starts(e, m, starts);
  if (blockIdx.x == 0) {
    for (int expert = threadIdx.x; expert < e.local_experts(); expert += kCheckThreads) {
      const int first = e.latency ? m.counts[expert] : starts[expert];
      const int at = e.latency ? expert : 2 * expert;
      if (m.expert_rows[at] != first) wrong(*m.findings, kRange, call, -1, -1, expert, m.expert_rows[at], first);
      if (!e.latency && m.expert_rows[at + 1] != first + m.counts[expert]) {
        wrong(*m.findings, kRange, call, -1, -1, expert, m.expert_rows[at + 1], first + m.counts[expert]);
      }
    }
  }
  const int warps = static_cast<int>(gridDim.x) * kCheckThreads / 32;
  const int capacity = e.ranks * e.most_tokens;
  for (int item = static_cast<int>(blockIdx.x * kCheckThreads + threadIdx.x) / 32; item < capacity * e.top_k; item += warps) {
    const int source = item / (e.most_tokens * e.top_k);
    const int token = item / e.top_k % e.most_tokens;
    if (token >= tokens_of(e, source)) continue;
    const int expert = local_of(e, e.rank, source, token, item % e.top_k);
    if (expert < 0) continue;
    const int64_t place = starts[expert] + m.within[item];
    // Latency: (expert, slot, block) at (expert * blocks + block) * ld + slot.
    check_row(e, m, call, source, token, place, e.latency ? static_cast<int64_t>(expert) * e.blocks() * m.scales_ld + m.within[item] : place);
  }
}

// ---- The way back

static __global__ __launch_bounds__(kCheckThreads) void fill_returned(Exchange e, Memory m) {
  extern __shared__ int32_t starts[];
  if (e.expert_layout) find_starts(e, m, starts);
  const int items = e.expert_layout ? e.ranks * e.most_tokens * e.top_k : m.received[e.ranks + 1];
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    int source, token, k = 0;
    int64_t place = item;
    if (e.expert_layout) {
      source = item / (e.most_tokens * e.top_k), token = item / e.top_k % e.most_tokens, k = item % e.top_k;
      const int expert = token < tokens_of(e, source) ? local_of(e, e.rank, source, token, k) : -1;
      if (expert < 0) continue;
      place = starts[expert] + m.within[item];
    } else {
      source = m.slots[2 * item], token = m.slots[2 * item + 1];
    }
    for (int i = threadIdx.x; i < e.hidden; i += kCheckThreads)
      m.back[place * m.back_ld + i] = __float2bfloat16_rn(returned(e, e.rank, source, token, k, i));
  }
  for (int token = blockIdx.x; token < tokens_of(e, e.rank); token += gridDim.x) {
    for (int i = threadIdx.x; i < e.hidden; i += kCheckThreads)
      m.residual[static_cast<int64_t>(token) * e.hidden + i] = __float2bfloat16_rn(residual_of(e, token, i));
  }
}

// Bits of the sums that hopper4j.h states, and squares against sums in double.
static __global__ __launch_bounds__(kCheckThreads) void check_sums(Exchange e, Memory m, int call) {
  double error = 0;
  double size = 0;
  const int tokens = tokens_of(e, e.rank);
  for (int token = blockIdx.x; token < tokens; token += gridDim.x) {
    for (int i = threadIdx.x; i < e.hidden; i += kCheckThreads) {
      float sum = 0;
      double exact = 0;
      const auto part_of = [&](int rank, float from) {
        for (int k = 0; k < e.top_k; ++k) {
          if (local_of(e, rank, e.rank, token, k) < 0) continue;
          from = fmaf(weight_of(e, e.rank, token, k), returned(e, rank, e.rank, token, k, i), from);
          exact += static_cast<double>(weight_of(e, e.rank, token, k)) * returned(e, rank, e.rank, token, k, i);
        }
        return from;
      };
      const bool own_first = e.expert_layout;
      if (own_first) sum = part_of(e.rank, sum);
      for (int rank = 0; rank < e.ranks; ++rank) {
        if ((own_first && rank == e.rank) || !goes_to(e, rank, e.rank, token)) continue;
        if (e.expert_layout) {
          sum += __bfloat162float(__float2bfloat16_rn(part_of(rank, 0.0f)));
        } else {
          sum += returned(e, rank, e.rank, token, 0, i);
          exact += returned(e, rank, e.rank, token, 0, i);
        }
      }
      if (e.residual) sum += residual_of(e, token, i), exact += residual_of(e, token, i);
      const float got = __bfloat162float(m.sums[static_cast<int64_t>(token) * e.hidden + i]);
      const float need = __bfloat162float(__float2bfloat16_rn(sum));
      if (!(got == need)) wrong(*m.findings, kSum, call, e.rank, token, i, __float_as_uint(got), __float_as_uint(need));
      error += (got - exact) * (got - exact);
      size += exact * exact;
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    error += __shfl_xor_sync(0xffffffffu, error, step);
    size += __shfl_xor_sync(0xffffffffu, size, step);
  }
  if (threadIdx.x % 32 == 0) atomicAdd(&m.findings->error, error), atomicAdd(&m.findings->size, size);
  if (threadIdx.x == 0 && blockIdx.x == 0) atomicAdd(&m.findings->sums, static_cast<unsigned long long>(tokens));
}

}  // namespace
}  // namespace h4j::testing
