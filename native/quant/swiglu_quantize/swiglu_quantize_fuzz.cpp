#include "testing/fuzz/fuzz.h"

namespace h4j::swiglu_quantize {
namespace {

using Spec = h4j_swiglu_quantize_spec;
using Args = h4j_swiglu_quantize_args;

const fuzz::Registered registered({
    .name = "swiglu_quantize",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(scale_kind, one_of({H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO})), H4J_FUZZ_SPEC(weighted, range(0, 1)),
               H4J_FUZZ_SPEC(masked, range(0, 1)), H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)),
               H4J_FUZZ_SPEC(groups, range(1, s.masked == 0 ? 1 : 1024, 1, 8)),
               H4J_FUZZ_SPEC(max_rows, range(0, s.groups < 1 ? kMaxExtent : kMaxExtent / s.groups, 1, 100)),
               H4J_FUZZ_SPEC(cols, range(8, kMaxExtent / 2, 8))},
    .plan = fuzz::plan_function(h4j_swiglu_quantize_plan),
    .rows = "max_rows",
    .bindings = {fuzz::binding(
        "swiglu_quantize", h4j_swiglu_quantize_bind, h4j_swiglu_quantize_rebind, h4j_swiglu_quantize,
        {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(in, s.max_rows > 0 ? address(16) : any()), H4J_FUZZ_ARG(in_ld, ld(product(2, s.cols), 8)),
         H4J_FUZZ_ARG(in_group_ld, s.groups > 1 ? range(product(s.max_rows, a.in_ld), kMaxGroupExtent, 8, 8) : any()),
         H4J_FUZZ_ARG(weights, s.max_rows > 0 && s.weighted != 0 ? address(4) : any()), H4J_FUZZ_ARG(row_counts, s.masked != 0 ? address(4) : any()),
         H4J_FUZZ_ARG(out, s.max_rows > 0 ? address(16) : any()), H4J_FUZZ_ARG(out_ld, ld(s.cols, 16)),
         H4J_FUZZ_ARG(out_group_ld, s.groups > 1 ? range(product(s.max_rows, a.out_ld), kMaxGroupExtent, 16, 8) : any()),
         H4J_FUZZ_ARG(scales, s.max_rows > 0 ? address(16) : any()), H4J_FUZZ_ARG(scales_ld, ld(s.max_rows, 4)),
         H4J_FUZZ_ARG(scales_group_ld, s.groups > 1 ? range(s.max_rows, kMaxGroupExtent, 1, 8) : any())})},
});

}  // namespace
}  // namespace h4j::swiglu_quantize
