#include "gemm/gemv/sm90_gemv.cuh"

namespace h4j::gemm {
namespace {

template <int kRows, int kParts>
const void* stub(bool f32) {
  return f32 ? reinterpret_cast<const void*>(&gemv_kernel<kRows, kParts, float>)
             : reinterpret_cast<const void*>(&gemv_kernel<kRows, kParts, __nv_bfloat16>);
}

template <int kRows>
const void* stub(int k_parts, bool f32) {
  switch (k_parts) {
    case 1:
      return stub<kRows, 1>(f32);
    case 2:
      return stub<kRows, 2>(f32);
    case 4:
      return stub<kRows, 4>(f32);
    default:
      return stub<kRows, 8>(f32);
  }
}

}  // namespace

const void* gemv_stub(const GemvChoice& choice, bool f32) {
  switch (choice.rows) {
    case 1:
      return stub<1>(choice.k_parts, f32);
    case 2:
      return stub<2>(choice.k_parts, f32);
    default:
      return stub<4>(choice.k_parts, f32);
  }
}

}  // namespace h4j::gemm
