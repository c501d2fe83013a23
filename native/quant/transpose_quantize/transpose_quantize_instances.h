// The kernels of instances.def as the host sees them.
#pragma once

namespace h4j::transpose_quantize {

struct Instance {
  const char* name;
  const void* stub;
};

const Instance& only_instance();

}  // namespace h4j::transpose_quantize
