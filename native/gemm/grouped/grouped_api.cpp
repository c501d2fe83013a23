#include <algorithm>
#include <vector>

#include "gemm/descriptors.h"
#include "gemm/grouped/grouped_choose.h"
#include "gemm/grouped/grouped_instances.h"
#include "runtime/plan.h"

namespace h4j::gemm::grouped {
namespace {

// What the two operations share: groups as parts of one matrix, or each with a plane of its own.
struct CommonPlan : h4j_plan {
  CommonPlan(const char* name, const h4j_device_info& planned) : h4j_plan(name) { device = planned; }

  // `rows` is the extent of A's rows, of each plane where there are some; `mean` what a group uses of them.
  void choose_instance(const char* rows_name, int64_t groups, int64_t rows, int64_t mean, int64_t planes, int64_t n, int64_t k, int32_t sm_budget) {
    require_range(operation, "groups", groups, 1, kMaxGroups);
    require_range(operation, "n", n, 8, kMaxExtent);
    require_multiple(operation, "n", n, 8);
    require_range(operation, "k", k, 16, kMaxExtent);
    require_multiple(operation, "k", k, 16);
    sms = usable_sms(operation, device, sm_budget);
    const Problem problem{groups, std::max<int64_t>(mean, 1), n, k, sms, device.memory_bytes};
    std::vector<Config> configs;
    std::vector<int> shared_memory;
    for (const Instance* candidate : grouped_instances()) {
      configs.push_back(candidate->config);
      shared_memory.push_back(candidate->shared_memory);
    }
    choice = choose(problem, configs, shared_memory, device.shared_memory_per_block);
    if (choice.index < 0) {
      fail(H4J_UNSUPPORTED, operation, "device.shared_memory_per_block", format("%d", device.shared_memory_per_block),
           format("at least %d", *std::min_element(shared_memory.begin(), shared_memory.end())));
    }
    instance = grouped_instances()[static_cast<size_t>(choice.index)];
    // A tile a group and column more than the rows alone need, where the rows are divided among the groups.
    const Config& config = instance->config;
    const int64_t tile_rows = planes > 1 ? groups * ceil_div(rows, config.tile_m) : ceil_div(rows, config.tile_m) + groups;
    const int64_t tiles = tile_rows * (choice.columns.whole + choice.columns.narrow);
    if (tiles > INT32_MAX) {
      invalid(operation, rows_name, format("%lld with n %lld", static_cast<long long>(rows), static_cast<long long>(n)),
              format("at most 2^31 - 1 tiles of %d x %d", config.tile_m, config.tile_n));
    }
    info.grid = rows == 0 ? 0 : static_cast<int>(std::min<int64_t>(tiles, sms / config.multicast)) * config.multicast;
    info.block = config.threads();
    info.shared_memory = instance->shared_memory;
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance_name(config).c_str());
    std::snprintf(info.explanation, sizeof info.explanation, "%s", explain(problem, config, choice).c_str());
  }

  int sms = 0;
  Choice choice{};
  const Instance* instance = nullptr;
};

struct GroupedPlan final : CommonPlan {
  using Args = h4j_gemm_grouped_args;
  static constexpr const char* kOperation = "gemm_grouped";
  static constexpr const char* kExtents = "group_ends";

  GroupedPlan(const h4j_device_info& planned, const h4j_gemm_grouped_spec& requested) : CommonPlan(kOperation, planned), spec(requested) {
    require_hopper(kOperation, device);
    require_dtype(kOperation, "ends_dtype", spec.ends_dtype, {H4J_I32, H4J_I64});
    require_range(kOperation, "max_m", spec.max_m, 0, kMaxExtent);
    choose_instance("max_m", spec.groups, spec.max_m, spec.max_m / std::max(spec.groups, 1), 1, spec.n, spec.k, spec.sm_budget);
  }

  int64_t rows() const { return spec.max_m; }
  int64_t planes() const { return 1; }
  h4j_dtype extents_dtype() const { return spec.ends_dtype; }
  static uint64_t extents(const Args& args) { return args.group_ends; }
  // There is one plane: the distance to the next is never taken, but a descriptor has one.
  static int64_t a_group_ld(const Args& args) { return args.a_ld; }
  static int64_t a_scales_group_ld(const Args& args) { return args.a_scales_ld; }
  static int64_t d_group_ld(const Args& args) { return args.d_ld; }

  h4j_gemm_grouped_spec spec;
};

struct MaskedPlan final : CommonPlan {
  using Args = h4j_gemm_masked_args;
  static constexpr const char* kOperation = "gemm_masked";
  static constexpr const char* kExtents = "counts";

  MaskedPlan(const h4j_device_info& planned, const h4j_gemm_masked_spec& requested) : CommonPlan(kOperation, planned), spec(requested) {
    require_hopper(kOperation, device);
    require_dtype(kOperation, "counts_dtype", spec.counts_dtype, {H4J_I32, H4J_I64});
    require_range(kOperation, "max_rows", spec.max_rows, 0, kMaxExtent);
    require_range(kOperation, "expected_rows", spec.expected_rows, 0, spec.max_rows);
    choose_instance("max_rows", spec.groups, spec.max_rows, spec.expected_rows == 0 ? spec.max_rows : spec.expected_rows, spec.groups, spec.n, spec.k,
                    spec.sm_budget);
  }

  int64_t rows() const { return spec.max_rows; }
  int64_t planes() const { return spec.groups; }
  h4j_dtype extents_dtype() const { return spec.counts_dtype; }
  static uint64_t extents(const Args& args) { return args.counts; }
  int64_t a_group_ld(const Args& args) const {
    require_group_ld(kOperation, "a_group_ld", args.a_group_ld, spec.max_rows * args.a_ld, 16);
    return args.a_group_ld;
  }
  int64_t a_scales_group_ld(const Args& args) const {
    require_group_ld(kOperation, "a_scales_group_ld", args.a_scales_group_ld, ceil_div(spec.k, kTileK) * args.a_scales_ld, 4);
    return args.a_scales_group_ld;
  }
  int64_t d_group_ld(const Args& args) const {
    require_group_ld(kOperation, "d_group_ld", args.d_group_ld, spec.max_rows * args.d_ld, 8);
    return args.d_group_ld;
  }

  h4j_gemm_masked_spec spec;
};

template <class Plan>
struct Launch final : h4j_launch {
  using Args = typename Plan::Args;

  Launch(const Plan& made_from, const h4j_device& opened, const Args& args)
      : h4j_launch(Plan::kOperation, opened),
        plan(made_from),
        kernel(plan.instance->stub, opened, plan.instance->shared_memory),
        bad_extents(fault_site(opened, Plan::kOperation, Plan::kExtents)) {
    max_rows = plan.rows();
    rebind(args);
  }

  void rebind(const Args& args) {
    const char* name = Plan::kOperation;
    const auto& spec = plan.spec;
    const int64_t k_blocks = ceil_div(spec.k, kTileK);
    const int64_t rows = plan.rows();
    require_ld(name, "a_ld", args.a_ld, spec.k, 16);
    const int64_t a_group_ld = plan.a_group_ld(args);
    require_ld(name, "a_scales_ld", args.a_scales_ld, rows, 4);
    const int64_t a_scales_group_ld = plan.a_scales_group_ld(args);
    require_ld(name, "b_ld", args.b_ld, spec.k, 16);
    require_group_ld(name, "b_group_ld", args.b_group_ld, spec.n * args.b_ld, 16);
    require_ld(name, "b_scales_ld", args.b_scales_ld, k_blocks, 1);
    require_group_ld(name, "b_scales_group_ld", args.b_scales_group_ld, ceil_div(spec.n, kTileK) * args.b_scales_ld, 1);
    require_ld(name, "d_ld", args.d_ld, spec.n, 8);
    const int64_t d_group_ld = plan.d_group_ld(args);
    if (rows == 0) return;
    require_address(name, "a", args.a, 16);
    require_address(name, "a_scales", args.a_scales, 16);
    require_address(name, "b", args.b, 16);
    require_address(name, "b_scales", args.b_scales, 4);
    require_address(name, Plan::kExtents, Plan::extents(args), element_size(plan.extents_dtype()));
    require_address(name, "d", args.d, 16);
    const ScopedContext current(primary);  // the driver encodes descriptors in a context only
    const Config& config = plan.instance->config;
    const int64_t planes = plan.planes();
    Params bound{};
    bound.a = describe_planes(CU_TENSOR_MAP_DATA_TYPE_UINT8, args.a, planes, rows, spec.k, a_group_ld, args.a_ld, 1, copy_rows(config), kTileK,
                              CU_TENSOR_MAP_SWIZZLE_128B, "a");
    bound.b = describe_planes(CU_TENSOR_MAP_DATA_TYPE_UINT8, args.b, spec.groups, spec.n, spec.k, args.b_group_ld, args.b_ld, 1, config.tile_n,
                              kTileK, CU_TENSOR_MAP_SWIZZLE_128B, "b");
    bound.b_narrow = describe_planes(CU_TENSOR_MAP_DATA_TYPE_UINT8, args.b, spec.groups, spec.n, spec.k, args.b_group_ld, args.b_ld, 1,
                                     config.narrow_cols() > 0 ? config.narrow_cols() : config.tile_n, kTileK, CU_TENSOR_MAP_SWIZZLE_128B, "b");
    bound.a_scales = describe_planes(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, args.a_scales, planes, k_blocks, rows, a_scales_group_ld, args.a_scales_ld, 4,
                                     config.strip_blocks(), copy_rows(config) + kScaleSlack, CU_TENSOR_MAP_SWIZZLE_NONE, "a_scales");
    for (int log2 = 0; log2 <= kBoxRowsLog2; ++log2) {
      bound.d[log2] = describe_planes(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, args.d, planes, rows, spec.n, d_group_ld, args.d_ld, 2, 1 << log2,
                                      config.store_cols(), store_swizzle(config.store_cols()), "d");
    }
    bound.b_scales = reinterpret_cast<const float*>(args.b_scales);
    bound.b_scales_ld = args.b_scales_ld;
    bound.b_scales_group_ld = args.b_scales_group_ld;
    bound.extents = reinterpret_cast<const void*>(Plan::extents(args));
    bound.d_pointer = reinterpret_cast<__nv_bfloat16*>(args.d);
    bound.d_ld = args.d_ld;
    bound.planes = std::is_same_v<Plan, MaskedPlan>;
    bound.d_group_ld = bound.planes ? d_group_ld : 0;
    bound.bad_extents = bad_extents;
    bound.wide_extents = plan.extents_dtype() == H4J_I64;
    bound.groups = spec.groups;
    bound.m = static_cast<int32_t>(rows);
    bound.n = static_cast<int32_t>(spec.n);
    bound.k_blocks = static_cast<int32_t>(k_blocks);
    bound.columns = plan.choice.columns;
    params = bound;
  }

  void run(CUstream stream, int64_t rows) const override {
    Params used = params;
    used.m = static_cast<int32_t>(rows);
    kernel.launch(
        {static_cast<unsigned>(plan.info.grid), static_cast<unsigned>(plan.info.block), static_cast<unsigned>(plan.instance->config.cluster())},
        stream, &used);
  }

  Plan plan;
  Kernel kernel;
  FaultSite bad_extents;
  Params params{};
};

}  // namespace
}  // namespace h4j::gemm::grouped

using namespace h4j;
using gemm::grouped::GroupedPlan;
using gemm::grouped::MaskedPlan;

namespace {
using GroupedLaunch = gemm::grouped::Launch<GroupedPlan>;
using MaskedLaunch = gemm::grouped::Launch<MaskedPlan>;
}  // namespace

h4j_status h4j_gemm_grouped_plan(const h4j_device_info* device, const h4j_gemm_grouped_spec* spec, h4j_plan** plan, h4j_error* error) {
  constexpr const char* kOperation = GroupedPlan::kOperation;
  return guarded(kOperation, error, [&] {
    require_output(plan, kOperation, "plan") = nullptr;
    *plan = new GroupedPlan(read_struct(device, kOperation, "device"), read_struct(spec, kOperation, "spec"));
  });
}

h4j_status h4j_gemm_grouped_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_grouped_args* args, h4j_launch** launch, h4j_error* error) {
  constexpr const char* kOperation = GroupedPlan::kOperation;
  return guarded(kOperation, error, [&] {
    require_output(launch, kOperation, "launch") = nullptr;
    *launch = bind<GroupedPlan, GroupedLaunch>(plan, device, args, kOperation);
  });
}

h4j_status h4j_gemm_grouped_rebind(h4j_launch* launch, const h4j_gemm_grouped_args* args, h4j_error* error) {
  constexpr const char* kOperation = GroupedPlan::kOperation;
  return guarded(kOperation, error, [&] { require_launch<GroupedLaunch>(launch, kOperation).rebind(read_struct(args, kOperation, "args")); });
}

h4j_status h4j_gemm_grouped(h4j_stream* stream, const h4j_gemm_grouped_spec* spec, const h4j_gemm_grouped_args* args, h4j_error* error) {
  return guarded(GroupedPlan::kOperation, error, [&] { run_eagerly<GroupedPlan, GroupedLaunch>(stream, spec, args, GroupedPlan::kOperation); });
}

h4j_status h4j_gemm_masked_plan(const h4j_device_info* device, const h4j_gemm_masked_spec* spec, h4j_plan** plan, h4j_error* error) {
  constexpr const char* kOperation = MaskedPlan::kOperation;
  return guarded(kOperation, error, [&] {
    require_output(plan, kOperation, "plan") = nullptr;
    *plan = new MaskedPlan(read_struct(device, kOperation, "device"), read_struct(spec, kOperation, "spec"));
  });
}

h4j_status h4j_gemm_masked_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_masked_args* args, h4j_launch** launch, h4j_error* error) {
  constexpr const char* kOperation = MaskedPlan::kOperation;
  return guarded(kOperation, error, [&] {
    require_output(launch, kOperation, "launch") = nullptr;
    *launch = bind<MaskedPlan, MaskedLaunch>(plan, device, args, kOperation);
  });
}

h4j_status h4j_gemm_masked_rebind(h4j_launch* launch, const h4j_gemm_masked_args* args, h4j_error* error) {
  constexpr const char* kOperation = MaskedPlan::kOperation;
  return guarded(kOperation, error, [&] { require_launch<MaskedLaunch>(launch, kOperation).rebind(read_struct(args, kOperation, "args")); });
}

h4j_status h4j_gemm_masked(h4j_stream* stream, const h4j_gemm_masked_spec* spec, const h4j_gemm_masked_args* args, h4j_error* error) {
  return guarded(MaskedPlan::kOperation, error, [&] { run_eagerly<MaskedPlan, MaskedLaunch>(stream, spec, args, MaskedPlan::kOperation); });
}
