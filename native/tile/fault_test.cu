// Reports of bad data from a kernel to the call that waits for it.
#include "runtime/handles.h"
#include "testing/gpu.h"
#include "tile/fault.cuh"

namespace h4j {

// One thread of every CTA complains about the CTA's own number.
__global__ void complain(FaultSite site) {
  if (threadIdx.x == 0) tile::report_fault(site, blockIdx.x, -7, 0, 99);
}

class FaultGpu : public testing::GpuTest {
 protected:
  void complain_from(unsigned ctas) {
    complain<<<ctas, 32>>>(fault_site(*device_, "check", "lengths"));
    ASSERT_EQ(cudaSuccess, cudaDeviceSynchronize());
  }
};

TEST_F(FaultGpu, IsToldOnceByTheNextWait) {
  complain_from(1);
  testing::Error error;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &error));
  EXPECT_STREQ("check: lengths[0]: got -7, need 0..99", error.message);
  H4J_ASSERT_OK(h4j_stream_synchronize(stream_, &error));
}

TEST_F(FaultGpu, KeepsOneOfManyWhole) {
  complain_from(500);
  testing::Error error;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_query(stream_, &error));
  EXPECT_STREQ("-7", error.got);
  H4J_ASSERT_OK(h4j_stream_query(stream_, &error));
}

TEST_F(FaultGpu, IsToldByEvents) {
  h4j_event* event = nullptr;
  H4J_ASSERT_OK(h4j_event_create(stream_, 0, &event, &error));
  H4J_ASSERT_OK(h4j_event_record(event, stream_, &error));
  complain_from(1);
  testing::Error error;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_event_synchronize(event, &error));
  complain_from(1);
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_event_query(event, &error));
  H4J_ASSERT_OK(h4j_event_synchronize(event, &error));
  H4J_ASSERT_OK(h4j_event_close(event, &error));
}

}  // namespace h4j
