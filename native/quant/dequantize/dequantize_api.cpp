#include <algorithm>
#include <memory>

#include "quant/dequantize/dequantize_instances.h"
#include "quant/dequantize/dequantize_layout.h"
#include "runtime/plan.h"

namespace h4j::dequantize {
namespace {

constexpr const char* kOperation = "dequantize";
constexpr int64_t kScaleBlock = 128;

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_dequantize_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_dtype(kOperation, "out_dtype", spec.out_dtype, {H4J_F32, H4J_F16, H4J_BF16});
    if (spec.block_rows != 1 && spec.block_rows != kScaleBlock) invalid(kOperation, "block_rows", format("%d", spec.block_rows), "1 or 128");
    if (spec.block_cols != kScaleBlock) invalid(kOperation, "block_cols", format("%d", spec.block_cols), "128");
    require_range(kOperation, "max_rows", spec.max_rows, 0, kMaxExtent);
    require_range(kOperation, "cols", spec.cols, 8, kMaxExtent);
    require_multiple(kOperation, "cols", spec.cols, 8);
    sms = usable_sms(kOperation, device, spec.sm_budget);
    instance = find_instance(spec.out_dtype);
    info.grid = grid(spec.max_rows);
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance for %s; %d CTAs on %d SMs", dtype_name(spec.out_dtype), info.grid,
                  sms);
  }

  int grid(int64_t rows) const {
    const int64_t ctas = ceil_div(rows * (spec.cols / kElementsPerThread), kThreads);
    return static_cast<int>(std::min<int64_t>(ctas, int64_t{sms} * kCtasPerSm));
  }

  h4j_dequantize_spec spec;
  int sms;
  const Instance* instance;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_dequantize_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(plan.instance->stub, opened, 0) {
    max_rows = plan.spec.max_rows;
    rebind(args);
  }

  void rebind(const h4j_dequantize_args& args) {
    const h4j_dequantize_spec& spec = plan.spec;
    if (spec.max_rows > 0) {
      require_address(kOperation, "in", args.in, 16);
      require_address(kOperation, "scales", args.scales, 16);
      require_address(kOperation, "out", args.out, 16);
    }
    require_ld(kOperation, "in_ld", args.in_ld, spec.cols, 16);
    require_ld(kOperation, "out_ld", args.out_ld, spec.cols, 8);
    if (spec.block_rows == 1) {
      require_ld(kOperation, "scales_ld", args.scales_ld, spec.max_rows, 4);
    } else {
      require_ld(kOperation, "scales_ld", args.scales_ld, ceil_div(spec.cols, kScaleBlock), 1);
    }
    params.in = reinterpret_cast<const uint8_t*>(args.in);
    params.in_ld = args.in_ld;
    params.scales = reinterpret_cast<const float*>(args.scales);
    params.scales_row_stride = spec.block_rows == 1 ? 1 : args.scales_ld;
    params.scales_col_stride = spec.block_rows == 1 ? args.scales_ld : 1;
    params.out = reinterpret_cast<void*>(args.out);
    params.out_ld = args.out_ld;
    params.cols = static_cast<int32_t>(spec.cols);
    params.block_rows = spec.block_rows;
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
}  // namespace h4j::dequantize

using namespace h4j;

h4j_status h4j_dequantize_plan(const h4j_device_info* device, const h4j_dequantize_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(dequantize::kOperation, error, [&] {
    require_output(plan, dequantize::kOperation, "plan") = nullptr;
    *plan = new dequantize::Plan(read_struct(device, dequantize::kOperation, "device"), read_struct(spec, dequantize::kOperation, "spec"));
  });
}

h4j_status h4j_dequantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_dequantize_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(dequantize::kOperation, error, [&] {
    require_output(launch, dequantize::kOperation, "launch") = nullptr;
    *launch = bind<dequantize::Plan, dequantize::Launch>(plan, device, args, dequantize::kOperation);
  });
}

h4j_status h4j_dequantize_rebind(h4j_launch* launch, const h4j_dequantize_args* args, h4j_error* error) {
  return guarded(dequantize::kOperation, error, [&] {
    require_launch<dequantize::Launch>(launch, dequantize::kOperation).rebind(read_struct(args, dequantize::kOperation, "args"));
  });
}

h4j_status h4j_dequantize(h4j_stream* stream, const h4j_dequantize_spec* spec, const h4j_dequantize_args* args, h4j_error* error) {
  return guarded(dequantize::kOperation, error,
                 [&] { run_eagerly<dequantize::Plan, dequantize::Launch>(stream, spec, args, dequantize::kOperation); });
}
