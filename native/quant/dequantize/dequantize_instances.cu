#include "quant/dequantize/dequantize_instances.h"

#include "quant/dequantize/sm90_dequantize.cuh"

namespace h4j::dequantize {

const Instance* find_instance(h4j_dtype out_dtype) {
  static const Instance instances[] = {
#define H4J_DEQUANTIZE_INSTANCE(name, Out, out_code) {#name, out_code, reinterpret_cast<const void*>(&dequantize_kernel<Out>)},
#include "quant/dequantize/instances.def"
#undef H4J_DEQUANTIZE_INSTANCE
  };
  for (const Instance& instance : instances) {
    if (instance.out_dtype == out_dtype) return &instance;
  }
  return nullptr;
}

}  // namespace h4j::dequantize
