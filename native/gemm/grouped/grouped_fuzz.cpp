#include "gemm/grouped/grouped_layout.h"
#include "testing/fuzz/fuzz.h"

namespace h4j::gemm::grouped {
namespace {

int64_t k_blocks(int64_t k) { return ceil_div(k, 128); }
fuzz::Rule group_ld(int64_t extent, int64_t ld, int64_t multiple) {
  return fuzz::range(fuzz::product(extent, ld), (int64_t{1} << 38) - 1, multiple, 8);
}

namespace contiguous {

using Spec = h4j_gemm_grouped_spec;
using Args = h4j_gemm_grouped_args;

const fuzz::Registered registered({
    .name = "gemm_grouped",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(ends_dtype, one_of({H4J_I32, H4J_I64})), H4J_FUZZ_SPEC(groups, range(1, kMaxGroups, 1, 8)),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(max_m, range(0, kMaxExtent, 1, 300)),
               H4J_FUZZ_SPEC(n, range(8, kMaxExtent, 8)), H4J_FUZZ_SPEC(k, range(16, kMaxExtent, 16))},
    .plan = fuzz::plan_function(h4j_gemm_grouped_plan),
    .rows = "max_m",
    .blamed_together = {"max_m"},
    .bindings = {fuzz::binding(
        "gemm_grouped", h4j_gemm_grouped_bind, h4j_gemm_grouped_rebind, h4j_gemm_grouped,
        {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(a, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(a_ld, ld(s.k, 16)),
         H4J_FUZZ_ARG(a_scales, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(a_scales_ld, ld(s.max_m, 4)),
         H4J_FUZZ_ARG(b, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(b_ld, ld(s.k, 16)), H4J_FUZZ_ARG(b_group_ld, group_ld(s.n, a.b_ld, 16)),
         H4J_FUZZ_ARG(b_scales, s.max_m > 0 ? address(4) : any()), H4J_FUZZ_ARG(b_scales_ld, ld(k_blocks(s.k), 1)),
         H4J_FUZZ_ARG(b_scales_group_ld, group_ld(ceil_div(s.n, 128), a.b_scales_ld, 1)),
         H4J_FUZZ_ARG(group_ends, s.max_m > 0 ? address(s.ends_dtype == H4J_I64 ? 8 : 4) : any()), H4J_FUZZ_ARG(d, s.max_m > 0 ? address(16) : any()),
         H4J_FUZZ_ARG(d_ld, ld(s.n, 8)), H4J_FUZZ_ARG(workspace, any()), H4J_FUZZ_ARG(workspace_bytes, any())})},
});

}  // namespace contiguous

namespace masked {

using Spec = h4j_gemm_masked_spec;
using Args = h4j_gemm_masked_args;

const fuzz::Registered registered({
    .name = "gemm_masked",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(counts_dtype, one_of({H4J_I32, H4J_I64})), H4J_FUZZ_SPEC(groups, range(1, kMaxGroups, 1, 8)),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(max_rows, range(0, kMaxExtent, 1, 300)),
               H4J_FUZZ_SPEC(expected_rows, range(0, s.max_rows, 1, 300)), H4J_FUZZ_SPEC(n, range(8, kMaxExtent, 8)),
               H4J_FUZZ_SPEC(k, range(16, kMaxExtent, 16))},
    .plan = fuzz::plan_function(h4j_gemm_masked_plan),
    .rows = "max_rows",
    .blamed_together = {"max_rows"},
    .bindings = {fuzz::binding(
        "gemm_masked", h4j_gemm_masked_bind, h4j_gemm_masked_rebind, h4j_gemm_masked,
        {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(a, s.max_rows > 0 ? address(16) : any()), H4J_FUZZ_ARG(a_ld, ld(s.k, 16)),
         H4J_FUZZ_ARG(a_group_ld, group_ld(s.max_rows, a.a_ld, 16)), H4J_FUZZ_ARG(a_scales, s.max_rows > 0 ? address(16) : any()),
         H4J_FUZZ_ARG(a_scales_ld, ld(s.max_rows, 4)), H4J_FUZZ_ARG(a_scales_group_ld, group_ld(k_blocks(s.k), a.a_scales_ld, 4)),
         H4J_FUZZ_ARG(b, s.max_rows > 0 ? address(16) : any()), H4J_FUZZ_ARG(b_ld, ld(s.k, 16)), H4J_FUZZ_ARG(b_group_ld, group_ld(s.n, a.b_ld, 16)),
         H4J_FUZZ_ARG(b_scales, s.max_rows > 0 ? address(4) : any()), H4J_FUZZ_ARG(b_scales_ld, ld(k_blocks(s.k), 1)),
         H4J_FUZZ_ARG(b_scales_group_ld, group_ld(ceil_div(s.n, 128), a.b_scales_ld, 1)),
         H4J_FUZZ_ARG(counts, s.max_rows > 0 ? address(s.counts_dtype == H4J_I64 ? 8 : 4) : any()),
         H4J_FUZZ_ARG(d, s.max_rows > 0 ? address(16) : any()), H4J_FUZZ_ARG(d_ld, ld(s.n, 8)),
         H4J_FUZZ_ARG(d_group_ld, group_ld(s.max_rows, a.d_ld, 8)), H4J_FUZZ_ARG(workspace, any()), H4J_FUZZ_ARG(workspace_bytes, any())})},
});

}  // namespace masked

}  // namespace
}  // namespace h4j::gemm::grouped
