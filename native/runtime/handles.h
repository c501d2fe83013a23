// The objects behind the opaque handles of the runtime.
#pragma once

#include <cuda.h>

#include <mutex>

#include "runtime/driver.h"
#include "runtime/error.h"
#include "runtime/fault.h"

struct h4j_device {
  int ordinal;
  CUdevice device;
  CUcontext primary;  // retained
  CUmemoryPool pool;
  h4j::FaultRecord* faults;  // page-locked, mapped into every context at this address
  h4j_device_info info;
};

struct h4j_stream {
  h4j_device* device;
  CUcontext context;  // the primary one, or that of a borrowed stream
  CUstream stream;
  bool owned;
};

struct h4j_event {
  h4j_device* device;
  CUcontext context;
  CUevent event;
  bool timed;
};

struct h4j_graph {
  CUcontext context;
  CUgraphExec executable;
  std::mutex launching{};  // the driver leaves it to its callers that one thread at a time launches a graph
};

namespace h4j {

// Fills everything of `info` from the driver.
h4j_device_info read_device_info(int ordinal);

}  // namespace h4j
