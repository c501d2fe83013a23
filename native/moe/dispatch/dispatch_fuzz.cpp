#include <algorithm>

#include "moe/testing.h"
#include "testing/fuzz/fuzz.h"

namespace h4j::moe {
namespace {

using Spec = h4j_moe_dispatch_spec;
using Args = h4j_moe_dispatch_args;

bool is_latency(const Spec& s) { return s.mode == H4J_MODE_LATENCY; }
bool is_by_expert(const Spec& s) { return s.layout == H4J_LAYOUT_EXPERT; }
bool is_fp8(const Spec& s) { return s.in_dtype == H4J_F8_E4M3; }
int64_t most_rows(const Spec& s) {
  const h4j_group_spec group = testing::fuzzed_group();
  return is_latency(s) ? group.latency_tokens : group.max_tokens;
}
int64_t hidden() { return testing::fuzzed_group().hidden; }

std::vector<fuzz::Field> arguments() {
  return {H4J_FUZZ_ARG(reserved, any()),
          H4J_FUZZ_ARG(x, address(16)),
          H4J_FUZZ_ARG(x_ld, ld(hidden(), is_fp8(s) ? 16 : 8)),
          H4J_FUZZ_ARG(x_scales, is_fp8(s) ? address(4) : any()),
          H4J_FUZZ_ARG(x_scales_ld, is_fp8(s) ? ld(most_rows(s), 1) : any()),
          H4J_FUZZ_ARG(experts, address(16)),
          H4J_FUZZ_ARG(weights, optional_address(16)),
          H4J_FUZZ_ARG(handle, address(256)),
          H4J_FUZZ_ARG(received, optional_address(4)),
          H4J_FUZZ_ARG(out, is_by_expert(s) ? address(16) : any()),
          H4J_FUZZ_ARG(out_ld, is_by_expert(s) ? ld(hidden(), 16) : any()),
          H4J_FUZZ_ARG(out_rows, is_by_expert(s) && !is_latency(s) ? range(0, kMaxExtent) : any()),
          H4J_FUZZ_ARG(out_scales, is_by_expert(s) ? address(4) : any()),
          H4J_FUZZ_ARG(out_scales_ld, is_by_expert(s) ? ld(is_latency(s) ? most_rows(s) : std::clamp<int64_t>(a.out_rows, 0, kMaxExtent), 1) : any()),
          H4J_FUZZ_ARG(expert_rows, is_by_expert(s) ? address(4) : any())};
}

fuzz::Binding bound() {
  fuzz::Binding made;
  made.operation = "moe_dispatch";
  made.bound_to = "group";
  made.args_size = sizeof(Args);
  made.fields = arguments();
  made.bind = [](const h4j_plan* plan, h4j_device* device, const void* args, h4j_launch** launch, h4j_error* error) {
    return h4j_moe_dispatch_bind(plan, testing::fuzzed_group_open().on(device), static_cast<const Args*>(args), launch, error);
  };
  made.rebind = [](h4j_launch* launch, const void* args, h4j_error* error) {
    return h4j_moe_dispatch_rebind(launch, static_cast<const Args*>(args), error);
  };
  return made;
}

const fuzz::Registered registered({
    .name = "moe_dispatch",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(mode, range(H4J_MODE_THROUGHPUT, H4J_MODE_LATENCY)),
               H4J_FUZZ_SPEC(layout, range(s.mode == H4J_MODE_LATENCY ? H4J_LAYOUT_EXPERT : H4J_LAYOUT_RANK, H4J_LAYOUT_EXPERT)),
               H4J_FUZZ_SPEC(half, range(H4J_WHOLE, H4J_FINISH)), H4J_FUZZ_SPEC(in_dtype, one_of({H4J_BF16, H4J_F8_E4M3})),
               H4J_FUZZ_SPEC(alignment,
                             s.layout == H4J_LAYOUT_EXPERT && s.mode == H4J_MODE_THROUGHPUT ? one_of({1, 2, 4, 8, 16, 32, 64, 128, 256}) : any()),
               H4J_FUZZ_SPEC(channel, range(0, 2)), H4J_FUZZ_SPEC(reuse, range(0, s.layout == H4J_LAYOUT_RANK ? 1 : 0))},
    .plan =
        [](const h4j_device_info* device, const void* spec, h4j_plan** plan, h4j_error* error) {
          const h4j_group_spec group = testing::fuzzed_group();
          return h4j_moe_dispatch_plan(device, &group, static_cast<const Spec*>(spec), plan, error);
        },
    .most_rows = [](const void* spec) { return most_rows(*static_cast<const Spec*>(spec)); },
    // A half waits for the other one, and a handle that is reused is believed.
    .runs_alone =
        [](const void* spec) {
          const auto& s = *static_cast<const Spec*>(spec);
          return s.half == H4J_WHOLE && s.reuse == 0;
        },
    .bindings = {bound()},
    .close = [] { testing::fuzzed_group_open().close(); },
});

}  // namespace
}  // namespace h4j::moe
