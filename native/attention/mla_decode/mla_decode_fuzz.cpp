#include <algorithm>

#include "testing/fuzz/fuzz.h"

namespace h4j::mla {
namespace {

using Spec = h4j_mla_decode_spec;

constexpr int64_t kMaxStride = (int64_t{1} << 39) - 1;

// Elements of BF16 caches, bytes of FP8 ones.
int64_t token_size(const Spec& spec) { return spec.cache_format == H4J_MLA_CACHE_BF16 ? 576 : 656; }
int64_t token_multiple(const Spec& spec) { return spec.cache_format == H4J_MLA_CACHE_BF16 ? 8 : 16; }

std::vector<fuzz::Field> schedule_fields() {
  using Args = h4j_mla_schedule_args;
  return {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(lengths, s.max_batch > 0 ? address(4) : any()),
          H4J_FUZZ_ARG(q_tokens, s.max_batch > 0 ? optional_address(4) : any()), H4J_FUZZ_ARG(schedule, s.max_batch > 0 ? address(256) : any())};
}

std::vector<fuzz::Field> decode_fields() {
  using Args = h4j_mla_decode_args;
  return {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(q, s.max_batch > 0 ? address(16) : any()),
          // Strides end where TMA's do, at 2^40 bytes.
          H4J_FUZZ_ARG(q_ld, range(576, std::min(kMaxExtent, kMaxStride / (int64_t{s.s_q} * s.heads)), 8, 8)),
          H4J_FUZZ_ARG(cache, s.max_batch > 0 ? address(16) : any()),
          H4J_FUZZ_ARG(cache_ld, range(token_size(s), std::min(kMaxExtent, kMaxStride / s.page_size), token_multiple(s), 8)),
          H4J_FUZZ_ARG(cache_page_ld, range(product(s.page_size, a.cache_ld), kMaxStride, token_multiple(s), 8)),
          H4J_FUZZ_ARG(block_table, s.max_batch > 0 ? address(4) : any()), H4J_FUZZ_ARG(block_table_ld, ld(ceil_div(s.max_length, s.page_size), 1)),
          H4J_FUZZ_ARG(lengths, s.max_batch > 0 ? address(4) : any()), H4J_FUZZ_ARG(q_tokens, s.max_batch > 0 ? optional_address(4) : any()),
          H4J_FUZZ_ARG(sink, s.max_batch > 0 ? optional_address(4) : any()), H4J_FUZZ_ARG(schedule, s.max_batch > 0 ? address(256) : any()),
          H4J_FUZZ_ARG(out, s.max_batch > 0 ? address(16) : any()), H4J_FUZZ_ARG(lse, s.max_batch > 0 ? address(4) : any()),
          H4J_FUZZ_ARG(workspace, s.max_batch > 0 ? address(256) : any()), H4J_FUZZ_ARG(workspace_bytes, at_least(plan.workspace_bytes))};
}

std::vector<fuzz::Field> spec_fields() {
  using Args = h4j_mla_decode_args;
  return {H4J_FUZZ_SPEC(heads, range(1, 128)),
          H4J_FUZZ_SPEC(s_q, range(1, 1024, 1, 3)),
          H4J_FUZZ_SPEC(page_size, one_of({1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024})),
          H4J_FUZZ_SPEC(causal, range(0, 1)),
          H4J_FUZZ_SPEC(window, range(0, INT32_MAX / 2, 1, 300)),
          H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)),
          H4J_FUZZ_SPEC(softmax_scale, positive_float()),
          H4J_FUZZ_SPEC(max_batch, range(0, 65535, 1, 8)),
          H4J_FUZZ_SPEC(max_length, range(0, INT32_MAX / 2, 1, 2000)),
          H4J_FUZZ_SPEC(pages, range(1, INT32_MAX, 1, 16)),
          H4J_FUZZ_SPEC(cache_format, range(H4J_MLA_CACHE_BF16, H4J_MLA_CACHE_FP8_TOKEN)),
          H4J_FUZZ_SPEC(reserved, any())};
}

const fuzz::Registered registered({
    .name = "mla_decode",
    .spec_size = sizeof(Spec),
    .fields = spec_fields(),
    .plan = fuzz::plan_function(h4j_mla_decode_plan),
    .rows = "max_batch",
    .blamed_together = {"max_batch"},
    .bindings = {fuzz::binding("mla_schedule", h4j_mla_schedule_bind, h4j_mla_schedule_rebind, schedule_fields()),
                 fuzz::binding("mla_decode", h4j_mla_decode_bind, h4j_mla_decode_rebind, decode_fields())},
});

}  // namespace
}  // namespace h4j::mla
