// Eight elements at a time between 16-byte vectors, floats and E4M3, and the scale of a block. The formulas are those of hopper4j.h's `quantize`.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace h4j::tile {

inline constexpr float kE4m3Largest = 448.0f;
inline constexpr float kSmallestAmax = 1e-4f;
inline constexpr int kScaleBlock = 128;  // both block shapes are 128 wide

// Eight consecutive elements of a 16-byte aligned row.
template <class T>
struct Vector8;

template <>
struct Vector8<float> {
  float4 low, high;
  static __device__ Vector8 load(const float* source) {
    return {__ldg(reinterpret_cast<const float4*>(source)), __ldg(reinterpret_cast<const float4*>(source) + 1)};
  }
  static __device__ Vector8 zero() { return {}; }
  __device__ void to_floats(float (&values)[8]) const {
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
  }
  static __device__ void store(float* target, const float (&values)[8]) {
    reinterpret_cast<float4*>(target)[0] = make_float4(values[0], values[1], values[2], values[3]);
    reinterpret_cast<float4*>(target)[1] = make_float4(values[4], values[5], values[6], values[7]);
  }
};

template <class T, class T2, float2 (*ToFloats)(T2), T2 (*FromFloats)(float2)>
struct HalfVector8 {
  uint4 bits;
  static __device__ HalfVector8 load(const T* source) { return {__ldg(reinterpret_cast<const uint4*>(source))}; }
  static __device__ HalfVector8 zero() { return {}; }
  __device__ void to_floats(float (&values)[8]) const {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      T2 pair;
      memcpy(&pair, &words[i], sizeof pair);
      const float2 floats = ToFloats(pair);
      values[2 * i] = floats.x, values[2 * i + 1] = floats.y;
    }
  }
  static __device__ void store(T* target, const float (&values)[8]) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const T2 pair = FromFloats(make_float2(values[2 * i], values[2 * i + 1]));
      memcpy(&words[i], &pair, sizeof pair);
    }
    *reinterpret_cast<uint4*>(target) = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

__device__ inline float2 halves_to_floats(__half2 pair) { return __half22float2(pair); }
__device__ inline __half2 floats_to_halves(float2 pair) { return __float22half2_rn(pair); }
__device__ inline float2 bfloats_to_floats(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }
__device__ inline __nv_bfloat162 floats_to_bfloats(float2 pair) { return __float22bfloat162_rn(pair); }

template <>
struct Vector8<__half> : HalfVector8<__half, __half2, halves_to_floats, floats_to_halves> {
  __device__ Vector8(HalfVector8 base) : HalfVector8(base) {}
  __device__ Vector8() : HalfVector8() {}
};
template <>
struct Vector8<__nv_bfloat16> : HalfVector8<__nv_bfloat16, __nv_bfloat162, bfloats_to_floats, floats_to_bfloats> {
  __device__ Vector8(HalfVector8 base) : HalfVector8(base) {}
  __device__ Vector8() : HalfVector8() {}
};

// NaN is left out: fmaxf gives the other operand.
__device__ inline float largest_magnitude(const float (&values)[8]) {
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(values[i]));
  return largest;
}

__device__ inline float block_scale(float amax, bool power_of_two) {
  const float scale = fmaxf(amax, kSmallestAmax) * (1.0f / kE4m3Largest);
  // 2^ceil(log2(scale)): any fraction bit carries into the exponent. The scale is never subnormal; infinity stays infinity.
  return power_of_two ? __uint_as_float((__float_as_uint(scale) + 0x7fffffu) & 0x7f800000u) : scale;
}

// IEEE division, so that the result equals the reference bit for bit; the conversion saturates, NaN gives 0x7F.
__device__ inline uint2 quantize8(const float (&values)[8], float scale) {
  uint16_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 quotient = make_float2(__fdiv_rn(values[2 * i], scale), __fdiv_rn(values[2 * i + 1], scale));
    pairs[i] = __nv_cvt_float2_to_fp8x2(quotient, __NV_SATFINITE, __NV_E4M3);
  }
  return make_uint2(pairs[0] | static_cast<uint32_t>(pairs[1]) << 16, pairs[2] | static_cast<uint32_t>(pairs[3]) << 16);
}

__device__ inline void dequantize8(uint2 bits, float scale, float (&values)[8]) {
  const uint32_t words[2] = {bits.x, bits.y};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto pair = static_cast<__nv_fp8x2_storage_t>(words[i / 2] >> (16 * (i % 2)));
    const float2 floats = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
    values[2 * i] = floats.x * scale, values[2 * i + 1] = floats.y * scale;
  }
}

}  // namespace h4j::tile
