#include "testing/fuzz/fuzz.h"

namespace h4j::rmsnorm_quantize {
namespace {

using Spec = h4j_rmsnorm_quantize_spec;
using Args = h4j_rmsnorm_quantize_args;

const fuzz::Registered registered({
    .name = "rmsnorm_quantize",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(weight_dtype, one_of({H4J_BF16, H4J_F32})), H4J_FUZZ_SPEC(scale_kind, one_of({H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO})),
               H4J_FUZZ_SPEC(residual, range(0, 1)), H4J_FUZZ_SPEC(normalized, range(0, 1)), H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)),
               H4J_FUZZ_SPEC(eps, positive_float()), H4J_FUZZ_SPEC(reserved, any()), H4J_FUZZ_SPEC(max_rows, range(0, kMaxExtent, 1, 100)),
               H4J_FUZZ_SPEC(cols, range(8, 32768, 8))},
    .plan = fuzz::plan_function(h4j_rmsnorm_quantize_plan),
    .rows = "max_rows",
    .bindings = {fuzz::binding("rmsnorm_quantize", h4j_rmsnorm_quantize_bind, h4j_rmsnorm_quantize_rebind, h4j_rmsnorm_quantize,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(in, s.max_rows > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(in_ld, ld(s.cols, 8)), H4J_FUZZ_ARG(residual, s.max_rows > 0 && s.residual != 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(residual_ld, s.residual != 0 ? ld(s.cols, 8) : any()), H4J_FUZZ_ARG(weight, address(16)),
                                H4J_FUZZ_ARG(out, s.max_rows > 0 ? address(16) : any()), H4J_FUZZ_ARG(out_ld, ld(s.cols, 16)),
                                H4J_FUZZ_ARG(scales, s.max_rows > 0 ? address(16) : any()), H4J_FUZZ_ARG(scales_ld, ld(s.max_rows, 4)),
                                H4J_FUZZ_ARG(normalized, s.max_rows > 0 && s.normalized != 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(normalized_ld, s.normalized != 0 ? ld(s.cols, 8) : any())})},
});

}  // namespace
}  // namespace h4j::rmsnorm_quantize
