// What the plans and launches of every operation share.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <initializer_list>

#include "runtime/handles.h"

struct h4j_plan {
  explicit h4j_plan(const char* operation_name) : operation(operation_name) {}
  virtual ~h4j_plan() = default;
  h4j_plan(const h4j_plan&) = default;
  h4j_plan& operator=(const h4j_plan&) = delete;

  const char* operation;  // "gemm"
  h4j_device_info device{};
  h4j_plan_info info{};
};

struct h4j_launch {
  explicit h4j_launch(const char* operation_name, const h4j_device& opened)
      : operation(operation_name), ordinal(opened.ordinal), primary(opened.primary) {}
  virtual ~h4j_launch() = default;
  h4j_launch(const h4j_launch&) = delete;
  h4j_launch& operator=(const h4j_launch&) = delete;

  // Called with the stream's context current and 0 <= rows <= max_rows. Allocates and waits for nothing.
  virtual void run(CUstream stream, int64_t rows) const = 0;

  const char* operation;
  int ordinal;
  CUcontext primary;  // of the device that it was bound on
  int64_t max_rows = 0;
  bool runs_empty = false;  // also without rows: other ranks wait for this one, or it leaves zeros
};

namespace h4j {

// A kernel of this library, addressed by the host stub that nvcc makes for it. Independent of contexts.
class Kernel {
 public:
  Kernel() = default;
  // Loads the kernel for a device ahead of the first launch, which may be under capture, and allows `shared_memory` bytes a CTA.
  Kernel(const void* host_stub, const h4j_device& device, int shared_memory);

  struct Shape {
    unsigned grid;
    unsigned block;
    // CTAs of a cluster; 0: none are formed. Clusters of one are placed on SMs in another order than CTAs without clusters.
    unsigned cluster = 0;
    // May start before the kernel ahead of it has ended; the kernel itself waits where it must (programmatic dependent launch).
    bool early = false;
  };
  // `argument` is the kernel's one parameter; the driver copies it before this returns.
  void launch(Shape shape, CUstream stream, const void* argument) const;

 private:
  CUkernel kernel_ = nullptr;
  unsigned shared_memory_ = 0;
};

// The plan behind a handle, of the operation that the caller is about to use it for.
template <class Plan>
const Plan& require_plan(const h4j_plan* plan, const char* operation) {
  const auto* typed = dynamic_cast<const Plan*>(&require_handle(plan, operation, "plan"));
  if (typed == nullptr) invalid(operation, "plan", format("a plan of %s", plan->operation), format("one of %s", operation));
  return *typed;
}

template <class Launch>
Launch& require_launch(h4j_launch* launch, const char* operation) {
  auto* typed = dynamic_cast<Launch*>(&require_handle(launch, operation, "launch"));
  if (typed == nullptr) invalid(operation, "launch", format("a launch of %s", launch->operation), format("one of %s", operation));
  return *typed;
}

// A plan is bound on a device of the kind it was made for.
void require_planned_device(const h4j_plan& plan, const h4j_device& device);

// The bodies of every operation's bind and eager form.
template <class Plan, class Launch, class Args>
Launch* bind(const h4j_plan* plan, h4j_device* device, const Args* args, const char* operation) {
  const Plan& planned = require_plan<Plan>(plan, operation);
  const h4j_device& opened = require_handle(device, operation, "device");
  require_planned_device(planned, opened);
  return new Launch(planned, opened, read_struct(args, operation, "args"));
}

template <class Plan, class Launch, class Spec, class Args>
void run_eagerly(h4j_stream* stream, const Spec* spec, const Args* args, const char* operation) {
  const h4j_stream& target = require_handle(stream, operation, "stream");
  const Plan planned(target.device->info, read_struct(spec, operation, "spec"));
  const Launch launch(planned, *target.device, read_struct(args, operation, "args"));
  if (launch.max_rows == 0 && !launch.runs_empty) return;
  const ScopedContext current(target.context);
  launch.run(target.stream, launch.max_rows);
}

// Shared checks of planning.
void require_hopper(const char* operation, const h4j_device_info& device);
// SMs that a spec may use: its budget, or all of the device.
int usable_sms(const char* operation, const h4j_device_info& device, int32_t sm_budget);
// CTAs of a kernel that walks through `work` pieces with any number of them. Without a budget there is a CTA for each: as one ends the next one's loads
// begin, which measures 2 to 5 % faster than CTAs that stay.
int streaming_grid(int64_t work, int32_t sm_budget, int64_t resident);

// Shared checks of binding. `extent` elements, addresses in bytes.
inline constexpr uint64_t kAddressEnd = uint64_t{1} << 57;  // Hopper's virtual addresses have 57 bits
void require_address(const char* operation, const char* argument, uint64_t address, int64_t alignment);
void require_range(const char* operation, const char* argument, int64_t value, int64_t low, int64_t high);
void require_multiple(const char* operation, const char* argument, int64_t value, int64_t factor);
void require_ld(const char* operation, const char* argument, int64_t ld, int64_t extent, int64_t multiple);
// The same of groups and pages, which may be farther apart than rows may: twice the largest distance is within int64.
inline constexpr int64_t kMaxGroupExtent = INT64_MAX / 2;
void require_far_ld(const char* operation, const char* argument, int64_t ld, int64_t extent, int64_t multiple);

// Largest count of rows, columns or depth: keeps every product of two extents and an element size inside int64 and every index inside int32.
inline constexpr int64_t kMaxExtent = INT32_MAX - 255;

constexpr int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
constexpr int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

int64_t element_size(h4j_dtype dtype);
const char* dtype_name(h4j_dtype dtype);
void require_dtype(const char* operation, const char* argument, h4j_dtype dtype, std::initializer_list<h4j_dtype> allowed);
void require_scale_kind(const char* operation, int32_t kind);

}  // namespace h4j
