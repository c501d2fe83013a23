#include "moe/testing.h"
#include "testing/fuzz/fuzz.h"

namespace h4j::moe {
namespace {

using Spec = h4j_moe_combine_spec;
using Args = h4j_moe_combine_args;

int64_t most_rows(const Spec& s) {
  const h4j_group_spec group = testing::fuzzed_group();
  return s.mode == H4J_MODE_LATENCY ? group.latency_tokens : group.max_tokens;
}
int64_t hidden() { return testing::fuzzed_group().hidden; }

std::vector<fuzz::Field> arguments() {
  return {H4J_FUZZ_ARG(reserved, any()),
          H4J_FUZZ_ARG(handle, address(256)),
          H4J_FUZZ_ARG(x, s.layout == H4J_LAYOUT_EXPERT ? address(16) : any()),
          H4J_FUZZ_ARG(x_ld, s.layout == H4J_LAYOUT_EXPERT ? ld(hidden(), 8) : any()),
          H4J_FUZZ_ARG(residual, s.residual != 0 ? address(16) : any()),
          H4J_FUZZ_ARG(residual_ld, s.residual != 0 ? ld(hidden(), 8) : any()),
          H4J_FUZZ_ARG(out, address(16)),
          H4J_FUZZ_ARG(out_ld, ld(hidden(), 8))};
}

fuzz::Binding bound() {
  fuzz::Binding made;
  made.operation = "moe_combine";
  made.bound_to = "group";
  made.args_size = sizeof(Args);
  made.fields = arguments();
  made.bind = [](const h4j_plan* plan, h4j_device* device, const void* args, h4j_launch** launch, h4j_error* error) {
    return h4j_moe_combine_bind(plan, testing::fuzzed_group_open().on(device), static_cast<const Args*>(args), launch, error);
  };
  made.rebind = [](h4j_launch* launch, const void* args, h4j_error* error) {
    return h4j_moe_combine_rebind(launch, static_cast<const Args*>(args), error);
  };
  return made;
}

const fuzz::Registered registered({
    .name = "moe_combine",
    .spec_size = sizeof(Spec),
    .fields = {H4J_FUZZ_SPEC(mode, range(H4J_MODE_THROUGHPUT, H4J_MODE_LATENCY)),
               H4J_FUZZ_SPEC(layout, range(s.mode == H4J_MODE_LATENCY ? H4J_LAYOUT_EXPERT : H4J_LAYOUT_RANK, H4J_LAYOUT_EXPERT)),
               H4J_FUZZ_SPEC(half, range(H4J_WHOLE, H4J_FINISH)), H4J_FUZZ_SPEC(residual, range(0, 1)), H4J_FUZZ_SPEC(channel, range(0, 2))},
    .plan =
        [](const h4j_device_info* device, const void* spec, h4j_plan** plan, h4j_error* error) {
          const h4j_group_spec group = testing::fuzzed_group();
          return h4j_moe_combine_plan(device, &group, static_cast<const Spec*>(spec), plan, error);
        },
    .most_rows = [](const void* spec) { return most_rows(*static_cast<const Spec*>(spec)); },
    .runs_alone = [](const void*) { return false; },  // it believes the handle that a dispatch has written
    .bindings = {bound()},
    .close = [] { testing::fuzzed_group_open().close(); },
});

}  // namespace
}  // namespace h4j::moe
