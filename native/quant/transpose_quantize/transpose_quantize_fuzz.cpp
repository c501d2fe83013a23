#include "testing/fuzz/fuzz.h"

namespace h4j::transpose_quantize {
namespace {

using Spec = h4j_transpose_quantize_spec;
using Args = h4j_transpose_quantize_args;

const fuzz::Registered registered({
    .name = "transpose_quantize",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(scale_kind, one_of({H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO})), H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)),
               H4J_FUZZ_SPEC(reserved, any()), H4J_FUZZ_SPEC(max_rows, range(0, kMaxExtent, 1, 300)), H4J_FUZZ_SPEC(cols, range(8, kMaxExtent, 8))},
    .plan = fuzz::plan_function(h4j_transpose_quantize_plan),
    .rows = "max_rows",
    .bindings = {fuzz::binding("transpose_quantize", h4j_transpose_quantize_bind, h4j_transpose_quantize_rebind, h4j_transpose_quantize,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(in, s.max_rows > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(in_ld, ld(s.cols, 8)), H4J_FUZZ_ARG(out, s.max_rows > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(out_ld, ld(s.max_rows, 16)), H4J_FUZZ_ARG(scales, s.max_rows > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(scales_ld, ld(s.cols, 4))})},
});

}  // namespace
}  // namespace h4j::transpose_quantize
