#include "testing/fuzz/fuzz.h"

namespace h4j::mla_cache_write {
namespace {

using Spec = h4j_mla_cache_write_spec;
using Args = h4j_mla_cache_write_args;

// Elements of BF16 caches, bytes of FP8 ones.
int64_t token_size(const Spec& spec) { return spec.format == H4J_MLA_CACHE_BF16 ? 576 : 656; }
int64_t token_multiple(const Spec& spec) { return spec.format == H4J_MLA_CACHE_BF16 ? 8 : 16; }

const fuzz::Registered registered({
    .name = "mla_cache_write",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(format, range(H4J_MLA_CACHE_BF16, H4J_MLA_CACHE_FP8_TOKEN)),
               H4J_FUZZ_SPEC(scale_kind, one_of({H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO})), H4J_FUZZ_SPEC(weight_dtype, one_of({H4J_BF16, H4J_F32})),
               H4J_FUZZ_SPEC(position_dtype, one_of({H4J_I32, H4J_I64})),
               H4J_FUZZ_SPEC(page_size, one_of({1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024})),
               H4J_FUZZ_SPEC(request_tokens, range(1, INT32_MAX, 1, 4)), H4J_FUZZ_SPEC(sm_budget, at_least(0, 140)),
               H4J_FUZZ_SPEC(eps, positive_float()), H4J_FUZZ_SPEC(reserved, any()), H4J_FUZZ_SPEC(max_tokens, range(0, kMaxExtent, 1, 100)),
               H4J_FUZZ_SPEC(max_batch, range(0, kMaxExtent, 1, 8)), H4J_FUZZ_SPEC(max_length, range(0, INT32_MAX / 2, 1, 300)),
               H4J_FUZZ_SPEC(pages, range(1, INT32_MAX, 1, 16))},
    .plan = fuzz::plan_function(h4j_mla_cache_write_plan),
    .rows = "max_tokens",
    .bindings = {fuzz::binding("mla_cache_write", h4j_mla_cache_write_bind, h4j_mla_cache_write_rebind, h4j_mla_cache_write,
                               {H4J_FUZZ_ARG(reserved, any()), H4J_FUZZ_ARG(in, s.max_tokens > 0 ? address(16) : any()),
                                H4J_FUZZ_ARG(in_ld, ld(576, 8)), H4J_FUZZ_ARG(weight, address(16)),
                                H4J_FUZZ_ARG(rope, s.max_tokens > 0 && s.max_length > 0 ? address(4) : any()),
                                H4J_FUZZ_ARG(positions, s.max_tokens > 0 ? address(s.position_dtype == H4J_I64 ? 8 : 4) : any()),
                                H4J_FUZZ_ARG(requests, s.max_tokens > 0 ? optional_address(4) : any()),
                                H4J_FUZZ_ARG(block_table, s.max_tokens > 0 && s.max_length > 0 && s.max_batch > 0 ? address(4) : any()),
                                H4J_FUZZ_ARG(block_table_ld, ld(ceil_div(s.max_length, s.page_size), 1)), H4J_FUZZ_ARG(cache, address(16)),
                                H4J_FUZZ_ARG(cache_ld, ld(token_size(s), token_multiple(s))),
                                H4J_FUZZ_ARG(cache_page_ld, range(product(s.page_size, a.cache_ld), kMaxGroupExtent, token_multiple(s), 8))})},
});

}  // namespace
}  // namespace h4j::mla_cache_write
