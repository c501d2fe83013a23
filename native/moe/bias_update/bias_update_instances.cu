#include "moe/bias_update/bias_update_instances.h"

#include "moe/bias_update/sm90_bias_update.cuh"

namespace h4j::bias_update {

const Instance& the_instance() {
  static const Instance instances[] = {
#define H4J_MOE_BIAS_UPDATE_INSTANCE(name) {#name, reinterpret_cast<const void*>(&bias_update_kernel)},
#include "moe/bias_update/instances.def"
#undef H4J_MOE_BIAS_UPDATE_INSTANCE
  };
  return instances[0];
}

}  // namespace h4j::bias_update
