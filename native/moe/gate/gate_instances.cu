#include "moe/gate/gate_instances.h"

#include "moe/gate/sm90_gate.cuh"

namespace h4j::gate {

const Instance* find_instance(h4j_dtype logits_dtype, int experts_per_lane) {
  static const Instance instances[] = {
#define H4J_MOE_GATE_INSTANCE(name, Logit, code, held) {#name, code, held, reinterpret_cast<const void*>(&gate_kernel<Logit, held>)},
#include "moe/gate/instances.def"
#undef H4J_MOE_GATE_INSTANCE
  };
  for (const Instance& instance : instances) {
    if (instance.logits_dtype == logits_dtype && instance.experts_per_lane >= experts_per_lane) return &instance;
  }
  return nullptr;
}

}  // namespace h4j::gate
