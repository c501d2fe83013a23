#include <memory>

#include "moe/combine/combine_kernels.h"
#include "moe/combine/combine_layout.h"
#include "moe/group/group.h"
#include "moe/latency/latency_kernels.h"
#include "moe/latency/latency_layout.h"

namespace h4j::moe {
namespace {

constexpr const char* kOperation = "moe_combine";
constexpr int kExpertCtas = 128;

struct CombinePlan final : h4j_plan {
  CombinePlan(const h4j_device_info& planned, const h4j_group_spec& group_spec, const h4j_moe_combine_spec& requested)
      : h4j_plan(kOperation), group(group_spec), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_group_spec(kOperation, group);
    shape = shape_of(group);
    require_mode(kOperation, group, spec.mode);
    require_half(kOperation, spec.half);
    require_channel(kOperation, group, spec.channel);
    require_range(kOperation, "residual", spec.residual, 0, 1);
    latency = spec.mode == H4J_MODE_LATENCY;
    require_range(kOperation, "layout", spec.layout, latency ? H4J_LAYOUT_EXPERT : H4J_LAYOUT_RANK, H4J_LAYOUT_EXPERT);
    expert_layout = spec.layout == H4J_LAYOUT_EXPERT;
    const int ctas = group_ctas(kOperation, device, group, expert_layout ? kExpertCtas : link_ctas(device.nvlink_gbs));
    info.grid = latency && spec.half != H4J_WHOLE ? ctas / 2 : !expert_layout && spec.half == H4J_START ? 1 : ctas;
    info.block = kThreads;
    info.handle_bytes = latency ? latency_handle(shape).bytes : handle_offsets(shape, expert_layout).bytes;
    std::snprintf(info.kernel, sizeof info.kernel, "moe_combine_%s", latency ? "latency" : expert_layout ? "expert" : "rank");
    std::snprintf(info.explanation, sizeof info.explanation, "%d ranks, %d CTAs", group.ranks, info.grid);
  }

  h4j_group_spec group;
  h4j_moe_combine_spec spec;
  Shape shape{};
  bool latency = false;
  bool expert_layout = false;
};

struct CombineLaunch final : h4j_launch {
  CombineLaunch(const CombinePlan& made_from, const h4j_group& bound_group, const h4j_moe_combine_args& args)
      : h4j_launch(kOperation, *bound_group.device),
        plan(made_from),
        group(bound_group),
        kernel(plan.latency ? latency_combine_stub() : combine_stub(plan.expert_layout), *bound_group.device, 0) {
    max_rows = plan.latency ? plan.group.latency_tokens : plan.group.max_tokens;
    runs_empty = true;
    rebind(args);
  }

  template <class Params>
  void fill(Params& p, const h4j_moe_combine_args& args) const {
    p.handle = pointer<const uint8_t>(args.handle);
    p.x = pointer<const uint8_t>(args.x);
    p.x_pitch = plan.spec.layout == H4J_LAYOUT_EXPERT ? args.x_ld * 2 : 0;
    p.residual = plan.spec.residual != 0 ? pointer<const uint8_t>(args.residual) : nullptr;
    p.residual_pitch = plan.spec.residual != 0 ? args.residual_ld * 2 : 0;
    p.out = pointer<uint8_t>(args.out);
    p.out_pitch = args.out_ld * 2;
    p.start = plan.spec.half != H4J_FINISH;
    p.finish = plan.spec.half != H4J_START;
  }

  void rebind(const h4j_moe_combine_args& args) {
    const Shape& shape = plan.shape;
    require_address(kOperation, "handle", args.handle, 256);
    if (plan.spec.layout == H4J_LAYOUT_EXPERT) {
      require_address(kOperation, "x", args.x, 16);
      require_ld(kOperation, "x_ld", args.x_ld, shape.hidden, 8);
    }
    if (plan.spec.residual != 0) {
      require_address(kOperation, "residual", args.residual, 16);
      require_ld(kOperation, "residual_ld", args.residual_ld, shape.hidden, 8);
    }
    require_address(kOperation, "out", args.out, 16);
    require_ld(kOperation, "out_ld", args.out_ld, shape.hidden, 8);
    if (plan.latency) {
      fill(latency, args);
      latency.handle_at = latency_handle(shape);
    } else {
      fill(throughput, args);
      throughput.handle_at = handle_offsets(shape, plan.spec.layout == H4J_LAYOUT_EXPERT);
    }
  }

  void run(CUstream stream, int64_t rows) const override {
    require_alive(kOperation, group);
    const Kernel::Shape shape{static_cast<unsigned>(plan.info.grid), kThreads};
    const auto launch = [&](auto used) {
      used.group = describe(group, plan.spec.channel);
      used.tokens = static_cast<int32_t>(rows);
      kernel.launch(shape, stream, &used);
    };
    if (plan.latency) {
      launch(latency);
    } else {
      launch(throughput);
    }
  }

  CombinePlan plan;
  const h4j_group& group;
  Kernel kernel;
  CombineParams throughput{};
  LatencyCombineParams latency{};
};

}  // namespace
}  // namespace h4j::moe

using namespace h4j;

h4j_status h4j_moe_combine_plan(const h4j_device_info* device, const h4j_group_spec* group, const h4j_moe_combine_spec* spec, h4j_plan** plan,
                                h4j_error* error) {
  return guarded(moe::kOperation, error, [&] {
    require_output(plan, moe::kOperation, "plan") = nullptr;
    *plan = new moe::CombinePlan(read_struct(device, moe::kOperation, "device"), read_struct(group, moe::kOperation, "group"),
                                 read_struct(spec, moe::kOperation, "spec"));
  });
}

h4j_status h4j_moe_combine_bind(const h4j_plan* plan, h4j_group* group, const h4j_moe_combine_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(moe::kOperation, error, [&] {
    require_output(launch, moe::kOperation, "launch") = nullptr;
    const auto& planned = require_plan<moe::CombinePlan>(plan, moe::kOperation);
    const h4j_group& bound = require_handle(group, moe::kOperation, "group");
    require_planned_device(planned, *bound.device);
    moe::require_planned_group(moe::kOperation, bound, planned.group);
    *launch = new moe::CombineLaunch(planned, bound, read_struct(args, moe::kOperation, "args"));
  });
}

h4j_status h4j_moe_combine_rebind(h4j_launch* launch, const h4j_moe_combine_args* args, h4j_error* error) {
  return guarded(moe::kOperation, error,
                 [&] { require_launch<moe::CombineLaunch>(launch, moe::kOperation).rebind(read_struct(args, moe::kOperation, "args")); });
}
