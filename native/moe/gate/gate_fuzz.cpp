#include <algorithm>

#include "moe/gate/gate_layout.h"
#include "testing/fuzz/fuzz.h"

namespace h4j::gate {
namespace {

using Spec = h4j_moe_gate_spec;
using Args = h4j_moe_gate_args;

fuzz::Rule divisors(int64_t experts) {
  fuzz::Rule rule = fuzz::one_of({});
  for (int64_t groups = 1; groups <= kMaxGroups; ++groups) {
    if (experts % groups == 0) rule.values.push_back(groups);
  }
  return rule;
}

int64_t most_taken(const Spec& spec) {
  return spec.groups < 1 ? kMaxTopK : std::min<int64_t>(kMaxTopK, fuzz::product(spec.kept_groups, spec.experts / spec.groups));
}

const fuzz::Registered registered({
    .name = "moe_gate",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(logits_dtype, one_of({H4J_F32, H4J_BF16})), H4J_FUZZ_SPEC(scores, range(H4J_SCORES_SIGMOID, H4J_SCORES_SOFTMAX)),
               H4J_FUZZ_SPEC(experts, range(1, kMaxExperts, 1, 300)), H4J_FUZZ_SPEC(groups, divisors(s.experts)),
               H4J_FUZZ_SPEC(kept_groups, range(1, s.groups)), H4J_FUZZ_SPEC(top_k, range(1, most_taken(s))), H4J_FUZZ_SPEC(normalize, range(0, 1)),
               H4J_FUZZ_SPEC(add_counts, range(0, 1)), H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)), H4J_FUZZ_SPEC(scale, positive_float()),
               H4J_FUZZ_SPEC(reserved, any()), H4J_FUZZ_SPEC(max_tokens, range(0, s.top_k < 1 ? kMaxExtent : kMaxExtent / s.top_k, 1, 300))},
    .plan = fuzz::plan_function(h4j_moe_gate_plan),
    .rows = "max_tokens",
    .bindings = {fuzz::binding("moe_gate", h4j_moe_gate_bind, h4j_moe_gate_rebind, h4j_moe_gate,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(logits, s.max_tokens > 0 ? address(element_size(s.logits_dtype)) : any()),
                                H4J_FUZZ_ARG(logits_ld, ld(s.experts, 1)), H4J_FUZZ_ARG(bias, optional_address(4)),
                                H4J_FUZZ_ARG(disabled, optional_address(1)), H4J_FUZZ_ARG(ids, s.max_tokens > 0 ? address(4) : any()),
                                H4J_FUZZ_ARG(weights, s.max_tokens > 0 ? address(4) : any()), H4J_FUZZ_ARG(counts, optional_address(4))})},
});

}  // namespace
}  // namespace h4j::gate
