#include <algorithm>

#include "moe/unpermute/unpermute_instances.h"
#include "moe/unpermute/unpermute_layout.h"
#include "runtime/plan.h"

namespace h4j::unpermute {
namespace {

constexpr const char* kOperation = "moe_unpermute";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_moe_unpermute_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_range(kOperation, "top_k", spec.top_k, 1, kMaxTopK);
    require_range(kOperation, "weighted", spec.weighted, 0, 1);
    require_range(kOperation, "residual", spec.residual, 0, 1);
    require_range(kOperation, "max_tokens", spec.max_tokens, 0, kMaxExtent);
    require_range(kOperation, "rows", spec.rows, 0, kMaxExtent);
    require_range(kOperation, "hidden", spec.hidden, 8, kMaxExtent);
    require_multiple(kOperation, "hidden", spec.hidden, 8);
    sms = usable_sms(kOperation, device, spec.sm_budget);
    info.grid = grid(spec.max_tokens);
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", the_instance().name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance: a warp sums %d columns of a token; %d CTAs on %d SMs",
                  kPieceElements * kPiecesPerItem, info.grid, sms);
  }

  int grid(int64_t tokens) const {
    const int64_t warps = tokens * ceil_div(spec.hidden, kPieceElements * kPiecesPerItem);
    return static_cast<int>(std::min<int64_t>(ceil_div(warps, kWarps), int64_t{sms} * kCtasPerSm));
  }

  h4j_moe_unpermute_spec spec;
  int sms;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_moe_unpermute_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(the_instance().stub, opened, 0) {
    max_rows = plan.spec.max_tokens;
    params.bad_places = fault_site(opened, kOperation, "places");
    rebind(args);
  }

  void rebind(const h4j_moe_unpermute_args& args) {
    const h4j_moe_unpermute_spec& spec = plan.spec;
    if (spec.max_tokens > 0) {
      if (spec.rows > 0) require_address(kOperation, "x", args.x, 16);
      require_address(kOperation, "places", args.places, 4);
      if (spec.weighted) require_address(kOperation, "weights", args.weights, 4);
      if (spec.residual) require_address(kOperation, "residual", args.residual, 16);
      require_address(kOperation, "out", args.out, 16);
    }
    require_ld(kOperation, "x_ld", args.x_ld, spec.hidden, 8);
    if (spec.residual) require_ld(kOperation, "residual_ld", args.residual_ld, spec.hidden, 8);
    require_ld(kOperation, "out_ld", args.out_ld, spec.hidden, 8);
    params = {
        .x = reinterpret_cast<const void*>(args.x),
        .x_ld = args.x_ld,
        .places = reinterpret_cast<const int32_t*>(args.places),
        .weights = spec.weighted ? reinterpret_cast<const float*>(args.weights) : nullptr,
        .residual = spec.residual ? reinterpret_cast<const void*>(args.residual) : nullptr,
        .residual_ld = args.residual_ld,
        .out = reinterpret_cast<void*>(args.out),
        .out_ld = args.out_ld,
        .bad_places = params.bad_places,
        .tokens = 0,
        .rows = static_cast<int32_t>(spec.rows),
        .hidden = static_cast<int32_t>(spec.hidden),
        .top_k = spec.top_k,
    };
  }

  void run(CUstream stream, int64_t tokens) const override {
    Params used = params;
    used.tokens = static_cast<int32_t>(tokens);
    kernel.launch({static_cast<unsigned>(plan.grid(tokens)), kThreads}, stream, &used);
  }

  Plan plan;
  Kernel kernel;
  Params params{};
};

}  // namespace
}  // namespace h4j::unpermute

using namespace h4j;

h4j_status h4j_moe_unpermute_plan(const h4j_device_info* device, const h4j_moe_unpermute_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(unpermute::kOperation, error, [&] {
    require_output(plan, unpermute::kOperation, "plan") = nullptr;
    *plan = new unpermute::Plan(read_struct(device, unpermute::kOperation, "device"), read_struct(spec, unpermute::kOperation, "spec"));
  });
}

h4j_status h4j_moe_unpermute_bind(const h4j_plan* plan, h4j_device* device, const h4j_moe_unpermute_args* args, h4j_launch** launch,
                                  h4j_error* error) {
  return guarded(unpermute::kOperation, error, [&] {
    require_output(launch, unpermute::kOperation, "launch") = nullptr;
    *launch = bind<unpermute::Plan, unpermute::Launch>(plan, device, args, unpermute::kOperation);
  });
}

h4j_status h4j_moe_unpermute_rebind(h4j_launch* launch, const h4j_moe_unpermute_args* args, h4j_error* error) {
  return guarded(unpermute::kOperation, error,
                 [&] { require_launch<unpermute::Launch>(launch, unpermute::kOperation).rebind(read_struct(args, unpermute::kOperation, "args")); });
}

h4j_status h4j_moe_unpermute(h4j_stream* stream, const h4j_moe_unpermute_spec* spec, const h4j_moe_unpermute_args* args, h4j_error* error) {
  return guarded(unpermute::kOperation, error, [&] { run_eagerly<unpermute::Plan, unpermute::Launch>(stream, spec, args, unpermute::kOperation); });
}
