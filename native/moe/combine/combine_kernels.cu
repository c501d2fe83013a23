#include "moe/combine/combine_kernels.h"

#include "moe/combine/sm90_combine.cuh"

namespace h4j::moe {

const void* combine_stub(bool expert_layout) {
  static const void* const stubs[] = {
#define H4J_MOE_COMBINE_INSTANCE(expert) reinterpret_cast<const void*>(&combine_kernel<expert>),
#include "moe/combine/instances.def"
#undef H4J_MOE_COMBINE_INSTANCE
  };
  return stubs[expert_layout];
}

}  // namespace h4j::moe
