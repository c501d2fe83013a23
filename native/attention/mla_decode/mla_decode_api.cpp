#include <algorithm>
#include <bit>
#include <cmath>

#include "attention/mla_decode/mla_decode_kernels.h"
#include "attention/mla_decode/mla_decode_layout.h"
#include "runtime/plan.h"

namespace h4j::mla {
namespace {

constexpr const char* kOperation = "mla_decode";
constexpr const char* kScheduleOperation = "mla_schedule";
constexpr int64_t kMaxStride = (int64_t{1} << 39) - 1;  // BF16 elements: TMA takes strides below 2^40 bytes

struct Plan final : h4j_plan {
  Plan(const h4j_device_info& planned, const h4j_mla_decode_spec& requested) : h4j_plan(kOperation), spec(requested) {
    device = planned;
    require_hopper(kOperation, device);
    require_range(kOperation, "heads", spec.heads, 1, 128);
    require_range(kOperation, "s_q", spec.s_q, 1, 1024);
    require_range(kOperation, "page_size", spec.page_size, 1, 1024);
    if (!std::has_single_bit(static_cast<unsigned>(spec.page_size))) invalid(kOperation, "page_size", format("%d", spec.page_size), "a power of two");
    require_range(kOperation, "causal", spec.causal, 0, 1);
    require_range(kOperation, "window", spec.window, 0, INT32_MAX / 2);
    if (!(spec.softmax_scale > 0.0f) || !std::isfinite(spec.softmax_scale)) {
      invalid(kOperation, "softmax_scale", format("%g", static_cast<double>(spec.softmax_scale)), "a finite number > 0");
    }
    require_range(kOperation, "max_batch", spec.max_batch, 0, 65535);
    // The merging kernel has a CTA a query row, and row indices are int32.
    const int64_t query_rows = spec.max_batch * spec.s_q * spec.heads;
    if (query_rows > INT32_MAX) {
      invalid(kOperation, "max_batch", format("%lld with %d query rows each", static_cast<long long>(spec.max_batch), spec.s_q * spec.heads),
              "at most 2^31 - 1 query rows together");
    }
    require_range(kOperation, "max_length", spec.max_length, 0, INT32_MAX / 2);
    require_range(kOperation, "pages", spec.pages, 1, INT32_MAX);
    require_range(kOperation, "cache_format", spec.cache_format, H4J_MLA_CACHE_BF16, H4J_MLA_CACHE_FP8_TOKEN);
    row_tiles = static_cast<int>(ceil_div(int64_t{spec.s_q} * spec.heads, kRows));
    const int sms = usable_sms(kOperation, device, spec.sm_budget);
    const Source source = fp8()                         ? Source::kFp8
                          : row_tiles == 1              ? Source::kTokenBoxes
                          : spec.page_size >= kBlock    ? Source::kBoxes
                          : spec.page_size >= kTokenBox ? Source::kGroupBoxes
                                                        : Source::kTokens;
    layout = {std::max(sms / row_tiles, 1), static_cast<int>(spec.max_batch)};
    instance = &find_instance(source, std::min(spec.s_q * spec.heads, kRows));
    const int shared_memory = instance->kernel.shared_memory;
    if (shared_memory > device.shared_memory_per_block) {
      fail(H4J_UNSUPPORTED, kOperation, "device.shared_memory_per_block", format("%d", device.shared_memory_per_block),
           format("at least %d", shared_memory));
    }
    info.grid = layout.parts * row_tiles;
    info.block = kThreads;
    info.shared_memory = shared_memory;
    info.workspace_bytes = lse_bytes() + layout.max_splits() * row_tiles * kRows * kValueDim * 4;
    info.schedule_bytes = round_up(layout.size() * 4, 256);
    std::snprintf(info.kernel, sizeof info.kernel, "%s", instance->name);
    std::snprintf(info.explanation, sizeof info.explanation,
                  "%d query rows in %d tiles of %d, %d parts of the cached blocks on %d SMs; partial results merged by a "
                  "second kernel",
                  spec.s_q * spec.heads, row_tiles, kRows, layout.parts, sms);
  }

  bool fp8() const { return spec.cache_format != H4J_MLA_CACHE_BF16; }
  int64_t lse_bytes() const { return round_up(layout.max_splits() * row_tiles * kRows * 4, 256); }

  h4j_mla_decode_spec spec;
  int row_tiles;
  ScheduleLayout layout;
  const Instance* instance;
};

struct ScheduleLaunch final : h4j_launch {
  ScheduleLaunch(const Plan& made_from, const h4j_device& opened, const h4j_mla_schedule_args& args)
      : h4j_launch(kScheduleOperation, opened), plan(made_from), kernel(schedule_stub(), opened, 0) {
    max_rows = plan.spec.max_batch;
    params.bad_length = fault_site(opened, kScheduleOperation, "lengths");
    params.bad_q_tokens = fault_site(opened, kScheduleOperation, "q_tokens");
    rebind(args);
  }

  void rebind(const h4j_mla_schedule_args& args) {
    if (max_rows > 0) {
      require_address(kScheduleOperation, "lengths", args.lengths, 4);
      if (args.q_tokens != 0) require_address(kScheduleOperation, "q_tokens", args.q_tokens, 4);
      require_address(kScheduleOperation, "schedule", args.schedule, 256);
    }
    params.lengths = reinterpret_cast<const int32_t*>(args.lengths);
    params.q_tokens = reinterpret_cast<const int32_t*>(args.q_tokens);
    params.schedule = reinterpret_cast<int32_t*>(args.schedule);
    params.s_q = plan.spec.s_q;
    params.window = plan.spec.window;
    params.max_length = static_cast<int32_t>(plan.spec.max_length);
    const auto rows = static_cast<float>(std::min(plan.spec.s_q * plan.spec.heads, kRows));
    params.partial_cost = kPartialBlocks * rows / kRows / static_cast<float>(plan.layout.parts);
    params.layout = plan.layout;
  }

  void run(CUstream stream, int64_t rows) const override {
    ScheduleParams used = params;
    used.batch = static_cast<int32_t>(rows);
    kernel.launch({1, static_cast<unsigned>(schedule_threads())}, stream, &used);
  }

  Plan plan;
  Kernel kernel;
  ScheduleParams params{};
};

// [slabs][rows][576] BF16 as [slabs][9][rows][64], in boxes of so many chunks and rows, which shared memory has as [chunks][rows][64].
CUtensorMap describe(uint64_t address, int64_t slabs, int64_t rows, int64_t ld, int64_t slab_ld, int box_chunks, int box_rows, const char* argument) {
  CUtensorMap map;
  const cuuint64_t extents[] = {kChunk, static_cast<cuuint64_t>(rows), kChunks, static_cast<cuuint64_t>(slabs)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(ld) * 2, kChunk * 2, static_cast<cuuint64_t>(slab_ld) * 2};
  const cuuint32_t box[] = {kChunk, static_cast<cuuint32_t>(box_rows), static_cast<cuuint32_t>(box_chunks), 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  // Of whole rows the copy asks for all that lies one behind the other anyway; asking for more at a time slows long caches down.
  const auto promotion = box_chunks == kChunks ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  check(driver().cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, reinterpret_cast<void*>(address), extents, strides, box, steps,
                                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        argument);
  return map;
}

struct DecodeLaunch final : h4j_launch {
  DecodeLaunch(const Plan& made_from, const h4j_device& opened, const h4j_mla_decode_args& args)
      : h4j_launch(kOperation, opened),
        plan(made_from),
        decode(plan.instance->kernel.stub, opened, plan.instance->kernel.shared_memory),
        combine{{combine_stub(1), opened, 0}, {combine_stub(2), opened, 0}, {combine_stub(4), opened, 0}},
        combine_many(combine_many_stub(), opened, 0) {
    max_rows = plan.spec.max_batch;
    params.bad_page = fault_site(opened, kOperation, "block_table");
    rebind(args);
  }

  void rebind(const h4j_mla_decode_args& args) {
    const h4j_mla_decode_spec& spec = plan.spec;
    require_ld(kOperation, "q_ld", args.q_ld, kTokenDim, 8);
    const int unit = plan.fp8() ? 16 : 8;  // 16 bytes
    const int token = plan.fp8() ? kFp8TokenBytes : kTokenDim;
    require_ld(kOperation, "cache_ld", args.cache_ld, token, unit);
    require_range(kOperation, "cache_ld", args.cache_ld, token, kMaxStride / spec.page_size);
    if (args.cache_page_ld < spec.page_size * args.cache_ld || args.cache_page_ld % unit != 0 || args.cache_page_ld > kMaxStride) {
      invalid(
          kOperation, "cache_page_ld", format("%lld", static_cast<long long>(args.cache_page_ld)),
          format("a multiple of %d, at least page_size * cache_ld = %lld, below 2^39", unit, static_cast<long long>(spec.page_size * args.cache_ld)));
    }
    require_ld(kOperation, "block_table_ld", args.block_table_ld, ceil_div(spec.max_length, spec.page_size), 1);
    if (args.workspace_bytes < plan.info.workspace_bytes) {
      invalid(kOperation, "workspace_bytes", format("%lld", static_cast<long long>(args.workspace_bytes)),
              format("at least %lld", static_cast<long long>(plan.info.workspace_bytes)));
    }
    if (max_rows == 0) return;
    require_address(kOperation, "q", args.q, 16);
    require_address(kOperation, "cache", args.cache, 16);
    require_address(kOperation, "block_table", args.block_table, 4);
    require_address(kOperation, "lengths", args.lengths, 4);
    if (args.q_tokens != 0) require_address(kOperation, "q_tokens", args.q_tokens, 4);
    if (args.sink != 0) require_address(kOperation, "sink", args.sink, 4);
    require_address(kOperation, "schedule", args.schedule, 256);
    require_address(kOperation, "out", args.out, 16);
    require_address(kOperation, "lse", args.lse, 4);
    require_address(kOperation, "workspace", args.workspace, 256);

    const ScopedContext current(primary);
    const int64_t query_rows = int64_t{spec.s_q} * spec.heads;
    Params bound{};
    bound.q = describe(args.q, spec.max_batch, query_rows, args.q_ld, query_rows * args.q_ld, kChunks, kRows, "q");
    const auto describe_cache = [&](int chunks, int tokens) {
      return describe(args.cache, spec.pages, spec.page_size, args.cache_ld, args.cache_page_ld, chunks, tokens, "cache");
    };
    const Source source = plan.instance->source;
    if (source == Source::kBoxes || source == Source::kGroupBoxes) {
      const int tokens = source == Source::kBoxes ? kBlock : kTokenBox;
      bound.cache = describe_cache(kValueChunks / kRopePart, tokens);
      bound.cache_chunk = describe_cache(1, tokens);
    } else if (source == Source::kTokenBoxes) {
      bound.cache = describe_cache(kChunks, std::min(spec.page_size, kTokenBox));  // for nothing where pages hold fewer
    }
    bound.q_rows = reinterpret_cast<const uint8_t*>(args.q);
    bound.q_row_bytes = args.q_ld * 2;
    const int element = plan.fp8() ? 1 : 2;
    bound.tokens = reinterpret_cast<const uint8_t*>(args.cache);
    bound.page_bytes = args.cache_page_ld * element;
    bound.token_bytes = args.cache_ld * element;
    bound.block_table = reinterpret_cast<const int32_t*>(args.block_table);
    bound.block_table_ld = args.block_table_ld;
    bound.lengths = reinterpret_cast<const int32_t*>(args.lengths);
    bound.q_tokens = reinterpret_cast<const int32_t*>(args.q_tokens);
    bound.schedule = reinterpret_cast<int32_t*>(args.schedule);
    bound.sink = reinterpret_cast<const float*>(args.sink);
    bound.out = reinterpret_cast<void*>(args.out);
    bound.lse = reinterpret_cast<float*>(args.lse);
    bound.partial_lse = reinterpret_cast<float*>(args.workspace);
    bound.partial_out = reinterpret_cast<float*>(args.workspace + static_cast<uint64_t>(plan.lse_bytes()));
    bound.scale_log2 = static_cast<float>(double{spec.softmax_scale} * 1.4426950408889634);
    bound.heads = spec.heads;
    bound.s_q = spec.s_q;
    bound.row_tiles = plan.row_tiles;
    bound.page_shift = std::countr_zero(static_cast<unsigned>(spec.page_size));
    bound.window = spec.window;
    bound.causal = spec.causal;
    bound.max_length = static_cast<int32_t>(spec.max_length);
    bound.pages = static_cast<int32_t>(spec.pages);
    bound.scales = spec.cache_format == H4J_MLA_CACHE_FP8_BLOCKS ? 4 : 1;
    bound.bad_page = params.bad_page;
    bound.layout = plan.layout;
    params = bound;
  }

  void run(CUstream stream, int64_t rows) const override {
    Params used = params;
    used.batch = static_cast<int32_t>(rows);
    // Few rows have many partial results each: more warps for a row then.
    const int64_t query_rows = rows * plan.spec.s_q * plan.spec.heads;
    used.warps_per_row = combine_warps();
    while (used.warps_per_row > 1 && query_rows * used.warps_per_row > int64_t{kMergeWarpsPerSm} * plan.device.sm_count) used.warps_per_row /= 2;
    decode.launch({static_cast<unsigned>(plan.info.grid), kThreads}, stream, &used);
    const int64_t merging = ceil_div(query_rows * used.warps_per_row, combine_warps());
    int slices = used.warps_per_row == combine_warps() ? kMergeSlices : 1;
    while (slices > 1 && merging * slices > int64_t{kMergeCtasPerSm} * plan.device.sm_count) slices /= 2;
    const Kernel& kernel = used.warps_per_row == 1 ? combine_many : combine[slices / 2];
    int64_t grid = merging * slices;
    if (used.warps_per_row == 1)
      grid = std::min(grid, std::max(int64_t{kMergeCtasPerSmOfManyRows} * plan.device.sm_count, ceil_div(merging, kMergeRowsPerWarp)));
    kernel.launch({.grid = static_cast<unsigned>(grid), .block = static_cast<unsigned>(32 * combine_warps()), .early = true}, stream, &used);
  }

  Plan plan;
  Kernel decode;
  Kernel combine[3];  // by 1, 2 and 4 CTAs a row
  Kernel combine_many;
  Params params{};
};

}  // namespace
}  // namespace h4j::mla

using namespace h4j;

h4j_status h4j_mla_decode_plan(const h4j_device_info* device, const h4j_mla_decode_spec* spec, h4j_plan** plan, h4j_error* error) {
  return guarded(mla::kOperation, error, [&] {
    require_output(plan, mla::kOperation, "plan") = nullptr;
    *plan = new mla::Plan(read_struct(device, mla::kOperation, "device"), read_struct(spec, mla::kOperation, "spec"));
  });
}

h4j_status h4j_mla_schedule_bind(const h4j_plan* plan, h4j_device* device, const h4j_mla_schedule_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(mla::kScheduleOperation, error, [&] {
    require_output(launch, mla::kScheduleOperation, "launch") = nullptr;
    *launch = bind<mla::Plan, mla::ScheduleLaunch>(plan, device, args, mla::kScheduleOperation);
  });
}

h4j_status h4j_mla_schedule_rebind(h4j_launch* launch, const h4j_mla_schedule_args* args, h4j_error* error) {
  return guarded(mla::kScheduleOperation, error, [&] {
    require_launch<mla::ScheduleLaunch>(launch, mla::kScheduleOperation).rebind(read_struct(args, mla::kScheduleOperation, "args"));
  });
}

h4j_status h4j_mla_decode_bind(const h4j_plan* plan, h4j_device* device, const h4j_mla_decode_args* args, h4j_launch** launch, h4j_error* error) {
  return guarded(mla::kOperation, error, [&] {
    require_output(launch, mla::kOperation, "launch") = nullptr;
    *launch = bind<mla::Plan, mla::DecodeLaunch>(plan, device, args, mla::kOperation);
  });
}

h4j_status h4j_mla_decode_rebind(h4j_launch* launch, const h4j_mla_decode_args* args, h4j_error* error) {
  return guarded(mla::kOperation, error,
                 [&] { require_launch<mla::DecodeLaunch>(launch, mla::kOperation).rebind(read_struct(args, mla::kOperation, "args")); });
}
