// Random sequences of the runtime's calls against a model of what memory must hold, with wrong arguments and failing driver calls between.
// Environment: as fuzz_test.cpp.
#include <dlfcn.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "testing/fuzz/fuzz.h"
#include "testing/gpu.h"
#include "testing/stand_in/stand_in.h"

namespace h4j::fuzz {
namespace {

using testing::Error;

struct Null {
  const char* operation;
  const char* argument;
  std::function<h4j_status(h4j_error*)> call;
};

// Every function that takes a handle or an output, without it. Needs no driver.
TEST(RuntimeNulls, AreNamed) {
  h4j_device* device = nullptr;
  h4j_stream* stream = nullptr;
  h4j_event* event = nullptr;
  h4j_graph* graph = nullptr;
  uint64_t address = 0;
  int64_t bytes = 0;
  void* host = nullptr;
  double microseconds = 0;
  h4j_plan_info info{};
  info.struct_size = sizeof info;
  const Null nulls[] = {
      {"driver_version", "version", [&](h4j_error* e) { return h4j_driver_version(nullptr, e); }},
      {"device_count", "count", [&](h4j_error* e) { return h4j_device_count(nullptr, e); }},
      {"device_describe", "name", [&](h4j_error* e) { return h4j_device_describe(nullptr, nullptr, e); }},
      {"device_describe", "info", [&](h4j_error* e) { return h4j_device_describe("H20", nullptr, e); }},
      {"device_open", "device", [&](h4j_error* e) { return h4j_device_open(0, nullptr, e); }},
      {"device_memory", "device", [&](h4j_error* e) { return h4j_device_memory(nullptr, &bytes, &bytes, e); }},
      {"device_trim", "device", [&](h4j_error* e) { return h4j_device_trim(nullptr, 0, e); }},
      {"device_trim", "keep_bytes", [&](h4j_error* e) { return h4j_device_trim(nullptr, -1, e); }},
      {"stream_create", "device", [&](h4j_error* e) { return h4j_stream_create(nullptr, &stream, e); }},
      {"stream_create", "stream", [&](h4j_error* e) { return h4j_stream_create(device, nullptr, e); }},
      {"stream_wrap", "device", [&](h4j_error* e) { return h4j_stream_wrap(nullptr, 0, &stream, e); }},
      {"stream_wrap", "stream", [&](h4j_error* e) { return h4j_stream_wrap(device, 0, nullptr, e); }},
      {"stream_handle", "stream", [&](h4j_error* e) { return h4j_stream_handle(nullptr, &address, e); }},
      {"stream_synchronize", "stream", [&](h4j_error* e) { return h4j_stream_synchronize(nullptr, e); }},
      {"stream_query", "stream", [&](h4j_error* e) { return h4j_stream_query(nullptr, e); }},
      {"stream_wait", "stream", [&](h4j_error* e) { return h4j_stream_wait(nullptr, event, e); }},
      {"event_create", "stream", [&](h4j_error* e) { return h4j_event_create(nullptr, 0, &event, e); }},
      {"event_create", "event", [&](h4j_error* e) { return h4j_event_create(nullptr, 0, nullptr, e); }},
      {"event_record", "event", [&](h4j_error* e) { return h4j_event_record(nullptr, nullptr, e); }},
      {"event_synchronize", "event", [&](h4j_error* e) { return h4j_event_synchronize(nullptr, e); }},
      {"event_query", "event", [&](h4j_error* e) { return h4j_event_query(nullptr, e); }},
      {"event_elapsed", "start", [&](h4j_error* e) { return h4j_event_elapsed(nullptr, nullptr, &microseconds, e); }},
      {"capture_begin", "stream", [&](h4j_error* e) { return h4j_capture_begin(nullptr, e); }},
      {"capture_end", "stream", [&](h4j_error* e) { return h4j_capture_end(nullptr, &graph, e); }},
      {"graph_launch", "graph", [&](h4j_error* e) { return h4j_graph_launch(nullptr, nullptr, e); }},
      {"memory_allocate", "address", [&](h4j_error* e) { return h4j_memory_allocate(nullptr, 1, nullptr, e); }},
      {"memory_allocate", "stream", [&](h4j_error* e) { return h4j_memory_allocate(nullptr, 1, &address, e); }},
      {"memory_free", "stream", [&](h4j_error* e) { return h4j_memory_free(nullptr, 0, e); }},
      {"host_allocate", "address", [&](h4j_error* e) { return h4j_host_allocate(nullptr, 1, nullptr, e); }},
      {"host_allocate", "device", [&](h4j_error* e) { return h4j_host_allocate(nullptr, 1, &host, e); }},
      {"host_free", "device", [&](h4j_error* e) { return h4j_host_free(nullptr, nullptr, e); }},
      {"copy", "stream", [&](h4j_error* e) { return h4j_copy(nullptr, 1, 1, 1, e); }},
      {"copy_2d", "stream", [&](h4j_error* e) { return h4j_copy_2d(nullptr, 1, 1, 1, 1, 1, 1, e); }},
      {"fill", "stream", [&](h4j_error* e) { return h4j_fill(nullptr, 1, 0, 1, e); }},
      {"plan_describe", "plan", [&](h4j_error* e) { return h4j_plan_describe(nullptr, &info, e); }},
      {"launch_run", "launch", [&](h4j_error* e) { return h4j_launch_run(nullptr, nullptr, -1, e); }},
  };
  for (const Null& null : nulls) {
    Error error;
    EXPECT_EQ(H4J_INVALID_ARGUMENT, null.call(&error)) << null.operation;
    EXPECT_STREQ(null.operation, error.operation) << error.message;
    EXPECT_STREQ(null.argument, error.argument) << error.message;
    EXPECT_EQ(H4J_INVALID_ARGUMENT, null.call(nullptr)) << "a null error is fine";
  }
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_close(nullptr, &error));
  EXPECT_EQ(H4J_OK, h4j_stream_close(nullptr, &error));
  EXPECT_EQ(H4J_OK, h4j_event_close(nullptr, &error));
  EXPECT_EQ(H4J_OK, h4j_graph_close(nullptr, &error));
  EXPECT_EQ(H4J_OK, h4j_plan_close(nullptr, &error));
  EXPECT_EQ(H4J_OK, h4j_launch_close(nullptr, &error));
}

// An error struct of an older caller is filled as far as that caller knows it.
TEST(RuntimeNulls, WritesNoMoreOfAnErrorThanTheCallerKnows) {
  for (size_t known = 0; known <= sizeof(h4j_error); known += 4) {
    std::vector<char> bytes(sizeof(h4j_error) + 8, char(0x5A));
    const auto size = static_cast<uint32_t>(known);
    std::memcpy(bytes.data(), &size, sizeof size);
    EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_query(nullptr, reinterpret_cast<h4j_error*>(bytes.data())));
    const auto from = static_cast<int64_t>(std::max(known, sizeof size));
    EXPECT_TRUE(std::all_of(bytes.begin() + from, bytes.end(), [](char byte) { return byte == char(0x5A); })) << known;
  }
}

struct Allocation {
  uint64_t address;
  std::vector<uint8_t> holds;
};

class RuntimeFuzzGpu : public testing::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (void* library = dlopen("libcuda.so.1", RTLD_NOW)) {
      fail_ = reinterpret_cast<decltype(fail_)>(dlsym(library, "h4j_stand_in_fail"));
      live_ = reinterpret_cast<decltype(live_)>(dlsym(library, "h4j_stand_in_live"));
      misuses_ = reinterpret_cast<decltype(misuses_)>(dlsym(library, "h4j_stand_in_misuses"));
    }
  }

  // A call that may be refused by a failing driver; true where it was done.
  bool done(const std::function<h4j_status(h4j_error*)>& call) {
    Error error;
    const bool may_fail = fail_ != nullptr && random_.once_in(6);
    const int64_t live = live_ != nullptr ? live_() : 0;
    if (may_fail) fail_(random_.between(1, 4), CUDA_ERROR_UNKNOWN);
    const h4j_status status = call(&error);
    if (may_fail) fail_(0, 0);
    ++calls_;
    if (status == H4J_OK) return true;
    EXPECT_TRUE(may_fail && status == H4J_DEVICE_ERROR && error.cuda_code == CUDA_ERROR_UNKNOWN) << error.message;
    if (live_ != nullptr) {
      EXPECT_EQ(live, live_()) << "left behind: " << error.message;
    }
    return false;
  }

  void blamed(const char* argument, const std::function<h4j_status(h4j_error*)>& call) {
    Error error;
    EXPECT_EQ(H4J_INVALID_ARGUMENT, call(&error)) << error.message;
    EXPECT_STREQ(argument, error.argument) << error.message;
    ++calls_;
  }

  Allocation* some_memory() { return memory_.empty() ? nullptr : &memory_[index(memory_.size())]; }
  size_t index(size_t size) { return static_cast<size_t>(random_.between(0, static_cast<int64_t>(size) - 1)); }

  void allocate_or_free() {
    if (memory_.size() < 12) {
      const int64_t bytes = random_.between(1, 4096);
      uint64_t address = 0;
      if (!done([&](h4j_error* e) { return h4j_memory_allocate(stream_, bytes, &address, e); })) return;
      EXPECT_EQ(0u, address % 256);
      memory_.push_back({address, std::vector<uint8_t>(static_cast<size_t>(bytes))});
      H4J_ASSERT_OK(h4j_fill(stream_, address, 0, bytes, &error));
    } else {
      const size_t which = index(memory_.size());
      H4J_ASSERT_OK(h4j_memory_free(stream_, memory_[which].address, &error));
      memory_.erase(memory_.begin() + static_cast<int64_t>(which));
    }
  }

  void fill() {
    Allocation* target = some_memory();
    if (target == nullptr) return;
    const auto from = static_cast<int64_t>(index(target->holds.size()));
    const int64_t bytes = random_.between(0, static_cast<int64_t>(target->holds.size()) - from);
    const auto value = static_cast<uint8_t>(random_.bits());
    if (done([&](h4j_error* e) { return h4j_fill(stream_, target->address + static_cast<uint64_t>(from), value, bytes, e); })) {
      std::fill_n(target->holds.begin() + from, bytes, value);
    }
  }

  void copy() {
    Allocation* source = some_memory();
    Allocation* target = some_memory();
    if (source == nullptr || source == target) return;
    const auto bytes = static_cast<int64_t>(std::min(source->holds.size(), target->holds.size()));
    const int64_t row_bytes = random_.between(1, bytes);
    const int64_t pitch = random_.between(row_bytes, bytes);
    const int64_t rows = (bytes - row_bytes) / pitch + 1;
    if (done([&](h4j_error* e) { return h4j_copy_2d(stream_, target->address, pitch, source->address, pitch, row_bytes, rows, e); })) {
      for (int64_t row = 0; row < rows; ++row) std::copy_n(source->holds.begin() + row * pitch, row_bytes, target->holds.begin() + row * pitch);
    }
  }

  void compare() {
    const Allocation* source = some_memory();
    if (source == nullptr) return;
    std::vector<uint8_t> got(source->holds.size());
    if (!done([&](h4j_error* e) {
          return h4j_copy(stream_, reinterpret_cast<uint64_t>(got.data()), source->address, static_cast<int64_t>(got.size()), e);
        })) {
      return;
    }
    synchronize();
    EXPECT_EQ(source->holds, got);
  }

  void capture() {
    Allocation* target = some_memory();
    if (target == nullptr || !done([&](h4j_error* e) { return h4j_capture_begin(stream_, e); })) return;
    const auto value = static_cast<uint8_t>(random_.bits());
    Error error;
    EXPECT_EQ(H4J_INVALID_STATE, h4j_capture_begin(stream_, &error)) << error.message;
    H4J_ASSERT_OK(h4j_fill(stream_, target->address, value, static_cast<int64_t>(target->holds.size()), &error));
    h4j_graph* graph = nullptr;
    const bool wait = fail_ != nullptr && random_.once_in(4);
    if (wait) {
      EXPECT_EQ(H4J_DEVICE_ERROR, h4j_stream_synchronize(stream_, &error)) << "waiting breaks a capture";
    }
    // Failed or not, the capture is over.
    const h4j_status status = h4j_capture_end(stream_, random_.once_in(4) ? nullptr : &graph, &error);
    EXPECT_TRUE(status == H4J_OK || wait) << error.message;
    EXPECT_EQ(H4J_INVALID_STATE, h4j_capture_end(stream_, nullptr, &error)) << error.message;
    if (graph != nullptr && done([&](h4j_error* e) { return h4j_graph_launch(graph, stream_, e); })) {
      std::fill(target->holds.begin(), target->holds.end(), value);
    }
    synchronize();
    H4J_ASSERT_OK(h4j_graph_close(graph, &error));
    calls_ += 6;
  }

  void order() {
    h4j_stream* other = nullptr;
    h4j_event* event = nullptr;
    h4j_event* later = nullptr;
    if (!done([&](h4j_error* e) { return h4j_stream_create(device_, &other, e); })) return;
    const auto timed = static_cast<int32_t>(random_.between(0, 1));
    if (done([&](h4j_error* e) { return h4j_event_create(stream_, timed, &event, e); })) {
      H4J_ASSERT_OK(h4j_event_create(other, 1, &later, &error));
      H4J_ASSERT_OK(h4j_event_record(event, stream_, &error));
      done([&](h4j_error* e) { return h4j_stream_wait(other, event, e); });
      H4J_ASSERT_OK(h4j_event_record(later, other, &error));
      done([&](h4j_error* e) { return h4j_event_synchronize(later, e); });
      H4J_ASSERT_OK(h4j_event_synchronize(later, &error));
      double microseconds = -1;
      if (timed == 0) {
        blamed("start", [&](h4j_error* e) { return h4j_event_elapsed(event, later, &microseconds, e); });
        blamed("end", [&](h4j_error* e) { return h4j_event_elapsed(later, event, &microseconds, e); });
      } else if (done([&](h4j_error* e) { return h4j_event_elapsed(event, later, &microseconds, e); })) {
        EXPECT_GE(microseconds, 0);
      }
    }
    // In either order.
    if (random_.once_in(2)) {
      H4J_ASSERT_OK(h4j_stream_close(std::exchange(other, nullptr), &error));
    }
    H4J_ASSERT_OK(h4j_event_close(event, &error));
    H4J_ASSERT_OK(h4j_event_close(later, &error));
    H4J_ASSERT_OK(h4j_stream_close(other, &error));
    calls_ += 9;
  }

  void err() {
    uint64_t address = 0;
    void* host = nullptr;
    const int64_t negative = -random_.between(1, INT64_MAX);
    blamed("bytes", [&](h4j_error* e) { return h4j_memory_allocate(stream_, negative, &address, e); });
    blamed("bytes", [&](h4j_error* e) { return h4j_host_allocate(device_, negative, &host, e); });
    blamed("bytes", [&](h4j_error* e) { return h4j_copy(stream_, 1, 1, negative, e); });
    blamed("destination", [&](h4j_error* e) { return h4j_copy(stream_, 0, 1, 1, e); });
    blamed("source", [&](h4j_error* e) { return h4j_copy(stream_, 1, 0, 1, e); });
    blamed("row_bytes", [&](h4j_error* e) { return h4j_copy_2d(stream_, 1, 1, 1, 1, negative, 1, e); });
    blamed("rows", [&](h4j_error* e) { return h4j_copy_2d(stream_, 1, 1, 1, 1, 1, negative, e); });
    blamed("source_pitch", [&](h4j_error* e) { return h4j_copy_2d(stream_, 1, 9, 1, 7, 8, 2, e); });
    blamed("destination_pitch", [&](h4j_error* e) { return h4j_copy_2d(stream_, 1, 7, 1, 9, 8, 2, e); });
    blamed("bytes", [&](h4j_error* e) { return h4j_fill(stream_, 1, 0, negative, e); });
    blamed("keep_bytes", [&](h4j_error* e) { return h4j_device_trim(device_, negative, e); });
    blamed("ordinal", [&](h4j_error* e) { return h4j_device_properties(random_.once_in(2) ? -1 : 1000, &info_, e); });
    Error error;
    EXPECT_EQ(H4J_OUT_OF_DEVICE_MEMORY, h4j_memory_allocate(stream_, INT64_MAX - random_.between(0, 1 << 20), &address, &error)) << error.message;
    EXPECT_EQ(0u, address);
    EXPECT_GE(error.free_bytes, 0);
  }

  Random random_{0};
  std::vector<Allocation> memory_;
  int64_t calls_ = 0;
  decltype(&h4j_stand_in_fail) fail_ = nullptr;
  decltype(&h4j_stand_in_live) live_ = nullptr;
  decltype(&h4j_stand_in_misuses) misuses_ = nullptr;
};

TEST_F(RuntimeFuzzGpu, KeepsMemoryAndCountsRight) {
  const char* text = std::getenv("H4J_FUZZ_SEED");
  const uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 0) : 20261125;
  text = std::getenv("H4J_FUZZ_CALLS");
  const int64_t wanted = text != nullptr ? std::strtoll(text, nullptr, 0) : 100000;
  SCOPED_TRACE(format("H4J_FUZZ_SEED=%llu", static_cast<unsigned long long>(seed)));
  random_ = Random(seed);
  const int64_t live = live_ != nullptr ? live_() : 0;
  while (calls_ < wanted && !HasFailure()) {
    switch (random_.between(0, 9)) {
      case 0:
      case 1:
        allocate_or_free();
        break;
      case 2:
      case 3:
        fill();
        break;
      case 4:
      case 5:
        copy();
        break;
      case 6:
        compare();
        break;
      case 7:
        capture();
        break;
      case 8:
        order();
        break;
      default:
        err();
    }
  }
  for (const Allocation& left : memory_) H4J_ASSERT_OK(h4j_memory_free(stream_, left.address, &error));
  memory_.clear();
  synchronize();
  if (live_ != nullptr) {
    EXPECT_EQ(live, live_()) << "left behind";
    EXPECT_EQ(0, misuses_());
  }
  std::printf("fuzz: seed %llu, %lld calls of the runtime\n", static_cast<unsigned long long>(seed), static_cast<long long>(calls_));
}

// Opened and closed ten thousand times, nothing grows.
TEST_F(RuntimeFuzzGpu, OpensAndClosesWithoutAResidue) {
  const int cycles = live_ != nullptr ? 10000 : 200;  // a context of a real driver takes its time
  const int64_t live = live_ != nullptr ? live_() : 0;
  for (int i = 0; i < cycles && !HasFailure(); ++i) {
    h4j_device* device = nullptr;
    h4j_stream* stream = nullptr;
    uint64_t address = 0;
    H4J_ASSERT_OK(h4j_device_open(0, &device, &error));
    H4J_ASSERT_OK(h4j_stream_create(device, &stream, &error));
    H4J_ASSERT_OK(h4j_memory_allocate(stream, 4096, &address, &error));
    H4J_ASSERT_OK(h4j_memory_free(stream, address, &error));
    H4J_ASSERT_OK(h4j_stream_close(stream, &error));
    H4J_ASSERT_OK(h4j_device_close(device, &error));
  }
  if (live_ != nullptr) {
    EXPECT_EQ(live, live_());
  }
}

// Any driver call of opening a device fails: nothing is left open.
TEST_F(RuntimeFuzzGpu, LeavesNothingOpenWhereOpeningFails) {
  if (fail_ == nullptr) GTEST_SKIP() << "needs the stand-in driver";
  const int64_t live = live_();
  bool opened = false;
  int64_t call = 0;
  while (!opened && ++call < 100) {
    h4j_device* device = nullptr;
    Error error;
    fail_(call, CUDA_ERROR_UNKNOWN);
    const h4j_status status = h4j_device_open(0, &device, &error);
    fail_(0, 0);
    opened = status == H4J_OK;
    EXPECT_EQ(opened, device != nullptr);
    if (!opened) {
      EXPECT_EQ(H4J_DEVICE_ERROR, status) << error.message;
    }
    H4J_ASSERT_OK(h4j_device_close(device, &error));
    EXPECT_EQ(live, live_()) << "after call " << call << " failed: " << error.message;
  }
  EXPECT_GT(call, 5);
}

}  // namespace
}  // namespace h4j::fuzz
