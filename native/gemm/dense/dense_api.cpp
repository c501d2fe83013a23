#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <vector>

#include "gemm/dense/dense_choose.h"
#include "gemm/dense/dense_instances.h"
#include "gemm/descriptors.h"
#include "gemm/gemv/gemv_layout.h"
#include "runtime/plan.h"

namespace h4j::gemm {
namespace {

constexpr const char* kOperation = "gemm";

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_gemm_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_dtype(kOperation, "out_dtype", spec.out_dtype, {H4J_BF16, H4J_F32, H4J_F8_E4M3});
    require_range(kOperation, "accumulate", spec.accumulate, 0, 1);
    if (quantizes() && spec.accumulate != 0) invalid(kOperation, "accumulate", "1 with out_dtype F8_E4M3", "0");
    require_range(kOperation, "out_scale_kind", spec.out_scale_kind, H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO);
    if (!quantizes() && spec.out_scale_kind != H4J_SCALE_F32) {
      invalid(kOperation, "out_scale_kind", "H4J_SCALE_POWER_OF_TWO", "H4J_SCALE_F32, 0, as the output is not F8_E4M3");
    }
    require_range(kOperation, "batch_invariant", spec.batch_invariant, 0, 1);
    require_range(kOperation, "constant_b", spec.constant_b, 0, 1);
    require_range(kOperation, "max_m", spec.max_m, 0, kMaxExtent);
    require_range(kOperation, "n", spec.n, 8, kMaxExtent);
    require_multiple(kOperation, "n", spec.n, quantizes() ? 16 : 8);  // TMA clips stores at multiples of 16 bytes only
    require_range(kOperation, "k", spec.k, 16, kMaxExtent);
    require_multiple(kOperation, "k", spec.k, 16);
    const int64_t smallest_tiles = ceil_div(spec.max_m, 64) * ceil_div(spec.n, 16);
    if (smallest_tiles > INT32_MAX) {
      invalid(kOperation, "max_m", format("%lld with n %lld", static_cast<long long>(spec.max_m), static_cast<long long>(spec.n)),
              "at most 2^31 - 1 tiles of 64 x 16");
    }
    sms = usable_sms(kOperation, device, spec.sm_budget);
    if (spec.max_m <= 1 && spec.batch_invariant == 0 && !quantizes()) {
      plan_gemv();
    } else {
      plan_tiles();
    }
  }

  // The product of one row only reads B.
  void plan_gemv() {
    gemv = choose_gemv(spec.n, spec.k, sms, sms == device.sm_count);
    info.grid = spec.max_m == 0 ? 0 : gemv.grid;
    info.block = 32 * kGemvWarps;
    std::snprintf(info.kernel, sizeof info.kernel, "gemm_gemv_%d_%s", gemv.k_parts, spec.out_dtype == H4J_BF16 ? "bf16" : "f32");
    std::snprintf(info.explanation, sizeof info.explanation,
                  "one row: no tensor core, %d warps share the K of %d rows of B, %d CTAs of %d warps on %d SMs", gemv.k_parts, kGemvBRows, gemv.grid,
                  kGemvWarps, sms);
  }

  void plan_tiles() {
    std::vector<Config> configs;
    std::vector<int> shared_memory;
    for (const Instance* candidate : dense_instances()) {
      configs.push_back(candidate->config);
      shared_memory.push_back(candidate->shared_memory);
    }
    const Problem problem = problem_of(std::max<int64_t>(spec.max_m, 1), true);
    choice = choose(problem, configs, shared_memory, device.shared_memory_per_block);
    if (choice.index < 0) {
      fail(H4J_UNSUPPORTED, kOperation, "device.shared_memory_per_block", format("%d", device.shared_memory_per_block),
           format("at least %d", *std::min_element(shared_memory.begin(), shared_memory.end())));
    }
    instance = dense_instances()[static_cast<size_t>(choice.index)];
    info.grid = spec.max_m == 0 ? 0 : grid(choice);
    info.block = instance->config.threads();
    info.workspace_bytes = spec.max_m == 0 || choice.sharers == 0 ? 0 : workspace_bytes(instance->config, sms);
    info.shared_memory = instance->shared_memory;
    std::snprintf(info.kernel, sizeof info.kernel, "%s_%s", instance_name(instance->config).c_str(),
                  quantizes()                  ? "e4m3"
                  : spec.out_dtype == H4J_BF16 ? "bf16"
                                               : "f32");
    std::snprintf(info.explanation, sizeof info.explanation, "%s", explain(problem, instance->config, choice).c_str());
  }

  bool quantizes() const { return spec.out_dtype == H4J_F8_E4M3; }

  Problem problem_of(int64_t m, bool shares) const {
    return {m,
            spec.n,
            spec.k,
            static_cast<int>(element_size(spec.out_dtype)),
            sms,
            device.l2_bytes,
            device.memory_bytes,
            spec.batch_invariant != 0,
            quantizes(),
            shares};
  }

  int grid(const Choice& chosen) const { return ctas_of(chosen, instance->config, sms) * instance->config.slices; }

  h4j_gemm_spec spec;
  int sms;
  GemvChoice gemv{};  // where instance is null
  Choice choice{};
  const Instance* instance = nullptr;
};

struct Launch final : h4j_launch {
  Launch(const Plan& made_from, const h4j_device& opened, const h4j_gemm_args& args)
      : h4j_launch(kOperation, opened), plan(made_from), kernel(stub(plan), opened, plan.info.shared_memory) {
    max_rows = plan.spec.max_m;
    rebind(args);
  }

  static const void* stub(const Plan& plan) {
    if (plan.quantizes()) return plan.instance->e4m3_stub;
    const bool f32 = plan.spec.out_dtype == H4J_F32;
    if (plan.instance == nullptr) return gemv_stub(plan.gemv, f32);
    return f32 ? plan.instance->f32_stub : plan.instance->bf16_stub;
  }

  void rebind(const h4j_gemm_args& args) {
    const h4j_gemm_spec& spec = plan.spec;
    const int64_t k_blocks = ceil_div(spec.k, kTileK);
    const int64_t out_multiple = 16 / element_size(spec.out_dtype);
    require_ld(kOperation, "a_ld", args.a_ld, spec.k, 16);
    require_ld(kOperation, "a_scales_ld", args.a_scales_ld, spec.max_m, 4);
    require_ld(kOperation, "b_ld", args.b_ld, spec.k, 16);
    require_ld(kOperation, "b_scales_ld", args.b_scales_ld, k_blocks, 1);
    require_ld(kOperation, "d_ld", args.d_ld, spec.n, out_multiple);
    if (spec.accumulate != 0) {
      require_ld(kOperation, "c_ld", args.c_ld, spec.n, out_multiple);
    } else if (args.c != 0) {
      invalid(kOperation, "c", "an address", "0: the plan does not accumulate");
    }
    if (plan.quantizes()) {
      require_ld(kOperation, "d_scales_ld", args.d_scales_ld, spec.max_m, 4);
    } else if (args.d_scales != 0) {
      invalid(kOperation, "d_scales", "an address", "0: the output is not F8_E4M3");
    }
    if (spec.max_m == 0) return;
    require_address(kOperation, "a", args.a, 16);
    require_address(kOperation, "a_scales", args.a_scales, 16);
    require_address(kOperation, "b", args.b, 16);
    require_address(kOperation, "b_scales", args.b_scales, 4);
    require_address(kOperation, "d", args.d, 16);
    if (plan.info.workspace_bytes > 0) {
      require_address(kOperation, "workspace", args.workspace, 256);
      if (args.workspace_bytes < plan.info.workspace_bytes) {
        invalid(kOperation, "workspace_bytes", format("%lld", static_cast<long long>(args.workspace_bytes)),
                format("at least %lld", static_cast<long long>(plan.info.workspace_bytes)));
      }
    }
    if (plan.quantizes()) require_address(kOperation, "d_scales", args.d_scales, 16);
    if (spec.accumulate != 0) {
      require_address(kOperation, "c", args.c, 16);
      if (args.c == args.d && args.c_ld != args.d_ld) {
        invalid(kOperation, "c_ld", format("%lld with c at the address of d", static_cast<long long>(args.c_ld)),
                format("d_ld, %lld", static_cast<long long>(args.d_ld)));
      }
    }
    if (plan.instance == nullptr) {
      bind_gemv(args);
    } else {
      bind_tiles(args);
    }
  }

  void bind_gemv(const h4j_gemm_args& args) {
    gemv.a = reinterpret_cast<const uint8_t*>(args.a);
    gemv.a_scales = reinterpret_cast<const float*>(args.a_scales);
    gemv.a_scales_ld = args.a_scales_ld;
    gemv.b = reinterpret_cast<const uint8_t*>(args.b);
    gemv.b_ld = args.b_ld;
    gemv.b_scales = reinterpret_cast<const float*>(args.b_scales);
    gemv.b_scales_ld = args.b_scales_ld;
    gemv.c = reinterpret_cast<const void*>(args.c);
    gemv.d = reinterpret_cast<void*>(args.d);
    gemv.n = static_cast<int32_t>(plan.spec.n);
    gemv.k = static_cast<int32_t>(plan.spec.k);
  }

  void bind_tiles(const h4j_gemm_args& args) {
    const h4j_gemm_spec& spec = plan.spec;
    const int64_t k_blocks = ceil_div(spec.k, kTileK);
    const ScopedContext current(primary);  // the driver encodes descriptors in a context only
    const Config& config = plan.instance->config;
    Params bound{};
    bound.a =
        describe(CU_TENSOR_MAP_DATA_TYPE_UINT8, args.a, spec.max_m, spec.k, args.a_ld, 1, config.tile_m, kTileK, CU_TENSOR_MAP_SWIZZLE_128B, "a");
    bound.b = describe(CU_TENSOR_MAP_DATA_TYPE_UINT8, args.b, spec.n, spec.k, args.b_ld, 1, config.tile_n, kTileK, CU_TENSOR_MAP_SWIZZLE_128B, "b");
    bound.a_scales = describe(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, args.a_scales, k_blocks, spec.max_m, args.a_scales_ld, 4, config.strip_blocks(),
                              config.tile_m, CU_TENSOR_MAP_SWIZZLE_NONE, "a_scales");
    bound.b_scales = reinterpret_cast<const float*>(args.b_scales);
    bound.b_scales_ld = args.b_scales_ld;
    bound.c = reinterpret_cast<const void*>(args.c);
    bound.c_ld = args.c_ld;
    bound.d_pointer = reinterpret_cast<void*>(args.d);
    bound.d_ld = args.d_ld;
    bound.d_scales = reinterpret_cast<float*>(args.d_scales);
    bound.d_scales_ld = args.d_scales_ld;
    bound.d_power_of_two = spec.out_scale_kind == H4J_SCALE_POWER_OF_TWO;
    bound.n = static_cast<int32_t>(spec.n);
    bound.k_blocks = static_cast<int32_t>(k_blocks);
    if (plan.info.workspace_bytes > 0) {
      const int64_t ready = ready_bytes(config, plan.sms);
      bound.shared_ready = reinterpret_cast<uint64_t*>(args.workspace);
      bound.shared_sums = reinterpret_cast<float*>(args.workspace + static_cast<uint64_t>(ready));
      bound.ready = new_ready_word();
    }
    set_rows(bound, spec.max_m, plan.choice);
    params = bound;
  }

  // A value that no workspace holds by chance, whatever it was used for before.
  static uint64_t new_ready_word() {
    static std::atomic<uint64_t> state{uint64_t{std::random_device{}()} << 32 | std::random_device{}()};
    uint64_t word = state += 0x9e3779b97f4a7c15;  // SplitMix64
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return word ^ word >> 31;
  }

  // What depends on the rows in use: the tiles, and where stores are clipped.
  void set_rows(Params& used, int64_t rows, const Choice& choice) const {
    used.m = static_cast<int32_t>(rows);
    used.order = order_of(choice, plan.grid(choice) / plan.instance->config.slices);
    const int store_cols = plan.instance->config.store_cols();
    if (plan.quantizes()) {
      used.d = describe(CU_TENSOR_MAP_DATA_TYPE_UINT8, reinterpret_cast<uint64_t>(used.d_pointer), rows, plan.spec.n, used.d_ld, 1, 64, kTileK,
                        CU_TENSOR_MAP_SWIZZLE_128B, "d");
    } else if (plan.spec.out_dtype == H4J_BF16) {
      used.d = describe(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, reinterpret_cast<uint64_t>(used.d_pointer), rows, plan.spec.n, used.d_ld, 2, 64, store_cols,
                        store_swizzle(store_cols), "d");
    }
  }

  void run(CUstream stream, int64_t rows) const override {
    if (plan.instance == nullptr) {
      kernel.launch({static_cast<unsigned>(plan.info.grid), static_cast<unsigned>(plan.info.block), 0, plan.spec.constant_b != 0}, stream, &gemv);
      return;
    }
    if (rows == max_rows) {
      launch(plan.info.grid, stream, params);
      return;
    }
    const Choice choice = evaluate(plan.problem_of(rows, plan.info.workspace_bytes > 0), plan.instance->config, plan.choice.index);
    Params used = params;
    set_rows(used, rows, choice);
    launch(plan.grid(choice), stream, used);
  }

  void launch(int grid, CUstream stream, const Params& used) const {
    const Config& config = plan.instance->config;
    kernel.launch(
        {static_cast<unsigned>(grid), static_cast<unsigned>(config.threads()), static_cast<unsigned>(config.cluster()), plan.spec.constant_b != 0},
        stream, &used);
  }

  Plan plan;
  Kernel kernel;
  Params params{};
  GemvParams gemv{};
};

}  // namespace
}  // namespace h4j::gemm

using namespace h4j;

h4j_status h4j_gemm_plan(const h4j_device_info* device, const h4j_gemm_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(gemm::kOperation, error, [&] {
    require_output(plan, gemm::kOperation, "plan") = nullptr;
    *plan = new gemm::Plan(read_struct(device, gemm::kOperation, "device"), read_struct(spec, gemm::kOperation, "spec"));
  });
}

h4j_status h4j_gemm_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(gemm::kOperation, error, [&] {
    require_output(launch, gemm::kOperation, "launch") = nullptr;
    *launch = bind<gemm::Plan, gemm::Launch>(plan, device, args, gemm::kOperation);
  });
}

h4j_status h4j_gemm_rebind(h4j_launch* launch, const h4j_gemm_args* args, h4j_error* error) {
  return guarded(gemm::kOperation, error,
                 [&] { require_launch<gemm::Launch>(launch, gemm::kOperation).rebind(read_struct(args, gemm::kOperation, "args")); });
}

h4j_status h4j_gemm(h4j_stream* stream, const h4j_gemm_spec* spec, const h4j_gemm_args* args, h4j_error* error) {
  return guarded(gemm::kOperation, error, [&] { run_eagerly<gemm::Plan, gemm::Launch>(stream, spec, args, gemm::kOperation); });
}
