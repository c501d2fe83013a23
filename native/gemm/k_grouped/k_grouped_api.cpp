#include <algorithm>

#include "gemm/cost.h"
#include "gemm/descriptors.h"
#include "gemm/k_grouped/k_grouped_instances.h"
#include "runtime/plan.h"

namespace h4j::gemm::k_grouped {
namespace {

constexpr const char* kOperation = "gemm_k_grouped";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_gemm_k_grouped_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_dtype(kOperation, "ends_dtype", spec.ends_dtype, {H4J_I32, H4J_I64});
    require_range(kOperation, "groups", spec.groups, 1, kMaxGroups);
    require_range(kOperation, "accumulate", spec.accumulate, 0, 1);
    require_range(kOperation, "m", spec.m, 1, kMaxExtent);
    require_range(kOperation, "n", spec.n, 8, kMaxExtent);
    require_multiple(kOperation, "n", spec.n, 8);
    require_range(kOperation, "max_k", spec.max_k, 0, kMaxExtent);
    require_multiple(kOperation, "max_k", spec.max_k, 16);
    const int sms = usable_sms(kOperation, device, spec.sm_budget);
    for (const Instance* candidate : k_grouped_instances()) {
      instance = candidate;
      if (ceil_div(spec.n, candidate->config.tile_n) % candidate->config.multicast == 0 && candidate->config.multicast <= sms) break;
    }
    if (instance->shared_memory > device.shared_memory_per_block) {
      fail(H4J_UNSUPPORTED, kOperation, "device.shared_memory_per_block", format("%d", device.shared_memory_per_block),
           format("at least %d", instance->shared_memory));
    }
    const Config& config = instance->config;
    const int64_t tiles_m = ceil_div(spec.m, config.tile_m);
    const int64_t tiles_n = ceil_div(spec.n, config.cluster_cols());
    const int64_t tiles = tiles_m * tiles_n * spec.groups;
    if (tiles > INT32_MAX) {
      invalid(kOperation, "m", format("%lld with n %lld and %d groups", static_cast<long long>(spec.m), static_cast<long long>(spec.n), spec.groups),
              format("at most 2^31 - 1 tiles of %d x %d", config.tile_m, config.tile_n));
    }
    raster = choose_raster({spec.m, spec.n, spec.max_k / spec.groups, 4, sms, device.l2_bytes}, static_cast<int>(tiles_m), static_cast<int>(tiles_n));
    info.grid = spec.max_k == 0 ? 0 : static_cast<int>(std::min<int64_t>(tiles, sms / config.multicast)) * config.multicast;
    info.block = config.threads();
    info.shared_memory = instance->shared_memory;
    std::snprintf(info.kernel, sizeof info.kernel, "gemm_k_grouped_%dx%dx%d_c%d", config.tile_m, config.tile_n, config.stages, config.multicast);
    std::snprintf(
        info.explanation, sizeof info.explanation,
        "%dx%d tiles, %d stages, clusters of %d along N: %lld x %lld clusters' tiles for each of %d groups on %d SMs, rasterised in groups of "
        "%d along %s",
        config.tile_m, config.tile_n, config.stages, config.multicast, static_cast<long long>(tiles_m), static_cast<long long>(tiles_n), spec.groups,
        sms, raster.group, raster.along_m ? "M" : "N");
  }

  h4j_gemm_k_grouped_spec spec;
  const Instance* instance;
  Raster raster{};
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_gemm_k_grouped_args& args)
      : h4j_launch(kOperation, opened),
        plan(made_from),
        kernel(plan.instance->stub, opened, plan.instance->shared_memory),
        bad_ends(fault_site(opened, kOperation, "group_ends")) {
    max_rows = plan.spec.max_k;
    rebind(args);
  }

  void rebind(const h4j_gemm_k_grouped_args& args) {
    const h4j_gemm_k_grouped_spec& spec = plan.spec;
    const bool accumulates = spec.accumulate != 0;
    require_ld(kOperation, "a_ld", args.a_ld, spec.max_k, 16);
    require_ld(kOperation, "a_scales_ld", args.a_scales_ld, spec.m, 4);
    require_ld(kOperation, "b_ld", args.b_ld, spec.max_k, 16);
    require_ld(kOperation, "b_scales_ld", args.b_scales_ld, spec.n, 4);
    if (accumulates) {
      require_ld(kOperation, "c_ld", args.c_ld, spec.n, 4);
      require_group_ld(kOperation, "c_group_ld", args.c_group_ld, spec.m * args.c_ld, 4);
    } else if (args.c != 0) {
      invalid(kOperation, "c", "an address", "0: the plan does not accumulate");
    }
    require_ld(kOperation, "d_ld", args.d_ld, spec.n, 4);
    require_group_ld(kOperation, "d_group_ld", args.d_group_ld, spec.m * args.d_ld, 4);
    if (spec.max_k == 0) return;
    require_address(kOperation, "a", args.a, 16);
    require_address(kOperation, "a_scales", args.a_scales, 16);
    require_address(kOperation, "b", args.b, 16);
    require_address(kOperation, "b_scales", args.b_scales, 16);
    require_address(kOperation, "group_ends", args.group_ends, element_size(spec.ends_dtype));
    require_address(kOperation, "d", args.d, 16);
    if (accumulates) {
      require_address(kOperation, "c", args.c, 16);
      if (args.c == args.d && (args.c_ld != args.d_ld || args.c_group_ld != args.d_group_ld)) {
        invalid(
            kOperation, "c_ld",
            format("%lld and c_group_ld %lld with c at the address of d", static_cast<long long>(args.c_ld), static_cast<long long>(args.c_group_ld)),
            format("those of d, %lld and %lld", static_cast<long long>(args.d_ld), static_cast<long long>(args.d_group_ld)));
      }
    }
    const ScopedContext current(primary);  // the driver encodes descriptors in a context only
    const Config& config = plan.instance->config;
    const int64_t k_blocks = ceil_div(spec.max_k, kTileK);
    Params bound{};
    bound.a = describe(CU_TENSOR_MAP_DATA_TYPE_UINT8, args.a, spec.m, spec.max_k, args.a_ld, 1, a_copy_rows(config), kTileK,
                       CU_TENSOR_MAP_SWIZZLE_128B, "a");
    bound.b =
        describe(CU_TENSOR_MAP_DATA_TYPE_UINT8, args.b, spec.n, spec.max_k, args.b_ld, 1, config.tile_n, kTileK, CU_TENSOR_MAP_SWIZZLE_128B, "b");
    bound.a_scales = describe(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, args.a_scales, k_blocks, spec.m, args.a_scales_ld, 4, 1, config.tile_m,
                              CU_TENSOR_MAP_SWIZZLE_NONE, "a_scales");
    bound.b_scales = describe(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, args.b_scales, k_blocks, spec.n, args.b_scales_ld, 4, 1, config.tile_n,
                              CU_TENSOR_MAP_SWIZZLE_NONE, "b_scales");
    bound.d = describe_planes(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, args.d, spec.groups, spec.m, spec.n, args.d_group_ld, args.d_ld, 4, 64, 32,
                              CU_TENSOR_MAP_SWIZZLE_128B, "d");
    bound.ends = reinterpret_cast<const void*>(args.group_ends);
    bound.c = reinterpret_cast<const float*>(args.c);
    bound.c_ld = args.c_ld;
    bound.c_group_ld = args.c_group_ld;
    bound.d_pointer = reinterpret_cast<float*>(args.d);
    bound.d_ld = args.d_ld;
    bound.d_group_ld = args.d_group_ld;
    bound.bad_ends = bad_ends;
    bound.wide_ends = spec.ends_dtype == H4J_I64;
    bound.groups = spec.groups;
    bound.m = static_cast<int32_t>(spec.m);
    bound.n = static_cast<int32_t>(spec.n);
    bound.k = bound.max_k = static_cast<int32_t>(spec.max_k);
    bound.raster = plan.raster;
    params = bound;
  }

  void run(CUstream stream, int64_t rows) const override {
    Params used = params;
    used.k = static_cast<int32_t>(rows);
    kernel.launch(
        {static_cast<unsigned>(plan.info.grid), static_cast<unsigned>(plan.info.block), static_cast<unsigned>(plan.instance->config.cluster())},
        stream, &used);
  }

  Plan plan;
  Kernel kernel;
  FaultSite bad_ends;
  Params params{};
};

}  // namespace
}  // namespace h4j::gemm::k_grouped

using namespace h4j;
using namespace h4j::gemm::k_grouped;

h4j_status h4j_gemm_k_grouped_plan(const h4j_device_info* device, const h4j_gemm_k_grouped_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(kOperation, error, [&] {
    require_output(plan, kOperation, "plan") = nullptr;
    *plan = new Plan(read_struct(device, kOperation, "device"), read_struct(spec, kOperation, "spec"));
  });
}

h4j_status h4j_gemm_k_grouped_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_k_grouped_args* args, h4j_launch** launch,
                                   h4j_error* error) {
  return guarded(kOperation, error, [&] {
    require_output(launch, kOperation, "launch") = nullptr;
    *launch = bind<Plan, Launch>(plan, device, args, kOperation);
  });
}

h4j_status h4j_gemm_k_grouped_rebind(h4j_launch* launch, const h4j_gemm_k_grouped_args* args, h4j_error* error) {
  return guarded(kOperation, error, [&] { require_launch<Launch>(launch, kOperation).rebind(read_struct(args, kOperation, "args")); });
}

h4j_status h4j_gemm_k_grouped(h4j_stream* stream, const h4j_gemm_k_grouped_spec* spec, const h4j_gemm_k_grouped_args* args, h4j_error* error) {
  return guarded(kOperation, error, [&] { run_eagerly<Plan, Launch>(stream, spec, args, kOperation); });
}
