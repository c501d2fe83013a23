#include "testing/fuzz/fuzz.h"

namespace h4j::mla_merge {
namespace {

using Spec = h4j_mla_merge_spec;
using Args = h4j_mla_merge_args;

const fuzz::Registered registered({
    .name = "mla_merge",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(out_dtype, one_of({H4J_BF16, H4J_F32})), H4J_FUZZ_SPEC(heads, range(1, 128)), H4J_FUZZ_SPEC(s_q, range(1, 1024, 1, 3)),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(reserved, any()), H4J_FUZZ_SPEC(max_batch, range(0, 65535, 1, 8))},
    .plan = fuzz::plan_function(h4j_mla_merge_plan),
    .rows = "max_batch",
    .blamed_together = {"max_batch"},
    .bindings = {fuzz::binding("mla_merge", h4j_mla_merge_bind, h4j_mla_merge_rebind, h4j_mla_merge,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(out_a, s.max_batch > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(lse_a, s.max_batch > 0 ? address(4) : any()), H4J_FUZZ_ARG(out_b, s.max_batch > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(lse_b, s.max_batch > 0 ? address(4) : any()), H4J_FUZZ_ARG(out, s.max_batch > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(lse, s.max_batch > 0 ? address(4) : any())})},
});

}  // namespace
}  // namespace h4j::mla_merge
