#pragma once

#include "runtime/fault.h"

namespace h4j::tile {

// Tells the host of element `index` of an argument, unless an earlier report still waits to be read. Called by one thread; where several elements may be
// bad, by the one that looks through them in order, so that the first is named.
__device__ inline void report_fault(const FaultSite& site, int64_t index, int64_t got, int64_t low, int64_t high) {
  FaultRecord& record = *site.record;
  if (atomicCAS(&record.claimed, 0u, 1u) != 0u) return;
  record.operation = site.operation;
  record.argument = site.argument;
  record.index = index;
  record.got = got;
  record.low = low;
  record.high = high;
  __threadfence_system();  // without it the host could see the flag before the rest
  *const_cast<volatile uint32_t*>(&record.filled) = 1;
}

}  // namespace h4j::tile
