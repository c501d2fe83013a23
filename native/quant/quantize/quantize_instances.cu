#include "quant/quantize/quantize_instances.h"

#include "quant/quantize/sm90_quantize.cuh"

namespace h4j::quantize {

const Instance* find_instance(h4j_dtype in_dtype, int block_rows) {
  static const Instance instances[] = {
#define H4J_QUANTIZE_INSTANCE(name, In, in_code, block) {#name, in_code, block, reinterpret_cast<const void*>(&quantize_kernel<In, block>)},
#include "quant/quantize/instances.def"
#undef H4J_QUANTIZE_INSTANCE
  };
  for (const Instance& instance : instances) {
    if (instance.in_dtype == in_dtype && instance.block_rows == block_rows) return &instance;
  }
  return nullptr;
}

}  // namespace h4j::quantize
