#include "bench/trace.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "bench/open.h"

namespace h4j::bench {
namespace {

// From the CUPTI documentation; the toolkit that builds this need not have CUPTI.
constexpr int kConcurrentKernel = 10;  // CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL
constexpr uint32_t kFlushForced = 1;   // CUPTI_ACTIVITY_FLAG_FLUSH_FORCED
constexpr size_t kBufferBytes = 4 << 20;
constexpr size_t kBufferAlignment = 8;

// The head of CUpti_ActivityKernel<N>, the same in every N from 4 on; records are read no further than this.
struct KernelRecord {
  int32_t kind;
  uint8_t cache_config;
  uint8_t shared_memory_config;
  uint16_t registers;
  int32_t cache_requested;
  int32_t cache_executed;
  uint64_t start;
  uint64_t end;
  uint64_t completed;
  uint32_t device;
  uint32_t context;
  uint32_t stream;
  int32_t grid[3];
  int32_t block[3];
  int32_t static_shared_memory;
  int32_t dynamic_shared_memory;
  uint32_t local_memory_per_thread;
  uint32_t local_memory_total;
  uint32_t correlation;
  int64_t grid_id;
  const char* name;
};
static_assert(offsetof(KernelRecord, start) == 16 && offsetof(KernelRecord, grid_id) == 96 && offsetof(KernelRecord, name) == 104);

using BufferRequested = void (*)(uint8_t** buffer, size_t* size, size_t* max_records);
using BufferCompleted = void (*)(void* context, uint32_t stream, uint8_t* buffer, size_t size, size_t valid);

struct Cupti {
  int (*register_callbacks)(BufferRequested, BufferCompleted);
  int (*enable)(int kind);
  int (*disable)(int kind);
  int (*flush_all)(uint32_t flag);
  int (*next_record)(uint8_t* buffer, size_t valid, void** record);
  int (*result_string)(int result, const char** text);
  std::string problem;
};

std::mutex mutex;  // CUPTI completes buffers on a thread of its own
std::vector<KernelTime> collected;

const Cupti& cupti();

void buffer_requested(uint8_t** buffer, size_t* size, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(kBufferAlignment, kBufferBytes));
  *size = *buffer == nullptr ? 0 : kBufferBytes;
  *max_records = 0;  // as many as fit
}

void buffer_completed(void*, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard lock(mutex);
  void* record = nullptr;
  while (valid > 0 && cupti().next_record(buffer, valid, &record) == 0) {
    KernelRecord kernel;
    int32_t kind;
    std::memcpy(&kind, record, sizeof(kind));
    if (kind != kConcurrentKernel) continue;
    std::memcpy(&kernel, record, sizeof(kernel));
    const bool is_flush = kernel.name != nullptr && std::strstr(kernel.name, "h4j_bench_flush") != nullptr;
    collected.push_back({kernel.start, kernel.end, is_flush});
  }
  std::free(buffer);
}

Cupti open_cupti() {
  Cupti opened{};
  const Opened library = open_library({"libcupti.so.13", "libcupti.so", "libcupti.so.12"});
  if (library.library == nullptr) {
    opened.problem = "CUPTI: " + library.problem;
    return opened;
  }
  const struct {
    const char* name;
    void* slot;
  } functions[] = {{"cuptiActivityRegisterCallbacks", &opened.register_callbacks},
                   {"cuptiActivityEnable", &opened.enable},
                   {"cuptiActivityDisable", &opened.disable},
                   {"cuptiActivityFlushAll", &opened.flush_all},
                   {"cuptiActivityGetNextRecord", &opened.next_record},
                   {"cuptiGetResultString", &opened.result_string}};
  for (const auto& function : functions) {
    if (!find_function(library.library, function.name, function.slot)) {
      opened.problem = "CUPTI: " + library.path + " has no " + function.name;
      return opened;
    }
  }
  if (const int result = opened.register_callbacks(buffer_requested, buffer_completed); result != 0) {
    opened.problem = "CUPTI: cuptiActivityRegisterCallbacks answered " + std::to_string(result);
  }
  return opened;
}

const Cupti& cupti() {
  static const Cupti opened = open_cupti();
  return opened;
}

std::string checked(const char* what, int result) {
  if (result == 0) return "";
  const char* text = nullptr;
  cupti().result_string(result, &text);
  return std::string("CUPTI: ") + what + ": " + (text != nullptr ? text : "an unknown error") + " (" + std::to_string(result) + ")";
}

}  // namespace

const std::string& trace_problem() { return cupti().problem; }

std::string trace_begin() {
  if (!cupti().problem.empty()) return cupti().problem;
  {
    const std::lock_guard lock(mutex);
    collected.clear();
  }
  return checked("cuptiActivityEnable", cupti().enable(kConcurrentKernel));
}

std::string trace_end(std::vector<KernelTime>& records) {
  if (!cupti().problem.empty()) return cupti().problem;
  std::string problem = checked("cuptiActivityFlushAll", cupti().flush_all(kFlushForced));
  const std::string disabled = checked("cuptiActivityDisable", cupti().disable(kConcurrentKernel));
  if (problem.empty()) problem = disabled;
  const std::lock_guard lock(mutex);
  records.swap(collected);
  collected.clear();
  std::sort(records.begin(), records.end(), [](const KernelTime& x, const KernelTime& y) { return x.start < y.start; });
  return problem;
}

}  // namespace h4j::bench
