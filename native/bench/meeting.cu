// Where streams of several ranks wait for each other, so that what follows begins at the same time on all devices.
#include <vector>

#include "bench/open.h"
#include "bench/session.h"

namespace {

constexpr int kMostRanks = 64;

struct Flags {
  uint32_t* of[kMostRanks];  // in the memory of each rank's device
};

// Ends when every rank has come for the round, or after a long time.
__global__ void h4j_bench_meet_kernel(Flags flags, int rank, int ranks, uint32_t round) {
  const int peer = static_cast<int>(threadIdx.x);
  if (peer >= ranks) return;
  *const_cast<volatile uint32_t*>(flags.of[peer] + rank) = round;
  const volatile uint32_t* mine = flags.of[rank] + peer;
  for (int polls = 0; *mine < round && polls < 1 << 24; ++polls) {
  }
}

}  // namespace

struct h4j_bench_meeting {
  std::vector<int> ordinals;
  std::vector<uint32_t> rounds;
  Flags flags{};
};

extern "C" {

int32_t h4j_bench_meeting_open(const int32_t* ordinals, int32_t ranks, h4j_bench_meeting** meeting, char* why) {
  if (ranks < 1 || ranks > kMostRanks) return h4j::bench::fail(why, "meeting: got %d ranks, need 1..%d", ranks, kMostRanks);
  auto* opened = new h4j_bench_meeting;
  opened->ordinals.assign(ordinals, ordinals + ranks);
  opened->rounds.assign(static_cast<size_t>(ranks), 0);
  const auto prepare = [&]() -> int {
    for (int rank = 0; rank < ranks; ++rank) {
      H4J_BENCH_CUDA(cudaSetDevice(ordinals[rank]));
      H4J_BENCH_CUDA(cudaMalloc(&opened->flags.of[rank], kMostRanks * sizeof(uint32_t)));
      H4J_BENCH_CUDA(cudaMemset(opened->flags.of[rank], 0, kMostRanks * sizeof(uint32_t)));
      for (int peer = 0; peer < ranks; ++peer) {
        if (ordinals[peer] == ordinals[rank]) continue;
        const cudaError_t enabled = cudaDeviceEnablePeerAccess(ordinals[peer], 0);
        cudaGetLastError();
        if (enabled != cudaSuccess && enabled != cudaErrorPeerAccessAlreadyEnabled) {
          return h4j::bench::fail(why, "cudaDeviceEnablePeerAccess: %s", cudaGetErrorString(enabled));
        }
      }
      // Loads it: nothing is loaded on a device while a kernel waits there.
      h4j_bench_meet_kernel<<<1, kMostRanks>>>(opened->flags, 0, 0, 0);
      H4J_BENCH_CUDA(cudaDeviceSynchronize());
    }
    return 0;
  };
  if (prepare() != 0) {
    h4j_bench_meeting_close(opened);
    return 1;
  }
  *meeting = opened;
  return 0;
}

int32_t h4j_bench_meet(h4j_bench_meeting* meeting, int32_t rank, uint64_t stream, char* why) {
  const auto at = static_cast<size_t>(rank);
  H4J_BENCH_CUDA(cudaSetDevice(meeting->ordinals[at]));
  h4j_bench_meet_kernel<<<1, kMostRanks, 0, reinterpret_cast<cudaStream_t>(stream)>>>(
      meeting->flags, rank, static_cast<int>(meeting->ordinals.size()), ++meeting->rounds[at]);
  H4J_BENCH_CUDA(cudaGetLastError());
  return 0;
}

void h4j_bench_meeting_close(h4j_bench_meeting* meeting) {
  if (meeting == nullptr) return;
  for (size_t rank = 0; rank < meeting->ordinals.size(); ++rank) {
    cudaSetDevice(meeting->ordinals[rank]);
    cudaFree(meeting->flags.of[rank]);
  }
  delete meeting;
}

}  // extern "C"
