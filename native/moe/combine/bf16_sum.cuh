// Eight BF16 values at a time, summed in F32.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

namespace h4j::moe {

__device__ inline void add_bf16(float (&sum)[8], uint4 bits, float weight = 1.0f) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum[2 * i] = fmaf(weight, __uint_as_float(words[i] << 16), sum[2 * i]);
    sum[2 * i + 1] = fmaf(weight, __uint_as_float(words[i] & 0xffff0000u), sum[2 * i + 1]);
  }
}

__device__ inline uint4 to_bf16(const float (&sum)[8]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __float22bfloat162_rn(make_float2(sum[2 * i], sum[2 * i + 1]));
    memcpy(&words[i], &pair, 4);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace h4j::moe
