#include "gemm/gemv/sm90_gemv.cuh"

namespace h4j::gemm {
namespace {

template <int kParts>
const void* stub(bool f32) {
  return f32 ? reinterpret_cast<const void*>(&gemv_kernel<kParts, float>) : reinterpret_cast<const void*>(&gemv_kernel<kParts, __nv_bfloat16>);
}

}  // namespace

const void* gemv_stub(const GemvChoice& choice, bool f32) {
  switch (choice.k_parts) {
    case 1:
      return stub<1>(f32);
    case 2:
      return stub<2>(f32);
    case 4:
      return stub<4>(f32);
    default:
      return stub<8>(f32);
  }
}

}  // namespace h4j::gemm
