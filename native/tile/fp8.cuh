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
  __device__ float largest_magnitude() const {
    const float left = fmaxf(fmaxf(fabsf(low.x), fabsf(low.y)), fmaxf(fabsf(low.z), fabsf(low.w)));
    const float right = fmaxf(fmaxf(fabsf(high.x), fabsf(high.y)), fmaxf(fabsf(high.z), fabsf(high.w)));
    return fmaxf(fmaxf(left, right), 0.0f);
  }
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
  // Of memory that the same kernel writes.
  static __device__ HalfVector8 load_changing(const T* source) { return {*reinterpret_cast<const uint4*>(source)}; }
  static __device__ HalfVector8 zero() { return {}; }
  // NaN is left out, two elements at a time.
  __device__ float largest_magnitude() const {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    T2 pairs[4];
    memcpy(pairs, words, sizeof pairs);
    const float2 largest = ToFloats(__hmax2(__hmax2(__habs2(pairs[0]), __habs2(pairs[1])), __hmax2(__habs2(pairs[2]), __habs2(pairs[3]))));
    return fmaxf(fmaxf(largest.x, largest.y), 0.0f);
  }
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
  static __device__ HalfVector8 of(const float (&values)[8]) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const T2 pair = FromFloats(make_float2(values[2 * i], values[2 * i + 1]));
      memcpy(&words[i], &pair, sizeof pair);
    }
    return {make_uint4(words[0], words[1], words[2], words[3])};
  }
  static __device__ void store(T* target, const float (&values)[8]) { *reinterpret_cast<uint4*>(target) = of(values).bits; }
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

// 1 / scale, rounded to nearest, of a scale that block_scale made; 0 of infinity. What __frcp_rn does for such numbers, without its branch for others.
__device__ inline float reciprocal_of(float scale) {
  float near;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(scale));
  return isinf(scale) ? 0.0f : __fmaf_rn(near, __fmaf_rn(-scale, near, 1.0f), near);
}

// The largest among the 16 lanes that share a 1x128 block.
__device__ inline float half_warp_largest(float value) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

// x / scale as IEEE division rounds it, so that results equal the reference bit for bit, at five operations a number: the reciprocal, rounded to nearest,
// is shared by a block, and the quotient is corrected twice by its remainder (Markstein, IBM J. Res. Dev. 34, 1990). The first correction brings it within
// one unit in the last place, the second is exact then. Quotients that underflow may differ; E4M3 makes them zero. The remainder is taken with the sign that
// keeps -0 / scale = -0.
struct Divider {
  float divisor;  // 0 where the scale is infinite: finite numbers then give 0, infinite ones NaN, as division does
  float reciprocal;

  static __device__ Divider of(float scale) { return {isinf(scale) ? 0.0f : scale, reciprocal_of(scale)}; }

  __device__ float operator()(float x) const {
    float quotient = __fmul_rn(x, reciprocal);
    quotient = __fmaf_rn(-reciprocal, __fmaf_rn(divisor, quotient, -x), quotient);
    return __fmaf_rn(-reciprocal, __fmaf_rn(divisor, quotient, -x), quotient);
  }
};

// The conversion saturates, NaN gives 0x7F.
__device__ inline uint32_t to_e4m3(float first, float second) {
  return __nv_cvt_float2_to_fp8x2(make_float2(first, second), __NV_SATFINITE, __NV_E4M3);
}

__device__ inline uint2 quantize8(const float (&values)[8], float scale) {
  const Divider by = Divider::of(scale);
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = to_e4m3(by(values[2 * i]), by(values[2 * i + 1]));
  return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

// E4M3 of eight numbers times a factor, the reciprocal of their scale: for numbers that were computed, where a unit in the last place of F32 is within what
// they are off anyway. A factor of 0, of an infinite scale, gives what division does.
__device__ inline uint2 quantize8_times(const float (&values)[8], float factor) {
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = to_e4m3(values[2 * i] * factor, values[2 * i + 1] * factor);
  return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
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
