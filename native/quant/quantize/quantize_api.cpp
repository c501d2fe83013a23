#include <algorithm>
#include <memory>

#include "quant/quantize/quantize_instances.h"
#include "quant/quantize/quantize_layout.h"
#include "runtime/plan.h"

namespace h4j::quantize {
namespace {

constexpr const char* kOperation = "quantize";
constexpr int64_t kScaleBlock = 128;

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_quantize_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_dtype(kOperation, "in_dtype", spec.in_dtype, {H4J_F32, H4J_F16, H4J_BF16});
    if (spec.block_rows != 1 && spec.block_rows != kScaleBlock) invalid(kOperation, "block_rows", format("%d", spec.block_rows), "1 or 128");
    if (spec.block_cols != kScaleBlock) invalid(kOperation, "block_cols", format("%d", spec.block_cols), "128");
    require_scale_kind(kOperation, spec.scale_kind);
    require_range(kOperation, "max_rows", spec.max_rows, 0, kMaxExtent);
    require_range(kOperation, "cols", spec.cols, 8, kMaxExtent);
    require_multiple(kOperation, "cols", spec.cols, 8);
    sms = usable_sms(kOperation, device, spec.sm_budget);
    instance = find_instance(spec.in_dtype, spec.block_rows);
    info.grid = grid(spec.max_rows);
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance for %s in blocks of %d x %d; %d CTAs on %d SMs",
                  dtype_name(spec.in_dtype), spec.block_rows, spec.block_cols, info.grid, sms);
  }

  int grid(int64_t rows) const {
    const int64_t col_blocks = ceil_div(spec.cols, kScaleBlock);
    const int64_t resident = int64_t{sms} * ctas_per_sm(spec.block_rows, element_size(spec.in_dtype));
    if (spec.block_rows != 1) return streaming_grid(ceil_div(rows, kScaleBlock) * col_blocks, spec.sm_budget, resident);
    return static_cast<int>(std::min(ceil_div(ceil_div(rows, kRowsPerWarp) * col_blocks, kWarpsPerCta), resident));
  }

  h4j_quantize_spec spec;
  int sms;
  const Instance* instance;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_quantize_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(plan.instance->stub, opened, 0) {
    max_rows = plan.spec.max_rows;
    rebind(args);
  }

  void rebind(const h4j_quantize_args& args) {
    const h4j_quantize_spec& spec = plan.spec;
    if (spec.max_rows > 0) {
      require_address(kOperation, "in", args.in, 16);
      require_address(kOperation, "out", args.out, 16);
      require_address(kOperation, "scales", args.scales, 16);
    }
    const int64_t col_blocks = ceil_div(spec.cols, kScaleBlock);
    require_ld(kOperation, "in_ld", args.in_ld, spec.cols, 8);
    require_ld(kOperation, "out_ld", args.out_ld, spec.cols, 16);
    if (spec.block_rows == 1) {
      require_ld(kOperation, "scales_ld", args.scales_ld, spec.max_rows, 4);
    } else {
      require_ld(kOperation, "scales_ld", args.scales_ld, col_blocks, 1);
    }
    params.in = reinterpret_cast<const void*>(args.in);
    params.in_ld = args.in_ld;
    params.out = reinterpret_cast<uint8_t*>(args.out);
    params.out_ld = args.out_ld;
    params.scales = reinterpret_cast<float*>(args.scales);
    params.scales_ld = args.scales_ld;
    params.cols = static_cast<int32_t>(spec.cols);
    params.col_blocks = static_cast<int32_t>(col_blocks);
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
}  // namespace h4j::quantize

using namespace h4j;

h4j_status h4j_quantize_plan(const h4j_device_info* device, const h4j_quantize_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(quantize::kOperation, error, [&] {
    require_output(plan, quantize::kOperation, "plan") = nullptr;
    *plan = new quantize::Plan(read_struct(device, quantize::kOperation, "device"), read_struct(spec, quantize::kOperation, "spec"));
  });
}

h4j_status h4j_quantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_quantize_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(quantize::kOperation, error, [&] {
    require_output(launch, quantize::kOperation, "launch") = nullptr;
    *launch = bind<quantize::Plan, quantize::Launch>(plan, device, args, quantize::kOperation);
  });
}

h4j_status h4j_quantize_rebind(h4j_launch* launch, const h4j_quantize_args* args, h4j_error* error) {
  return guarded(quantize::kOperation, error,
                 [&] { require_launch<quantize::Launch>(launch, quantize::kOperation).rebind(read_struct(args, quantize::kOperation, "args")); });
}

h4j_status h4j_quantize(h4j_stream* stream, const h4j_quantize_spec* spec, const h4j_quantize_args* args, h4j_error* error) {
  return guarded(quantize::kOperation, error, [&] { run_eagerly<quantize::Plan, quantize::Launch>(stream, spec, args, quantize::kOperation); });
}
