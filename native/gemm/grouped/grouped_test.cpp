#include <algorithm>
#include <numeric>

#include "gemm/grouped/grouped_choose.h"
#include "gemm/grouped/grouped_instances.h"
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

h4j_gemm_grouped_spec grouped_spec(int32_t groups, int64_t m, int64_t n, int64_t k) {
  h4j_gemm_grouped_spec spec{};
  spec.struct_size = sizeof spec;
  spec.ends_dtype = H4J_I32;
  spec.groups = groups;
  spec.max_m = m;
  spec.n = n;
  spec.k = k;
  return spec;
}

h4j_gemm_masked_spec masked_spec(int32_t groups, int64_t rows, int64_t expected, int64_t n, int64_t k) {
  h4j_gemm_masked_spec spec{};
  spec.struct_size = sizeof spec;
  spec.counts_dtype = H4J_I64;
  spec.groups = groups;
  spec.max_rows = rows;
  spec.expected_rows = expected;
  spec.n = n;
  spec.k = k;
  return spec;
}

std::string refusal(const h4j_gemm_grouped_spec& spec) {
  const h4j_device_info device = described("H100-SXM");
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_NE(H4J_OK, h4j_gemm_grouped_plan(&device, &spec, &plan, &error));
  return error.message;
}

std::string refusal(const h4j_gemm_masked_spec& spec) {
  const h4j_device_info device = described("H100-SXM");
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_NE(H4J_OK, h4j_gemm_masked_plan(&device, &spec, &plan, &error));
  return error.message;
}

h4j_plan_info describe_and_close(h4j_plan* plan) {
  Error error;
  h4j_plan_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(H4J_OK, h4j_plan_describe(plan, &info, &error)) << error.message;
  EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error));
  return info;
}

h4j_plan_info planned(const h4j_gemm_masked_spec& spec, const h4j_device_info& device) {
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_gemm_masked_plan(&device, &spec, &plan, &error)) << error.message;
  return describe_and_close(plan);
}

TEST(GroupedGemmPlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("gemm_grouped: groups: got 513, need 1..512", refusal(grouped_spec(513, 64, 128, 128)));
  EXPECT_EQ("gemm_grouped: groups: got 0, need 1..512", refusal(grouped_spec(0, 64, 128, 128)));
  EXPECT_EQ("gemm_grouped: k: got 120, need a multiple of 16", refusal(grouped_spec(4, 64, 128, 120)));
  EXPECT_EQ("gemm_grouped: n: got 130, need a multiple of 8", refusal(grouped_spec(4, 64, 130, 128)));
  EXPECT_EQ("gemm_grouped: max_m: got -5, need 0..2147483392", refusal(grouped_spec(4, -5, 128, 128)));
  h4j_gemm_grouped_spec spec = grouped_spec(4, 64, 128, 128);
  spec.ends_dtype = H4J_U8;
  EXPECT_EQ("gemm_grouped: ends_dtype: got U8 (code 9), need I32 or I64", refusal(spec));
  EXPECT_EQ("gemm_masked: expected_rows: got 65, need 0..64", refusal(masked_spec(4, 64, 65, 128, 128)));
}

TEST(GroupedGemmPlan, FindsAnInstanceForEveryShapeOnEveryCard) {
  constexpr int64_t kLayers[][2] = {{6144, 7168}, {7168, 3072}, {4096, 4096}, {4096, 2048}, {4096, 7168}, {7168, 2048}, {8, 16}};
  for (const char* name : {"H100-SXM", "H100-PCIe", "H20"}) {
    const h4j_device_info device = described(name);
    for (const auto& layer : kLayers) {
      for (const int64_t rows : {0, 1, 20, 64, 192, 1024, 4096}) {
        h4j_gemm_masked_spec spec = masked_spec(32, rows, rows / 2, layer[0], layer[1]);
        spec.sm_budget = rows % 3 == 0 ? 24 : 0;
        const h4j_plan_info info = planned(spec, device);
        EXPECT_EQ(0, std::strncmp(info.kernel, "gemm_grouped_", 13));
        EXPECT_LE(info.grid, spec.sm_budget == 0 ? device.sm_count : spec.sm_budget);
        EXPECT_EQ(rows == 0, info.grid == 0);
        EXPECT_LE(info.shared_memory, device.shared_memory_per_block);
      }
    }
  }
}

TEST(GroupedGemmChoose, GivesTallTilesToManyRowsOnly) {
  const h4j_device_info device = described("H100-SXM");
  EXPECT_EQ(0, std::strncmp("gemm_grouped_256x", planned(masked_spec(32, 512, 192, 4096, 2048), device).kernel, 17));
  EXPECT_EQ(0, std::strncmp("gemm_grouped_128x", planned(masked_spec(6, 4096, 1024, 6144, 7168), device).kernel, 17));
  EXPECT_EQ(0, std::strncmp("gemm_grouped_128x", planned(masked_spec(8, 8192, 4096, 4096, 2048), device).kernel, 17));
  EXPECT_NE(0, std::strncmp("gemm_grouped_256x", planned(masked_spec(32, 4096, 20, 6144, 7168), device).kernel, 17));
}

// All takers together come to each narrow tile's columns of each row of tiles once.
TEST(GroupedGemmWalk, TakesEveryTileOnce) {
  constexpr int kNarrow = 64;
  std::mt19937_64 random(20261130);
  const auto below = [&](int end) { return static_cast<int>(random() % static_cast<uint64_t>(end)); };
  for (int round = 0; round < 2000; ++round) {
    const int n = 8 * (1 + below(200));
    const int rest = n % (gemm::grouped::kParts * kNarrow);
    const bool narrow = rest > 0 && rest <= kNarrow;
    const gemm::grouped::Columns columns{n / (gemm::grouped::kParts * kNarrow) + (rest > 0 && !narrow), narrow, 2 * (1 + below(8))};
    const int tiles_m = below(40);
    const int takers = 1 + below(132);
    const int units = columns.units(tiles_m);
    const int cut = gemm::grouped::first_cut(units, takers);
    SCOPED_TRACE(::testing::Message() << tiles_m << " rows of tiles, n " << n << ", bands of " << columns.band << ", " << takers << " takers");
    ASSERT_TRUE(cut == units || (cut % takers == 0 && gemm::grouped::kParts * (units - cut) <= takers));
    const int cols = (n + kNarrow - 1) / kNarrow;
    std::vector<int> seen(static_cast<size_t>(tiles_m * cols));
    const auto take = [&](int row, int col) {
      ASSERT_LT(row, tiles_m);
      if (col < cols) ++seen[static_cast<size_t>(row * cols + col)];
    };
    for (int unit = 0; unit < units; ++unit) {
      const gemm::grouped::Unit place = columns.at(unit, tiles_m);
      ASSERT_GE(place.rows, 1);
      for (int part = 0; part < gemm::grouped::kParts; ++part) {
        if (place.col < columns.whole) {
          take(place.row, gemm::grouped::kParts * place.col + part);
        } else if (part < place.rows) {
          take(place.row + part, gemm::grouped::kParts * place.col);
        }
      }
    }
    for (const int count : seen) ASSERT_EQ(1, count);
  }
}

// The bound on |out - exact| relative to the sum of magnitudes: four tensor-core sums a K block, each kept to 13 fraction bits.
constexpr double kTruncation = 4.0 / 8192.0;

class GroupedGemmGpu : public testing::GpuTest {
 protected:
  struct Case {
    std::vector<int64_t> sizes;  // rows of each group
    int64_t n, k;
    int64_t rest = 0;              // rows behind the last group's, or in each plane
    int64_t expected = 0;          // what the plan of planes is told
    int64_t pad = 0;               // extra elements between rows, in units of 16
    int32_t sms = 0;               // how many may be used
    const char* kernel = nullptr;  // the one that is meant
  };

  // All groups in one matrix, or each in a plane of its own.
  void run(const Case& test, bool planes) {
    const int64_t groups = static_cast<int64_t>(test.sizes.size());
    const int64_t total = std::accumulate(test.sizes.begin(), test.sizes.end(), int64_t{0});
    const int64_t largest = *std::max_element(test.sizes.begin(), test.sizes.end());
    const int64_t rows = (planes ? largest : total) + test.rest;
    const int64_t stack = planes ? groups : 1;
    const int64_t blocks = (test.k + 127) / 128;
    const int64_t scale_rows = (test.n + 127) / 128;
    const int64_t ld = test.k + 16 * test.pad;
    const int64_t d_ld = test.n + 8 * test.pad;
    const int64_t a_scales_ld = (std::max<int64_t>(rows, 1) + 3) / 4 * 4;
    const auto size = [](int64_t count) { return static_cast<size_t>(count); };
    const uint64_t seed = static_cast<uint64_t>(total * 31 + test.n * 7 + test.k);
    SCOPED_TRACE(::testing::Message() << groups << " groups, " << total << " rows, n " << test.n << ", k " << test.k << ", rest " << test.rest
                                      << ", expected " << test.expected << ", planes " << planes << ", seed " << seed);
    std::mt19937_64 random(seed);
    const auto a = testing::random_e4m3(size(stack * rows * ld), random);
    const auto b = testing::random_e4m3(size(groups * test.n * ld), random);
    const auto a_scales = testing::random_floats(size(stack * blocks * a_scales_ld), 0.001f, 0.01f, random);
    const auto b_scales = testing::random_floats(size(groups * scale_rows * blocks), 0.001f, 0.01f, random);
    std::vector<int64_t> ends(test.sizes.size());
    std::partial_sum(test.sizes.begin(), test.sizes.end(), ends.begin());
    const size_t elements = size(stack * rows * d_ld);
    const uint64_t d = upload(std::vector<uint16_t>(elements, 0xffff));

    h4j_plan* plan = nullptr;
    h4j_launch* launch = nullptr;
    if (planes) {
      h4j_gemm_masked_spec spec = masked_spec(static_cast<int32_t>(groups), rows, test.expected, test.n, test.k);
      spec.sm_budget = test.sms;
      h4j_gemm_masked_args args{};
      args.struct_size = sizeof args;
      args.a = upload(a), args.a_ld = ld, args.a_group_ld = rows * ld;
      args.a_scales = upload(a_scales), args.a_scales_ld = a_scales_ld, args.a_scales_group_ld = blocks * a_scales_ld;
      args.b = upload(b), args.b_ld = ld, args.b_group_ld = test.n * ld;
      args.b_scales = upload(b_scales), args.b_scales_ld = blocks, args.b_scales_group_ld = scale_rows * blocks;
      args.counts = upload(test.sizes);
      args.d = d, args.d_ld = d_ld, args.d_group_ld = rows * d_ld;
      H4J_ASSERT_OK(h4j_gemm_masked_plan(&info_, &spec, &plan, &error));
      H4J_ASSERT_OK(h4j_gemm_masked_bind(plan, device_, &args, &launch, &error));
    } else {
      h4j_gemm_grouped_spec spec = grouped_spec(static_cast<int32_t>(groups), rows, test.n, test.k);
      spec.ends_dtype = H4J_I64;
      spec.sm_budget = test.sms;
      h4j_gemm_grouped_args args{};
      args.struct_size = sizeof args;
      args.a = upload(a), args.a_ld = ld;
      args.a_scales = upload(a_scales), args.a_scales_ld = a_scales_ld;
      args.b = upload(b), args.b_ld = ld, args.b_group_ld = test.n * ld;
      args.b_scales = upload(b_scales), args.b_scales_ld = blocks, args.b_scales_group_ld = scale_rows * blocks;
      args.group_ends = upload(ends);
      args.d = d, args.d_ld = d_ld;
      H4J_ASSERT_OK(h4j_gemm_grouped_plan(&info_, &spec, &plan, &error));
      H4J_ASSERT_OK(h4j_gemm_grouped_bind(plan, device_, &args, &launch, &error));
    }
    const h4j_plan_info info = describe_and_close(plan);
    SCOPED_TRACE(info.kernel);
    if (test.kernel != nullptr) {
      EXPECT_STREQ(test.kernel, info.kernel);
    }
    H4J_ASSERT_OK(h4j_launch_run(launch, stream_, -1, &error));
    synchronize();
    H4J_ASSERT_OK(h4j_launch_close(launch, &error));

    const auto got = download<uint16_t>(d, elements);
    std::vector<float> av(a.size());
    std::vector<float> bv(b.size());
    std::transform(a.begin(), a.end(), av.begin(), testing::e4m3_to_float);
    std::transform(b.begin(), b.end(), bv.begin(), testing::e4m3_to_float);
    std::vector<int64_t> owner(size(stack * rows), -1);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = planes ? g * rows : ends[size(g)] - test.sizes[size(g)];
      std::fill_n(owner.begin() + begin, test.sizes[size(g)], g);
    }
    for (int64_t m = 0; m < stack * rows; ++m) {
      const int64_t g = owner[size(m)];
      const float* scales = a_scales.data() + m / rows * blocks * a_scales_ld + m % rows;
      for (int64_t n = 0; n < d_ld; ++n) {
        const uint16_t bits = got[size(m * d_ld + n)];
        if (g < 0 || n >= test.n) {
          ASSERT_EQ(0xffff, bits) << "written outside: row " << m << ", col " << n;
          continue;
        }
        double exact = 0;
        double magnitude = 0;
        for (int64_t block = 0; block < blocks; ++block) {
          double sum = 0;
          double sum_magnitude = 0;
          for (int64_t k = block * 128; k < std::min(block * 128 + 128, test.k); ++k) {
            const double product = double(av[size(m * ld + k)]) * double(bv[size((g * test.n + n) * ld + k)]);
            sum += product;
            sum_magnitude += std::fabs(product);
          }
          const double scale = double(scales[block * a_scales_ld]) * double(b_scales[size((g * scale_rows + n / 128) * blocks + block)]);
          exact += sum * scale;
          magnitude += sum_magnitude * scale;
        }
        const double value = double(testing::bf16_to_float(bits));
        ASSERT_LE(std::fabs(value - exact), std::fabs(exact) / 256.0 + kTruncation * magnitude + 1e-30)
            << "row " << m << " of group " << g << ", col " << n << ": got " << value << ", want " << exact;
      }
    }
  }
};

TEST_F(GroupedGemmGpu, MatchesTheDefinitionOnEdgeShapes) {
  const std::vector<std::vector<int64_t>> groups = {{1}, {64}, {5, 0, 63, 64, 65, 0}, {0, 128, 1, 127}, {130, 257, 3}};
  for (const auto& sizes : groups) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8, 16}, {136, 272}}) {
      run({sizes, n, k, 3}, false);
      run({sizes, n, k, 3}, true);
    }
  }
}

// Columns that fill no more than a narrow tile, and last rounds with and without tiles that are cut.
TEST_F(GroupedGemmGpu, TakesNarrowTiles) {
  constexpr const char* kKernel = "gemm_grouped_128x192x4_g1_c1";
  const std::vector<int64_t> few = {300, 0, 129, 64, 5};
  const std::vector<int64_t> many = {1500, 1300, 700};
  for (const int64_t n : {440, 448, 384}) {
    for (const int32_t sms : {6, 9, 12}) {
      run({few, n, 272, 1500, 320, 0, sms, kKernel}, false);
      run({few, n, 272, 20, 320, 0, sms, kKernel}, true);
    }
    run({many, n, 144, 0, 0, 0, 0, kKernel}, false);
    run({many, n, 144, 0, 0, 0, 8, kKernel}, false);
    run({many, n, 144, 0, 1500, 0, 16, kKernel}, true);
  }
}

// A last row of tiles with each count of rows that it can have: what of it is stored, and nothing else.
TEST_F(GroupedGemmGpu, StoresAnyCountOfRowsAtAGroupsEnd) {
  constexpr const char* kKernel = "gemm_grouped_128x192x4_g1_c1";
  std::vector<int64_t> sizes(128);
  std::iota(sizes.begin(), sizes.end(), 1);
  run({sizes, 448, 144, 3, 0, 0, 0, kKernel}, false);
  run({sizes, 448, 144, 200, 320, 0, 0, kKernel}, true);
}

TEST_F(GroupedGemmGpu, WalksAsManyGroupsAsThereMayBe) {
  std::mt19937_64 random(20261125);
  std::vector<int64_t> sizes(512);
  for (int64_t& rows : sizes) rows = random() % 3 == 0 ? static_cast<int64_t>(random() % 20) : 0;
  run({sizes, 72, 144}, false);
  run({sizes, 72, 144}, true);
}

// Every instance, whatever the choice would pick: the model is asked for shapes on which it wins; where there is none the instance is dead weight.
TEST_F(GroupedGemmGpu, RunsEveryInstance) {
  for (const gemm::grouped::Instance* instance : gemm::grouped::grouped_instances()) {
    const std::string name = gemm::grouped::instance_name(instance->config);
    bool chosen = false;
    for (const int64_t expected : {20, 64, 100, 128, 192, 300, 512}) {
      for (const int32_t groups : {3, 6, 32}) {
        for (const int64_t n : {64, 96, 112, 192, 448, 1024, 1344, 2112, 4096, 7168}) {
          if (chosen || planned(masked_spec(groups, 2 * expected, expected, n, 400), info_).kernel != name) continue;
          chosen = true;
          std::vector<int64_t> sizes(static_cast<size_t>(groups), 3);
          sizes[0] = 2 * expected;
          sizes[1] = expected + 1;
          run({sizes, n, 400, 0, expected}, true);
        }
      }
    }
    EXPECT_TRUE(chosen) << name << " is chosen for none of the shapes";
  }
}

TEST_F(GroupedGemmGpu, NamesTheFirstBadNumberAndStaysInside) {
  const uint64_t memory = upload(std::vector<uint8_t>(1 << 20));
  const auto message = [&](const std::vector<int32_t>& numbers, bool planes) {
    h4j_plan* plan = nullptr;
    h4j_launch* launch = nullptr;
    Error error;
    if (planes) {
      h4j_gemm_masked_spec spec = masked_spec(4, 70, 0, 128, 128);
      spec.counts_dtype = H4J_I32;
      h4j_gemm_masked_args args{};
      args.struct_size = sizeof args;
      args.a = args.b = args.d = args.a_scales = args.b_scales = memory;
      args.a_ld = args.b_ld = args.d_ld = 128, args.a_scales_ld = args.a_scales_group_ld = 72;
      args.a_group_ld = args.d_group_ld = 70 * 128, args.b_group_ld = 128 * 128, args.b_scales_ld = args.b_scales_group_ld = 1;
      args.counts = upload(numbers);
      EXPECT_EQ(H4J_OK, h4j_gemm_masked_plan(&info_, &spec, &plan, &error)) << error.message;
      EXPECT_EQ(H4J_OK, h4j_gemm_masked_bind(plan, device_, &args, &launch, &error)) << error.message;
    } else {
      const h4j_gemm_grouped_spec spec = grouped_spec(4, 300, 128, 128);
      h4j_gemm_grouped_args args{};
      args.struct_size = sizeof args;
      args.a = args.b = args.d = args.a_scales = args.b_scales = memory;
      args.a_ld = args.b_ld = args.d_ld = 128, args.a_scales_ld = 300, args.b_group_ld = 128 * 128, args.b_scales_ld = args.b_scales_group_ld = 1;
      args.group_ends = upload(numbers);
      EXPECT_EQ(H4J_OK, h4j_gemm_grouped_plan(&info_, &spec, &plan, &error)) << error.message;
      EXPECT_EQ(H4J_OK, h4j_gemm_grouped_bind(plan, device_, &args, &launch, &error)) << error.message;
    }
    EXPECT_EQ(H4J_OK, h4j_launch_run(launch, stream_, -1, &error)) << error.message;
    EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &error));
    const std::string said = error.message;
    synchronize();
    EXPECT_EQ(H4J_OK, h4j_launch_close(launch, &error));
    EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error));
    return said;
  };
  EXPECT_EQ("gemm_grouped: group_ends[1]: got 90, need 100..300", message({100, 90, 200, 80}, false));
  EXPECT_EQ("gemm_grouped: group_ends[3]: got 301, need 300..300", message({100, 200, 300, 301}, false));
  EXPECT_EQ("gemm_grouped: group_ends[0]: got -5, need 0..300", message({-5, 200, 300, 300}, false));
  EXPECT_EQ("gemm_masked: counts[2]: got 71, need 0..70", message({0, 70, 71, -1}, true));
}

}  // namespace
}  // namespace h4j
