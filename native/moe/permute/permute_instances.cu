#include "moe/permute/permute_instances.h"

#include "moe/permute/sm90_permute.cuh"

namespace h4j::permute {

const void* route_stub() { return reinterpret_cast<const void*>(&route_kernel); }

const Instance* find_instance(h4j_dtype in_dtype, h4j_dtype out_dtype) {
  static const Instance instances[] = {
#define H4J_MOE_PERMUTE_INSTANCE(name, in, out, quantizes) {#name, in, out, reinterpret_cast<const void*>(&permute_kernel<quantizes>)},
#include "moe/permute/instances.def"
#undef H4J_MOE_PERMUTE_INSTANCE
  };
  for (const Instance& instance : instances) {
    if (instance.in_dtype == in_dtype && instance.out_dtype == out_dtype) return &instance;
  }
  return nullptr;
}

}  // namespace h4j::permute
