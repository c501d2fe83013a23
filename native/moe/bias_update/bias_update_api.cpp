#include <cmath>

#include "moe/bias_update/bias_update_instances.h"
#include "moe/bias_update/bias_update_layout.h"
#include "runtime/plan.h"

namespace h4j::bias_update {
namespace {

constexpr const char* kOperation = "moe_bias_update";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_moe_bias_update_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_range(kOperation, "experts", spec.experts, 1, kMaxExperts);
    require_range(kOperation, "clear_counts", spec.clear_counts, 0, 1);
    if (!(spec.step >= 0.0f) || !std::isfinite(spec.step)) {
      invalid(kOperation, "step", format("%g", static_cast<double>(spec.step)), "a finite number >= 0");
    }
    usable_sms(kOperation, device, spec.sm_budget);
    info.grid = 1;
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", the_instance().name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance: a thread an expert");
  }

  h4j_moe_bias_update_spec spec;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_moe_bias_update_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(the_instance().stub, opened, 0) {
    max_rows = 1;
    rebind(args);
  }

  void rebind(const h4j_moe_bias_update_args& args) {
    require_address(kOperation, "counts", args.counts, 4);
    require_address(kOperation, "bias", args.bias, 4);
    params = {.counts = reinterpret_cast<int32_t*>(args.counts),
              .bias = reinterpret_cast<float*>(args.bias),
              .experts = plan.spec.experts,
              .clear_counts = plan.spec.clear_counts,
              .step = plan.spec.step};
  }

  void run(CUstream stream, int64_t) const override { kernel.launch({1, kThreads}, stream, &params); }

  Plan plan;
  Kernel kernel;
  Params params{};
};

}  // namespace
}  // namespace h4j::bias_update

using namespace h4j;

h4j_status h4j_moe_bias_update_plan(const h4j_device_info* device, const h4j_moe_bias_update_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(bias_update::kOperation, error, [&] {
    require_output(plan, bias_update::kOperation, "plan") = nullptr;
    *plan = new bias_update::Plan(read_struct(device, bias_update::kOperation, "device"), read_struct(spec, bias_update::kOperation, "spec"));
  });
}

h4j_status h4j_moe_bias_update_bind(const h4j_plan* plan, h4j_device* device, const h4j_moe_bias_update_args* args, h4j_launch** launch,
                                    h4j_error* error) {
  return guarded(bias_update::kOperation, error, [&] {
    require_output(launch, bias_update::kOperation, "launch") = nullptr;
    *launch = bind<bias_update::Plan, bias_update::Launch>(plan, device, args, bias_update::kOperation);
  });
}

h4j_status h4j_moe_bias_update_rebind(h4j_launch* launch, const h4j_moe_bias_update_args* args, h4j_error* error) {
  return guarded(bias_update::kOperation, error, [&] {
    require_launch<bias_update::Launch>(launch, bias_update::kOperation).rebind(read_struct(args, bias_update::kOperation, "args"));
  });
}

h4j_status h4j_moe_bias_update(h4j_stream* stream, const h4j_moe_bias_update_spec* spec, const h4j_moe_bias_update_args* args, h4j_error* error) {
  return guarded(bias_update::kOperation, error,
                 [&] { run_eagerly<bias_update::Plan, bias_update::Launch>(stream, spec, args, bias_update::kOperation); });
}
