#include <algorithm>
#include <cmath>

#include "moe/gate/gate_instances.h"
#include "moe/gate/gate_layout.h"
#include "runtime/plan.h"

namespace h4j::gate {
namespace {

constexpr const char* kOperation = "moe_gate";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_moe_gate_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_dtype(kOperation, "logits_dtype", spec.logits_dtype, {H4J_F32, H4J_BF16});
    require_range(kOperation, "scores", spec.scores, H4J_SCORES_SIGMOID, H4J_SCORES_SOFTMAX);
    require_range(kOperation, "experts", spec.experts, 1, kMaxExperts);
    require_range(kOperation, "groups", spec.groups, 1, kMaxGroups);
    if (spec.experts % spec.groups != 0) invalid(kOperation, "groups", format("%d", spec.groups), format("a divisor of %d experts", spec.experts));
    require_range(kOperation, "kept_groups", spec.kept_groups, 1, spec.groups);
    require_range(kOperation, "top_k", spec.top_k, 1, std::min(kMaxTopK, spec.kept_groups * (spec.experts / spec.groups)));
    require_range(kOperation, "normalize", spec.normalize, 0, 1);
    require_range(kOperation, "add_counts", spec.add_counts, 0, 1);
    if (!(spec.scale > 0.0f) || !std::isfinite(spec.scale)) {
      invalid(kOperation, "scale", format("%g", static_cast<double>(spec.scale)), "a finite number > 0");
    }
    require_range(kOperation, "max_tokens", spec.max_tokens, 0, kMaxExtent / spec.top_k);
    sms = usable_sms(kOperation, device, spec.sm_budget);
    instance = find_instance(spec.logits_dtype, experts_per_lane(spec.experts, spec.groups));
    info.grid = grid(spec.max_tokens);
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation, "a warp a token, %d lanes a group, up to %d of %d experts a lane; %d CTAs on %d SMs",
                  lanes_per_group(spec.groups), instance->experts_per_lane, spec.experts, info.grid, sms);
  }

  int grid(int64_t tokens) const { return static_cast<int>(std::min<int64_t>(ceil_div(tokens, kWarpsPerCta), int64_t{sms} * kCtasPerSm)); }

  h4j_moe_gate_spec spec;
  int sms;
  const Instance* instance;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_moe_gate_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(plan.instance->stub, opened, 0) {
    max_rows = plan.spec.max_tokens;
    rebind(args);
  }

  void rebind(const h4j_moe_gate_args& args) {
    const h4j_moe_gate_spec& spec = plan.spec;
    if (spec.max_tokens > 0) {
      require_address(kOperation, "logits", args.logits, element_size(spec.logits_dtype));
      require_address(kOperation, "ids", args.ids, 4);
      require_address(kOperation, "weights", args.weights, 4);
    }
    require_ld(kOperation, "logits_ld", args.logits_ld, spec.experts, 1);
    if (args.bias != 0) require_address(kOperation, "bias", args.bias, 4);
    if (args.disabled != 0) require_address(kOperation, "disabled", args.disabled, 1);
    if (args.counts != 0) require_address(kOperation, "counts", args.counts, 4);
    params = {
        .logits = reinterpret_cast<const void*>(args.logits),
        .logits_ld = args.logits_ld,
        .bias = reinterpret_cast<const float*>(args.bias),
        .disabled = reinterpret_cast<const uint8_t*>(args.disabled),
        .ids = reinterpret_cast<int32_t*>(args.ids),
        .weights = reinterpret_cast<float*>(args.weights),
        .counts = reinterpret_cast<int32_t*>(args.counts),
        .tokens = 0,
        .experts = spec.experts,
        .groups = spec.groups,
        .kept_groups = spec.kept_groups,
        .top_k = spec.top_k,
        .lanes_per_group = lanes_per_group(spec.groups),
        .softmax = spec.scores == H4J_SCORES_SOFTMAX,
        .normalize = spec.normalize,
        .scale = spec.scale,
    };
    clears = params.counts != nullptr && spec.add_counts == 0;
    runs_empty = clears;
  }

  void run(CUstream stream, int64_t tokens) const override {
    if (clears)
      check(driver().cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(params.counts), 0, size_t(plan.spec.experts) * 4, stream), "cuMemsetD8Async");
    if (tokens == 0) return;
    Params used = params;
    used.tokens = static_cast<int32_t>(tokens);
    kernel.launch({static_cast<unsigned>(plan.grid(tokens)), kThreads}, stream, &used);
  }

  Plan plan;
  Kernel kernel;
  Params params{};
  bool clears = false;
};

}  // namespace
}  // namespace h4j::gate

using namespace h4j;

h4j_status h4j_moe_gate_plan(const h4j_device_info* device, const h4j_moe_gate_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(gate::kOperation, error, [&] {
    require_output(plan, gate::kOperation, "plan") = nullptr;
    *plan = new gate::Plan(read_struct(device, gate::kOperation, "device"), read_struct(spec, gate::kOperation, "spec"));
  });
}

h4j_status h4j_moe_gate_bind(const h4j_plan* plan, h4j_device* device, const h4j_moe_gate_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(gate::kOperation, error, [&] {
    require_output(launch, gate::kOperation, "launch") = nullptr;
    *launch = bind<gate::Plan, gate::Launch>(plan, device, args, gate::kOperation);
  });
}

h4j_status h4j_moe_gate_rebind(h4j_launch* launch, const h4j_moe_gate_args* args, h4j_error* error) {
  return guarded(gate::kOperation, error,
                 [&] { require_launch<gate::Launch>(launch, gate::kOperation).rebind(read_struct(args, gate::kOperation, "args")); });
}

h4j_status h4j_moe_gate(h4j_stream* stream, const h4j_moe_gate_spec* spec, const h4j_moe_gate_args* args, h4j_error* error) {
  return guarded(gate::kOperation, error, [&] { run_eagerly<gate::Plan, gate::Launch>(stream, spec, args, gate::kOperation); });
}
