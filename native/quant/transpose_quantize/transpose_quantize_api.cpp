#include "quant/transpose_quantize/transpose_quantize_instances.h"
#include "quant/transpose_quantize/transpose_quantize_layout.h"
#include "runtime/plan.h"

namespace h4j::transpose_quantize {
namespace {

constexpr const char* kOperation = "transpose_quantize";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_transpose_quantize_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_scale_kind(kOperation, spec.scale_kind);
    require_range(kOperation, "max_rows", spec.max_rows, 0, kMaxExtent);
    require_range(kOperation, "cols", spec.cols, 8, kMaxExtent);
    require_multiple(kOperation, "cols", spec.cols, 8);
    sms = usable_sms(kOperation, device, spec.sm_budget);
    info.grid = grid(spec.max_rows);
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", only_instance().name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance, tiles of %d x %d; %d CTAs on %d SMs", kTile, kTile, info.grid, sms);
  }

  int grid(int64_t rows) const {
    return streaming_grid(ceil_div(rows, kTile) * ceil_div(spec.cols, kTile), spec.sm_budget, int64_t{sms} * kCtasPerSm);
  }

  h4j_transpose_quantize_spec spec;
  int sms;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_transpose_quantize_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(only_instance().stub, opened, 0) {
    max_rows = plan.spec.max_rows;
    rebind(args);
  }

  void rebind(const h4j_transpose_quantize_args& args) {
    const h4j_transpose_quantize_spec& spec = plan.spec;
    if (spec.max_rows > 0) {
      require_address(kOperation, "in", args.in, 16);
      require_address(kOperation, "out", args.out, 16);
      require_address(kOperation, "scales", args.scales, 16);
    }
    require_ld(kOperation, "in_ld", args.in_ld, spec.cols, 8);
    require_ld(kOperation, "out_ld", args.out_ld, spec.max_rows, 16);
    require_ld(kOperation, "scales_ld", args.scales_ld, spec.cols, 4);
    params.in = reinterpret_cast<const __nv_bfloat16*>(args.in);
    params.in_ld = args.in_ld;
    params.out = reinterpret_cast<uint8_t*>(args.out);
    params.out_ld = args.out_ld;
    params.scales = reinterpret_cast<float*>(args.scales);
    params.scales_ld = args.scales_ld;
    params.cols = static_cast<int32_t>(spec.cols);
    params.col_tiles = static_cast<int32_t>(ceil_div(spec.cols, kTile));
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
}  // namespace h4j::transpose_quantize

using namespace h4j;

h4j_status h4j_transpose_quantize_plan(const h4j_device_info* device, const h4j_transpose_quantize_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(transpose_quantize::kOperation, error, [&] {
    require_output(plan, transpose_quantize::kOperation, "plan") = nullptr;
    *plan = new transpose_quantize::Plan(read_struct(device, transpose_quantize::kOperation, "device"),
                                         read_struct(spec, transpose_quantize::kOperation, "spec"));
  });
}

h4j_status h4j_transpose_quantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_transpose_quantize_args* args, h4j_launch** launch,
                                       h4j_error* error) {
  return guarded(transpose_quantize::kOperation, error, [&] {
    require_output(launch, transpose_quantize::kOperation, "launch") = nullptr;
    *launch = bind<transpose_quantize::Plan, transpose_quantize::Launch>(plan, device, args, transpose_quantize::kOperation);
  });
}

h4j_status h4j_transpose_quantize_rebind(h4j_launch* launch, const h4j_transpose_quantize_args* args, h4j_error* error) {
  return guarded(transpose_quantize::kOperation, error, [&] {
    require_launch<transpose_quantize::Launch>(launch, transpose_quantize::kOperation)
        .rebind(read_struct(args, transpose_quantize::kOperation, "args"));
  });
}

h4j_status h4j_transpose_quantize(h4j_stream* stream, const h4j_transpose_quantize_spec* spec, const h4j_transpose_quantize_args* args,
                                  h4j_error* error) {
  return guarded(transpose_quantize::kOperation, error,
                 [&] { run_eagerly<transpose_quantize::Plan, transpose_quantize::Launch>(stream, spec, args, transpose_quantize::kOperation); });
}
