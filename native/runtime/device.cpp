#include <memory>

#include "runtime/handles.h"

namespace h4j {
namespace {

int attribute(CUdevice device, CUdevice_attribute which) {
  int value = 0;
  check(driver().cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

int device_count() {
  int count = 0;
  check(driver().cuDeviceGetCount(&count), "cuDeviceGetCount");
  return count;
}

void require_ordinal(int ordinal, const char* operation) {
  const int count = device_count();
  if (ordinal < 0 || ordinal >= count) invalid(operation, "ordinal", format("%d", ordinal), format("0..%d", count - 1));
}

// NVIDIA's data sheets: SMs, L2, memory, NVLink per direction (half the bidirectional figure), peak SM clock.
struct Described {
  const char* name;
  int sm_count;
  int64_t l2_bytes;
  int64_t memory_bytes;
  int sm_clock_khz;
  float nvlink_gbs;
};
constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kGiB = int64_t{1} << 30;
constexpr Described kDescribed[] = {
    {"H100-SXM", 132, 50 * kMiB, 80 * kGiB, 1980000, 450.0f},  {"H800-SXM", 132, 50 * kMiB, 80 * kGiB, 1980000, 200.0f},
    {"H200-SXM", 132, 60 * kMiB, 141 * kGiB, 1980000, 450.0f}, {"H100-PCIe", 114, 50 * kMiB, 80 * kGiB, 1755000, 0.0f},
    {"H20", 78, 60 * kMiB, 96 * kGiB, 1980000, 450.0f},
};
constexpr int kHopperSharedMemoryPerBlock = 232448;

void allocate_fault_record(h4j_device& device) {
  const ScopedContext current(device.primary);
  void* memory = nullptr;
  check(driver().cuMemHostAlloc(&memory, sizeof(FaultRecord), CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP), "cuMemHostAlloc");
  device.faults = new (memory) FaultRecord{};
}

CUresult free_fault_record(const h4j_device& device) {
  CUcontext popped = nullptr;
  const CUresult pushed = driver().cuCtxPushCurrent(device.primary);
  if (pushed != CUDA_SUCCESS) return pushed;
  const CUresult freed = driver().cuMemFreeHost(device.faults);
  driver().cuCtxPopCurrent(&popped);
  return freed;
}

// Takes down what has been set up of a device, whatever fails on the way, and answers the first failure.
CUresult take_down(const h4j_device& device) {
  const CUresult freed = device.faults != nullptr ? free_fault_record(device) : CUDA_SUCCESS;
  const CUresult destroyed = device.pool != nullptr ? driver().cuMemPoolDestroy(device.pool) : CUDA_SUCCESS;
  const CUresult released = device.primary != nullptr ? driver().cuDevicePrimaryCtxRelease(device.device) : CUDA_SUCCESS;
  return freed != CUDA_SUCCESS ? freed : destroyed != CUDA_SUCCESS ? destroyed : released;
}

struct TakeDown {
  void operator()(h4j_device* device) const {
    take_down(*device);
    delete device;
  }
};

}  // namespace

h4j_device_info read_device_info(int ordinal) {
  const Driver& cu = driver();
  CUdevice device{};
  check(cu.cuDeviceGet(&device, ordinal), "cuDeviceGet");
  h4j_device_info info{};
  info.struct_size = sizeof info;
  info.ordinal = ordinal;
  info.compute_major = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  info.compute_minor = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  info.sm_count = attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  info.shared_memory_per_block = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  info.l2_bytes = attribute(device, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  info.sm_clock_khz = attribute(device, CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
  size_t memory = 0;
  check(cu.cuDeviceTotalMem(&memory, device), "cuDeviceTotalMem");
  info.memory_bytes = static_cast<int64_t>(memory);
  CUuuid uuid{};
  check(cu.cuDeviceGetUuid(&uuid, device), "cuDeviceGetUuid");
  std::memcpy(info.uuid, uuid.bytes, sizeof info.uuid);
  check(cu.cuDeviceGetName(info.name, sizeof info.name, device), "cuDeviceGetName");
  return info;
}

}  // namespace h4j

using namespace h4j;

h4j_status h4j_driver_version(int32_t* version, h4j_error* error) {
  return guarded("driver_version", error, [&] { require_output(version, "driver_version", "version") = driver_version(); });
}

h4j_status h4j_device_count(int32_t* count, h4j_error* error) {
  return guarded("device_count", error, [&] {
    require_output(count, "device_count", "count") = 0;
    try {
      *count = device_count();
    } catch (const Failure& failure) {
      if (failure.status != H4J_NO_DRIVER) throw;
      Failure reason = failure;
      reason.operation = "device_count";
      write_error(reason, error);
    }
  });
}

h4j_status h4j_device_properties(int32_t ordinal, h4j_device_info* info, h4j_error* error) {
  return guarded("device_properties", error, [&] {
    require_ordinal(ordinal, "device_properties");
    write_struct(read_device_info(ordinal), info, "device_properties", "info");
  });
}

h4j_status h4j_device_describe(const char* name, h4j_device_info* info, h4j_error* error) {
  return guarded("device_describe", error, [&] {
    std::string names;
    for (const Described& described : kDescribed) {
      if (name != nullptr && std::strcmp(name, described.name) == 0) {
        h4j_device_info full{};
        full.ordinal = -1;
        full.compute_major = 9;
        full.sm_count = described.sm_count;
        full.shared_memory_per_block = kHopperSharedMemoryPerBlock;
        full.l2_bytes = described.l2_bytes;
        full.memory_bytes = described.memory_bytes;
        full.sm_clock_khz = described.sm_clock_khz;
        full.nvlink_gbs = described.nvlink_gbs;
        std::strncpy(full.name, described.name, sizeof full.name - 1);
        write_struct(full, info, "device_describe", "info");
        return;
      }
      names += names.empty() ? described.name : std::string(", ") + described.name;
    }
    invalid("device_describe", "name", name == nullptr ? "null" : format("\"%.60s\"", name), "one of " + names);
  });
}

h4j_status h4j_device_open(int32_t ordinal, h4j_device** device, h4j_error* error) {
  return guarded("device_open", error, [&] {
    h4j_device*& out = require_output(device, "device_open", "device");
    out = nullptr;
    require_ordinal(ordinal, "device_open");
    const Driver& cu = driver();
    std::unique_ptr<h4j_device, TakeDown> made(new h4j_device{});
    made->ordinal = ordinal;
    check(cu.cuDeviceGet(&made->device, ordinal), "cuDeviceGet");
    made->info = read_device_info(ordinal);
    check(cu.cuDevicePrimaryCtxRetain(&made->primary, made->device), "cuDevicePrimaryCtxRetain");
    CUmemPoolProps properties{};
    properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = ordinal;
    check(cu.cuMemPoolCreate(&made->pool, &properties), "cuMemPoolCreate");
    allocate_fault_record(*made);
    // Memory freed in stream order stays with the pool, so that a decode step never waits for the driver.
    cuuint64_t keep = UINT64_MAX;
    cu.cuMemPoolSetAttribute(made->pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep);
    out = made.release();
  });
}

h4j_status h4j_device_close(h4j_device* device, h4j_error* error) {
  return guarded("device_close", error, [&] {
    if (device == nullptr) return;
    const std::unique_ptr<h4j_device> owned(device);
    check(take_down(*owned), "device_close");
  });
}

h4j_status h4j_device_memory(h4j_device* device, int64_t* free_bytes, int64_t* total_bytes, h4j_error* error) {
  return guarded("device_memory", error, [&] {
    const ScopedContext current(require_handle(device, "device_memory", "device").primary);
    size_t available = 0;
    size_t total = 0;
    check(driver().cuMemGetInfo(&available, &total), "cuMemGetInfo");
    require_output(free_bytes, "device_memory", "free_bytes") = static_cast<int64_t>(available);
    require_output(total_bytes, "device_memory", "total_bytes") = static_cast<int64_t>(total);
  });
}

h4j_status h4j_device_trim(h4j_device* device, int64_t keep_bytes, h4j_error* error) {
  return guarded("device_trim", error, [&] {
    if (keep_bytes < 0) invalid("device_trim", "keep_bytes", format("%lld", static_cast<long long>(keep_bytes)), ">= 0");
    const h4j_device& opened = require_handle(device, "device_trim", "device");
    const ScopedContext current(opened.primary);
    check(driver().cuMemPoolTrimTo(opened.pool, static_cast<size_t>(keep_bytes)), "cuMemPoolTrimTo");
  });
}
