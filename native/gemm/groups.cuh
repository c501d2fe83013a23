// Groups whose extents only the device knows: where each begins and ends.
#pragma once

#include <cstdint>

#include "runtime/fault.h"
#include "tile/fault.cuh"

namespace h4j::gemm {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// Element `index` of an array of I32 or I64.
__device__ inline int64_t extent_at(const void* extents, bool wide, int index) {
  return wide ? __ldg(static_cast<const long long*>(extents) + index) : __ldg(static_cast<const int*>(extents) + index);
}

// Ends of consecutive groups, 32 at a time: each is cut to what lies between the end before it and `limit`. By a whole warp.
class Ends {
 public:
  __device__ Ends(const void* extents, bool wide, int groups, int limit) : extents_(extents), wide_(wide), groups_(groups), limit_(limit) {
    read_ahead(0);
  }

  struct Group {
    int begin;
    int end;
    bool bad;
    int64_t got;
  };

  // Group base + lane; behind the last group, empty ones. To be called with base 0, 32, 64, ...
  __device__ Group next(int base) {
    const int lane = threadIdx.x % 32;
    const bool real = base + lane < groups_;
    const int64_t got = ahead_;
    read_ahead(base + 32);
    // The least end that hides no end before it.
    int end = real ? static_cast<int>(min(max(got, static_cast<int64_t>(last_)), static_cast<int64_t>(limit_))) : last_;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, end, distance);
      if (lane >= distance) end = max(end, other);
    }
    const int before = __shfl_up_sync(kAllLanes, end, 1);
    const int begin = lane == 0 ? last_ : before;
    last_ = __shfl_sync(kAllLanes, end, 31);
    return {begin, end, real && (got < begin || got > limit_), got};
  }

 private:
  __device__ void read_ahead(int base) {
    const int index = base + static_cast<int>(threadIdx.x % 32);
    ahead_ = index < groups_ ? extent_at(extents_, wide_, index) : 0;
  }

  const void* extents_;
  bool wide_;
  int groups_;
  int limit_;
  int last_ = 0;
  int64_t ahead_ = 0;
};

// The first bad lane of a warp reports its group, once.
class FirstFault {
 public:
  __device__ void see(const FaultSite& site, bool bad, int64_t index, int64_t got, int64_t low, int64_t high) {
    const unsigned lanes = __ballot_sync(kAllLanes, bad);
    if (lanes == 0 || seen_) return;
    seen_ = true;
    if (threadIdx.x % 32 == static_cast<unsigned>(__ffs(static_cast<int>(lanes)) - 1)) tile::report_fault(site, index, got, low, high);
  }

 private:
  bool seen_ = false;
};

// The sum over this lane and those before it.
__device__ inline int inclusive_sum(int value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

}  // namespace h4j::gemm
