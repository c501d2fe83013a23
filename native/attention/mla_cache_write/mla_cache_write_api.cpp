#include <algorithm>
#include <bit>
#include <cmath>

#include "attention/mla_cache_write/mla_cache_write_instances.h"
#include "attention/mla_cache_write/mla_cache_write_layout.h"
#include "runtime/plan.h"

namespace h4j::mla_cache_write {
namespace {

constexpr const char* kOperation = "mla_cache_write";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_mla_cache_write_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_range(kOperation, "format", spec.format, H4J_MLA_CACHE_BF16, H4J_MLA_CACHE_FP8_TOKEN);
    require_scale_kind(kOperation, spec.scale_kind);
    require_dtype(kOperation, "weight_dtype", spec.weight_dtype, {H4J_BF16, H4J_F32});
    require_dtype(kOperation, "position_dtype", spec.position_dtype, {H4J_I32, H4J_I64});
    require_range(kOperation, "page_size", spec.page_size, 1, 1024);
    if (!std::has_single_bit(static_cast<unsigned>(spec.page_size))) invalid(kOperation, "page_size", format("%d", spec.page_size), "a power of two");
    require_range(kOperation, "request_tokens", spec.request_tokens, 1, INT32_MAX);
    if (!(spec.eps > 0.0f) || !std::isfinite(spec.eps)) {
      invalid(kOperation, "eps", format("%g", static_cast<double>(spec.eps)), "a finite number > 0");
    }
    require_range(kOperation, "max_tokens", spec.max_tokens, 0, kMaxExtent);
    require_range(kOperation, "max_batch", spec.max_batch, 0, kMaxExtent);
    require_range(kOperation, "max_length", spec.max_length, 0, INT32_MAX / 2);
    require_range(kOperation, "pages", spec.pages, 1, INT32_MAX);
    sms = usable_sms(kOperation, device, spec.sm_budget);
    instance = find_instance(spec.format, spec.weight_dtype);
    info.grid = grid(spec.max_tokens);
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance for this layout and weight, a warp a token; %d CTAs on %d SMs",
                  info.grid, sms);
  }

  int grid(int64_t tokens) const { return static_cast<int>(std::min(ceil_div(tokens, kWarpsPerCta), int64_t{sms} * kCtasPerSm)); }

  h4j_mla_cache_write_spec spec;
  int sms;
  const Instance* instance;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_mla_cache_write_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(plan.instance->stub, opened, 0) {
    max_rows = plan.spec.max_tokens;
    params.positions_site = fault_site(opened, kOperation, "positions");
    params.requests_site = fault_site(opened, kOperation, "requests");
    params.block_table_site = fault_site(opened, kOperation, "block_table");
    rebind(args);
  }

  void rebind(const h4j_mla_cache_write_args& args) {
    const h4j_mla_cache_write_spec& spec = plan.spec;
    const bool is_bf16 = spec.format == H4J_MLA_CACHE_BF16;
    if (spec.max_tokens > 0) {
      require_address(kOperation, "in", args.in, 16);
      require_address(kOperation, "positions", args.positions, element_size(spec.position_dtype));
      if (args.requests != 0) require_address(kOperation, "requests", args.requests, 4);
      if (spec.max_length > 0) require_address(kOperation, "rope", args.rope, 4);
      if (spec.max_length > 0 && spec.max_batch > 0) require_address(kOperation, "block_table", args.block_table, 4);
    }
    require_address(kOperation, "weight", args.weight, 16);
    require_address(kOperation, "cache", args.cache, 16);
    require_ld(kOperation, "in_ld", args.in_ld, kTokenDim, 8);
    require_ld(kOperation, "block_table_ld", args.block_table_ld, ceil_div(spec.max_length, spec.page_size), 1);
    require_ld(kOperation, "cache_ld", args.cache_ld, is_bf16 ? kTokenDim : kFp8TokenBytes, is_bf16 ? 8 : 16);
    require_far_ld(kOperation, "cache_page_ld", args.cache_page_ld, spec.page_size * args.cache_ld, is_bf16 ? 8 : 16);
    params.in = reinterpret_cast<const __nv_bfloat16*>(args.in);
    params.in_ld = args.in_ld;
    params.weight = reinterpret_cast<const void*>(args.weight);
    params.rope = reinterpret_cast<const float*>(args.rope);
    params.positions = reinterpret_cast<const void*>(args.positions);
    params.requests = reinterpret_cast<const int32_t*>(args.requests);
    params.block_table = reinterpret_cast<const int32_t*>(args.block_table);
    params.block_table_ld = args.block_table_ld;
    params.cache = reinterpret_cast<uint8_t*>(args.cache);
    params.token_bytes = args.cache_ld * (is_bf16 ? 2 : 1);
    params.page_bytes = args.cache_page_ld * (is_bf16 ? 2 : 1);
    params.max_length = spec.max_length;
    params.max_batch = static_cast<int32_t>(spec.max_batch);
    params.pages = static_cast<int32_t>(spec.pages);
    params.page_shift = std::countr_zero(static_cast<unsigned>(spec.page_size));
    params.request_tokens = spec.request_tokens;
    params.wide_positions = spec.position_dtype == H4J_I64;
    params.power_of_two = spec.scale_kind == H4J_SCALE_POWER_OF_TWO;
    params.eps = spec.eps;
  }

  void run(CUstream stream, int64_t rows) const override {
    Params used = params;
    used.tokens = static_cast<int32_t>(rows);
    kernel.launch({static_cast<unsigned>(plan.grid(rows)), kThreads}, stream, &used);
  }

  Plan plan;
  Kernel kernel;
  Params params{};
};

}  // namespace
}  // namespace h4j::mla_cache_write

using namespace h4j;

h4j_status h4j_mla_cache_write_plan(const h4j_device_info* device, const h4j_mla_cache_write_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(mla_cache_write::kOperation, error, [&] {
    require_output(plan, mla_cache_write::kOperation, "plan") = nullptr;
    *plan =
        new mla_cache_write::Plan(read_struct(device, mla_cache_write::kOperation, "device"), read_struct(spec, mla_cache_write::kOperation, "spec"));
  });
}

h4j_status h4j_mla_cache_write_bind(const h4j_plan* plan, h4j_device* device, const h4j_mla_cache_write_args* args, h4j_launch** launch,
                                    h4j_error* error) {
  return guarded(mla_cache_write::kOperation, error, [&] {
    require_output(launch, mla_cache_write::kOperation, "launch") = nullptr;
    *launch = bind<mla_cache_write::Plan, mla_cache_write::Launch>(plan, device, args, mla_cache_write::kOperation);
  });
}

h4j_status h4j_mla_cache_write_rebind(h4j_launch* launch, const h4j_mla_cache_write_args* args, h4j_error* error) {
  return guarded(mla_cache_write::kOperation, error, [&] {
    require_launch<mla_cache_write::Launch>(launch, mla_cache_write::kOperation).rebind(read_struct(args, mla_cache_write::kOperation, "args"));
  });
}

h4j_status h4j_mla_cache_write(h4j_stream* stream, const h4j_mla_cache_write_spec* spec, const h4j_mla_cache_write_args* args, h4j_error* error) {
  return guarded(mla_cache_write::kOperation, error,
                 [&] { run_eagerly<mla_cache_write::Plan, mla_cache_write::Launch>(stream, spec, args, mla_cache_write::kOperation); });
}
