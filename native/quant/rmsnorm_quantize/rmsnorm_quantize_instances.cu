#include "quant/rmsnorm_quantize/rmsnorm_quantize_instances.h"

#include "quant/rmsnorm_quantize/sm90_rmsnorm_quantize.cuh"

namespace h4j::rmsnorm_quantize {

const Instance* find_instance(h4j_dtype weight_dtype, int64_t cols) {
  static const Instance instances[] = {
#define H4J_RMSNORM_QUANTIZE_INSTANCE(name, Weight, code, row_threads, vectors) \
  {#name, code, row_threads, vectors, reinterpret_cast<const void*>(&rmsnorm_quantize_kernel<Weight, row_threads, vectors>)},
#include "quant/rmsnorm_quantize/instances.def"
#undef H4J_RMSNORM_QUANTIZE_INSTANCE
  };
  for (const Instance& instance : instances) {
    if (instance.weight_dtype == weight_dtype && cols <= instance.max_cols()) return &instance;
  }
  return nullptr;
}

}  // namespace h4j::rmsnorm_quantize
