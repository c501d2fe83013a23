#include "runtime/fault.h"

#include <atomic>

#include "runtime/handles.h"

namespace h4j {

FaultSite fault_site(const h4j_device& device, const char* operation, const char* argument) { return {device.faults, operation, argument}; }

void throw_fault(const h4j_device& device) {
  FaultRecord& record = *device.faults;
  // One of the threads that wait at the same time takes the record; the others go on.
  if (std::atomic_ref(record.filled).exchange(0, std::memory_order_acquire) == 0) return;
  const FaultRecord found = record;
  std::atomic_ref(record.claimed).store(0, std::memory_order_release);
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  const std::string argument = format("%s[%lld]", found.argument, number(found.index));
  fail(H4J_INVALID_ARGUMENT, found.operation, argument.c_str(), format("%lld", number(found.got)),
       format("%lld..%lld", number(found.low), number(found.high)));
}

}  // namespace h4j
