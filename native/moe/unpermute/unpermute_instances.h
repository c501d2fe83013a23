// The kernels of instances.def as the host sees them.
#pragma once

namespace h4j::unpermute {

struct Instance {
  const char* name;
  const void* stub;
};

const Instance& the_instance();

}  // namespace h4j::unpermute
