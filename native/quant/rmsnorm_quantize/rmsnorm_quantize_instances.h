// The kernels of instances.def as the host sees them.
#pragma once

#include <cstdint>

#include "hopper4j.h"

namespace h4j::rmsnorm_quantize {

struct Instance {
  const char* name;
  h4j_dtype weight_dtype;
  int row_threads;
  int vectors;
  const void* stub;

  int max_cols() const { return row_threads * vectors * 8; }
};

// The narrowest instance that holds `cols` columns; null where none does.
const Instance* find_instance(h4j_dtype weight_dtype, int64_t cols);

}  // namespace h4j::rmsnorm_quantize
