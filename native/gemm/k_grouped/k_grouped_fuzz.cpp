#include "testing/fuzz/fuzz.h"

namespace h4j::gemm::k_grouped {
namespace {

using Spec = h4j_gemm_k_grouped_spec;
using Args = h4j_gemm_k_grouped_args;

fuzz::Rule group_ld(int64_t extent, int64_t ld) { return fuzz::range(fuzz::product(extent, ld), (int64_t{1} << 38) - 1, 4, 8); }

const fuzz::Registered registered({
    .name = "gemm_k_grouped",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(ends_dtype, one_of({H4J_I32, H4J_I64})), H4J_FUZZ_SPEC(groups, range(1, 512, 1, 8)),
               H4J_FUZZ_SPEC(accumulate, range(0, 1)), H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(reserved, any()),
               H4J_FUZZ_SPEC(m, range(1, kMaxExtent, 1, 300)), H4J_FUZZ_SPEC(n, range(8, kMaxExtent, 8)),
               H4J_FUZZ_SPEC(max_k, range(0, kMaxExtent, 16))},
    .plan = fuzz::plan_function(h4j_gemm_k_grouped_plan),
    .rows = "max_k",
    .blamed_together = {"m"},
    .bindings = {fuzz::binding(
        "gemm_k_grouped", h4j_gemm_k_grouped_bind, h4j_gemm_k_grouped_rebind, h4j_gemm_k_grouped,
        {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(a, s.max_k > 0 ? address(16) : any()), H4J_FUZZ_ARG(a_ld, ld(s.max_k, 16)),
         H4J_FUZZ_ARG(a_scales, s.max_k > 0 ? address(16) : any()), H4J_FUZZ_ARG(a_scales_ld, ld(s.m, 4)),
         H4J_FUZZ_ARG(b, s.max_k > 0 ? address(16) : any()), H4J_FUZZ_ARG(b_ld, ld(s.max_k, 16)),
         H4J_FUZZ_ARG(b_scales, s.max_k > 0 ? address(16) : any()), H4J_FUZZ_ARG(b_scales_ld, ld(s.n, 4)),
         H4J_FUZZ_ARG(group_ends, s.max_k > 0 ? address(s.ends_dtype == H4J_I64 ? 8 : 4) : any()),
         H4J_FUZZ_ARG(c, s.accumulate == 0 ? one_of({0})
                         : s.max_k > 0     ? address(16)
                                           : any()),
         H4J_FUZZ_ARG(c_ld, s.accumulate != 0 ? ld(s.n, 4) : any()), H4J_FUZZ_ARG(c_group_ld, s.accumulate != 0 ? group_ld(s.m, a.c_ld) : any()),
         H4J_FUZZ_ARG(d, s.max_k > 0 ? address(16) : any()), H4J_FUZZ_ARG(d_ld, ld(s.n, 4)), H4J_FUZZ_ARG(d_group_ld, group_ld(s.m, a.d_ld)),
         H4J_FUZZ_ARG(workspace, any()), H4J_FUZZ_ARG(workspace_bytes, any())})},
});

}  // namespace
}  // namespace h4j::gemm::k_grouped
