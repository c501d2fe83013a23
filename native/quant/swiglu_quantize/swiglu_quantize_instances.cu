#include "quant/swiglu_quantize/swiglu_quantize_instances.h"

#include "quant/swiglu_quantize/sm90_swiglu_quantize.cuh"

namespace h4j::swiglu_quantize {

const Instance& find_instance(bool masked) {
  static const Instance instances[] = {
#define H4J_SWIGLU_QUANTIZE_INSTANCE(name, kMasked) {#name, kMasked, reinterpret_cast<const void*>(&swiglu_quantize_kernel<kMasked>)},
#include "quant/swiglu_quantize/instances.def"
#undef H4J_SWIGLU_QUANTIZE_INSTANCE
  };
  return instances[masked ? 1 : 0];
}

}  // namespace h4j::swiglu_quantize
