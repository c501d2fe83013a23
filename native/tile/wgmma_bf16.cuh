// BF16 WGMMA on the tiles of wgmma.cuh: one call multiplies [64, 64] by [N, 64]^T.
#pragma once

#include "tile/wgmma.cuh"

namespace h4j::tile {

template <int kN>
struct Bf16Atom;
#define H4J_BF16_ATOM(n)                                                                                                   \
  template <>                                                                                                              \
  struct Bf16Atom<n> {                                                                                                     \
    using Type = cute::SM90::GMMA::MMA_64x##n##x16_F32BF16BF16_SS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::K>; \
  };
H4J_BF16_ATOM(8)
H4J_BF16_ATOM(16)
H4J_BF16_ATOM(32)
H4J_BF16_ATOM(64)
H4J_BF16_ATOM(128)
H4J_BF16_ATOM(144)
H4J_BF16_ATOM(176)
H4J_BF16_ATOM(192)
H4J_BF16_ATOM(256)
#undef H4J_BF16_ATOM

template <int kN, size_t... kIndex>
__device__ void bf16_mma_k16(uint64_t a, uint64_t b, float (&d)[kN / 2], cute::SM90::GMMA::ScaleOut scale, std::index_sequence<kIndex...>) {
  Bf16Atom<kN>::Type::fma(a, b, d[kIndex]..., scale);
}

// d = A B^T over one K block of 64, or d += A B^T where `add`: started here and not waited for. The caller has arrived (warpgroup_arrive) and commits.
template <int kN>
__device__ void bf16_mma_k64(uint64_t a, uint64_t b, float (&d)[kN / 2], bool add) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const auto scale = k == 0 && !add ? cute::SM90::GMMA::ScaleOut::Zero : cute::SM90::GMMA::ScaleOut::One;
    bf16_mma_k16<kN>(a + 2 * k, b + 2 * k, d, scale, std::make_index_sequence<kN / 2>{});
  }
}

}  // namespace h4j::tile
