// How kernels of several ranks see each other: words and lines in a peer's window, and waits that end.
#pragma once

#include <climits>

#include "moe/group/group_layout.h"
#include "tile/fault.cuh"

namespace h4j::moe {

__device__ inline uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

__device__ inline void put(uint32_t* address, uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ inline void put(uint64_t* address, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}
__device__ inline uint32_t get(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline uint64_t get(const uint64_t* address) {
  uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}
// What was written before the flag is read after it. Cheaper than a fence, which also waits for this thread's own stores.
__device__ inline uint32_t get_acquire(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline void put_line(void* address, uint4 value) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w) : "memory");
}
__device__ inline uint4 get_line(const void* address) {
  uint4 value;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address)
               : "memory");
  return value;
}
// Streams once: keeps no line in L1. Volatile, so that it stays behind the wait that allows it.
__device__ inline uint4 load_once(const void* address) {
  uint4 value;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
}

template <class T>
__device__ T* at(uint8_t* base, int64_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

__device__ inline bool takes_part(const Group& group, int rank) { return (group.active >> rank & 1) != 0; }
__device__ inline int rank_of(const Group& group, int expert) { return static_cast<int>(static_cast<uint32_t>(expert) * group.expert_divisor >> 20); }
__device__ inline bool is_aborted(const Group& group) { return get(&group.state->aborted) != 0; }

__device__ inline void report_timeout(const Group& group, int rank, Phase phase, uint32_t epoch) {
  if (atomicCAS(&group.state->aborted, 0u, 1u) != 0) return;
  put(&group.status->epoch, epoch);
  __threadfence_system();  // without it the host could see a report before its epoch
  put(&group.status->report, static_cast<uint64_t>(phase) << 48 | static_cast<uint64_t>(group.channel) << 32 | static_cast<uint64_t>(rank + 1));
}

// Time in which ranks hear of each other's timeouts: of waits that began together, threads that poll see the ends so far apart at most.
inline constexpr uint64_t kHearsayNs = 2'000'000;

// How a kernel ends that found the group lost: `return leave(group)`. A rank that was waited for in vain may itself have waited for another, which it then tells
// every peer; so this rank names the last one of the chain, which waits for nobody. At the ends of kernels, where nothing is left to be kept in registers.
__device__ inline void leave(const Group& group) {
  if (atomicExch(&group.state->settling, 1u) != 0) return;
  const int me = group.shape.rank;
  const int64_t missed = group.offsets.missed - group.channel * group.offsets.channel_bytes;
  uint64_t report = 0;
  while (report == 0) report = get(&group.status->report);
  uint32_t last = static_cast<uint32_t>(report);
#pragma unroll 1
  for (int rank = 0; rank < group.shape.ranks; ++rank) {
    // A peer that misses nobody, or knew sooner, may have closed its group meanwhile.
    const bool closed = (get(&group.status->closed) >> rank & 1) != 0;
    if (takes_part(group, rank) && !closed) put(at<uint32_t>(group.peers[rank], missed) + me, last);
  }
  const uint64_t begin = nanoseconds();
  while (nanoseconds() - begin < kHearsayNs) {
  }
#pragma unroll 1
  for (int links = 1; links < group.shape.ranks; ++links) {
    const uint32_t next = get(at<uint32_t>(group.peers[me], missed) + last - 1);
    if (next == 0 || next == static_cast<uint32_t>(me + 1)) break;  // two that miss each other name each other
    last = next;
  }
  put(&group.status->report, report >> 32 << 32 | kSettled | last);
}

// Polls until `ready`, the deadline, or the end of the wait of any other thread of the group. False: this call is lost, leave the kernel.
// Own CTAs, which may wait for a peer, are `own` and given twice the time: then that peer is what is reported.
template <class Ready>
__device__ bool await(const Group& group, int rank, Phase phase, uint32_t epoch, Ready ready, bool own = false) {
  if (ready()) return true;
  const uint64_t begin = nanoseconds();
  for (unsigned polls = 1;; ++polls) {
    if (ready()) return true;
    if (polls % 256 == 0) {
      if (is_aborted(group)) return false;
      if ((nanoseconds() - begin) >> own > group.deadline_ns) {
        report_timeout(group, rank, phase, epoch);
        return false;
      }
    }
  }
}

// The last CTA out ends the call: only then is no CTA left that has still to read the epoch. All threads call it.
__device__ inline void end_call(Counter& counter) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (atomicAdd(&counter.arrived, 1) != gridDim.x - 1) return;
  counter.arrived = 0;
  counter.ticket = 0;
  counter.second_ticket = 0;
  counter.indexed = 0;
  counter.epoch += 1;  // seen by the next kernel
}

__device__ inline uint32_t next_epoch(const Counter& counter) { return *const_cast<const volatile uint32_t*>(&counter.epoch) + 1; }

// The epoch of a call, asked for where this is made; what needs no epoch runs before it is used. A CTA's threads may be cut into parts of which each goes on when it
// has the epoch, whatever the others do.
class CallBegin {
 public:
  __device__ CallBegin(const Group& group, Counter& counter, int part = 0, int parts = 1) : counter_(counter), part_(part), parts_(parts) {
    if (threadIdx.x == part * (kThreads / parts)) lost_ = get(&group.state->aborted), epoch_ = next_epoch(counter);
  }

  // 0 where the group is lost. With `ends`, the call is counted by the last part of all CTAs that has read it: nothing else of the counter is in use, so its end
  // need not be awaited. All threads of the part call it.
  __device__ uint32_t epoch(bool ends) {
    __shared__ uint32_t shared_epoch[2];
    const int threads = kThreads / parts_;
    if (threadIdx.x == part_ * threads) shared_epoch[part_] = lost_ != 0 ? 0 : epoch_;
    asm volatile("bar.sync %0, %1;" ::"r"(1 + part_), "r"(threads) : "memory");
    const uint32_t epoch = shared_epoch[part_];
    // Behind the barrier, so that only one warp waits for the atomic: one that has nothing to do at first.
    if (ends && threadIdx.x == (part_ + 1) * threads - 1 && atomicAdd(&counter_.arrived, 1) == gridDim.x * parts_ - 1) {
      counter_.arrived = 0;
      counter_.epoch = next_epoch(counter_);
    }
    return epoch;
  }

 private:
  Counter& counter_;
  int part_, parts_;
  uint32_t lost_ = 0;
  uint32_t epoch_ = 0;
};

template <class Early>
__device__ uint32_t begin_call(const Group& group, Counter& counter, bool ends, Early early) {
  CallBegin begin(group, counter);
  early();
  return begin.epoch(ends);
}

// ---- Ends of CTAs.

// Tells every rank that this CTA's rows are all there.
__device__ inline void tell_done(const Group& group, int64_t words, uint32_t epoch) {
  __syncthreads();  // the rows of all threads
  const int rank = threadIdx.x;
  if (rank < group.shape.ranks && takes_part(group, rank)) {
    __threadfence_system();  // covers what the barrier does: a reader that sees the flag must see the rows
    put(at<uint32_t>(group.peers[rank], words) + group.shape.rank * kMaxCtas + blockIdx.x, epoch);
  }
}

// Waits for every CTA of every rank. False: lost. `ctas` is the grid of the kernels that tell.
__device__ inline bool await_done(const Group& group, int64_t words, int ctas, Phase phase, uint32_t epoch) {
  bool lost = false;
  for (int i = threadIdx.x; i < group.shape.ranks * ctas && !lost; i += kThreads) {
    const int source = i / ctas;
    if (!takes_part(group, source)) continue;
    const uint32_t* address = at<uint32_t>(group.peers[group.shape.rank], words) + source * kMaxCtas + i % ctas;
    lost = !await(group, source, phase, epoch, [&] { return get(address) == epoch; }, source == group.shape.rank);
  }
  __threadfence_system();  // rows are read after their flags
  return !__syncthreads_or(lost);
}

// Tells of the first expert number that does not exist; such a one selects nothing. All threads of one CTA call it, after their work is on its way.
__device__ inline void check_experts(const int32_t* experts, int count, int limit, const FaultSite& fault) {
  __shared__ int first_bad;
  if (threadIdx.x == 0) first_bad = INT_MAX;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int expert = __ldg(experts + i);
    if (expert < -1 || expert >= limit) atomicMin(&first_bad, i);
  }
  __syncthreads();
  if (threadIdx.x == 0 && first_bad != INT_MAX) tile::report_fault(fault, first_bad, __ldg(experts + first_bad), -1, limit - 1);
}

// ---- Lines. Lanes 8i..8i+7 hold line i of the warp's four; lane 7 of each holds 8 bytes of payload and the epoch.

__device__ inline uint4 sealed(uint4 payload, uint32_t epoch) {
  return threadIdx.x % 8 == 7 ? make_uint4(payload.x, payload.y, epoch, ~epoch) : payload;
}
__device__ inline bool is_sealed(uint4 piece, uint32_t epoch) { return piece.z == epoch && piece.w == ~epoch; }

// Asks for this lane's 16 bytes of kLines lines, all in flight at once; null where it wants none.
template <int kLines>
__device__ void ask_lines(const uint8_t* const (&lines)[kLines], uint4 (&values)[kLines]) {
  const int piece = threadIdx.x % 8 * 16;
#pragma unroll
  for (int i = 0; i < kLines; ++i) values[i] = lines[i] != nullptr ? get_line(lines[i] + piece) : make_uint4(0, 0, 0, 0);
}

// Asks again until ready(values) is true for every lane. rank(i) is whom the i-th line is waited for from. False: the call is lost. The whole warp calls it.
template <int kLines, class Rank, class Ready>
__device__ bool poll_asked(const Group& group, Phase phase, uint32_t epoch, const uint8_t* const (&lines)[kLines], Rank rank, Ready ready,
                           uint4 (&values)[kLines]) {
  uint64_t begin = 0;
  for (unsigned polls = 1;; ++polls) {
    const bool whole = ready(values);
    if (__all_sync(0xffffffffu, whole)) return true;
    if (begin == 0) begin = nanoseconds();
    if (polls % 64 == 0) {
      if (!whole && nanoseconds() - begin > group.deadline_ns) {
        int missing = 0;
#pragma unroll
        for (int i = kLines - 1; i >= 0; --i) {
          if (lines[i] != nullptr && !is_sealed(values[i], epoch)) missing = rank(i);
        }
        report_timeout(group, missing, phase, epoch);
      }
      if (__any_sync(0xffffffffu, is_aborted(group))) return false;
    }
    ask_lines(lines, values);
  }
}

// Until all lines that were asked for are there.
template <int kLines, class Rank>
__device__ bool await_asked(const Group& group, Phase phase, uint32_t epoch, const uint8_t* const (&lines)[kLines], Rank rank,
                            uint4 (&values)[kLines]) {
  const auto all_there = [&](const uint4(&loaded)[kLines]) {
    bool whole = true;
#pragma unroll
    for (int i = 0; i < kLines; ++i) whole = whole && (threadIdx.x % 8 != 7 || lines[i] == nullptr || is_sealed(loaded[i], epoch));
    return whole;
  };
  return poll_asked(group, phase, epoch, lines, rank, all_there, values);
}

// Loads lines until ready(values) is true for every lane. line(i) is the address of the lane's i-th line.
template <int kLines, class Line, class Rank, class Ready>
__device__ bool poll_lines(const Group& group, Phase phase, uint32_t epoch, Line line, Rank rank, Ready ready, uint4 (&values)[kLines]) {
  const uint8_t* lines[kLines];
#pragma unroll
  for (int i = 0; i < kLines; ++i) lines[i] = line(i);
  ask_lines(lines, values);
  return poll_asked(group, phase, epoch, lines, rank, ready, values);
}

// Until all lines are there.
template <int kLines, class Line, class Rank>
__device__ bool await_lines(const Group& group, Phase phase, uint32_t epoch, Line line, Rank rank, uint4 (&values)[kLines]) {
  const uint8_t* lines[kLines];
#pragma unroll
  for (int i = 0; i < kLines; ++i) lines[i] = line(i);
  ask_lines(lines, values);
  return await_asked(group, phase, epoch, lines, rank, values);
}

}  // namespace h4j::moe
