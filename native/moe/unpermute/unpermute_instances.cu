#include "moe/unpermute/unpermute_instances.h"

#include "moe/unpermute/sm90_unpermute.cuh"

namespace h4j::unpermute {

const Instance& the_instance() {
  static const Instance instances[] = {
#define H4J_MOE_UNPERMUTE_INSTANCE(name) {#name, reinterpret_cast<const void*>(&unpermute_kernel)},
#include "moe/unpermute/instances.def"
#undef H4J_MOE_UNPERMUTE_INSTANCE
  };
  return instances[0];
}

}  // namespace h4j::unpermute
