#include <algorithm>

#include "quant/swiglu_quantize/swiglu_quantize_instances.h"
#include "quant/swiglu_quantize/swiglu_quantize_layout.h"
#include "runtime/plan.h"

namespace h4j::swiglu_quantize {
namespace {

constexpr const char* kOperation = "swiglu_quantize";
constexpr int64_t kScaleBlock = 128;

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_swiglu_quantize_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_scale_kind(kOperation, spec.scale_kind);
    require_range(kOperation, "weighted", spec.weighted, 0, 1);
    require_range(kOperation, "masked", spec.masked, 0, 1);
    require_range(kOperation, "groups", spec.groups, 1, spec.masked ? kMaxGroups : 1);
    require_range(kOperation, "max_rows", spec.max_rows, 0, kMaxExtent / spec.groups);
    require_range(kOperation, "cols", spec.cols, 8, kMaxExtent / 2);
    require_multiple(kOperation, "cols", spec.cols, 8);
    sms = usable_sms(kOperation, device, spec.sm_budget);
    instance = &find_instance(spec.masked != 0);
    info.grid = grid(spec.max_rows);
    info.block = kThreads;
    info.shared_memory = 0;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance for %s; %d CTAs on %d SMs",
                  spec.masked ? "counts of rows in device memory" : "rows given by the launch", info.grid, sms);
  }

  int grid(int64_t rows) const {
    const int64_t warps = spec.groups * ceil_div(rows, kRowsPerWarp) * ceil_div(spec.cols, kScaleBlock);
    const int64_t resident = int64_t{sms} * kCtasPerSm;
    // How many rows counts will ask for is not known, and each CTA reads all counts: two for each that runs at once.
    return spec.masked ? static_cast<int>(std::min(ceil_div(warps, kWarpsPerCta), 2 * resident))
                       : streaming_grid(ceil_div(warps, kWarpsPerCta), spec.sm_budget, resident);
  }

  h4j_swiglu_quantize_spec spec;
  int sms;
  const Instance* instance;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_swiglu_quantize_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(plan.instance->stub, opened, 0) {
    max_rows = plan.spec.max_rows;
    params.row_counts_site = fault_site(opened, kOperation, "row_counts");
    rebind(args);
  }

  void rebind(const h4j_swiglu_quantize_args& args) {
    const h4j_swiglu_quantize_spec& spec = plan.spec;
    if (spec.max_rows > 0) {
      require_address(kOperation, "in", args.in, 16);
      require_address(kOperation, "out", args.out, 16);
      require_address(kOperation, "scales", args.scales, 16);
      if (spec.weighted) require_address(kOperation, "weights", args.weights, 4);
    }
    if (spec.masked) require_address(kOperation, "row_counts", args.row_counts, 4);
    require_ld(kOperation, "in_ld", args.in_ld, 2 * spec.cols, 8);
    require_ld(kOperation, "out_ld", args.out_ld, spec.cols, 16);
    require_ld(kOperation, "scales_ld", args.scales_ld, spec.max_rows, 4);
    if (spec.groups > 1) {
      require_far_ld(kOperation, "in_group_ld", args.in_group_ld, spec.max_rows * args.in_ld, 8);
      require_far_ld(kOperation, "out_group_ld", args.out_group_ld, spec.max_rows * args.out_ld, 16);
      require_far_ld(kOperation, "scales_group_ld", args.scales_group_ld, spec.max_rows, 1);
    }
    params.in = reinterpret_cast<const __nv_bfloat16*>(args.in);
    params.in_ld = args.in_ld;
    params.in_group_ld = args.in_group_ld;
    params.weights = spec.weighted ? reinterpret_cast<const float*>(args.weights) : nullptr;
    params.row_counts = reinterpret_cast<const int32_t*>(args.row_counts);
    params.out = reinterpret_cast<uint8_t*>(args.out);
    params.out_ld = args.out_ld;
    params.out_group_ld = args.out_group_ld;
    params.scales = reinterpret_cast<float*>(args.scales);
    params.scales_ld = args.scales_ld;
    params.scales_group_ld = args.scales_group_ld;
    params.groups = spec.groups;
    params.max_rows = static_cast<int32_t>(spec.max_rows);
    params.cols = static_cast<int32_t>(spec.cols);
    params.col_blocks = static_cast<int32_t>(ceil_div(spec.cols, kScaleBlock));
    params.power_of_two = spec.scale_kind == H4J_SCALE_POWER_OF_TWO;
  }

  void run(CUstream stream, int64_t rows) const override {
    Params used = params;
    used.rows = static_cast<int32_t>(rows);
    kernel.launch({static_cast<unsigned>(plan.grid(rows)), kThreads}, stream, &used);
  }

  Plan plan;
  Kernel kernel;
  Params params{};
};

}  // namespace
}  // namespace h4j::swiglu_quantize

using namespace h4j;

h4j_status h4j_swiglu_quantize_plan(const h4j_device_info* device, const h4j_swiglu_quantize_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(swiglu_quantize::kOperation, error, [&] {
    require_output(plan, swiglu_quantize::kOperation, "plan") = nullptr;
    *plan =
        new swiglu_quantize::Plan(read_struct(device, swiglu_quantize::kOperation, "device"), read_struct(spec, swiglu_quantize::kOperation, "spec"));
  });
}

h4j_status h4j_swiglu_quantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_swiglu_quantize_args* args, h4j_launch** launch,
                                    h4j_error* error) {
  return guarded(swiglu_quantize::kOperation, error, [&] {
    require_output(launch, swiglu_quantize::kOperation, "launch") = nullptr;
    *launch = bind<swiglu_quantize::Plan, swiglu_quantize::Launch>(plan, device, args, swiglu_quantize::kOperation);
  });
}

h4j_status h4j_swiglu_quantize_rebind(h4j_launch* launch, const h4j_swiglu_quantize_args* args, h4j_error* error) {
  return guarded(swiglu_quantize::kOperation, error, [&] {
    require_launch<swiglu_quantize::Launch>(launch, swiglu_quantize::kOperation).rebind(read_struct(args, swiglu_quantize::kOperation, "args"));
  });
}

h4j_status h4j_swiglu_quantize(h4j_stream* stream, const h4j_swiglu_quantize_spec* spec, const h4j_swiglu_quantize_args* args, h4j_error* error) {
  return guarded(swiglu_quantize::kOperation, error,
                 [&] { run_eagerly<swiglu_quantize::Plan, swiglu_quantize::Launch>(stream, spec, args, swiglu_quantize::kOperation); });
}
