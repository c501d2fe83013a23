#include "testing/fuzz/fuzz.h"

namespace h4j::gemm::bf16 {
namespace {

namespace batched {

using Spec = h4j_gemm_bf16_spec;
using Args = h4j_gemm_bf16_args;

int64_t out_multiple(const Spec& spec) { return 16 / element_size(spec.out_dtype); }
bool works(const Spec& spec) { return spec.max_m > 0 && spec.batch > 0; }

const fuzz::Registered registered({
    .name = "gemm_bf16",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(out_dtype, one_of({H4J_BF16, H4J_F32})), H4J_FUZZ_SPEC(accumulate, range(0, 1)),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(batch, range(0, 65535, 1, 8)),
               H4J_FUZZ_SPEC(max_m, range(0, kMaxExtent, 1, 300)), H4J_FUZZ_SPEC(n, range(8, kMaxExtent, 8)),
               H4J_FUZZ_SPEC(k, range(8, kMaxExtent, 8))},
    .plan = fuzz::plan_function(h4j_gemm_bf16_plan),
    .rows = "max_m",
    .blamed_together = {"max_m"},
    .bindings = {fuzz::binding("gemm_bf16", h4j_gemm_bf16_bind, h4j_gemm_bf16_rebind, h4j_gemm_bf16,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(a, works(s) ? address(16) : any()), H4J_FUZZ_ARG(a_ld, ld(s.k, 8)),
                                H4J_FUZZ_ARG(a_batch_ld, s.batch > 1 ? ld(s.k, 8) : any()), H4J_FUZZ_ARG(b, works(s) ? address(16) : any()),
                                H4J_FUZZ_ARG(b_ld, ld(s.k, 8)), H4J_FUZZ_ARG(b_batch_ld, s.batch > 1 ? ld(s.k, 8) : any()),
                                H4J_FUZZ_ARG(c, s.accumulate == 0 ? one_of({0})
                                                : works(s)        ? address(16)
                                                                  : any()),
                                H4J_FUZZ_ARG(c_ld, s.accumulate != 0 ? ld(s.n, out_multiple(s)) : any()),
                                H4J_FUZZ_ARG(c_batch_ld, s.accumulate != 0 && s.batch > 1 ? ld(s.n, out_multiple(s)) : any()),
                                H4J_FUZZ_ARG(d, works(s) ? address(16) : any()), H4J_FUZZ_ARG(d_ld, ld(s.n, out_multiple(s))),
                                H4J_FUZZ_ARG(d_batch_ld, s.batch > 1 ? ld(s.n, out_multiple(s)) : any()), H4J_FUZZ_ARG(workspace, any()),
                                H4J_FUZZ_ARG(workspace_bytes, any())})},
});

}  // namespace batched

namespace grouped {

using Spec = h4j_gemm_bf16_grouped_spec;
using Args = h4j_gemm_bf16_grouped_args;

int64_t out_multiple(const Spec& spec) { return 16 / element_size(spec.out_dtype); }

const fuzz::Registered registered({
    .name = "gemm_bf16_grouped",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(out_dtype, one_of({H4J_BF16, H4J_F32})), H4J_FUZZ_SPEC(accumulate, range(0, 1)),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(groups, range(1, 65535, 1, 8)),
               H4J_FUZZ_SPEC(max_m, range(0, kMaxExtent, 1, 300)), H4J_FUZZ_SPEC(n, range(8, kMaxExtent, 8)),
               H4J_FUZZ_SPEC(k, range(8, kMaxExtent, 8))},
    .plan = fuzz::plan_function(h4j_gemm_bf16_grouped_plan),
    .rows = "max_m",
    .blamed_together = {"max_m"},
    .bindings = {fuzz::binding(
        "gemm_bf16_grouped", h4j_gemm_bf16_grouped_bind, h4j_gemm_bf16_grouped_rebind, h4j_gemm_bf16_grouped,
        {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(a, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(a_ld, ld(s.k, 8)),
         H4J_FUZZ_ARG(b, s.max_m > 0 ? address(16) : any()), H4J_FUZZ_ARG(b_ld, ld(s.k, 8)),
         H4J_FUZZ_ARG(b_group_ld, s.groups > 1 ? ld(s.k, 8) : any()), H4J_FUZZ_ARG(group_ends, s.max_m > 0 ? address(4) : any()),
         H4J_FUZZ_ARG(c, s.accumulate == 0 ? one_of({0})
                         : s.max_m > 0     ? address(16)
                                           : any()),
         H4J_FUZZ_ARG(c_ld, s.accumulate != 0 ? ld(s.n, out_multiple(s)) : any()), H4J_FUZZ_ARG(d, s.max_m > 0 ? address(16) : any()),
         H4J_FUZZ_ARG(d_ld, ld(s.n, out_multiple(s))), H4J_FUZZ_ARG(workspace, any()), H4J_FUZZ_ARG(workspace_bytes, any())})},
});

}  // namespace grouped

}  // namespace
}  // namespace h4j::gemm::bf16
