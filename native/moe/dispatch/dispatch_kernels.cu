#include "moe/dispatch/dispatch_kernels.h"

#include "moe/dispatch/sm90_dispatch_expert.cuh"

namespace h4j::moe {

const void* dispatch_stub(bool cast, bool expert_layout) {
  static const void* const stubs[] = {
#define H4J_MOE_DISPATCH_INSTANCE(kernel, cast) reinterpret_cast<const void*>(&kernel<cast>),
#include "moe/dispatch/instances.def"
#undef H4J_MOE_DISPATCH_INSTANCE
  };
  return stubs[2 * expert_layout + cast];
}

}  // namespace h4j::moe
