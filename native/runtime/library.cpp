#include "runtime/error.h"

int32_t h4j_abi_version(void) { return H4J_ABI_VERSION; }

const char* h4j_version(void) { return H4J_VERSION_TEXT; }

int64_t h4j_struct_size(const char* struct_name) {
  if (struct_name == nullptr) return 0;
#define H4J_SIZE(name) \
  if (std::strcmp(struct_name, #name) == 0) return sizeof(name);
  H4J_SIZE(h4j_error)
  H4J_SIZE(h4j_device_info)
  H4J_SIZE(h4j_plan_info)
  H4J_SIZE(h4j_quantize_spec)
  H4J_SIZE(h4j_quantize_args)
  H4J_SIZE(h4j_dequantize_spec)
  H4J_SIZE(h4j_dequantize_args)
  H4J_SIZE(h4j_gemm_spec)
  H4J_SIZE(h4j_gemm_args)
  H4J_SIZE(h4j_gemm_grouped_spec)
  H4J_SIZE(h4j_gemm_grouped_args)
  H4J_SIZE(h4j_gemm_masked_spec)
  H4J_SIZE(h4j_gemm_masked_args)
  H4J_SIZE(h4j_gemm_k_grouped_spec)
  H4J_SIZE(h4j_gemm_k_grouped_args)
  H4J_SIZE(h4j_mla_decode_spec)
  H4J_SIZE(h4j_mla_schedule_args)
  H4J_SIZE(h4j_mla_decode_args)
  H4J_SIZE(h4j_mla_merge_spec)
  H4J_SIZE(h4j_mla_merge_args)
  H4J_SIZE(h4j_swiglu_quantize_spec)
  H4J_SIZE(h4j_swiglu_quantize_args)
  H4J_SIZE(h4j_rmsnorm_quantize_spec)
  H4J_SIZE(h4j_rmsnorm_quantize_args)
  H4J_SIZE(h4j_transpose_quantize_spec)
  H4J_SIZE(h4j_transpose_quantize_args)
  H4J_SIZE(h4j_mla_cache_write_spec)
  H4J_SIZE(h4j_mla_cache_write_args)
  H4J_SIZE(h4j_group_spec)
  H4J_SIZE(h4j_group_buffers_info)
  H4J_SIZE(h4j_moe_dispatch_spec)
  H4J_SIZE(h4j_moe_dispatch_args)
  H4J_SIZE(h4j_moe_combine_spec)
  H4J_SIZE(h4j_moe_combine_args)
  H4J_SIZE(h4j_gemm_bf16_spec)
  H4J_SIZE(h4j_gemm_bf16_args)
  H4J_SIZE(h4j_gemm_bf16_grouped_spec)
  H4J_SIZE(h4j_gemm_bf16_grouped_args)
  H4J_SIZE(h4j_moe_gate_spec)
  H4J_SIZE(h4j_moe_gate_args)
  H4J_SIZE(h4j_moe_bias_update_spec)
  H4J_SIZE(h4j_moe_bias_update_args)
  H4J_SIZE(h4j_moe_permute_spec)
  H4J_SIZE(h4j_moe_permute_args)
  H4J_SIZE(h4j_moe_unpermute_spec)
  H4J_SIZE(h4j_moe_unpermute_args)
#undef H4J_SIZE
  return 0;
}
