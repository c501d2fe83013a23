#include "runtime/plan.h"

#include <algorithm>
#include <memory>

namespace h4j {

Kernel::Kernel(const void* host_stub, const h4j_device& device, int shared_memory) : shared_memory_(static_cast<unsigned>(shared_memory)) {
  const ScopedContext current(device.primary);
  cudaKernel_t kernel = nullptr;
  const cudaError_t found = cudaGetKernel(&kernel, host_stub);
  if (found != cudaSuccess) {
    Failure failure;
    failure.status = H4J_DEVICE_ERROR;
    failure.argument = "cudaGetKernel";
    failure.cuda_code = static_cast<int>(found);
    failure.got = format("%s (%d): %s", cudaGetErrorName(found), static_cast<int>(found), cudaGetErrorString(found));
    failure.allowed = "success";
    throw failure;
  }
  kernel_ = reinterpret_cast<CUkernel>(kernel);
  if (shared_memory > 0) {
    check(driver().cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_memory, kernel_, device.device),
          "cuKernelSetAttribute");
  }
  CUfunction function = nullptr;
  check(driver().cuKernelGetFunction(&function, kernel_), "cuKernelGetFunction");
  check(driver().cuFuncLoad(function), "cuFuncLoad");
}

void Kernel::launch(Shape shape, CUstream stream, const void* argument) const {
  CUlaunchConfig config{};
  config.gridDimX = shape.grid;
  config.gridDimY = 1;
  config.gridDimZ = 1;
  config.blockDimX = shape.block;
  config.blockDimY = 1;
  config.blockDimZ = 1;
  config.sharedMemBytes = shared_memory_;
  config.hStream = stream;
  CUlaunchAttribute attributes[2];
  unsigned count = 0;
  if (shape.cluster > 0) {
    attributes[count].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attributes[count++].value.clusterDim = {shape.cluster, 1, 1};
  }
  if (shape.early) {
    attributes[count].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attributes[count++].value.programmaticStreamSerializationAllowed = 1;
  }
  config.attrs = attributes;
  config.numAttrs = count;
  void* arguments[] = {const_cast<void*>(argument)};
  check(driver().cuLaunchKernelEx(&config, reinterpret_cast<CUfunction>(kernel_), arguments, nullptr), "cuLaunchKernelEx");
}

void require_planned_device(const h4j_plan& plan, const h4j_device& device) {
  const h4j_device_info& planned = plan.device;
  const h4j_device_info& here = device.info;
  if (planned.sm_count != here.sm_count || planned.compute_major != here.compute_major ||
      planned.shared_memory_per_block != here.shared_memory_per_block) {
    invalid(plan.operation, "device", format("%.40s with %d SMs", here.name, here.sm_count),
            format("the device planned for: %.40s with %d SMs", planned.name, planned.sm_count));
  }
}

void require_hopper(const char* operation, const h4j_device_info& device) {
  if (device.compute_major != 9 || device.compute_minor != 0) {
    fail(H4J_UNSUPPORTED, operation, "device.compute_capability", format("%d.%d (%.40s)", device.compute_major, device.compute_minor, device.name),
         "9.0 (H100, H200, H800, H20)");
  }
  // The largest is far beyond any Hopper; it keeps what choices compute from it inside int.
  require_range(operation, "device.sm_count", device.sm_count, 1, 1024);
}

int usable_sms(const char* operation, const h4j_device_info& device, int32_t sm_budget) {
  if (sm_budget < 0) invalid(operation, "sm_budget", format("%d", sm_budget), ">= 0 (0: all SMs)");
  return sm_budget == 0 || sm_budget > device.sm_count ? device.sm_count : sm_budget;
}

void require_address(const char* operation, const char* argument, uint64_t address, int64_t alignment) {
  if (address == 0) invalid(operation, argument, "0", "a device address");
  if (address >= kAddressEnd)
    invalid(operation, argument, format("0x%llx", static_cast<unsigned long long>(address)), "a device address, below 2^57");
  if (address % static_cast<uint64_t>(alignment) != 0) {
    invalid(operation, argument, format("0x%llx", static_cast<unsigned long long>(address)),
            format("a multiple of %lld bytes", static_cast<long long>(alignment)));
  }
}

void require_range(const char* operation, const char* argument, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    invalid(operation, argument, format("%lld", static_cast<long long>(value)),
            format("%lld..%lld", static_cast<long long>(low), static_cast<long long>(high)));
  }
}

void require_multiple(const char* operation, const char* argument, int64_t value, int64_t factor) {
  if (value % factor != 0) {
    invalid(operation, argument, format("%lld", static_cast<long long>(value)), format("a multiple of %lld", static_cast<long long>(factor)));
  }
}

void require_ld(const char* operation, const char* argument, int64_t ld, int64_t extent, int64_t multiple) {
  if (ld < extent || ld % multiple != 0 || ld > kMaxExtent) {
    invalid(operation, argument, format("%lld", static_cast<long long>(ld)),
            format("a multiple of %lld, at least %lld", static_cast<long long>(multiple), static_cast<long long>(extent)));
  }
}

void require_far_ld(const char* operation, const char* argument, int64_t ld, int64_t extent, int64_t multiple) {
  if (ld < extent || ld % multiple != 0 || ld > kMaxGroupExtent) {
    invalid(operation, argument, format("%lld", static_cast<long long>(ld)),
            format("a multiple of %lld, at least %lld", static_cast<long long>(multiple), static_cast<long long>(extent)));
  }
}

int64_t element_size(h4j_dtype dtype) {
  switch (dtype) {
    case H4J_I64:
      return 8;
    case H4J_F32:
    case H4J_I32:
      return 4;
    case H4J_F16:
    case H4J_BF16:
      return 2;
    default:
      return 1;
  }
}

const char* dtype_name(h4j_dtype dtype) {
  constexpr const char* kNames[] = {"no dtype", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I32", "I64", "U8"};
  return dtype >= 1 && dtype <= 9 ? kNames[dtype] : kNames[0];
}

int streaming_grid(int64_t work, int32_t sm_budget, int64_t resident) {
  return static_cast<int>(std::min(work, sm_budget > 0 ? resident : int64_t{INT32_MAX}));
}

void require_scale_kind(const char* operation, int32_t kind) {
  if (kind != H4J_SCALE_F32 && kind != H4J_SCALE_POWER_OF_TWO) {
    invalid(operation, "scale_kind", format("%d", kind), "H4J_SCALE_F32 (0) or H4J_SCALE_POWER_OF_TWO (1)");
  }
}

void require_dtype(const char* operation, const char* argument, h4j_dtype dtype, std::initializer_list<h4j_dtype> allowed) {
  std::string names;
  for (const h4j_dtype candidate : allowed) {
    if (candidate == dtype) return;
    names += (names.empty() ? "" : " or ") + std::string(dtype_name(candidate));
  }
  invalid(operation, argument, format("%s (code %d)", dtype_name(dtype), dtype), names);
}

}  // namespace h4j

using namespace h4j;

h4j_status h4j_plan_describe(const h4j_plan* plan, h4j_plan_info* info, h4j_error* error) {
  return guarded("plan_describe", error, [&] { write_struct(require_handle(plan, "plan_describe", "plan").info, info, "plan_describe", "info"); });
}

h4j_status h4j_plan_close(h4j_plan* plan, h4j_error* error) {
  return guarded("plan_close", error, [&] { delete plan; });
}

h4j_status h4j_launch_run(const h4j_launch* launch, h4j_stream* stream, int64_t rows, h4j_error* error) {
  return guarded(launch != nullptr ? launch->operation : "launch_run", error, [&] {
    const h4j_launch& bound = require_handle(launch, "launch_run", "launch");
    const h4j_stream& target = require_handle(stream, bound.operation, "stream");
    if (target.device->ordinal != bound.ordinal) {
      invalid(bound.operation, "stream", format("a stream of device %d", target.device->ordinal),
              format("one of device %d, where the launch was bound", bound.ordinal));
    }
    if (rows < -1 || rows > bound.max_rows) {
      invalid(bound.operation, "rows", format("%lld", static_cast<long long>(rows)),
              format("0..%lld, or -1 for all", static_cast<long long>(bound.max_rows)));
    }
    const int64_t used = rows == -1 ? bound.max_rows : rows;
    if (used == 0 && !bound.runs_empty) return;
    const ScopedContext current(target.context);
    bound.run(target.stream, used);
  });
}

h4j_status h4j_launch_close(h4j_launch* launch, h4j_error* error) {
  return guarded("launch_close", error, [&] { delete launch; });
}
