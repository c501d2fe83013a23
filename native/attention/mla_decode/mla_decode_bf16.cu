#include "attention/mla_decode/mla_decode_kernels.h"
#include "attention/mla_decode/sm90_mla_decode.cuh"

namespace h4j::mla {

static_assert(sizeof(SharedStorage) <= 232448, "Q, two blocks of the cache and the exchange of the groups must fit the shared memory of a CTA");

KernelCode mla_decode_bf16_kernel() { return {reinterpret_cast<const void*>(&decode_kernel<Source::kBoxes>), sizeof(SharedStorage)}; }
KernelCode mla_decode_bf16_group_boxes_kernel() {
  return {reinterpret_cast<const void*>(&decode_kernel<Source::kGroupBoxes>), sizeof(SharedStorage)};
}
KernelCode mla_decode_bf16_token_boxes_kernel() {
  return {reinterpret_cast<const void*>(&decode_kernel<Source::kTokenBoxes>), sizeof(SharedStorage)};
}
KernelCode mla_decode_bf16_tokens_kernel() { return {reinterpret_cast<const void*>(&decode_kernel<Source::kTokens>), sizeof(SharedStorage)}; }

}  // namespace h4j::mla
