#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "gemm/bf16/bf16_choose.h"
#include "gemm/bf16/bf16_instances.h"
#include "runtime/plan.h"

namespace h4j::gemm::bf16 {
namespace {

constexpr const char* kBatched = "gemm_bf16";
constexpr const char* kGrouped = "gemm_bf16_grouped";

// Both operations are planned alike: products of the same B, or groups, are counted by `batch`.
struct Plan : h4j_plan {
  Plan(const char* operation_name, const h4j_device_info& planned, bool groups, int64_t batch, h4j_dtype out_dtype, int32_t accumulates,
       int32_t sm_budget, int64_t max_m, int64_t n, int64_t k)
      : h4j_plan(operation_name), accumulate(accumulates), most{batch, groups, max_m, n, k, 0, 0} {
    device = planned;
    require_hopper(operation, device);
    require_dtype(operation, "out_dtype", out_dtype, {H4J_BF16, H4J_F32});
    require_range(operation, "accumulate", accumulate, 0, 1);
    require_range(operation, groups ? "groups" : "batch", batch, groups ? 1 : 0, 65535);
    require_range(operation, "max_m", max_m, 0, kMaxExtent);
    require_range(operation, "n", n, 8, kMaxExtent);
    require_multiple(operation, "n", n, 8);
    require_range(operation, "k", k, 8, kMaxExtent);
    require_multiple(operation, "k", k, 8);
    const int64_t smallest_tiles = ceil_div(max_m, 8) * ceil_div(n, 64);
    if (smallest_tiles > INT32_MAX || (groups ? 1 : batch) * smallest_tiles > INT32_MAX) {
      invalid(operation, "max_m", format("%lld with n %lld", static_cast<long long>(max_m), static_cast<long long>(n)),
              "at most 2^31 - 1 tiles of 8 x 64");
    }
    most.out_bytes = static_cast<int>(element_size(out_dtype));
    most.sms = usable_sms(operation, device, sm_budget);

    std::vector<Config> configs;
    std::vector<int> shared_memory;
    for (const Instance* candidate : bf16_instances()) {
      configs.push_back(candidate->config);
      shared_memory.push_back(candidate->shared_memory);
    }
    choice = choose(at_least_one_row(), configs, shared_memory, device.shared_memory_per_block);
    if (choice.index < 0) {
      fail(H4J_UNSUPPORTED, operation, "device.shared_memory_per_block", format("%d", device.shared_memory_per_block),
           format("at least %d", *std::min_element(shared_memory.begin(), shared_memory.end())));
    }
    use(choice);
  }

  void use(const Choice& chosen) {
    choice = chosen;
    instance = bf16_instances()[static_cast<size_t>(choice.index)];
    info.grid = nothing_to_do() ? 0 : grid(choice);
    info.block = instance->config.threads();
    info.shared_memory = instance->shared_memory;
    std::snprintf(info.kernel, sizeof info.kernel, "%s_%s_%s", operation, instance_name(instance->config, choice.slices).c_str(),
                  bf16() ? "bf16" : "f32");
    std::snprintf(info.explanation, sizeof info.explanation, "%s", explain(at_least_one_row(), instance->config, choice).c_str());
  }

  Problem with_rows(int64_t rows) const {
    Problem problem = most;
    problem.m = rows;
    return problem;
  }
  Problem at_least_one_row() const {
    Problem problem = with_rows(std::max<int64_t>(most.m, 1));
    problem.batch = std::max<int64_t>(problem.batch, 1);
    return problem;
  }

  // Slices are only chosen where all tiles run at once, a tile each; a CTA without slices takes tile after tile.
  int grid(const Choice& chosen) const { return static_cast<int>(std::min<int64_t>(chosen.tiles, most.sms / chosen.slices) * chosen.slices); }

  bool nothing_to_do() const { return most.m == 0 || most.batch == 0; }
  bool bf16() const { return most.out_bytes == 2; }

  int32_t accumulate;
  Problem most;  // with all rows
  Choice choice{};
  const Instance* instance = nullptr;
};

struct BatchedPlan final : Plan {
  BatchedPlan(const h4j_device_info& planned, const h4j_gemm_bf16_spec& spec)
      : Plan(kBatched, planned, false, spec.batch, spec.out_dtype, spec.accumulate, spec.sm_budget, spec.max_m, spec.n, spec.k) {}
};

struct GroupedPlan final : Plan {
  GroupedPlan(const h4j_device_info& planned, const h4j_gemm_bf16_grouped_spec& spec)
      : Plan(kGrouped, planned, true, spec.groups, spec.out_dtype, spec.accumulate, spec.sm_budget, spec.max_m, spec.n, spec.k) {}
};

// `batch` row-major matrices [rows, cols] cut into boxes [1, box_rows, box_cols]; what lies outside reads as zero and is not written.
CUtensorMap describe(uint64_t address, int64_t batch, int64_t batch_ld, int64_t rows, int64_t ld, int64_t cols, int box_rows, int box_cols,
                     CUtensorMapSwizzle swizzle, const char* argument) {
  CUtensorMap map;
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(batch)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(ld) * 2, static_cast<cuuint64_t>(batch == 1 ? ld : batch_ld) * 2};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t steps[] = {1, 1, 1};
  const CUresult encoded =
      driver().cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, reinterpret_cast<void*>(address), extents, strides, box, steps,
                                      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(encoded, argument);
  return map;
}

template <class MadeFrom, class Args>
struct Launch final : h4j_launch {
  static constexpr bool kIsGrouped = std::is_same_v<MadeFrom, GroupedPlan>;

  Launch(const MadeFrom& made_from, const h4j_device& opened, const Args& args)
      : h4j_launch(made_from.operation, opened),
        plan(made_from),
        faults(fault_site(opened, operation, "group_ends")),
        kernel(plan.bf16() ? plan.instance->bf16_stub : plan.instance->f32_stub, opened, plan.instance->shared_memory) {
    max_rows = plan.most.m;
    rebind(args);
  }

  void rebind(const Args& args) {
    const Problem& most = plan.most;
    const int64_t out_multiple = 16 / most.out_bytes;
    require_ld(operation, "a_ld", args.a_ld, most.k, 8);
    require_ld(operation, "b_ld", args.b_ld, most.k, 8);
    require_ld(operation, "d_ld", args.d_ld, most.n, out_multiple);
    int64_t a_batch_ld = 0;
    int64_t b_batch_ld = 0;
    int64_t c_batch_ld = 0;
    int64_t d_batch_ld = 0;
    if constexpr (kIsGrouped) {
      b_batch_ld = args.b_group_ld;
      if (most.batch > 1) require_ld(operation, "b_group_ld", b_batch_ld, most.k, 8);
    } else if (most.batch > 1) {
      a_batch_ld = args.a_batch_ld, b_batch_ld = args.b_batch_ld, c_batch_ld = args.c_batch_ld, d_batch_ld = args.d_batch_ld;
      require_ld(operation, "a_batch_ld", a_batch_ld, most.k, 8);
      require_ld(operation, "b_batch_ld", b_batch_ld, most.k, 8);
      require_ld(operation, "d_batch_ld", d_batch_ld, most.n, out_multiple);
    }
    if (plan.accumulate != 0) {
      require_ld(operation, "c_ld", args.c_ld, most.n, out_multiple);
      if (!kIsGrouped && most.batch > 1) require_ld(operation, "c_batch_ld", c_batch_ld, most.n, out_multiple);
    } else if (args.c != 0) {
      invalid(operation, "c", "an address", "0: the plan does not accumulate");
    }
    if (plan.nothing_to_do()) return;
    require_address(operation, "a", args.a, 16);
    require_address(operation, "b", args.b, 16);
    require_address(operation, "d", args.d, 16);
    if constexpr (kIsGrouped) require_address(operation, "group_ends", args.group_ends, 4);
    if (plan.accumulate != 0) {
      require_address(operation, "c", args.c, 16);
      if (args.c == args.d && args.c_ld != args.d_ld) {
        invalid(operation, "c_ld", format("%lld with c at the address of d", static_cast<long long>(args.c_ld)),
                format("d_ld, %lld", static_cast<long long>(args.d_ld)));
      }
      if (args.c == args.d && c_batch_ld != d_batch_ld) {
        invalid(operation, "c_batch_ld", format("%lld with c at the address of d", static_cast<long long>(c_batch_ld)),
                format("d_batch_ld, %lld", static_cast<long long>(d_batch_ld)));
      }
    }
    const ScopedContext current(primary);  // the driver encodes descriptors in a context only
    const Config& config = plan.instance->config;
    const int64_t a_batch = kIsGrouped ? 1 : most.batch;
    const CUtensorMap a = describe(args.a, a_batch, a_batch_ld, most.m, args.a_ld, most.k, config.tile_m, kTileK, CU_TENSOR_MAP_SWIZZLE_128B, "a");
    const CUtensorMap b = describe(args.b, most.batch, b_batch_ld, most.n, args.b_ld, most.k, config.tile_n, kTileK, CU_TENSOR_MAP_SWIZZLE_128B, "b");
    Params bound{};
    bound.first = config.swapped ? b : a;
    bound.second = config.swapped ? a : b;
    if (plan.bf16() && !config.swapped) {
      const CUtensorMapSwizzle swizzle = config.store_cols() == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                         : config.store_cols() == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                                     : CU_TENSOR_MAP_SWIZZLE_32B;
      bound.d = describe(args.d, a_batch, d_batch_ld, most.m, args.d_ld, most.n, 64, config.store_cols(), swizzle, "d");
    }
    if constexpr (kIsGrouped) bound.group_ends = reinterpret_cast<const int32_t*>(args.group_ends);
    bound.faults = faults;
    bound.c = reinterpret_cast<const void*>(args.c);
    bound.c_ld = args.c_ld;
    bound.c_batch_ld = c_batch_ld;
    bound.d_pointer = reinterpret_cast<void*>(args.d);
    bound.d_ld = args.d_ld;
    bound.d_batch_ld = d_batch_ld;
    bound.groups = static_cast<int32_t>(most.batch);
    bound.n = static_cast<int32_t>(most.n);
    bound.slices = plan.choice.slices;
    bound.k_blocks = static_cast<int32_t>(ceil_div(most.k, kTileK));
    set_rows(bound, most.m, plan.choice);
    params = bound;
  }

  // What depends on the rows in use: the tiles, and where stores are clipped.
  static void set_rows(Params& used, int64_t rows, const Choice& choice) {
    used.m = static_cast<int32_t>(rows);
    used.raster = {choice.tiles_m, choice.tiles_n, choice.raster_group, choice.raster_along_m};
  }

  void run(CUstream stream, int64_t rows) const override {
    if (plan.most.batch == 0) return;
    if (rows == max_rows) {
      launch(plan.info.grid, stream, params);
      return;
    }
    const Choice choice = evaluate(plan.with_rows(rows), plan.instance->config, plan.choice.index, plan.choice.slices);
    Params used = params;
    set_rows(used, rows, choice);
    launch(plan.grid(choice), stream, used);
  }

  void launch(int grid, CUstream stream, const Params& used) const {
    const Config& config = plan.instance->config;
    const unsigned cluster = params.slices > 1 ? static_cast<unsigned>(params.slices) : 0;
    kernel.launch({static_cast<unsigned>(grid), static_cast<unsigned>(config.threads()), cluster}, stream, &used);
  }

  MadeFrom plan;
  FaultSite faults;
  Kernel kernel;
  Params params{};
};

using BatchedLaunch = Launch<BatchedPlan, h4j_gemm_bf16_args>;
using GroupedLaunch = Launch<GroupedPlan, h4j_gemm_bf16_grouped_args>;

}  // namespace
}  // namespace h4j::gemm::bf16

using namespace h4j;
using namespace h4j::gemm::bf16;

h4j_status h4j_gemm_bf16_plan(const h4j_device_info* device, const h4j_gemm_bf16_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(kBatched, error, [&] {
    require_output(plan, kBatched, "plan") = nullptr;
    *plan = new BatchedPlan(read_struct(device, kBatched, "device"), read_struct(spec, kBatched, "spec"));
  });
}

h4j_status h4j_gemm_bf16_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_bf16_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(kBatched, error, [&] {
    require_output(launch, kBatched, "launch") = nullptr;
    *launch = bind<BatchedPlan, BatchedLaunch>(plan, device, args, kBatched);
  });
}

h4j_status h4j_gemm_bf16_rebind(h4j_launch* launch, const h4j_gemm_bf16_args* args, h4j_error* error) {
  return guarded(kBatched, error, [&] { require_launch<BatchedLaunch>(launch, kBatched).rebind(read_struct(args, kBatched, "args")); });
}

h4j_status h4j_gemm_bf16(h4j_stream* stream, const h4j_gemm_bf16_spec* spec, const h4j_gemm_bf16_args* args, h4j_error* error) {
  return guarded(kBatched, error, [&] { run_eagerly<BatchedPlan, BatchedLaunch>(stream, spec, args, kBatched); });
}

h4j_status h4j_gemm_bf16_grouped_plan(const h4j_device_info* device, const h4j_gemm_bf16_grouped_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(kGrouped, error, [&] {
    require_output(plan, kGrouped, "plan") = nullptr;
    *plan = new GroupedPlan(read_struct(device, kGrouped, "device"), read_struct(spec, kGrouped, "spec"));
  });
}

h4j_status h4j_gemm_bf16_grouped_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_bf16_grouped_args* args, h4j_launch** launch,
                                      h4j_error* error) {
  return guarded(kGrouped, error, [&] {
    require_output(launch, kGrouped, "launch") = nullptr;
    *launch = bind<GroupedPlan, GroupedLaunch>(plan, device, args, kGrouped);
  });
}

h4j_status h4j_gemm_bf16_grouped_rebind(h4j_launch* launch, const h4j_gemm_bf16_grouped_args* args, h4j_error* error) {
  return guarded(kGrouped, error, [&] { require_launch<GroupedLaunch>(launch, kGrouped).rebind(read_struct(args, kGrouped, "args")); });
}

h4j_status h4j_gemm_bf16_grouped(h4j_stream* stream, const h4j_gemm_bf16_grouped_spec* spec, const h4j_gemm_bf16_grouped_args* args,
                                 h4j_error* error) {
  return guarded(kGrouped, error, [&] { run_eagerly<GroupedPlan, GroupedLaunch>(stream, spec, args, kGrouped); });
}
