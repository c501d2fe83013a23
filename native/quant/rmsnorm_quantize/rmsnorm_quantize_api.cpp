#include <cmath>

#include "quant/rmsnorm_quantize/rmsnorm_quantize_instances.h"
#include "quant/rmsnorm_quantize/rmsnorm_quantize_layout.h"
#include "runtime/plan.h"

namespace h4j::rmsnorm_quantize {
namespace {

constexpr const char* kOperation = "rmsnorm_quantize";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_rmsnorm_quantize_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_dtype(kOperation, "weight_dtype", spec.weight_dtype, {H4J_BF16, H4J_F32});
    require_scale_kind(kOperation, spec.scale_kind);
    require_range(kOperation, "residual", spec.residual, 0, 1);
    require_range(kOperation, "normalized", spec.normalized, 0, 1);
    if (!(spec.eps > 0.0f) || !std::isfinite(spec.eps)) {
      invalid(kOperation, "eps", format("%g", static_cast<double>(spec.eps)), "a finite number > 0");
    }
    require_range(kOperation, "max_rows", spec.max_rows, 0, kMaxExtent);
    require_range(kOperation, "cols", spec.cols, 8, kMaxCols);
    require_multiple(kOperation, "cols", spec.cols, 8);
    sms = usable_sms(kOperation, device, spec.sm_budget);
    instance = find_instance(spec.weight_dtype, spec.cols);
    info.grid = grid(spec.max_rows);
    info.block = threads_of(instance->row_threads);
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation, "the narrowest instance that holds a row of %lld, %d threads a row; %d CTAs on %d SMs",
                  static_cast<long long>(spec.cols), instance->row_threads, info.grid, sms);
  }

  int grid(int64_t rows) const {
    const int rows_per_cta = threads_of(instance->row_threads) / instance->row_threads;
    return streaming_grid(ceil_div(rows, rows_per_cta), spec.sm_budget, int64_t{sms} * ctas_per_sm(instance->row_threads));
  }

  h4j_rmsnorm_quantize_spec spec;
  int sms;
  const Instance* instance;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_rmsnorm_quantize_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(plan.instance->stub, opened, 0) {
    max_rows = plan.spec.max_rows;
    rebind(args);
  }

  void rebind(const h4j_rmsnorm_quantize_args& args) {
    const h4j_rmsnorm_quantize_spec& spec = plan.spec;
    require_address(kOperation, "weight", args.weight, 16);
    if (spec.max_rows > 0) {
      require_address(kOperation, "in", args.in, 16);
      require_address(kOperation, "out", args.out, 16);
      require_address(kOperation, "scales", args.scales, 16);
      if (spec.residual) require_address(kOperation, "residual", args.residual, 16);
      if (spec.normalized) require_address(kOperation, "normalized", args.normalized, 16);
    }
    require_ld(kOperation, "in_ld", args.in_ld, spec.cols, 8);
    require_ld(kOperation, "out_ld", args.out_ld, spec.cols, 16);
    require_ld(kOperation, "scales_ld", args.scales_ld, spec.max_rows, 4);
    if (spec.residual) require_ld(kOperation, "residual_ld", args.residual_ld, spec.cols, 8);
    if (spec.normalized) require_ld(kOperation, "normalized_ld", args.normalized_ld, spec.cols, 8);
    params.in = reinterpret_cast<const __nv_bfloat16*>(args.in);
    params.in_ld = args.in_ld;
    params.residual = spec.residual ? reinterpret_cast<__nv_bfloat16*>(args.residual) : nullptr;
    params.residual_ld = args.residual_ld;
    params.weight = reinterpret_cast<const void*>(args.weight);
    params.out = reinterpret_cast<uint8_t*>(args.out);
    params.out_ld = args.out_ld;
    params.scales = reinterpret_cast<float*>(args.scales);
    params.scales_ld = args.scales_ld;
    params.normalized = spec.normalized ? reinterpret_cast<__nv_bfloat16*>(args.normalized) : nullptr;
    params.normalized_ld = args.normalized_ld;
    params.eps = spec.eps;
    params.cols = static_cast<int32_t>(spec.cols);
    params.power_of_two = spec.scale_kind == H4J_SCALE_POWER_OF_TWO;
  }

  void run(CUstream stream, int64_t rows) const override {
    Params used = params;
    used.rows = static_cast<int32_t>(rows);
    kernel.launch({static_cast<unsigned>(plan.grid(rows)), static_cast<unsigned>(plan.info.block)}, stream, &used);
  }

  Plan plan;
  Kernel kernel;
  Params params{};
};

}  // namespace
}  // namespace h4j::rmsnorm_quantize

using namespace h4j;

h4j_status h4j_rmsnorm_quantize_plan(const h4j_device_info* device, const h4j_rmsnorm_quantize_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(rmsnorm_quantize::kOperation, error, [&] {
    require_output(plan, rmsnorm_quantize::kOperation, "plan") = nullptr;
    *plan = new rmsnorm_quantize::Plan(read_struct(device, rmsnorm_quantize::kOperation, "device"),
                                       read_struct(spec, rmsnorm_quantize::kOperation, "spec"));
  });
}

h4j_status h4j_rmsnorm_quantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_rmsnorm_quantize_args* args, h4j_launch** launch,
                                     h4j_error* error) {
  return guarded(rmsnorm_quantize::kOperation, error, [&] {
    require_output(launch, rmsnorm_quantize::kOperation, "launch") = nullptr;
    *launch = bind<rmsnorm_quantize::Plan, rmsnorm_quantize::Launch>(plan, device, args, rmsnorm_quantize::kOperation);
  });
}

h4j_status h4j_rmsnorm_quantize_rebind(h4j_launch* launch, const h4j_rmsnorm_quantize_args* args, h4j_error* error) {
  return guarded(rmsnorm_quantize::kOperation, error, [&] {
    require_launch<rmsnorm_quantize::Launch>(launch, rmsnorm_quantize::kOperation).rebind(read_struct(args, rmsnorm_quantize::kOperation, "args"));
  });
}

h4j_status h4j_rmsnorm_quantize(h4j_stream* stream, const h4j_rmsnorm_quantize_spec* spec, const h4j_rmsnorm_quantize_args* args, h4j_error* error) {
  return guarded(rmsnorm_quantize::kOperation, error,
                 [&] { run_eagerly<rmsnorm_quantize::Plan, rmsnorm_quantize::Launch>(stream, spec, args, rmsnorm_quantize::kOperation); });
}
