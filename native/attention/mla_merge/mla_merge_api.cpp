#include <algorithm>

#include "attention/mla_merge/mla_merge_instances.h"
#include "attention/mla_merge/mla_merge_layout.h"
#include "runtime/plan.h"

namespace h4j::mla_merge {
namespace {

constexpr const char* kOperation = "mla_merge";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_mla_merge_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_dtype(kOperation, "out_dtype", spec.out_dtype, {H4J_BF16, H4J_F32});
    require_range(kOperation, "heads", spec.heads, 1, 128);
    require_range(kOperation, "s_q", spec.s_q, 1, 1024);
    require_range(kOperation, "max_batch", spec.max_batch, 0, 65535);
    const int64_t rows = spec.max_batch * spec.s_q * spec.heads;
    if (rows > INT32_MAX) {
      invalid(kOperation, "max_batch", format("%lld with %d query rows each", static_cast<long long>(spec.max_batch), spec.s_q * spec.heads),
              "at most 2^31 - 1 query rows together");
    }
    sms = usable_sms(kOperation, device, spec.sm_budget);
    instance = find_instance(spec.out_dtype);
    info.grid = grid(rows);
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance for %s; a warp a row, %d CTAs on %d SMs", dtype_name(spec.out_dtype),
                  info.grid, sms);
  }

  int grid(int64_t rows) const { return static_cast<int>(std::min<int64_t>(ceil_div(rows, kRowsPerCta), int64_t{sms} * kCtasPerSm)); }

  h4j_mla_merge_spec spec;
  int sms;
  const Instance* instance;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_mla_merge_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(plan.instance->stub, opened, 0) {
    max_rows = plan.spec.max_batch;
    rebind(args);
  }

  void rebind(const h4j_mla_merge_args& args) {
    if (max_rows > 0) {
      require_address(kOperation, "out_a", args.out_a, 16);
      require_address(kOperation, "lse_a", args.lse_a, 4);
      require_address(kOperation, "out_b", args.out_b, 16);
      require_address(kOperation, "lse_b", args.lse_b, 4);
      require_address(kOperation, "out", args.out, 16);
      require_address(kOperation, "lse", args.lse, 4);
    }
    params = {.out_a = reinterpret_cast<const void*>(args.out_a),
              .lse_a = reinterpret_cast<const float*>(args.lse_a),
              .out_b = reinterpret_cast<const void*>(args.out_b),
              .lse_b = reinterpret_cast<const float*>(args.lse_b),
              .out = reinterpret_cast<void*>(args.out),
              .lse = reinterpret_cast<float*>(args.lse),
              .rows = 0,
              .heads = plan.spec.heads,
              .s_q = plan.spec.s_q};
  }

  void run(CUstream stream, int64_t requests) const override {
    Params used = params;
    used.rows = static_cast<int32_t>(requests * plan.spec.s_q * plan.spec.heads);
    kernel.launch({static_cast<unsigned>(plan.grid(used.rows)), kThreads}, stream, &used);
  }

  Plan plan;
  Kernel kernel;
  Params params{};
};

}  // namespace
}  // namespace h4j::mla_merge

using namespace h4j;

h4j_status h4j_mla_merge_plan(const h4j_device_info* device, const h4j_mla_merge_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(mla_merge::kOperation, error, [&] {
    require_output(plan, mla_merge::kOperation, "plan") = nullptr;
    *plan = new mla_merge::Plan(read_struct(device, mla_merge::kOperation, "device"), read_struct(spec, mla_merge::kOperation, "spec"));
  });
}

h4j_status h4j_mla_merge_bind(const h4j_plan* plan, h4j_device* device, const h4j_mla_merge_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(mla_merge::kOperation, error, [&] {
    require_output(launch, mla_merge::kOperation, "launch") = nullptr;
    *launch = bind<mla_merge::Plan, mla_merge::Launch>(plan, device, args, mla_merge::kOperation);
  });
}

h4j_status h4j_mla_merge_rebind(h4j_launch* launch, const h4j_mla_merge_args* args, h4j_error* error) {
  return guarded(mla_merge::kOperation, error,
                 [&] { require_launch<mla_merge::Launch>(launch, mla_merge::kOperation).rebind(read_struct(args, mla_merge::kOperation, "args")); });
}

h4j_status h4j_mla_merge(h4j_stream* stream, const h4j_mla_merge_spec* spec, const h4j_mla_merge_args* args, h4j_error* error) {
  return guarded(mla_merge::kOperation, error, [&] { run_eagerly<mla_merge::Plan, mla_merge::Launch>(stream, spec, args, mla_merge::kOperation); });
}
