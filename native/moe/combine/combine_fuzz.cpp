#include "moe/testing.h"
#include "testing/fuzz/fuzz.h"

namespace h4j::moe {
namespace {

using Spec = h4j_moe_combine_spec;
using Args = h4j_moe_combine_args;

// Plans alone: a launch is bound to a group, not to a device.
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
});

}  // namespace
}  // namespace h4j::moe
