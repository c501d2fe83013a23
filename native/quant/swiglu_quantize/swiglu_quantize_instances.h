// The kernels of instances.def as the host sees them.
#pragma once

namespace h4j::swiglu_quantize {

struct Instance {
  const char* name;
  bool masked;
  const void* stub;
};

const Instance& find_instance(bool masked);

}  // namespace h4j::swiglu_quantize
