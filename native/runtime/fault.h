// Bad data that only a kernel can see: lengths, page numbers, expert ids, ends of groups.
//
// An open device has one record in page-locked host memory that every context maps. A kernel that meets bad data stays inside its tensors and fills the
// record, if it is empty; the next call that waits for the device or asks whether it is done (stream and event synchronize and query) fails with what
// the record says and empties it. Text stays on the host: a kernel only hands back the pointers that its launch was given.
#pragma once

#include <cstdint>

struct h4j_device;

namespace h4j {

struct FaultRecord {
  uint32_t claimed;  // by the first thread that reports
  uint32_t filled;   // the rest may be read
  const char* operation;
  const char* argument;
  int64_t index;
  int64_t got;
  int64_t low;
  int64_t high;
};

// One argument in device memory whose values a kernel checks; a field of its parameters. `operation` and `argument` are literals.
struct FaultSite {
  FaultRecord* record;  // of the device, as kernels address it
  const char* operation;
  const char* argument;
};

FaultSite fault_site(const h4j_device& device, const char* operation, const char* argument);

// Throws "gemm_grouped: group_ends[3]: got 700, need 512..640" where a kernel of the device has reported, and empties the record.
void throw_fault(const h4j_device& device);

}  // namespace h4j
