// FP8 WGMMA on shared-memory tiles of 128-byte rows (K-major, 128-byte swizzle): one call multiplies [64, 128] by [N, 128]^T.
#pragma once

#define CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED
#include <cute/arch/mma_sm90.hpp>

#include <cstdint>
#include <utility>

namespace h4j::tile {

template <int kN>
struct Fp8Atom;
#define H4J_FP8_ATOM(n)                                                 \
  template <>                                                           \
  struct Fp8Atom<n> {                                                   \
    using Type = cute::SM90::GMMA::MMA_64x##n##x32_F32E4M3E4M3_SS_TN<>; \
  };
H4J_FP8_ATOM(16)
H4J_FP8_ATOM(32)
H4J_FP8_ATOM(48)
H4J_FP8_ATOM(64)
H4J_FP8_ATOM(80)
H4J_FP8_ATOM(96)
H4J_FP8_ATOM(112)
H4J_FP8_ATOM(128)
H4J_FP8_ATOM(144)
H4J_FP8_ATOM(160)
H4J_FP8_ATOM(176)
H4J_FP8_ATOM(192)
#undef H4J_FP8_ATOM

// Matrix descriptor of PTX ISA, "Matrix-descriptor layout": start address, stride of 1024 bytes between 8-row groups, 128-byte swizzle. The address
// sits in the low word in units of 16 bytes, so moving by B bytes is adding B / 16; shared memory is too small for a carry out of its 14 bits.
__device__ inline uint64_t swizzled_descriptor(const void* tile) {
  const uint32_t address = cute::cast_smem_ptr_to_uint(tile);
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kStride = uint64_t{1024 / 16} << 32;
  constexpr uint64_t kLeadingIgnored = uint64_t{1} << 16;
  return kSwizzle128 | kStride | kLeadingIgnored | (address & 0x3ffff) >> 4;
}

// The descriptor of a tile in a ring, to be moved in every turn of a loop. Made once, by whole warps: the shuffle keeps the compiler from making it anew from
// the address each time, a chain of some ten dependent instructions ahead of every first MMA; and only its low word is ever added to.
class MovingDescriptor {
 public:
  __device__ explicit MovingDescriptor(const void* tile) : low_(__shfl_sync(0xffffffffu, static_cast<uint32_t>(swizzled_descriptor(tile)), 0)) {}

  // Moved by so many times 16 bytes.
  __device__ uint64_t at(uint32_t sixteens) const { return swizzled_descriptor(nullptr) >> 32 << 32 | (low_ + sixteens); }

 private:
  uint32_t low_;
};

template <int kN, size_t... kIndex>
__device__ void fp8_mma_k32(uint64_t a, uint64_t b, float (&d)[kN / 2], cute::SM90::GMMA::ScaleOut scale, std::index_sequence<kIndex...>) {
  Fp8Atom<kN>::Type::fma(a, b, d[kIndex]..., scale);
}

// d = A B^T over one K block of 128, of tiles so many times 16 bytes from where the descriptors were made: a fresh sum, started here and not waited for. The caller has
// arrived (warpgroup_arrive) and commits.
template <int kN>
__device__ void fp8_mma_k128(MovingDescriptor a, uint32_t a_sixteens, MovingDescriptor b, uint32_t b_sixteens, float (&d)[kN / 2]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const auto scale = k == 0 ? cute::SM90::GMMA::ScaleOut::Zero : cute::SM90::GMMA::ScaleOut::One;
    fp8_mma_k32<kN>(a.at(a_sixteens + 2 * k), b.at(b_sixteens + 2 * k), d, scale, std::make_index_sequence<kN / 2>{});
  }
}

// Keeps the compiler from moving uses of the accumulators over an asynchronous MMA.
template <int kCount>
__device__ void fence_accumulators(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) cute::warpgroup_fence_operand(d[i]);
}

}  // namespace h4j::tile
