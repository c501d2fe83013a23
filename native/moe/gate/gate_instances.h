// The kernels of instances.def as the host sees them.
#pragma once

#include "hopper4j.h"

namespace h4j::gate {

struct Instance {
  const char* name;
  h4j_dtype logits_dtype;
  int experts_per_lane;
  const void* stub;
};

// The smallest that holds so many experts a lane.
const Instance* find_instance(h4j_dtype logits_dtype, int experts_per_lane);

}  // namespace h4j::gate
