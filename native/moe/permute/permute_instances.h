// The kernels of instances.def as the host sees them.
#pragma once

#include "hopper4j.h"

namespace h4j::permute {

struct Instance {
  const char* name;
  h4j_dtype in_dtype;
  h4j_dtype out_dtype;
  const void* stub;
};

// The kernel that finds the rows' places, ahead of every instance.
const void* route_stub();
// Null where no row of instances.def fits.
const Instance* find_instance(h4j_dtype in_dtype, h4j_dtype out_dtype);

}  // namespace h4j::permute
