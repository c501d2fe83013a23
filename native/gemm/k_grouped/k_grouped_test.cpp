#include <algorithm>
#include <numeric>

#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_gemm_k_grouped_spec spec_of(int32_t groups, int64_t m, int64_t n, int64_t k, bool accumulate) {
  h4j_gemm_k_grouped_spec spec{};
  spec.struct_size = sizeof spec;
  spec.ends_dtype = H4J_I32;
  spec.groups = groups;
  spec.accumulate = accumulate;
  spec.m = m;
  spec.n = n;
  spec.max_k = k;
  return spec;
}

TEST(KGroupedGemmPlan, NamesTheArgumentItRefuses) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error described;
  ASSERT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &described));
  const auto refusal = [&](const h4j_gemm_k_grouped_spec& spec) {
    h4j_plan* plan = nullptr;
    Error error;
    EXPECT_NE(H4J_OK, h4j_gemm_k_grouped_plan(&device, &spec, &plan, &error));
    return std::string(error.message);
  };
  EXPECT_EQ("gemm_k_grouped: m: got 0, need 1..2147483392", refusal(spec_of(4, 0, 128, 128, false)));
  EXPECT_EQ("gemm_k_grouped: n: got 12, need a multiple of 8", refusal(spec_of(4, 64, 12, 128, false)));
  EXPECT_EQ("gemm_k_grouped: max_k: got 40, need a multiple of 16", refusal(spec_of(4, 64, 128, 40, false)));
  EXPECT_EQ("gemm_k_grouped: groups: got 513, need 1..512", refusal(spec_of(513, 64, 128, 128, false)));
}

TEST(KGroupedGemmPlan, FormsClustersWhereTheyAreWhole) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error error;
  ASSERT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  const auto planned = [&](int64_t n, int32_t sm_budget) {
    h4j_gemm_k_grouped_spec spec = spec_of(4, 4096, n, 32768, false);
    spec.sm_budget = sm_budget;
    h4j_plan* plan = nullptr;
    EXPECT_EQ(H4J_OK, h4j_gemm_k_grouped_plan(&device, &spec, &plan, &error)) << error.message;
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    EXPECT_EQ(H4J_OK, h4j_plan_describe(plan, &info, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error));
    return info;
  };
  EXPECT_STREQ("gemm_k_grouped_192x128x4_c2", planned(2048, 0).kernel);
  EXPECT_EQ(132, planned(2048, 0).grid);
  EXPECT_EQ(32, planned(2048, 33).grid);
  EXPECT_STREQ("gemm_k_grouped_192x128x4_c1", planned(2048, 1).kernel);
  EXPECT_STREQ("gemm_k_grouped_192x128x4_c1", planned(2112, 0).kernel);
}

class KGroupedGemmGpu : public testing::GpuTest {
 protected:
  void run(const std::vector<int32_t>& sizes, int64_t m, int64_t n, bool accumulate) {
    const int64_t groups = static_cast<int64_t>(sizes.size());
    const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    const int64_t blocks = (total + 127) / 128;
    const int64_t a_ld = (m + 3) / 4 * 4;
    const int64_t b_ld = (n + 3) / 4 * 4;
    const auto size = [](int64_t count) { return static_cast<size_t>(count); };
    const uint64_t seed = static_cast<uint64_t>(total * 31 + n * 7 + m);
    SCOPED_TRACE(::testing::Message() << groups << " groups, k " << total << ", m " << m << ", n " << n << ", accumulate " << accumulate << ", seed "
                                      << seed);
    std::mt19937_64 random(seed);
    const auto a = testing::random_e4m3(size(m * total), random);
    const auto b = testing::random_e4m3(size(n * total), random);
    const auto a_scales = testing::random_floats(size(blocks * a_ld), 0.001f, 0.01f, random);
    const auto b_scales = testing::random_floats(size(blocks * b_ld), 0.001f, 0.01f, random);
    const auto c = testing::random_floats(size(groups * m * n), -2.0f, 2.0f, random);
    std::vector<int32_t> ends(sizes.size());
    std::partial_sum(sizes.begin(), sizes.end(), ends.begin());

    h4j_gemm_k_grouped_spec spec = spec_of(static_cast<int32_t>(groups), m, n, total, accumulate);
    spec.sm_budget = accumulate ? 3 : 0;  // some CTAs have several tiles then
    h4j_gemm_k_grouped_args args{};
    args.struct_size = sizeof args;
    args.a = upload(a), args.a_ld = total, args.a_scales = upload(a_scales), args.a_scales_ld = a_ld;
    args.b = upload(b), args.b_ld = total, args.b_scales = upload(b_scales), args.b_scales_ld = b_ld;
    args.group_ends = upload(ends);
    args.d = accumulate ? upload(c) : upload(std::vector<uint8_t>(c.size() * 4, 0xff));
    args.d_ld = n, args.d_group_ld = m * n;
    if (accumulate) args.c = args.d, args.c_ld = n, args.c_group_ld = m * n;
    H4J_ASSERT_OK(h4j_gemm_k_grouped(stream_, &spec, &args, &error));
    synchronize();

    const auto got = download<float>(args.d, c.size());
    std::vector<float> av(a.size());
    std::vector<float> bv(b.size());
    std::transform(a.begin(), a.end(), av.begin(), testing::e4m3_to_float);
    std::transform(b.begin(), b.end(), bv.begin(), testing::e4m3_to_float);
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const size_t at = size((g * m + i) * n + j);
          double exact = accumulate ? double(c[at]) : 0.0;
          double magnitude = std::fabs(exact);
          for (int64_t k = ends[size(g)] - sizes[size(g)]; k < ends[size(g)]; ++k) {
            const double product = double(av[size(i * total + k)]) * double(bv[size(j * total + k)]) * double(a_scales[size(k / 128 * a_ld + i)]) *
                                   double(b_scales[size(k / 128 * b_ld + j)]);
            exact += product;
            magnitude += std::fabs(product);
          }
          ASSERT_LE(std::fabs(double(got[at]) - exact), 4.0 / 8192.0 * magnitude) << "group " << g << ", row " << i << ", col " << j;
        }
      }
    }
  }
};

TEST_F(KGroupedGemmGpu, MatchesTheDefinition) {
  for (const std::vector<int32_t>& sizes : {std::vector<int32_t>{128}, {0, 256, 0, 384}, {128, 640, 0, 112}, {0, 0, 16}}) {
    for (const auto& [m, n] : {std::pair<int64_t, int64_t>{1, 8}, {130, 136}, {257, 264}, {300, 480}}) {
      run(sizes, m, n, false);
      run(sizes, m, n, true);
    }
  }
}

TEST_F(KGroupedGemmGpu, NamesTheFirstBadEndAndStaysInside) {
  const uint64_t memory = allocate(1 << 20);
  const auto message = [&](const std::vector<int32_t>& ends) {
    const h4j_gemm_k_grouped_spec spec = spec_of(3, 128, 128, 512, false);
    h4j_gemm_k_grouped_args args{};
    args.struct_size = sizeof args;
    args.a = args.b = args.a_scales = args.b_scales = args.d = memory;
    args.a_ld = args.b_ld = 512, args.a_scales_ld = args.b_scales_ld = args.d_ld = 128, args.d_group_ld = 128 * 128;
    args.group_ends = upload(ends);
    Error error;
    EXPECT_EQ(H4J_OK, h4j_gemm_k_grouped(stream_, &spec, &args, &error)) << error.message;
    EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &error));
    const std::string said = error.message;
    synchronize();
    return said;
  };
  EXPECT_EQ("gemm_k_grouped: group_ends[1]: got 200, need 128..128", message({128, 200, 512}));
  EXPECT_EQ("gemm_k_grouped: group_ends[2]: got 640, need 256..512", message({128, 256, 640}));
  EXPECT_EQ("gemm_k_grouped: group_ends[1]: got 0, need 128..512", message({128, 0, 512}));
}

}  // namespace
}  // namespace h4j
