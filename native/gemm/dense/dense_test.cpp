#include <algorithm>
#include <climits>
#include <random>
#include <span>

#include "gemm/dense/dense_choose.h"
#include "gemm/dense/dense_instances.h"
#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_device_info described(const char* name) {
  h4j_device_info info{};
  info.struct_size = sizeof info;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe(name, &info, &error));
  return info;
}

h4j_gemm_spec spec_of(int64_t m, int64_t n, int64_t k, h4j_dtype out = H4J_BF16) {
  h4j_gemm_spec spec{};
  spec.struct_size = sizeof spec;
  spec.out_dtype = out;
  spec.max_m = m;
  spec.n = n;
  spec.k = k;
  return spec;
}

std::string refusal(const h4j_gemm_spec& spec, const h4j_device_info& device = described("H100-SXM")) {
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_NE(H4J_OK, h4j_gemm_plan(&device, &spec, &plan, &error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

h4j_plan_info planned(const h4j_gemm_spec& spec, const h4j_device_info& device) {
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_gemm_plan(&device, &spec, &plan, &error)) << error.message;
  h4j_plan_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(H4J_OK, h4j_plan_describe(plan, &info, &error));
  EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error));
  return info;
}

TEST(GemmPlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("gemm: k: got 120, need a multiple of 16", refusal(spec_of(64, 128, 120)));
  EXPECT_EQ("gemm: k: got 0, need 16..2147483392", refusal(spec_of(64, 128, 0)));
  EXPECT_EQ("gemm: n: got 130, need a multiple of 8", refusal(spec_of(64, 130, 128)));
  EXPECT_EQ("gemm: max_m: got -5, need 0..2147483392", refusal(spec_of(-5, 128, 128)));
  EXPECT_EQ("gemm: out_dtype: got F16 (code 2), need BF16 or F32 or F8_E4M3", refusal(spec_of(64, 128, 128, H4J_F16)));
  h4j_gemm_spec spec = spec_of(64, 128, 128);
  spec.out_scale_kind = H4J_SCALE_POWER_OF_TWO;
  EXPECT_EQ("gemm: out_scale_kind: got H4J_SCALE_POWER_OF_TWO, need H4J_SCALE_F32, 0, as the output is not F8_E4M3", refusal(spec));
  spec.out_dtype = H4J_F8_E4M3;
  spec.n = 136;
  EXPECT_EQ("gemm: n: got 136, need a multiple of 16", refusal(spec));
  spec.n = 128;
  spec.accumulate = 1;
  EXPECT_EQ("gemm: accumulate: got 1 with out_dtype F8_E4M3, need 0", refusal(spec));
  spec = spec_of(64, 128, 128);
  spec.sm_budget = -1;
  EXPECT_EQ("gemm: sm_budget: got -1, need >= 0 (0: all SMs)", refusal(spec));
  h4j_device_info ampere = described("H100-SXM");
  ampere.compute_major = 8;
  EXPECT_EQ("gemm: device.compute_capability: got 8.0 (H100-SXM), need 9.0 (H100, H200, H800, H20)", refusal(spec_of(64, 128, 128), ampere));
}

TEST(GemmPlan, FindsAnInstanceForEveryShapeOnEveryCard) {
  constexpr int64_t kLayers[][2] = {{2112, 7168}, {576, 7168},   {24576, 1536}, {32768, 512}, {7168, 16384}, {4096, 7168},
                                    {7168, 2048}, {36864, 7168}, {7168, 18432}, {1536, 7168}, {8, 16}};
  for (const char* name : {"H100-SXM", "H100-PCIe", "H20"}) {
    const h4j_device_info device = described(name);
    for (const auto& layer : kLayers) {
      for (const int64_t m : {0, 1, 63, 64, 65, 128, 129, 4096, 4097}) {
        for (const int budget : {0, 1, 24}) {
          h4j_gemm_spec spec = spec_of(m, layer[0], layer[1]);
          spec.sm_budget = budget;
          const h4j_plan_info info = planned(spec, device);
          EXPECT_EQ(0, std::strncmp(info.kernel, m <= 1 ? "gemm_gemv_" : "gemm_dense_", 10));
          if (budget != 0 || m > 1) {
            EXPECT_LE(info.grid, budget == 0 ? device.sm_count : budget);
          }
          EXPECT_EQ(m == 0, info.grid == 0);
          EXPECT_LE(info.shared_memory, device.shared_memory_per_block);
          EXPECT_STRNE("", info.explanation);
        }
      }
    }
  }
}

TEST(GemmChoose, GivesTallTilesToManyRowsAndShortOnesToFew) {
  const h4j_device_info device = described("H100-SXM");
  EXPECT_STREQ("gemm_dense_256x128x3_g1_s1_bf16", planned(spec_of(4096, 4096, 7168), device).kernel);
  EXPECT_EQ(0, std::strncmp("gemm_dense_64x", planned(spec_of(64, 7168, 7168), device).kernel, 14));
}

TEST(GemmChoose, AddsUpInOneOrderWhereRowsMustNotDependOnTheirBatch) {
  for (const int64_t m : {1, 4, 64, 128, 300, 4096}) {
    for (const int64_t n : {576, 2112, 7168}) {
      h4j_gemm_spec spec = spec_of(m, n, 7168);
      spec.batch_invariant = 1;
      EXPECT_NE(nullptr, std::strstr(planned(spec, described("H100-SXM")).kernel, "_g1_s1_")) << m << " x " << n;
    }
  }
}

TEST(GemmChoose, KeepsBlocksOfQuantizedOutputInOneCta) {
  for (const int64_t m : {1, 4, 64, 128, 300, 4096}) {
    for (const int64_t n : {16, 576, 2112, 7168}) {
      for (const bool in_order : {false, true}) {
        h4j_gemm_spec spec = spec_of(m, n, 7168, H4J_F8_E4M3);
        spec.batch_invariant = in_order;
        const std::string kernel = planned(spec, described("H100-SXM")).kernel;
        EXPECT_NE(std::string::npos, kernel.find("x128x")) << kernel;
        EXPECT_TRUE(kernel.ends_with("_s1_e4m3")) << kernel;
      }
    }
  }
}

TEST(GemmChoose, DividesByMultiplying) {
  std::mt19937 random(5);
  for (uint32_t value = 1; value < 3000; ++value) {
    const gemm::Divisor divisor = gemm::Divisor::of(value);
    for (const uint32_t number :
         {uint32_t{0}, value - 1, value, INT32_MAX / value * value - 1, uint32_t{INT32_MAX}, static_cast<uint32_t>(random()) >> 1}) {
      int rest = 0;
      EXPECT_EQ(number / value, static_cast<uint32_t>(divisor.divide(static_cast<int>(number), rest))) << number << " / " << value;
      EXPECT_EQ(number % value, static_cast<uint32_t>(rest));
    }
  }
}

// Counts how often a walk of all CTAs comes to each K block of each half tile of D; returns the greatest number of those that a CTA takes.
template <bool kHalves, bool kShares = false>
int walk(const gemm::Order& order, int ctas, const gemm::Config& config, int tiles_m, int64_t n) {
  const int half_cols = config.tile_n / 2;
  const auto halves_n = static_cast<int>((n + half_cols - 1) / half_cols);
  const auto k_blocks = static_cast<int>(order.k_blocks.value);
  std::vector<int> seen(static_cast<size_t>(tiles_m) * static_cast<size_t>(halves_n) * static_cast<size_t>(k_blocks));
  int most = 0;
  for (int cta = 0; cta < ctas; ++cta) {
    gemm::TileWalk<kHalves, kShares> walk(order, cta, ctas);
    int taken = 0;
    for (gemm::DenseTile tile{}; walk.next(config.tile_m, config.tile_n, tile);) {
      EXPECT_EQ(0, tile.row % config.tile_m);
      EXPECT_EQ(0, tile.col % half_cols);
      for (int half = 0; half < (tile.half ? 1 : 2); ++half) {
        const int x = tile.col / half_cols + half;
        EXPECT_LT(tile.begin, tile.end);
        for (int block = tile.begin; x < halves_n && block < tile.end; ++block) {
          ++seen[static_cast<size_t>(tile.row / config.tile_m * halves_n + x) * static_cast<size_t>(k_blocks) + static_cast<size_t>(block)];
        }
        taken += tile.end - tile.begin;
      }
    }
    most = std::max(most, taken);
  }
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
  return most;
}

TEST(GemmChoose, WalksOverEveryTileOnce) {
  constexpr int64_t kShapes[][2] = {{4096, 4096}, {4096, 2112}, {4096, 24576}, {4096, 32768}, {1, 8},      {300, 3000},
                                    {5000, 200},  {512, 64},    {512, 192},    {256, 128},    {1280, 1088}};
  int shared = 0;
  for (const auto& [m, n] : kShapes) {
    for (const int sms : {1, 5, 24, 78, 114, 132}) {
      for (const gemm::Instance* instance : gemm::dense_instances()) {
        const gemm::Config& config = instance->config;
        SCOPED_TRACE(::testing::Message() << m << " x " << n << " on " << sms << " SMs by " << gemm::instance_name(config));
        for (const bool shares : {false, true}) {
          const int64_t k = shares ? 7168 : 512;
          const gemm::Choice choice = gemm::evaluate({m, n, k, 2, sms, int64_t{50} << 20, int64_t{80} << 30, false, false, shares}, config, 0);
          const int ctas = std::min(choice.whole + choice.halves + choice.sharers, sms);
          const gemm::Order order = gemm::order_of(choice, ctas);
          EXPECT_EQ(choice.sharers > 0, choice.shared > 0);
          if (!shares) {
            EXPECT_EQ(0, choice.sharers);
          }
          if (choice.sharers > 0) {
            ++shared;
            EXPECT_EQ(0, choice.whole % ctas);
          }
          if (config.halves()) {
            walk<true>(order, ctas, config, choice.tiles_m, n);
          } else if (config.shares()) {
            walk<false, true>(order, ctas, config, choice.tiles_m, n);
          } else {
            walk<false>(order, ctas, config, choice.tiles_m, n);
          }
        }
      }
    }
  }
  EXPECT_GT(shared, 0);
}

// 4096 x 2112 by 128 x 192 are two rounds of 132 tiles and 88 tiles of 56 K blocks, of which each CTA takes a 132nd.
TEST(GemmChoose, SharesTheLastRoundWhereThatSavesTime) {
  const gemm::Config config{128, 192, 4};
  const gemm::Problem problem{4096, 2112, 7168, 2, 132, int64_t{50} << 20, int64_t{80} << 30, false, false, true};
  const gemm::Choice choice = gemm::evaluate(problem, config, 0);
  EXPECT_EQ(88, choice.shared);
  EXPECT_EQ(132, choice.sharers);
  EXPECT_EQ(2 * (2 * 56 + 38), (walk<false, true>(gemm::order_of(choice, 132), 132, config, choice.tiles_m, 2112)));
  gemm::Problem in_order = problem;
  in_order.in_order = true;
  EXPECT_EQ(0, gemm::evaluate(in_order, config, 0).sharers) << "a row's bits would depend on M";
}

// 4096 x 2112 are 256 whole tiles and 16 halves at the edge: two tiles' time for each of 132 SMs, not three. 4096 x 32768 are 31 rounds and 4 tiles.
TEST(GemmChoose, CutsTilesInHalvesWhereThatSavesTime) {
  const gemm::Config config{256, 128, 3};
  for (const auto& [n, most] : {std::pair<int64_t, int>{2112, 4}, {32768, 63}, {7168, 14}}) {
    const gemm::Choice choice = gemm::evaluate({4096, n, 512, 2, 132, int64_t{50} << 20, int64_t{80} << 30}, config, 0);
    EXPECT_EQ(4 * most, walk<true>(gemm::order_of(choice, 132), 132, config, choice.tiles_m, n)) << n;
  }
}

// The bound on |out - exact| relative to the sum of magnitudes: four tensor-core sums a K block, each kept to 13 fraction bits.
constexpr double kTruncation = 4.0 / 8192.0;

class GemmGpu : public testing::GpuTest {
 protected:
  struct Case {
    int64_t m, n, k;
    h4j_dtype out = H4J_BF16;
    bool accumulate = false;
    int64_t rows = -1;  // in use
    int64_t pad = 0;    // extra elements between rows, in units of 16
    bool in_order = false;
    int sms = 0;
  };

  void run(const Case& test) {
    SCOPED_TRACE(::testing::Message() << "m " << test.m << ", n " << test.n << ", k " << test.k << ", out " << test.out << ", accumulate "
                                      << test.accumulate << ", rows " << test.rows << ", pad " << test.pad);
    std::mt19937_64 random(static_cast<uint64_t>(test.m * 31 + test.n * 7 + test.k));
    const auto size = [](int64_t count) { return static_cast<size_t>(count); };
    const int64_t blocks = (test.k + 127) / 128;
    const int64_t ld = test.k + 16 * test.pad;
    const int64_t d_ld = test.n + 8 * test.pad;
    const int64_t a_scales_ld = (test.m + 3) / 4 * 4;
    const int64_t rows = test.rows < 0 ? test.m : test.rows;
    const auto a = testing::random_e4m3(size(std::max<int64_t>(test.m, 1) * ld), random);
    const auto b = testing::random_e4m3(size(test.n * ld), random);
    const auto a_scales = testing::random_floats(size(std::max<int64_t>(blocks * a_scales_ld, 4)), 0.001f, 0.01f, random);
    const auto b_scales = testing::random_floats(size((test.n + 127) / 128 * blocks), 0.001f, 0.01f, random);
    const auto c = testing::random_floats(size(std::max<int64_t>(test.m, 1) * d_ld), -2.0f, 2.0f, random);
    std::vector<uint16_t> c_bf16(c.size());
    std::transform(c.begin(), c.end(), c_bf16.begin(), testing::float_to_bf16);

    const bool bf16 = test.out == H4J_BF16;
    h4j_gemm_spec spec = spec_of(test.m, test.n, test.k, test.out);
    spec.accumulate = test.accumulate;
    spec.batch_invariant = test.in_order;
    spec.sm_budget = test.sms;
    h4j_gemm_args args{};
    args.struct_size = sizeof args;
    args.a = upload(a), args.a_ld = ld;
    args.a_scales = upload(a_scales), args.a_scales_ld = a_scales_ld;
    args.b = upload(b), args.b_ld = ld;
    args.b_scales = upload(b_scales), args.b_scales_ld = blocks;
    // Accumulating works in place: D starts as C. Otherwise D is poisoned with NaN.
    args.d = test.accumulate ? (bf16 ? upload(c_bf16) : upload(c)) : upload(std::vector<uint8_t>(c.size() * (bf16 ? 2 : 4), 0xff));
    args.d_ld = d_ld;
    if (test.accumulate) args.c = args.d, args.c_ld = d_ld;

    h4j_plan* plan = nullptr;
    h4j_launch* launch = nullptr;
    H4J_ASSERT_OK(h4j_gemm_plan(&info_, &spec, &plan, &error));
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    H4J_ASSERT_OK(h4j_plan_describe(plan, &info, &error));
    SCOPED_TRACE(info.kernel);
    // Whatever it held before.
    if (info.workspace_bytes > 0)
      args.workspace = upload(std::vector<uint8_t>(size(info.workspace_bytes), 0xa5)), args.workspace_bytes = info.workspace_bytes;
    H4J_ASSERT_OK(h4j_gemm_bind(plan, device_, &args, &launch, &error));
    H4J_ASSERT_OK(h4j_launch_run(launch, stream_, test.rows, &error));
    synchronize();
    // The same again.
    if (info.workspace_bytes > 0 && !test.accumulate) {
      const size_t bytes = c.size() * (bf16 ? 2 : 4);
      const auto first = download<uint8_t>(args.d, bytes);
      for (int i = 0; i < 5; ++i) H4J_ASSERT_OK(h4j_launch_run(launch, stream_, test.rows, &error));
      EXPECT_TRUE(first == download<uint8_t>(args.d, bytes)) << "other bits";
    }

    std::vector<float> d(c.size());
    std::vector<bool> untouched(c.size());
    if (bf16) {
      const auto raw = download<uint16_t>(args.d, c.size());
      for (size_t i = 0; i < d.size(); ++i) d[i] = testing::bf16_to_float(raw[i]), untouched[i] = raw[i] == (test.accumulate ? c_bf16[i] : 0xffff);
    } else {
      d = download<float>(args.d, c.size());
      for (size_t i = 0; i < d.size(); ++i) untouched[i] = test.accumulate ? d[i] == c[i] : std::isnan(d[i]);
    }
    std::vector<float> av(a.size());
    std::vector<float> bv(b.size());
    std::transform(a.begin(), a.end(), av.begin(), testing::e4m3_to_float);
    std::transform(b.begin(), b.end(), bv.begin(), testing::e4m3_to_float);
    // Every element of small outputs, a seeded sample of large ones, and always the edges.
    const int64_t row_step = rows * test.n * test.k > (int64_t{1} << 27) ? 61 : 1;
    double worst = 0;
    double dot_error = 0;
    double norm = 0;
    for (int64_t m = 0; m < test.m; ++m) {
      for (int64_t n = 0; n < d_ld; ++n) {
        const size_t at = size(m * d_ld + n);
        if (m >= rows || n >= test.n) {
          ASSERT_TRUE(untouched[at]) << "written outside: row " << m << ", col " << n;
          continue;
        }
        if (row_step > 1 && m % row_step != 0 && m != rows - 1) break;
        double exact = test.accumulate ? double(bf16 ? testing::bf16_to_float(c_bf16[at]) : c[at]) : 0.0;
        double magnitude = 0;
        for (int64_t block = 0; block < blocks; ++block) {
          double sum = 0;
          double sum_magnitude = 0;
          for (int64_t k = block * 128; k < std::min(block * 128 + 128, test.k); ++k) {
            const double product = double(av[size(m * ld + k)]) * double(bv[size(n * ld + k)]);
            sum += product;
            sum_magnitude += std::fabs(product);
          }
          const double scale = double(a_scales[size(block * a_scales_ld + m)]) * double(b_scales[size(n / 128 * blocks + block)]);
          exact += sum * scale;
          magnitude += sum_magnitude * scale;
        }
        const double difference = std::fabs(double(d[at]) - exact);
        const double bound = (bf16 ? std::fabs(exact) / 256.0 : std::fabs(exact) * 0x1p-23) + kTruncation * magnitude + 1e-30;
        ASSERT_LE(difference, bound) << "row " << m << ", col " << n << ": got " << d[at] << ", want " << exact;
        worst = std::max(worst, difference / bound);
        dot_error += difference * difference;
        norm += exact * exact;
      }
    }
    if (rows > 0) RecordProperty("worst_share_of_bound", std::to_string(worst));
    if (norm > 0) {
      EXPECT_LT(dot_error / norm, 1e-5) << "relative squared error";
    }
    H4J_ASSERT_OK(h4j_launch_close(launch, &error));
    H4J_ASSERT_OK(h4j_plan_close(plan, &error));
  }
};

TEST_F(GemmGpu, MatchesTheDefinitionOnEdgeShapes) {
  for (const int64_t m : {0, 1, 63, 64, 65, 129}) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8, 16}, {24, 112}, {136, 128}, {200, 272}, {576, 512}}) {
      run({m, n, k});
      run({m, n, k, H4J_F32});
    }
  }
}

TEST_F(GemmGpu, AccumulatesInPlace) {
  for (const int64_t m : {1, 65, 130}) {
    run({m, 136, 272, H4J_BF16, true});
    run({m, 136, 272, H4J_F32, true});
  }
}

TEST_F(GemmGpu, LeavesRowsOutOfUseAndPaddingAlone) {
  for (const int64_t rows : {0, 1, 64, 100, 257}) {
    run({257, 144, 144, H4J_BF16, false, rows, 1});
    run({257, 144, 144, H4J_F32, false, rows, 2});
  }
}

TEST_F(GemmGpu, RefusesBadAddressesAndGoesOn) {
  const h4j_gemm_spec spec = spec_of(64, 128, 128);
  h4j_gemm_args args{};
  args.struct_size = sizeof args;
  const uint64_t memory = allocate(1 << 20);
  args.a = args.b = args.d = memory, args.a_scales = args.b_scales = memory;
  args.a_ld = args.b_ld = 128, args.a_scales_ld = 64, args.b_scales_ld = 1, args.d_ld = 128;
  const auto message = [&](const h4j_gemm_args& bad) {
    Error error;
    EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_gemm(stream_, &spec, &bad, &error));
    return std::string(error.message);
  };
  h4j_gemm_args bad = args;
  bad.a = 0;
  EXPECT_EQ("gemm: a: got 0, need a device address", message(bad));
  bad = args;
  bad.a_ld = 120;
  EXPECT_EQ("gemm: a_ld: got 120, need a multiple of 16, at least 128", message(bad));
  bad = args;
  bad.d = memory + 8;
  EXPECT_NE(std::string::npos, message(bad).find("gemm: d: got 0x"));
  bad = args;
  bad.c = memory;
  EXPECT_EQ("gemm: c: got an address, need 0: the plan does not accumulate", message(bad));
  run({64, 128, 128});
}

TEST_F(GemmGpu, MultipliesOneRowWithoutTensorCores) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8, 16}, {24, 528}, {136, 1040}, {576, 7168}, {2112, 2064}, {24576, 528}}) {
    run({1, n, k});
    run({1, n, k, H4J_F32, true, -1, 1});
  }
}

// Rows of one large product, again in products of other sizes, in other places and on fewer SMs.
TEST_F(GemmGpu, GivesARowTheSameBitsInEveryBatch) {
  constexpr int64_t kRows = 4096;
  std::mt19937_64 random(7);
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{576, 2064}, {200, 512}}) {
    const int64_t blocks = (k + 127) / 128;
    h4j_gemm_args args{};
    args.struct_size = sizeof args;
    args.a = upload(testing::random_e4m3(static_cast<size_t>(kRows * k), random)), args.a_ld = k;
    args.a_scales = upload(testing::random_floats(static_cast<size_t>(blocks * kRows), 0.001f, 0.01f, random)), args.a_scales_ld = kRows;
    args.b = upload(testing::random_e4m3(static_cast<size_t>(n * k), random)), args.b_ld = k;
    args.b_scales = upload(testing::random_floats(static_cast<size_t>((n + 127) / 128 * blocks), 0.001f, 0.01f, random)), args.b_scales_ld = blocks;
    const auto product = [&](int64_t first, int64_t rows, int32_t sms) {
      const std::vector<uint16_t> poison(static_cast<size_t>(rows * n), 0xffff);
      h4j_gemm_args part = args;
      part.a += static_cast<uint64_t>(first * k);
      part.a_scales += static_cast<uint64_t>(first * 4);
      part.d = upload(poison), part.d_ld = n;
      h4j_gemm_spec spec = spec_of(rows, n, k);
      spec.batch_invariant = 1;
      spec.sm_budget = sms;
      Error error;
      EXPECT_EQ(H4J_OK, h4j_gemm(stream_, &spec, &part, &error)) << error.message;
      return download<uint16_t>(part.d, poison.size());
    };
    const auto whole = product(0, kRows, 0);
    for (const int64_t rows : {1, 2, 3, 5, 63, 64, 65, 127, 128, 129, 300, 512, 1000, 2048}) {
      for (const int64_t first : {0, 4, 76}) {
        for (const int sms : {0, 24}) {
          const auto part = product(first, rows, sms);
          EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first * n))
              << rows << " rows from " << first << ", n " << n << ", " << sms << " SMs";
        }
      }
    }
  }
}

// With sums in one order in both, E4M3 output is F32 output quantised, bit for bit.
TEST_F(GemmGpu, QuantizesItsOutput) {
  std::mt19937_64 random(9);
  const auto size = [](int64_t count) { return static_cast<size_t>(count); };
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 16, 16},
                                {3, 144, 112},
                                {64, 576, 1040},
                                {65, 208, 272},
                                {129, 2112, 528},
                                {257, 7168, 144},
                                {1000, 384, 512},
                                {4096, 1536, 256}}) {
    for (const int64_t rows : {m, m / 2}) {
      for (const int32_t kind : {H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO}) {
        SCOPED_TRACE(::testing::Message() << "m " << m << ", n " << n << ", k " << k << ", rows " << rows << ", scales " << kind);
        const int64_t blocks = (k + 127) / 128;
        const int64_t scales_ld = (m + 3) / 4 * 4;
        const int64_t d_ld = (n + 15) / 16 * 16 + 16;
        const int64_t d_blocks = (n + 127) / 128;
        h4j_gemm_args args{};
        args.struct_size = sizeof args;
        args.a = upload(testing::random_e4m3(size(m * k), random)), args.a_ld = k;
        args.a_scales = upload(testing::random_floats(size(blocks * scales_ld), 0.001f, 0.01f, random)), args.a_scales_ld = scales_ld;
        args.b = upload(testing::random_e4m3(size(n * k), random)), args.b_ld = k;
        args.b_scales = upload(testing::random_floats(size(d_blocks * blocks), 0.001f, 0.01f, random)), args.b_scales_ld = blocks;
        h4j_gemm_spec spec = spec_of(m, n, k, H4J_F32);
        spec.batch_invariant = 1;
        args.d = allocate(size(m * n * 4)), args.d_ld = n;
        H4J_ASSERT_OK(h4j_gemm(stream_, &spec, &args, &error));

        const std::vector<uint8_t> poison(size(m * d_ld), 0xff);
        const std::vector<float> poison_scales(size(d_blocks * scales_ld), -1.0f);
        h4j_quantize_spec cast{};
        cast.struct_size = sizeof cast;
        cast.in_dtype = H4J_F32, cast.block_rows = 1, cast.block_cols = 128, cast.scale_kind = kind, cast.max_rows = rows, cast.cols = n;
        h4j_quantize_args in{};
        in.struct_size = sizeof in;
        in.in = args.d, in.in_ld = n, in.out = upload(poison), in.out_ld = d_ld, in.scales = upload(poison_scales), in.scales_ld = scales_ld;
        H4J_ASSERT_OK(h4j_quantize(stream_, &cast, &in, &error));

        spec.out_dtype = H4J_F8_E4M3;
        spec.out_scale_kind = kind;
        args.d = upload(poison), args.d_ld = d_ld, args.d_scales = upload(poison_scales), args.d_scales_ld = scales_ld;
        h4j_plan* plan = nullptr;
        h4j_launch* launch = nullptr;
        H4J_ASSERT_OK(h4j_gemm_plan(&info_, &spec, &plan, &error));
        H4J_ASSERT_OK(h4j_gemm_bind(plan, device_, &args, &launch, &error));
        H4J_ASSERT_OK(h4j_launch_run(launch, stream_, rows, &error));
        EXPECT_EQ(download<uint8_t>(in.out, poison.size()), download<uint8_t>(args.d, poison.size()));
        EXPECT_EQ(download<float>(in.scales, poison_scales.size()), download<float>(args.d_scales, poison_scales.size()));
        H4J_ASSERT_OK(h4j_launch_close(launch, &error));
        H4J_ASSERT_OK(h4j_plan_close(plan, &error));
      }
    }
  }
}

// A is written by the kernel ahead, again and again, and D read by the one behind: a launch that did not wait would give or keep other bits.
TEST_F(GemmGpu, WaitsForEverythingButConstantB) {
  std::mt19937_64 random(8);
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 4096, 7168}, {64, 576, 7168}, {64, 2112, 7168}, {512, 2048, 2048}}) {
    const auto size = [](int64_t count) { return static_cast<size_t>(count); };
    const int64_t a_scales_ld = (m + 3) / 4 * 4;
    h4j_gemm_args args{};
    args.struct_size = sizeof args;
    args.a = allocate(size(m * k)), args.a_ld = k;
    args.a_scales = allocate(size(k / 128 * a_scales_ld * 4)), args.a_scales_ld = a_scales_ld;
    args.b = upload(testing::random_e4m3(size(n * k), random)), args.b_ld = k;
    args.b_scales = upload(testing::random_floats(size((n + 127) / 128 * k / 128), 0.001f, 0.01f, random)), args.b_scales_ld = k / 128;
    args.d = allocate(size(m * n * 2)), args.d_ld = n;
    h4j_quantize_spec cast{};
    cast.struct_size = sizeof cast;
    cast.in_dtype = H4J_F32, cast.block_rows = 1, cast.block_cols = 128, cast.max_rows = m, cast.cols = k;
    h4j_quantize_args in{};
    in.struct_size = sizeof in;
    in.in_ld = k, in.out = args.a, in.out_ld = k, in.scales = args.a_scales, in.scales_ld = a_scales_ld;
    h4j_gemm_spec spec = spec_of(m, n, k);
    constexpr int kRounds = 8;
    std::vector<uint64_t> inputs;
    for (int round = 0; round < kRounds; ++round) inputs.push_back(upload(testing::random_floats(size(m * k), -1.0f, 1.0f, random)));
    const uint64_t kept = allocate(size(kRounds * m * n * 2));
    std::vector<uint16_t> want;
    for (const int32_t constant_b : {0, 1}) {
      spec.constant_b = constant_b;
      for (int round = 0; round < kRounds; ++round) {
        in.in = inputs[size(round)];
        H4J_ASSERT_OK(h4j_quantize(stream_, &cast, &in, &error));
        H4J_ASSERT_OK(h4j_gemm(stream_, &spec, &args, &error));
        H4J_ASSERT_OK(h4j_gemm(stream_, &spec, &args, &error));
        H4J_ASSERT_OK(h4j_copy(stream_, kept + static_cast<uint64_t>(round * m * n * 2), args.d, m * n * 2, &error));
      }
      const auto got = download<uint16_t>(kept, size(kRounds * m * n));
      if (constant_b == 0) want = got;
      EXPECT_EQ(want, got) << m << " x " << n << " x " << k;
    }
  }
}

// Products on a few SMs that share their last round of tiles along K, evenly or not, with fewer rows in use too.
TEST_F(GemmGpu, SharesTilesAlongK) {
  int shared = 0;
  for (const auto& [sms, m, n, k] : {std::tuple<int, int64_t, int64_t, int64_t>{3, 640, 192, 4112},
                                     {5, 500, 384, 4112},
                                     {4, 300, 384, 2064},
                                     {6, 640, 576, 2064},
                                     {5, 768, 400, 4112}}) {
    h4j_gemm_spec spec = spec_of(m, n, k);
    spec.sm_budget = sms;
    if (planned(spec, info_).workspace_bytes == 0) continue;
    ++shared;
    run({m, n, k, H4J_BF16, false, -1, 0, false, sms});
    run({m, n, k, H4J_F32, true, m - 5, 1, false, sms});
    run({m, n, k, H4J_BF16, false, 300, 0, false, sms});
  }
  EXPECT_GT(shared, 0);
}

// The same on all SMs.
TEST_F(GemmGpu, SharesTilesOfLargeProducts) {
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{2000, 2112, 7184}, {4096, 2112, 4112}}) run({m, n, k});
}

// Every instance, whatever the choice would pick: larger than one tile, with ragged edges in all three dimensions.
TEST_F(GemmGpu, RunsEveryInstance) {
  for (const gemm::Instance* instance : gemm::dense_instances()) {
    const gemm::Config& config = instance->config;
    // The model is asked for shapes on which this instance wins; where there is none the instance is dead weight.
    bool chosen = false;
    for (const int64_t k : {400, 2064, 7184}) {
      for (const int64_t m : {1, 64, 100, 128, 256, 384, 512, 1000, 1024, 2048, 4096}) {
        for (const int64_t n : {16, 64, 136, 192, 576, 1024, 1536, 2112, 3072, 4096, 7168, 8192, 24576}) {
          for (const bool in_order : {false, true}) {
            h4j_gemm_spec spec = spec_of(m, n, k);
            spec.batch_invariant = in_order;
            if (chosen || std::string(planned(spec, info_).kernel) != gemm::instance_name(config) + "_bf16") continue;
            chosen = true;
            run({m, n, k, H4J_BF16, false, -1, 0, in_order});
            run({m, n, k, H4J_F32, false, -1, 0, in_order});
          }
        }
      }
    }
    EXPECT_TRUE(chosen) << gemm::instance_name(config) << " is chosen for none of the shapes";
  }
}

}  // namespace
}  // namespace h4j
