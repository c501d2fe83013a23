// The kernels of instances.def as the host sees them.
#pragma once

#include "hopper4j.h"

namespace h4j::mla_cache_write {

struct Instance {
  const char* name;
  int format;
  h4j_dtype weight_dtype;
  const void* stub;
};

// Null where no row of instances.def fits.
const Instance* find_instance(int format, h4j_dtype weight_dtype);

}  // namespace h4j::mla_cache_write
