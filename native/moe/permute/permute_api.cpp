#include <algorithm>
#include <bit>

#include "moe/permute/permute_instances.h"
#include "moe/permute/permute_layout.h"
#include "runtime/plan.h"

namespace h4j::permute {
namespace {

constexpr const char* kOperation = "moe_permute";
constexpr int64_t kScaleBlock = 128;

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_moe_permute_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_dtype(kOperation, "in_dtype", spec.in_dtype, {H4J_BF16, H4J_F8_E4M3});
    if (spec.in_dtype == H4J_BF16) {
      require_dtype(kOperation, "out_dtype", spec.out_dtype, {H4J_BF16, H4J_F8_E4M3});
    } else {
      require_dtype(kOperation, "out_dtype", spec.out_dtype, {H4J_F8_E4M3});
    }
    require_scale_kind(kOperation, spec.scale_kind);
    require_range(kOperation, "experts", spec.experts, 1, kMaxExperts);
    require_range(kOperation, "top_k", spec.top_k, 1, kMaxTopK);
    require_range(kOperation, "alignment", spec.alignment, 1, 256);
    if (!std::has_single_bit(static_cast<unsigned>(spec.alignment))) {
      invalid(kOperation, "alignment", format("%d", spec.alignment), "a power of two");
    }
    require_range(kOperation, "max_tokens", spec.max_tokens, 0, kMaxExtent);
    const int64_t unit = 16 / element_size(spec.out_dtype);
    require_range(kOperation, "hidden", spec.hidden, unit, kMaxExtent / 2);
    require_multiple(kOperation, "hidden", spec.hidden, unit);
    const int64_t ids = spec.max_tokens * spec.top_k;
    rows = ids + std::min<int64_t>(spec.experts, ids) * (spec.alignment - 1);
    if (rows > kMaxExtent) {
      invalid(kOperation, "max_tokens", format("%lld", static_cast<long long>(spec.max_tokens)),
              format("at most %lld rows of out", static_cast<long long>(kMaxExtent)));
    }
    sms = usable_sms(kOperation, device, spec.sm_budget);
    instance = find_instance(spec.in_dtype, spec.out_dtype);
    const Grids grids = grids_of(spec.max_tokens);
    info.grid = grids.padding + grids.scales + grids.rows;
    info.block = kThreads;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation, "the only instance from %s to %s; at most %lld rows, %s; %d CTAs on %d SMs",
                  dtype_name(spec.in_dtype), dtype_name(spec.out_dtype), static_cast<long long>(rows),
                  grids.routing > 0 ? "found by a kernel ahead" : "found by every CTA", info.grid, sms);
  }

  struct Grids {
    int routing;  // CTAs of its one cluster, a power of two; 0: the CTAs that move count
    int padding;
    int scales;
    int rows;
  };
  // Within a budget, each of the three kinds of CTAs that may run side by side has a share of what fits.
  Grids grids_of(int64_t tokens) const {
    const int64_t ids = tokens * spec.top_k;
    const int64_t resident = int64_t{sms} * kCtasPerSm;
    const int64_t items = tokens * ceil_div(spec.hidden * element_size(spec.out_dtype), kPieceBytes);
    const int64_t moving = streaming_grid(ceil_div(items, kWarps), spec.sm_budget, resident / 2);
    Grids grids{};
    if (tokens == 0 || spec.sm_budget > 0 || ids > kMaxCountsPerSm * sms / moving) {
      const int64_t wanted = std::clamp<int64_t>(ceil_div(ids, kIdsPerRouteCta), 1, std::min(kMaxRouteCtas, sms));
      grids.routing = static_cast<int>(std::bit_floor(static_cast<uint64_t>(wanted)));
    }
    if (spec.alignment > 1 && tokens > 0) grids.padding = sms;
    if (spec.in_dtype == H4J_F8_E4M3 && grids.routing > 0) {
      const int64_t most = ids + std::min<int64_t>(spec.experts, ids) * (spec.alignment - 1);
      grids.scales = streaming_grid(ceil_div(most, kThreads), spec.sm_budget, resident / 4);
    }
    grids.rows = static_cast<int>(std::min<int64_t>(moving, INT32_MAX - grids.padding - grids.scales));
    return grids;
  }

  h4j_moe_permute_spec spec;
  int64_t rows;
  int sms;
  const Instance* instance;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_moe_permute_args& args)
      : h4j_launch(kOperation, opened),
        plan(made_from),
        router(route_stub(), opened, static_cast<int>(route_shared_bytes(plan.spec.experts))),
        mover(plan.instance->stub, opened, 0) {
    max_rows = plan.spec.max_tokens;
    runs_empty = true;  // ends of 0 are written
    params.bad_ids = fault_site(opened, kOperation, "ids");
    rebind(args);
  }

  void rebind(const h4j_moe_permute_args& args) {
    const h4j_moe_permute_spec& spec = plan.spec;
    const int64_t in_size = element_size(spec.in_dtype);
    const int64_t out_size = element_size(spec.out_dtype);
    const bool scales_in = spec.in_dtype == H4J_F8_E4M3;
    const bool scales_out = spec.out_dtype == H4J_F8_E4M3;
    if (spec.max_tokens > 0) {
      require_address(kOperation, "ids", args.ids, 16);
      require_address(kOperation, "in", args.in, 16);
      require_address(kOperation, "out", args.out, 16);
      require_address(kOperation, "places", args.places, 4);
      if (scales_in) require_address(kOperation, "in_scales", args.in_scales, 4);
      if (scales_out) require_address(kOperation, "out_scales", args.out_scales, 4);
    }
    require_address(kOperation, "group_ends", args.group_ends, 4);
    if (args.sources != 0) require_address(kOperation, "sources", args.sources, 4);
    require_ld(kOperation, "in_ld", args.in_ld, spec.hidden, 16 / in_size);
    require_ld(kOperation, "out_ld", args.out_ld, spec.hidden, 16 / out_size);
    if (scales_in) require_ld(kOperation, "in_scales_ld", args.in_scales_ld, spec.max_tokens, 4);
    if (scales_out) require_ld(kOperation, "out_scales_ld", args.out_scales_ld, plan.rows, 4);
    params = {
        .ids = reinterpret_cast<const int32_t*>(args.ids),
        .in = reinterpret_cast<const uint8_t*>(args.in),
        .in_pitch = args.in_ld * in_size,
        .in_scales = reinterpret_cast<const float*>(args.in_scales),
        .in_scales_ld = args.in_scales_ld,
        .out = reinterpret_cast<uint8_t*>(args.out),
        .out_pitch = args.out_ld * out_size,
        .out_scales = reinterpret_cast<float*>(args.out_scales),
        .out_scales_ld = args.out_scales_ld,
        .group_ends = reinterpret_cast<int32_t*>(args.group_ends),
        .places = reinterpret_cast<int32_t*>(args.places),
        .sources = reinterpret_cast<int32_t*>(args.sources),
        .bad_ids = params.bad_ids,
        .tokens = 0,
        .experts = spec.experts,
        .top_k = spec.top_k,
        .alignment = spec.alignment,
        .hidden = static_cast<int32_t>(spec.hidden),
        .out_row_bytes = static_cast<int32_t>(spec.hidden * out_size),
        .blocks = static_cast<int32_t>(scales_out ? ceil_div(spec.hidden, kScaleBlock) : 0),
        .power_of_two = spec.scale_kind == H4J_SCALE_POWER_OF_TWO,
        .counts = 0,
        .padding_ctas = 0,
        .scale_ctas = 0,
    };
  }

  void run(CUstream stream, int64_t tokens) const override {
    Params used = params;
    used.tokens = static_cast<int32_t>(tokens);
    const Plan::Grids grids = plan.grids_of(tokens);
    used.counts = grids.routing == 0;
    used.padding_ctas = grids.padding;
    used.scale_ctas = grids.scales;
    if (grids.routing > 0) router.launch({static_cast<unsigned>(grids.routing), kRouteThreads, static_cast<unsigned>(grids.routing)}, stream, &used);
    if (tokens == 0) return;
    // Within a budget the two do not share the SMs.
    const bool early = grids.routing > 0 && plan.spec.sm_budget == 0;
    mover.launch({static_cast<unsigned>(grids.padding + grids.scales + grids.rows), kThreads, 0, early}, stream, &used);
  }

  Plan plan;
  Kernel router;
  Kernel mover;
  Params params{};
};

}  // namespace
}  // namespace h4j::permute

using namespace h4j;

h4j_status h4j_moe_permute_plan(const h4j_device_info* device, const h4j_moe_permute_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(permute::kOperation, error, [&] {
    require_output(plan, permute::kOperation, "plan") = nullptr;
    *plan = new permute::Plan(read_struct(device, permute::kOperation, "device"), read_struct(spec, permute::kOperation, "spec"));
  });
}

h4j_status h4j_moe_permute_bind(const h4j_plan* plan, h4j_device* device, const h4j_moe_permute_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(permute::kOperation, error, [&] {
    require_output(launch, permute::kOperation, "launch") = nullptr;
    *launch = bind<permute::Plan, permute::Launch>(plan, device, args, permute::kOperation);
  });
}

h4j_status h4j_moe_permute_rebind(h4j_launch* launch, const h4j_moe_permute_args* args, h4j_error* error) {
  return guarded(permute::kOperation, error,
                 [&] { require_launch<permute::Launch>(launch, permute::kOperation).rebind(read_struct(args, permute::kOperation, "args")); });
}

h4j_status h4j_moe_permute(h4j_stream* stream, const h4j_moe_permute_spec* spec, const h4j_moe_permute_args* args, h4j_error* error) {
  return guarded(permute::kOperation, error, [&] { run_eagerly<permute::Plan, permute::Launch>(stream, spec, args, permute::kOperation); });
}
