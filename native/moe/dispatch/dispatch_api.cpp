#include <memory>

#include "moe/dispatch/dispatch_kernels.h"
#include "moe/dispatch/dispatch_layout.h"
#include "moe/group/group.h"
#include "moe/latency/latency_kernels.h"
#include "moe/latency/latency_layout.h"

namespace h4j::moe {
namespace {

constexpr const char* kOperation = "moe_dispatch";
// Copies to experts' rows want more warps than sending; with all SMs they hold the sending up.
constexpr int kExpertCtas = 96;
// Items one after another; for a few tokens the start of so many CTAs costs more than it gains.
constexpr int kLatencyCtas = 128;
constexpr int kFewTokens = 16;
constexpr int kFewTokensCtas = 64;

int preferred_ctas(const h4j_device_info& device, const h4j_group_spec& group, bool latency, bool expert_layout) {
  if (latency) return group.latency_tokens <= kFewTokens ? kFewTokensCtas : kLatencyCtas;
  return expert_layout ? kExpertCtas : link_ctas(device.nvlink_gbs);
}

struct DispatchPlan final : h4j_plan {
  DispatchPlan(const h4j_device_info& planned, const h4j_group_spec& group_spec, const h4j_moe_dispatch_spec& requested)
      : h4j_plan(kOperation), group(group_spec), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_group_spec(kOperation, group);
    shape = shape_of(group);
    require_mode(kOperation, group, spec.mode);
    require_half(kOperation, spec.half);
    require_channel(kOperation, group, spec.channel);
    if (spec.in_dtype != group.row_dtype) require_dtype(kOperation, "in_dtype", spec.in_dtype, {H4J_BF16});
    latency = spec.mode == H4J_MODE_LATENCY;
    require_range(kOperation, "layout", spec.layout, latency ? H4J_LAYOUT_EXPERT : H4J_LAYOUT_RANK, H4J_LAYOUT_EXPERT);
    expert_layout = spec.layout == H4J_LAYOUT_EXPERT;
    require_range(kOperation, "reuse", spec.reuse, 0, expert_layout ? 0 : 1);
    if (expert_layout && !latency && (spec.alignment < 1 || spec.alignment > 256 || (spec.alignment & (spec.alignment - 1)) != 0)) {
      invalid(kOperation, "alignment", format("%d", spec.alignment), "a power of two, 1..256");
    }
    cast = spec.in_dtype != group.row_dtype;
    ctas = group_ctas(kOperation, device, group, preferred_ctas(device, group, latency, expert_layout));
    info.grid = latency && spec.half != H4J_WHOLE ? ctas / 2 : !expert_layout && spec.half == H4J_FINISH ? 1 : ctas;
    info.block = kThreads;
    info.shared_memory = static_cast<int32_t>(latency                  ? latency_shared_bytes(shape)
                                              : cast && !expert_layout ? cast_shared_bytes(shape)
                                                                       : dispatch_shared_bytes(shape, expert_layout));
    info.handle_bytes = latency ? latency_handle(shape).bytes : handle_offsets(shape, expert_layout).bytes;
    info.rows = latency ? shape.latency_rows() * shape.local_experts() : expert_layout ? worst_rows() : shape.max_rows();
    std::snprintf(info.kernel, sizeof info.kernel, "moe_dispatch_%s%s", latency ? "latency" : expert_layout ? "expert" : "rank", cast ? "_cast" : "");
    std::snprintf(info.explanation, sizeof info.explanation, "%d ranks, %d CTAs, %lld bytes of handle", group.ranks, info.grid,
                  static_cast<long long>(info.handle_bytes));
  }

  // Every token of every rank comes with all its experts, and every expert's last rows fill their alignment.
  int64_t worst_rows() const {
    return round_up(shape.max_rows() * shape.top_k + int64_t{shape.experts_per_rank} * (spec.alignment - 1), spec.alignment);
  }

  h4j_group_spec group;
  h4j_moe_dispatch_spec spec;
  Shape shape{};
  bool latency = false;
  bool expert_layout = false;
  bool cast = false;
  int ctas = 0;
};

struct DispatchLaunch final : h4j_launch {
  DispatchLaunch(const DispatchPlan& made_from, const h4j_group& bound_group, const h4j_moe_dispatch_args& args)
      : h4j_launch(kOperation, *bound_group.device),
        plan(made_from),
        shape(bound_group.shape),
        group(bound_group),
        kernel(plan.latency ? latency_dispatch_stub() : dispatch_stub(plan.cast, plan.expert_layout), *bound_group.device, plan.info.shared_memory) {
    max_rows = plan.latency ? plan.group.latency_tokens : plan.group.max_tokens;
    runs_empty = true;
    rebind(args);
  }

  void rebind(const h4j_moe_dispatch_args& args) {
    const int64_t width = plan.spec.in_dtype == H4J_BF16 ? 2 : 1;
    const bool scaled = plan.spec.in_dtype == H4J_F8_E4M3;
    require_address(kOperation, "x", args.x, 16);
    require_ld(kOperation, "x_ld", args.x_ld, shape.hidden, 16 / width);
    if (scaled) {
      require_address(kOperation, "x_scales", args.x_scales, 4);
      require_ld(kOperation, "x_scales_ld", args.x_scales_ld, max_rows, 1);
    }
    require_address(kOperation, "experts", args.experts, 16);
    if (args.weights != 0) require_address(kOperation, "weights", args.weights, 16);
    require_address(kOperation, "handle", args.handle, 256);
    if (args.received != 0) require_address(kOperation, "received", args.received, 4);
    if (plan.expert_layout) {
      require_address(kOperation, "out", args.out, 16);
      require_ld(kOperation, "out_ld", args.out_ld, shape.hidden, shape.fp8 ? 16 : 8);
      if (!plan.latency) require_range(kOperation, "out_rows", args.out_rows, 0, kMaxExtent);
      if (shape.fp8) {
        require_address(kOperation, "out_scales", args.out_scales, 4);
        require_ld(kOperation, "out_scales_ld", args.out_scales_ld, plan.latency ? shape.latency_rows() : args.out_rows, 1);
      }
      require_address(kOperation, "expert_rows", args.expert_rows, 4);
    }
    const bool start = plan.spec.half != H4J_FINISH;
    const bool finish = plan.spec.half != H4J_START;
    const FaultSite fault = fault_site(*group.device, kOperation, "experts");
    if (plan.latency) {
      LatencyDispatchParams& p = latency;
      p.x = pointer<const uint8_t>(args.x);
      p.x_pitch = args.x_ld * width;
      p.x_scales = scaled ? pointer<const float>(args.x_scales) : nullptr;
      p.x_scales_ld = args.x_scales_ld;
      p.experts = pointer<const int32_t>(args.experts);
      p.weights = pointer<const float>(args.weights);
      p.handle = pointer<uint8_t>(args.handle);
      p.handle_at = latency_handle(shape);
      p.received = pointer<int32_t>(args.received);
      p.out = pointer<uint8_t>(args.out);
      p.out_pitch = plan.expert_layout ? args.out_ld * (shape.fp8 ? 1 : 2) : 0;
      p.out_scales = pointer<float>(args.out_scales);
      p.out_scales_ld = args.out_scales_ld;
      p.expert_rows = pointer<int32_t>(args.expert_rows);
      p.fault = fault;
      p.cast = plan.cast;
      p.power_of_two = plan.group.scale_kind == H4J_SCALE_POWER_OF_TWO;
      p.start = start;
      p.finish = finish;
    } else {
      DispatchParams& p = throughput;
      p.x = pointer<const uint8_t>(args.x);
      p.x_pitch = args.x_ld * width;
      p.x_scales = scaled ? pointer<const float>(args.x_scales) : nullptr;
      p.x_scales_ld = args.x_scales_ld;
      p.experts = pointer<const int32_t>(args.experts);
      p.weights = pointer<const float>(args.weights);
      p.handle = pointer<uint8_t>(args.handle);
      p.handle_at = handle_offsets(shape, plan.expert_layout);
      p.received = pointer<int32_t>(args.received);
      p.fault = fault;
      p.out = pointer<uint8_t>(args.out);
      p.out_pitch = plan.expert_layout ? args.out_ld * (shape.fp8 ? 1 : 2) : 0;
      p.out_rows = args.out_rows;
      p.out_scales = pointer<float>(args.out_scales);
      p.out_scales_ld = args.out_scales_ld;
      p.expert_rows = pointer<int32_t>(args.expert_rows);
      p.alignment = plan.spec.alignment;
      p.reuse = plan.spec.reuse;
      p.power_of_two = plan.group.scale_kind == H4J_SCALE_POWER_OF_TWO;
      p.start = start;
      p.finish = finish ? plan.ctas : 0;
    }
  }

  void run(CUstream stream, int64_t rows) const override {
    require_alive(kOperation, group);
    const Kernel::Shape launched{static_cast<unsigned>(plan.info.grid), kThreads};
    if (plan.latency) {
      LatencyDispatchParams used = latency;
      used.group = describe(group, plan.spec.channel);
      used.tokens = static_cast<int32_t>(rows);
      kernel.launch(launched, stream, &used);
    } else {
      DispatchParams used = throughput;
      used.group = describe(group, plan.spec.channel);
      used.tokens = static_cast<int32_t>(rows);
      kernel.launch(launched, stream, &used);
    }
  }

  DispatchPlan plan;
  Shape shape;  // with the rank, which a plan need not know
  const h4j_group& group;
  Kernel kernel;
  DispatchParams throughput{};
  LatencyDispatchParams latency{};
};

}  // namespace
}  // namespace h4j::moe

using namespace h4j;

h4j_status h4j_moe_dispatch_plan(const h4j_device_info* device, const h4j_group_spec* group, const h4j_moe_dispatch_spec* spec, h4j_plan** plan,
                                 h4j_error* error) {
  return guarded(moe::kOperation, error, [&] {
    require_output(plan, moe::kOperation, "plan") = nullptr;
    *plan = new moe::DispatchPlan(read_struct(device, moe::kOperation, "device"), read_struct(group, moe::kOperation, "group"),
                                  read_struct(spec, moe::kOperation, "spec"));
  });
}

h4j_status h4j_moe_dispatch_bind(const h4j_plan* plan, h4j_group* group, const h4j_moe_dispatch_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(moe::kOperation, error, [&] {
    require_output(launch, moe::kOperation, "launch") = nullptr;
    const auto& planned = require_plan<moe::DispatchPlan>(plan, moe::kOperation);
    const h4j_group& bound = require_handle(group, moe::kOperation, "group");
    require_planned_device(planned, *bound.device);
    moe::require_planned_group(moe::kOperation, bound, planned.group);
    *launch = new moe::DispatchLaunch(planned, bound, read_struct(args, moe::kOperation, "args"));
  });
}

h4j_status h4j_moe_dispatch_rebind(h4j_launch* launch, const h4j_moe_dispatch_args* args, h4j_error* error) {
  return guarded(moe::kOperation, error,
                 [&] { require_launch<moe::DispatchLaunch>(launch, moe::kOperation).rebind(read_struct(args, moe::kOperation, "args")); });
}
