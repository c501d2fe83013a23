// The ring alone: one warp copies rows of a matrix through the stages, another sums them; no GEMM.
#include <cute/arch/copy_sm90_tma.hpp>

#include "testing/gpu.h"
#include "tile/ring.cuh"

namespace h4j::tile {

template <int kStages>
struct RingStorage {
  alignas(128) float rows[kStages][32];
  Ring<kStages> ring;
};

// The sum of `count` rows of 32 floats, by `consumers` warps that each see every row; sums[warp][lane].
template <int kStages, bool kByLane>
__global__ void sum_through_ring(const float* rows, int count, int consumers, float* sums) {
  __shared__ alignas(128) uint8_t memory[sizeof(RingStorage<kStages>)];
  auto& shared = *reinterpret_cast<RingStorage<kStages>*>(memory);
  if (threadIdx.x == 0) shared.ring.init(kByLane ? 32 * consumers : consumers);
  Ring<kStages>::publish();
  typename Ring<kStages>::Position at;
  const int warp = threadIdx.x / 32;
  if (warp == 0) {
    for (int row = 0; row < count; ++row, at.advance()) {
      shared.ring.wait_free(at);
      if (threadIdx.x == 0) {
        auto* barrier = reinterpret_cast<uint64_t*>(&shared.ring.filled[at.stage]);
        cute::SM90_BULK_COPY_G2S::copy(rows + row * 32, barrier, shared.rows[at.stage], 128);
        shared.ring.fill(at, 128);
      }
    }
  } else {
    float sum = 0;
    for (int row = 0; row < count; ++row, at.advance()) {
      shared.ring.wait_filled(at);
      sum += shared.rows[at.stage][threadIdx.x % 32];
      if constexpr (kByLane) {
        shared.ring.release_by_lane(at);
      } else {
        shared.ring.release(at);
      }
    }
    sums[(warp - 1) * 32 + threadIdx.x % 32] = sum;
  }
}

}  // namespace h4j::tile

class RingGpu : public h4j::testing::GpuTest {
 protected:
  template <int kStages, bool kByLane = false>
  void check(int count, int consumers) {
    std::vector<float> rows(static_cast<size_t>(count) * 32);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 1013);  // sums stay exact
    const uint64_t in = upload(rows);
    const uint64_t out = upload(std::vector<float>(static_cast<size_t>(consumers) * 32, -1.0f));
    h4j::tile::sum_through_ring<kStages, kByLane>
        <<<1, 32 * (1 + consumers)>>>(reinterpret_cast<const float*>(in), count, consumers, reinterpret_cast<float*>(out));
    ASSERT_EQ(cudaSuccess, cudaDeviceSynchronize());
    const std::vector<float> sums = download<float>(out, static_cast<size_t>(consumers) * 32);
    for (size_t lane = 0; lane < sums.size(); ++lane) {
      float expected = 0;
      for (int row = 0; row < count; ++row) expected += rows[static_cast<size_t>(row) * 32 + lane % 32];
      ASSERT_EQ(expected, sums[lane]) << count << " rows, " << kStages << " stages, warp " << lane / 32 << ", lane " << lane % 32;
    }
  }
};

TEST_F(RingGpu, BringsEveryRowToEveryConsumerOnce) {
  for (const int count : {0, 1, 2, 3, 4, 5, 7, 64, 257}) {
    check<1>(count, 1);
    check<2>(count, 3);
    check<5>(count, 8);
  }
}

TEST_F(RingGpu, TakesAnArrivalALane) {
  for (const int count : {0, 1, 2, 3, 7, 64, 257}) {
    check<1, true>(count, 1);
    check<2, true>(count, 3);
    check<5, true>(count, 8);
  }
}
