#include "testing/fuzz/fuzz.h"

namespace h4j::gemm {
namespace {

using Spec = h4j_gemm_spec;
using Args = h4j_gemm_args;

int64_t out_multiple(const Spec& spec) { return 16 / element_size(spec.out_dtype); }

const fuzz::Registered registered({
    .name = "gemm",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(out_dtype, one_of({H4J_BF16, H4J_F32, H4J_F8_E4M3})),
               H4J_FUZZ_SPEC(accumulate, range(0, s.out_dtype == H4J_F8_E4M3 ? 0 : 1)),
               H4J_FUZZ_SPEC(out_scale_kind, range(0, s.out_dtype == H4J_F8_E4M3 ? 1 : 0)), H4J_FUZZ_SPEC(reserved, any()),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(max_m, range(0, kMaxExtent, 1, 300)),
               H4J_FUZZ_SPEC(n, s.out_dtype == H4J_F8_E4M3 ? range(16, kMaxExtent, 16) : range(8, kMaxExtent, 8)),
               H4J_FUZZ_SPEC(k, range(16, kMaxExtent, 16)), H4J_FUZZ_SPEC(batch_invariant, range(0, 1)), H4J_FUZZ_SPEC(constant_b, range(0, 1))},
    .plan = fuzz::plan_function(h4j_gemm_plan),
    .rows = "max_m",
    .blamed_together = {"max_m"},
    .bindings = {fuzz::binding("gemm", h4j_gemm_bind, h4j_gemm_rebind, h4j_gemm,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(a, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(a_ld, ld(s.k, 16)),
                                H4J_FUZZ_ARG(a_scales, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(a_scales_ld, ld(s.max_m, 4)),
                                H4J_FUZZ_ARG(b, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(b_ld, ld(s.k, 16)),
                                H4J_FUZZ_ARG(b_scales, s.max_m > 0 ? address(4) : any()), H4J_FUZZ_ARG(b_scales_ld, ld(ceil_div(s.k, 128), 1)),
                                H4J_FUZZ_ARG(c, s.accumulate == 0 ? one_of({0})
                                                : s.max_m > 0     ? address(16)
                                                                  : any()),
                                H4J_FUZZ_ARG(c_ld, s.accumulate != 0 ? ld(s.n, out_multiple(s)) : any()),
                                H4J_FUZZ_ARG(d, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(d_ld, ld(s.n, out_multiple(s))),
                                H4J_FUZZ_ARG(workspace, s.max_m > 0 && plan.workspace_bytes > 0 ? address(256) : any()),
                                H4J_FUZZ_ARG(workspace_bytes, plan.workspace_bytes > 0 ? at_least(plan.workspace_bytes) : any()),
                                H4J_FUZZ_ARG(d_scales, s.out_dtype != H4J_F8_E4M3 ? one_of({0})
                                                       : s.max_m > 0              ? address(16)
                                                                                  : any()),
                                H4J_FUZZ_ARG(d_scales_ld, s.out_dtype == H4J_F8_E4M3 ? ld(s.max_m, 4) : any())})},
});

}  // namespace
}  // namespace h4j::gemm
