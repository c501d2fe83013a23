#include "quant/transpose_quantize/transpose_quantize_instances.h"

#include "quant/transpose_quantize/sm90_transpose_quantize.cuh"

namespace h4j::transpose_quantize {

const Instance& only_instance() {
  static const Instance instances[] = {
#define H4J_TRANSPOSE_QUANTIZE_INSTANCE(name) {#name, reinterpret_cast<const void*>(&transpose_quantize_kernel)},
#include "quant/transpose_quantize/instances.def"
#undef H4J_TRANSPOSE_QUANTIZE_INSTANCE
  };
  return instances[0];
}

}  // namespace h4j::transpose_quantize
