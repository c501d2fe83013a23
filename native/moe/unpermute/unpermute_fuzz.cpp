#include "testing/fuzz/fuzz.h"

namespace h4j::unpermute {
namespace {

using Spec = h4j_moe_unpermute_spec;
using Args = h4j_moe_unpermute_args;

const fuzz::Registered registered({
    .name = "moe_unpermute",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(top_k, range(1, 32)), H4J_FUZZ_SPEC(weighted, range(0, 1)), H4J_FUZZ_SPEC(residual, range(0, 1)),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(reserved, any()), H4J_FUZZ_SPEC(max_tokens, range(0, kMaxExtent, 1, 300)),
               H4J_FUZZ_SPEC(rows, range(0, kMaxExtent, 1, 300)), H4J_FUZZ_SPEC(hidden, range(8, kMaxExtent, 8))},
    .plan = fuzz::plan_function(h4j_moe_unpermute_plan),
    .rows = "max_tokens",
    .bindings = {fuzz::binding("moe_unpermute", h4j_moe_unpermute_bind, h4j_moe_unpermute_rebind, h4j_moe_unpermute,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(x, s.max_tokens > 0 && s.rows > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(x_ld, ld(s.hidden, 8)), H4J_FUZZ_ARG(places, s.max_tokens > 0 ? address(4) : any()),
                                H4J_FUZZ_ARG(weights, s.max_tokens > 0 && s.weighted != 0 ? address(4) : any()),
                                H4J_FUZZ_ARG(residual, s.max_tokens > 0 && s.residual != 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(residual_ld, s.residual != 0 ? ld(s.hidden, 8) : any()),
                                H4J_FUZZ_ARG(out, s.max_tokens > 0 ? address(16) : any()), H4J_FUZZ_ARG(out_ld, ld(s.hidden, 8))})},
});

}  // namespace
}  // namespace h4j::unpermute
