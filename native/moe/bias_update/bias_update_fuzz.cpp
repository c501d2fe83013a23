#include "testing/fuzz/fuzz.h"

namespace h4j::bias_update {
namespace {

using Spec = h4j_moe_bias_update_spec;
using Args = h4j_moe_bias_update_args;

const fuzz::Registered registered({
    .name = "moe_bias_update",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(experts, range(1, 1024, 1, 300)), H4J_FUZZ_SPEC(step, float_at_least_0()), H4J_FUZZ_SPEC(clear_counts, range(0, 1)),
               H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(reserved, any())},
    .plan = fuzz::plan_function(h4j_moe_bias_update_plan),
    .bindings = {fuzz::binding("moe_bias_update", h4j_moe_bias_update_bind, h4j_moe_bias_update_rebind, h4j_moe_bias_update,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(counts, address(4)), H4J_FUZZ_ARG(bias, address(4))})},
});

}  // namespace
}  // namespace h4j::bias_update
