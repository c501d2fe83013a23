#include <algorithm>

#include "moe/permute/permute_layout.h"
#include "testing/fuzz/fuzz.h"

namespace h4j::permute {
namespace {

using Spec = h4j_moe_permute_spec;
using Args = h4j_moe_permute_args;

int64_t rows(const Spec& spec) {
  const int64_t ids = spec.max_tokens * spec.top_k;
  return ids + std::min<int64_t>(spec.experts, ids) * (spec.alignment - 1);
}
// Elements of 16 bytes.
int64_t unit(h4j_dtype dtype) { return dtype == H4J_BF16 ? 8 : 16; }

const fuzz::Registered registered({
    .name = "moe_permute",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(in_dtype, one_of({H4J_BF16, H4J_F8_E4M3})),
               H4J_FUZZ_SPEC(out_dtype, s.in_dtype == H4J_BF16 ? one_of({H4J_BF16, H4J_F8_E4M3}) : one_of({H4J_F8_E4M3})),
               H4J_FUZZ_SPEC(scale_kind, one_of({H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO})), H4J_FUZZ_SPEC(experts, range(1, kMaxExperts, 1, 300)),
               H4J_FUZZ_SPEC(top_k, range(1, kMaxTopK)), H4J_FUZZ_SPEC(alignment, one_of({1, 2, 4, 8, 16, 32, 64, 128, 256})),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(max_tokens, range(0, kMaxExtent, 1, 300)),
               H4J_FUZZ_SPEC(hidden, range(unit(s.out_dtype), kMaxExtent / 2, unit(s.out_dtype)))},
    .plan = fuzz::plan_function(h4j_moe_permute_plan),
    .rows = "max_tokens",
    .blamed_together = {"max_tokens"},
    .bindings = {fuzz::binding("moe_permute", h4j_moe_permute_bind, h4j_moe_permute_rebind, h4j_moe_permute,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(ids, s.max_tokens > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(in, s.max_tokens > 0 ? address(16) : any()), H4J_FUZZ_ARG(in_ld, ld(s.hidden, unit(s.in_dtype))),
                                H4J_FUZZ_ARG(in_scales, s.max_tokens > 0 && s.in_dtype == H4J_F8_E4M3 ? address(4) : any()),
                                H4J_FUZZ_ARG(in_scales_ld, s.in_dtype == H4J_F8_E4M3 ? ld(s.max_tokens, 4) : any()),
                                H4J_FUZZ_ARG(out, s.max_tokens > 0 ? address(16) : any()), H4J_FUZZ_ARG(out_ld, ld(s.hidden, unit(s.out_dtype))),
                                H4J_FUZZ_ARG(out_scales, s.max_tokens > 0 && s.out_dtype == H4J_F8_E4M3 ? address(4) : any()),
                                H4J_FUZZ_ARG(out_scales_ld, s.out_dtype == H4J_F8_E4M3 ? ld(rows(s), 4) : any()),
                                H4J_FUZZ_ARG(group_ends, address(4)), H4J_FUZZ_ARG(places, s.max_tokens > 0 ? address(4) : any()),
                                H4J_FUZZ_ARG(sources, optional_address(4))})},
});

}  // namespace
}  // namespace h4j::permute
