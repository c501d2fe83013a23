// A step of each expert's bias against its load.
#pragma once

#include "moe/bias_update/bias_update_layout.h"

namespace h4j::bias_update {

__global__ void __launch_bounds__(kThreads) bias_update_kernel(const __grid_constant__ Params params) {
  __shared__ long long total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  const int expert = threadIdx.x;
  const int64_t count = expert < params.experts ? params.counts[expert] : 0;
  atomicAdd(reinterpret_cast<unsigned long long*>(&total), static_cast<unsigned long long>(count));  // of integers: the same in any order
  __syncthreads();
  if (expert >= params.experts) return;
  const int64_t load = count * params.experts;  // against the total: no mean is rounded
  if (load != total) params.bias[expert] += load > total ? -params.step : params.step;
  if (params.clear_counts) params.counts[expert] = 0;
}

}  // namespace h4j::bias_update
