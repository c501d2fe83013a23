#include <cuda.h>
#include <dlfcn.h>

#include <thread>

#include "runtime/driver.h"
#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

TEST(Library, TellsVersionAndStructSizes) {
  EXPECT_EQ(H4J_ABI_VERSION, h4j_abi_version());
  EXPECT_STREQ("0.1.0", h4j_version());
  EXPECT_EQ(static_cast<int64_t>(sizeof(h4j_error)), h4j_struct_size("h4j_error"));
  EXPECT_EQ(static_cast<int64_t>(sizeof(h4j_gemm_args)), h4j_struct_size("h4j_gemm_args"));
  EXPECT_EQ(0, h4j_struct_size("h4j_nothing"));
  EXPECT_EQ(0, h4j_struct_size(nullptr));
}

TEST(Device, DescribesCardsThatAreNotThere) {
  h4j_device_info info{};
  info.struct_size = sizeof info;
  Error error;
  ASSERT_EQ(H4J_OK, h4j_device_describe("H100-PCIe", &info, &error));
  EXPECT_EQ(114, info.sm_count);
  EXPECT_EQ(-1, info.ordinal);
  EXPECT_EQ(9, info.compute_major);
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_device_describe("B200", &info, &error));
  EXPECT_STREQ("device_describe: name: got \"B200\", need one of H100-SXM, H800-SXM, H200-SXM, H100-PCIe, H20", error.message);
}

TEST(Device, RefusesAStructWithoutASize) {
  h4j_device_info info{};
  Error error;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_device_describe("H20", &info, &error));
  EXPECT_STREQ("info", error.argument);
}

TEST(Device, FillsOnlyWhatAnOlderCallerKnows) {
  h4j_device_info info{};
  info.struct_size = offsetof(h4j_device_info, l2_bytes);
  info.l2_bytes = 7;
  Error error;
  ASSERT_EQ(H4J_OK, h4j_device_describe("H20", &info, &error));
  EXPECT_EQ(78, info.sm_count);
  EXPECT_EQ(7, info.l2_bytes);
}

TEST(Device, CountsNoneWithoutADriverAndSaysWhy) {
  int32_t count = -1;
  Error error;
  ASSERT_EQ(H4J_OK, h4j_device_count(&count, &error));
  if (count > 0) return;  // a machine with a GPU; the suite below covers it
  EXPECT_EQ(0, count);
  EXPECT_EQ(H4J_NO_DRIVER, error.status);
  EXPECT_STRNE("", error.message);
  h4j_device* device = nullptr;
  EXPECT_EQ(H4J_NO_DRIVER, h4j_device_open(0, &device, &error));
  EXPECT_EQ(nullptr, device);
}

TEST(Handles, AreCheckedForNull) {
  Error error;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(nullptr, &error));
  EXPECT_STREQ("stream_synchronize: stream: got null, need a live handle", error.message);
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_launch_run(nullptr, nullptr, -1, nullptr));
  EXPECT_EQ(H4J_OK, h4j_plan_close(nullptr, &error));
  EXPECT_EQ(H4J_OK, h4j_launch_close(nullptr, &error));
}

class RuntimeGpu : public testing::GpuTest {};

TEST_F(RuntimeGpu, CopiesAndFills) {
  const std::vector<uint8_t> bytes = {1, 2, 3, 4, 5, 6, 7, 8};
  const uint64_t address = upload(bytes);
  EXPECT_EQ(bytes, download<uint8_t>(address, bytes.size()));
  H4J_ASSERT_OK(h4j_fill(stream_, address + 2, 9, 3, &error));
  EXPECT_EQ((std::vector<uint8_t>{1, 2, 9, 9, 9, 6, 7, 8}), download<uint8_t>(address, bytes.size()));
  std::vector<uint8_t> column(4);
  H4J_ASSERT_OK(h4j_copy_2d(stream_, reinterpret_cast<uint64_t>(column.data()), 1, address, 2, 1, 4, &error));
  synchronize();
  EXPECT_EQ((std::vector<uint8_t>{1, 9, 9, 7}), column);
}

TEST_F(RuntimeGpu, RefusesMoreMemoryThanTheCardHasAndGoesOn) {
  uint64_t address = 1;
  Error error;
  EXPECT_EQ(H4J_OUT_OF_DEVICE_MEMORY, h4j_memory_allocate(stream_, int64_t{1} << 50, &address, &error));
  EXPECT_EQ(0u, address);
  EXPECT_EQ(int64_t{1} << 50, error.requested_bytes);
  EXPECT_GT(error.free_bytes, 0);
  EXPECT_NE(0u, allocate(1024));
}

TEST_F(RuntimeGpu, TimesBetweenEvents) {
  h4j_event* start = nullptr;
  h4j_event* end = nullptr;
  H4J_ASSERT_OK(h4j_event_create(stream_, 1, &start, &error));
  H4J_ASSERT_OK(h4j_event_create(stream_, 1, &end, &error));
  const uint64_t address = allocate(1 << 26);
  H4J_ASSERT_OK(h4j_event_record(start, stream_, &error));
  H4J_ASSERT_OK(h4j_fill(stream_, address, 1, 1 << 26, &error));
  H4J_ASSERT_OK(h4j_event_record(end, stream_, &error));
  H4J_ASSERT_OK(h4j_event_synchronize(end, &error));
  double microseconds = 0;
  H4J_ASSERT_OK(h4j_event_elapsed(start, end, &microseconds, &error));
  EXPECT_GT(microseconds, 0);
  H4J_ASSERT_OK(h4j_event_close(start, &error));
  H4J_ASSERT_OK(h4j_event_close(end, &error));
}

TEST_F(RuntimeGpu, CapturesAndReplays) {
  const uint64_t address = upload(std::vector<uint8_t>(16, 1));
  h4j_graph* graph = nullptr;
  H4J_ASSERT_OK(h4j_capture_begin(stream_, &error));
  Error error;
  EXPECT_EQ(H4J_INVALID_STATE, h4j_capture_begin(stream_, &error));
  H4J_ASSERT_OK(h4j_fill(stream_, address, 5, 16, &error));
  H4J_ASSERT_OK(h4j_capture_end(stream_, &graph, &error));
  EXPECT_EQ(std::vector<uint8_t>(16, 1), download<uint8_t>(address, 16));
  H4J_ASSERT_OK(h4j_graph_launch(graph, stream_, &error));
  EXPECT_EQ(std::vector<uint8_t>(16, 5), download<uint8_t>(address, 16));
  H4J_ASSERT_OK(h4j_graph_close(graph, &error));
  EXPECT_EQ(H4J_INVALID_STATE, h4j_capture_end(stream_, &graph, &error));
}

TEST_F(RuntimeGpu, BorrowsAStreamOfAnotherContextAndPutsTheCallersBack) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  ASSERT_NE(nullptr, library);
  const auto create = reinterpret_cast<CUresult (*)(CUcontext*, void*, unsigned, CUdevice)>(dlsym(library, "cuCtxCreate_v4"));
  const auto destroy = reinterpret_cast<CUresult (*)(CUcontext)>(dlsym(library, "cuCtxDestroy_v2"));
  ASSERT_NE(nullptr, create);
  CUcontext context = nullptr;
  ASSERT_EQ(CUDA_SUCCESS, create(&context, nullptr, 0, 0));
  CUstream foreign = nullptr;
  ASSERT_EQ(CUDA_SUCCESS, driver().cuStreamCreate(&foreign, CU_STREAM_NON_BLOCKING));
  CUcontext popped = nullptr;
  ASSERT_EQ(CUDA_SUCCESS, driver().cuCtxPopCurrent(&popped));

  h4j_stream* wrapped = nullptr;
  H4J_ASSERT_OK(h4j_stream_wrap(device_, reinterpret_cast<uint64_t>(foreign), &wrapped, &error));
  uint64_t address = 0;
  H4J_ASSERT_OK(h4j_memory_allocate(wrapped, 16, &address, &error));
  H4J_ASSERT_OK(h4j_fill(wrapped, address, 3, 16, &error));
  std::vector<uint8_t> bytes(16);
  H4J_ASSERT_OK(h4j_copy(wrapped, reinterpret_cast<uint64_t>(bytes.data()), address, 16, &error));
  H4J_ASSERT_OK(h4j_stream_synchronize(wrapped, &error));
  EXPECT_EQ(std::vector<uint8_t>(16, 3), bytes);
  CUcontext current = context;
  ASSERT_EQ(CUDA_SUCCESS, driver().cuCtxGetCurrent(&current));
  EXPECT_EQ(nullptr, current);
  H4J_ASSERT_OK(h4j_memory_free(wrapped, address, &error));
  H4J_ASSERT_OK(h4j_stream_close(wrapped, &error));

  // The stream was only borrowed: its owner still uses it.
  ASSERT_EQ(CUDA_SUCCESS, driver().cuCtxPushCurrent(context));
  EXPECT_EQ(CUDA_SUCCESS, driver().cuStreamSynchronize(foreign));
  EXPECT_EQ(CUDA_SUCCESS, driver().cuStreamDestroy(foreign));
  EXPECT_EQ(CUDA_SUCCESS, destroy(context));
}

}  // namespace
}  // namespace h4j
