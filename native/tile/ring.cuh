// A ring of shared-memory stages between one or a few producers and several consumer warps, over CUTLASS's mbarrier wrappers.
//
//   producer                         each consumer warp
//   ring.wait_free(at);              ring.wait_filled(at);
//   start copies into stage at;      read stage at;
//   ring.fill(at, bytes);            ring.release(at);
//   at.advance();                    at.advance();
//
// The wrappers' arrive and wait are the unqualified forms: release.cluster and acquire.cluster would add a GPU-wide membar and an L1 invalidation
// to every K block.
#pragma once

#include <cutlass/arch/barrier.h>

#include <cstdint>

namespace h4j::tile {

template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t phase = 0;

  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

template <int kStages>
struct Ring {
  using Position = RingPosition<kStages>;
  using FilledBarrier = cutlass::arch::ClusterTransactionBarrier;
  using FreeBarrier = cutlass::arch::ClusterBarrier;

  FilledBarrier filled[kStages];
  FreeBarrier free[kStages];

  // Consumers are warps, or lanes where those release. By one thread, followed by a fence for the async proxy and a CTA barrier; see publish().
  __device__ void init(int consumers, int producers = 1) {
    for (int stage = 0; stage < kStages; ++stage) {
      filled[stage].init(producers);
      free[stage].init(consumers);
    }
  }

  // By all threads after init: without the fence the copy engine could count on barriers it does not see yet.
  __device__ static void publish() {
    cutlass::arch::fence_barrier_init();
    __syncthreads();
  }

  // A fresh ring is free: the phase before the first one counts as complete.
  __device__ void wait_free(Position at) { free[at.stage].wait(at.phase ^ 1); }

  // By one thread a producer: `bytes` is what its copies into this stage bring. Earlier ordinary stores of this thread are visible after wait_filled.
  __device__ void fill(Position at, uint32_t bytes) { filled[at.stage].arrive_and_expect_tx(bytes); }

  // Ahead of fill or fill_by_stores, which then bring no bytes of their own: what copies under way into this stage bring.
  __device__ void expect(Position at, uint32_t bytes) { filled[at.stage].expect_transaction(bytes); }

  // By a further producer thread that brings ordinary stores only.
  __device__ void fill_by_stores(Position at) { filled[at.stage].arrive(); }

  __device__ void wait_filled(Position at) { filled[at.stage].wait(at.phase); }

  // By a whole warp: every lane's reads come before the one arrival.
  __device__ void release(Position at) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) free[at.stage].arrive();
  }

  // The same where a stage is also filled by copies of, and for, the other CTAs of the cluster: init then counts the consumers of all of them.
  template <int kCtas>
  __device__ void release_to_cluster(Position at) {
    __syncwarp();
    if (threadIdx.x % 32 < kCtas) free[at.stage].arrive(threadIdx.x % 32);
  }

  // The same with an arrival a lane, for rings that seldom turn: init then counts 32 a warp. racecheck sees through this form only.
  __device__ void release_by_lane(Position at) { free[at.stage].arrive(); }
};

}  // namespace h4j::tile
