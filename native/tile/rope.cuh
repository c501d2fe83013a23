// Rotary position embedding (arXiv 2104.09864) of one interleaved pair, elements 2i and 2i + 1.
#pragma once

#include <cuda_runtime.h>

namespace h4j::tile {

__device__ inline float2 rotate(float2 pair, float cosine, float sine) {
  return make_float2(pair.x * cosine - pair.y * sine, pair.x * sine + pair.y * cosine);
}

}  // namespace h4j::tile
