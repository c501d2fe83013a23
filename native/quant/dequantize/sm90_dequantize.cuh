// F32, F16 or BF16 from E4M3 values and F32 scales.
#pragma once

#include "quant/dequantize/dequantize_layout.h"
#include "tile/fp8.cuh"

namespace h4j::dequantize {

template <class Out>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(const __grid_constant__ Params params) {
  const int64_t chunks = params.cols / kElementsPerThread;
  Out* out = static_cast<Out*>(params.out);
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; item < params.rows * chunks;
       item += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t row = item / chunks;
    const int64_t col = item % chunks * kElementsPerThread;
    const float scale =
        __ldg(params.scales + row / params.block_rows * params.scales_row_stride + col / tile::kScaleBlock * params.scales_col_stride);
    const uint2 bits = __ldg(reinterpret_cast<const uint2*>(params.in + row * params.in_ld + col));
    float values[8];
    tile::dequantize8(bits, scale, values);
    tile::Vector8<Out>::store(out + row * params.out_ld + col, values);
  }
}

}  // namespace h4j::dequantize
