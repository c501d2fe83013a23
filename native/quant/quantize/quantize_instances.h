// The kernels of instances.def as the host sees them.
#pragma once

#include "hopper4j.h"

namespace h4j::quantize {

struct Instance {
  const char* name;
  h4j_dtype in_dtype;
  int block_rows;
  const void* stub;
};

// Null where no row of instances.def fits.
const Instance* find_instance(h4j_dtype in_dtype, int block_rows);

}  // namespace h4j::quantize
