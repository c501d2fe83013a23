#include <algorithm>
#include <map>

#include "gemm/bf16/bf16_choose.h"
#include "gemm/bf16/bf16_instances.h"
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

h4j_gemm_bf16_spec spec_of(int64_t batch, int64_t m, int64_t n, int64_t k, h4j_dtype out = H4J_BF16) {
  h4j_gemm_bf16_spec spec{};
  spec.struct_size = sizeof spec;
  spec.out_dtype = out;
  spec.batch = batch;
  spec.max_m = m;
  spec.n = n;
  spec.k = k;
  return spec;
}

h4j_gemm_bf16_grouped_spec grouped_of(int64_t groups, int64_t m, int64_t n, int64_t k, h4j_dtype out = H4J_BF16) {
  h4j_gemm_bf16_grouped_spec spec{};
  spec.struct_size = sizeof spec;
  spec.out_dtype = out;
  spec.groups = groups;
  spec.max_m = m;
  spec.n = n;
  spec.k = k;
  return spec;
}

h4j_status plan_of(const h4j_device_info& device, const h4j_gemm_bf16_spec& spec, h4j_plan** plan, Error& error) {
  return h4j_gemm_bf16_plan(&device, &spec, plan, &error);
}

h4j_status plan_of(const h4j_device_info& device, const h4j_gemm_bf16_grouped_spec& spec, h4j_plan** plan, Error& error) {
  return h4j_gemm_bf16_grouped_plan(&device, &spec, plan, &error);
}

template <class Spec>
std::string refusal(const Spec& spec, const h4j_device_info& device = described("H100-SXM")) {
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_NE(H4J_OK, plan_of(device, spec, &plan, error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

template <class Spec>
h4j_plan_info planned(const Spec& spec, const h4j_device_info& device) {
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_EQ(H4J_OK, plan_of(device, spec, &plan, error)) << error.message;
  h4j_plan_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(H4J_OK, h4j_plan_describe(plan, &info, &error));
  EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error));
  return info;
}

TEST(GemmBf16Plan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("gemm_bf16: k: got 100, need a multiple of 8", refusal(spec_of(1, 64, 128, 100)));
  EXPECT_EQ("gemm_bf16: k: got 0, need 8..2147483392", refusal(spec_of(1, 64, 128, 0)));
  EXPECT_EQ("gemm_bf16: n: got 130, need a multiple of 8", refusal(spec_of(1, 64, 130, 128)));
  EXPECT_EQ("gemm_bf16: max_m: got -5, need 0..2147483392", refusal(spec_of(1, -5, 128, 128)));
  EXPECT_EQ("gemm_bf16: batch: got -1, need 0..65535", refusal(spec_of(-1, 64, 128, 128)));
  EXPECT_EQ("gemm_bf16: out_dtype: got F16 (code 2), need BF16 or F32", refusal(spec_of(1, 64, 128, 128, H4J_F16)));
  EXPECT_EQ("gemm_bf16: max_m: got 1000000 with n 1000000, need at most 2^31 - 1 tiles of 8 x 64", refusal(spec_of(9, 1000000, 1000000, 128)));
  EXPECT_EQ("gemm_bf16_grouped: groups: got 0, need 1..65535", refusal(grouped_of(0, 64, 128, 128)));
  h4j_gemm_bf16_grouped_spec spec = grouped_of(4, 64, 128, 128);
  spec.accumulate = 2;
  EXPECT_EQ("gemm_bf16_grouped: accumulate: got 2, need 0..1", refusal(spec));
}

TEST(GemmBf16Plan, FindsAnInstanceForEveryShapeOnEveryCard) {
  constexpr int64_t kLayers[][2] = {{2112, 7168}, {576, 7168}, {24576, 1536}, {32768, 512}, {7168, 16384}, {256, 7168}, {129280, 7168}, {8, 8}};
  for (const char* name : {"H100-SXM", "H100-PCIe", "H20"}) {
    const h4j_device_info device = described(name);
    for (const auto& layer : kLayers) {
      for (const int64_t m : {0, 1, 8, 9, 64, 65, 128, 129, 4096, 4097}) {
        for (const int budget : {0, 1, 24}) {
          for (const int64_t batch : {0, 1, 128}) {
            h4j_gemm_bf16_spec spec = spec_of(batch, m, layer[0], layer[1]);
            spec.sm_budget = budget;
            h4j_gemm_bf16_grouped_spec grouped = grouped_of(std::max<int64_t>(batch, 1), m, layer[0], layer[1]);
            grouped.sm_budget = budget;
            for (const h4j_plan_info& info : {planned(spec, device), planned(grouped, device)}) {
              EXPECT_EQ(0, std::strncmp(info.kernel, "gemm_bf16_", 10));
              EXPECT_LE(info.grid, budget == 0 ? device.sm_count : budget);
              EXPECT_LE(info.shared_memory, device.shared_memory_per_block);
              EXPECT_STRNE("", info.explanation);
            }
            EXPECT_EQ(m == 0 || batch == 0, planned(spec, device).grid == 0);
          }
        }
      }
    }
  }
}

TEST(GemmBf16Choose, GivesWideTilesToManyRowsAndSwapsThemForFew) {
  const h4j_device_info device = described("H100-SXM");
  EXPECT_STREQ("gemm_bf16_128x256x4_bf16", planned(spec_of(1, 4096, 4096, 7168), device).kernel);
  EXPECT_STREQ("gemm_bf16_192x176x4_bf16", planned(spec_of(1, 4096, 2112, 7168), device).kernel);
  EXPECT_EQ(0, std::strncmp("gemm_bf16_8x64x20_swapped", planned(spec_of(1, 1, 7168, 7168), device).kernel, 25));
  // How many tiles groups make is not known ahead, so they share no K.
  EXPECT_STREQ("gemm_bf16_grouped_8x64x20_swapped_bf16", planned(grouped_of(8, 8, 256, 7168), device).kernel);
}

// The bound on |out - exact|: an instruction adds 16 products to the running F32 sum and is allowed a unit, 2^-23, of the magnitude it adds up; 8 more are for
// the at most 8 slices of K.
double bound_of(double exact, double magnitude, int64_t k, bool bf16) {
  return std::fabs(exact) * (bf16 ? 0x1p-8 : 0x1p-24) + double((k + 15) / 16 + 8) * 0x1p-23 * magnitude + 1e-30;
}

class GemmBf16Gpu : public testing::GpuTest {
 protected:
  struct Case {
    int64_t batch, m, n, k;
    h4j_dtype out = H4J_BF16;
    bool accumulate = false;
    int64_t rows = -1;            // in use
    bool middle = false;          // the batch is the middle dimension of A and D
    std::vector<int32_t> ends{};  // of groups; a B for each
    std::string fault{};          // what synchronising is to say
  };

  // A and D with `batch` products of [m, cols], and how to address them.
  struct Layout {
    int64_t ld;
    int64_t batch_ld;
    int64_t size;
  };
  static Layout layout(const Case& test, int64_t cols, int64_t pad) {
    if (test.middle) return {test.batch * cols, cols, test.batch * test.m * cols};
    const int64_t ld = cols + pad;
    return {ld, ld * test.m, ld * test.m * test.batch};
  }

  void run(const Case& test) {
    SCOPED_TRACE(::testing::Message() << "batch " << test.batch << ", m " << test.m << ", n " << test.n << ", k " << test.k << ", out " << test.out
                                      << ", accumulate " << test.accumulate << ", rows " << test.rows << ", groups " << test.ends.size());
    std::mt19937_64 random(static_cast<uint64_t>(test.m * 31 + test.n * 7 + test.k));
    const auto size = [](int64_t count) { return static_cast<size_t>(std::max<int64_t>(count, 1)); };
    const bool bf16 = test.out == H4J_BF16;
    const bool grouped = !test.ends.empty();
    const int64_t matrices = grouped ? static_cast<int64_t>(test.ends.size()) : test.batch;
    const int64_t rows = test.rows < 0 ? test.m : test.rows;
    const Layout la = layout(test, test.k, 8);
    const Layout ld = layout(test, test.n, 8);
    const int64_t b_ld = test.k + 16;
    const auto bf16_values = [&](int64_t count) {
      const auto floats = testing::random_floats(size(count), -1.0f, 1.0f, random);
      std::vector<uint16_t> values(floats.size());
      std::transform(floats.begin(), floats.end(), values.begin(), testing::float_to_bf16);
      return values;
    };
    auto a = bf16_values(la.size);
    const auto b = bf16_values(matrices * test.n * b_ld);
    const auto c = testing::random_floats(size(ld.size), -2.0f, 2.0f, random);
    std::vector<uint16_t> c_bf16(c.size());
    std::transform(c.begin(), c.end(), c_bf16.begin(), testing::float_to_bf16);
    // Which B a row takes, -1: none. Rows not in use are poisoned: whatever they hold must not reach others.
    std::vector<int64_t> weights(size(test.m), grouped ? -1 : 0);
    int64_t begin = 0;
    for (size_t g = 0; g < test.ends.size(); ++g) {
      const int64_t end = std::min<int64_t>(std::max<int64_t>(test.ends[g], begin), rows);
      for (; begin < end; ++begin) weights[static_cast<size_t>(begin)] = static_cast<int64_t>(g);
    }
    const auto unused = [&](int64_t m) { return m >= rows || weights[static_cast<size_t>(m)] < 0; };
    for (int64_t z = 0; z < test.batch; ++z) {
      for (int64_t m = 0; m < test.m; ++m) {
        if (unused(m)) std::fill_n(a.begin() + z * la.batch_ld + m * la.ld, test.k, uint16_t{0x7fff});
      }
    }

    // Accumulating works in place: D starts as C. Otherwise D is poisoned with NaN.
    const uint64_t d_address = test.accumulate ? (bf16 ? upload(c_bf16) : upload(c)) : upload(std::vector<uint8_t>(c.size() * (bf16 ? 2 : 4), 0xff));
    h4j_plan* plan = nullptr;
    h4j_launch* launch = nullptr;
    if (grouped) {
      h4j_gemm_bf16_grouped_spec spec = grouped_of(matrices, test.m, test.n, test.k, test.out);
      spec.accumulate = test.accumulate;
      h4j_gemm_bf16_grouped_args args{};
      args.struct_size = sizeof args;
      args.a = upload(a), args.a_ld = la.ld;
      args.b = upload(b), args.b_ld = b_ld, args.b_group_ld = test.n * b_ld;
      args.group_ends = upload(test.ends);
      args.d = d_address, args.d_ld = ld.ld;
      if (test.accumulate) args.c = args.d, args.c_ld = ld.ld;
      H4J_ASSERT_OK(h4j_gemm_bf16_grouped_plan(&info_, &spec, &plan, &error));
      H4J_ASSERT_OK(h4j_gemm_bf16_grouped_bind(plan, device_, &args, &launch, &error));
    } else {
      h4j_gemm_bf16_spec spec = spec_of(test.batch, test.m, test.n, test.k, test.out);
      spec.accumulate = test.accumulate;
      h4j_gemm_bf16_args args{};
      args.struct_size = sizeof args;
      args.a = upload(a), args.a_ld = la.ld, args.a_batch_ld = la.batch_ld;
      args.b = upload(b), args.b_ld = b_ld, args.b_batch_ld = test.n * b_ld;
      args.d = d_address, args.d_ld = ld.ld, args.d_batch_ld = ld.batch_ld;
      if (test.accumulate) args.c = args.d, args.c_ld = ld.ld, args.c_batch_ld = ld.batch_ld;
      H4J_ASSERT_OK(h4j_gemm_bf16_plan(&info_, &spec, &plan, &error));
      H4J_ASSERT_OK(h4j_gemm_bf16_bind(plan, device_, &args, &launch, &error));
    }
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    H4J_ASSERT_OK(h4j_plan_describe(plan, &info, &error));
    SCOPED_TRACE(info.kernel);
    H4J_ASSERT_OK(h4j_launch_run(launch, stream_, test.rows, &error));
    Error seen;
    EXPECT_EQ(test.fault.empty() ? H4J_OK : H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &seen)) << seen.message;
    EXPECT_EQ(test.fault, seen.message);

    std::vector<float> d(c.size());
    std::vector<bool> untouched(c.size());
    if (bf16) {
      const auto raw = download<uint16_t>(d_address, c.size());
      for (size_t i = 0; i < d.size(); ++i) d[i] = testing::bf16_to_float(raw[i]), untouched[i] = raw[i] == (test.accumulate ? c_bf16[i] : 0xffff);
    } else {
      d = download<float>(d_address, c.size());
      for (size_t i = 0; i < d.size(); ++i) untouched[i] = test.accumulate ? d[i] == c[i] : std::isnan(d[i]);
    }
    // Every element of small outputs, a sample of the rows of large ones, and always the last.
    const int64_t row_step = 1 + (test.batch * rows * test.n * test.k >> 28);
    const int64_t d_cols = test.middle ? test.n : ld.ld;
    for (int64_t z = 0; z < test.batch; ++z) {
      for (int64_t m = 0; m < test.m; ++m) {
        if (m % row_step != 0 && m < rows - 1) continue;
        for (int64_t n = 0; n < d_cols; ++n) {
          const auto at = static_cast<size_t>(z * ld.batch_ld + m * ld.ld + n);
          if (n >= test.n || unused(m)) {
            ASSERT_TRUE(untouched[at]) << "written outside: product " << z << ", row " << m << ", col " << n;
            continue;
          }
          const uint16_t* a_row = a.data() + z * la.batch_ld + m * la.ld;
          const uint16_t* b_row = b.data() + ((grouped ? weights[static_cast<size_t>(m)] : z) * test.n + n) * b_ld;
          double exact = test.accumulate ? double(bf16 ? testing::bf16_to_float(c_bf16[at]) : c[at]) : 0.0;
          double magnitude = std::fabs(exact);
          for (int64_t k = 0; k < test.k; ++k) {
            const double product = double(testing::bf16_to_float(a_row[k])) * double(testing::bf16_to_float(b_row[k]));
            exact += product;
            magnitude += std::fabs(product);
          }
          ASSERT_LE(std::fabs(double(d[at]) - exact), bound_of(exact, magnitude, test.k, bf16))
              << "product " << z << ", row " << m << ", col " << n << ": got " << d[at] << ", want " << exact;
        }
      }
    }
    H4J_ASSERT_OK(h4j_launch_close(launch, &error));
    H4J_ASSERT_OK(h4j_plan_close(plan, &error));
  }
};

TEST_F(GemmBf16Gpu, MatchesTheDefinitionOnEdgeShapes) {
  for (const int64_t m : {0, 1, 7, 63, 64, 65, 129, 300}) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8, 8}, {24, 120}, {136, 128}, {200, 264}, {576, 520}}) {
      run({1, m, n, k});
      run({1, m, n, k, H4J_F32});
    }
  }
}

TEST_F(GemmBf16Gpu, MultipliesABatchWhoseIndexIsTheMiddleDimension) {
  for (const int64_t m : {0, 1, 5, 64, 130}) {
    run({16, m, 128, 512, H4J_BF16, false, -1, true});
    run({16, m, 512, 128, H4J_BF16, false, -1, true});
    run({3, m, 72, 200, H4J_F32, false, -1, true});
  }
  run({0, 64, 128, 128});
  run({5, 70, 136, 272});
}

TEST_F(GemmBf16Gpu, AccumulatesInPlace) {
  for (const int64_t m : {1, 65, 130}) {
    for (const int64_t batch : {1, 3}) {
      run({batch, m, 136, 272, H4J_BF16, true});
      run({batch, m, 136, 272, H4J_F32, true});
    }
  }
}

TEST_F(GemmBf16Gpu, LeavesRowsOutOfUseAndPaddingAlone) {
  for (const int64_t rows : {0, 1, 64, 100, 257}) {
    for (const int64_t batch : {1, 2}) {
      run({batch, 257, 144, 144, H4J_BF16, false, rows});
      run({batch, 257, 144, 144, H4J_F32, false, rows});
    }
  }
}

TEST_F(GemmBf16Gpu, GivesEachGroupOfRowsItsMatrix) {
  run({1, 500, 264, 200, H4J_BF16, false, -1, false, {0, 10, 10, 140, 141, 300, 480}});
  run({1, 500, 264, 200, H4J_F32, false, -1, false, {100, 100, 356, 484, 500}});
  run({1, 40, 136, 136, H4J_BF16, true, -1, false, {1, 2, 3, 4, 40}});
  run({1, 1000, 136, 136, H4J_BF16, false, -1, false, {0, 0, 0}});
  run({1, 0, 136, 136, H4J_BF16, false, -1, false, {0}});
  run({1, 700, 136, 136, H4J_BF16, false, 300, false, {100, 300}});
}

TEST_F(GemmBf16Gpu, StaysInsideItsRowsWhateverTheEndsAreAndNamesTheFirstBadOne) {
  run({1, 300, 136, 136, H4J_BF16, false, -1, false, {100, 50, 300}, "gemm_bf16_grouped: group_ends[1]: got 50, need 100..300"});
  run({1, 300, 136, 136, H4J_BF16, false, -1, false, {-7, 50, 2000000000, 9}, "gemm_bf16_grouped: group_ends[0]: got -7, need 0..300"});
  run({1, 300, 136, 136, H4J_F32, false, 200, false, {100, 300}, "gemm_bf16_grouped: group_ends[1]: got 300, need 100..200"});
  run({1, 300, 136, 136, H4J_BF16, false, -1, false, {100, 300}});
}

TEST_F(GemmBf16Gpu, RefusesBadAddressesAndGoesOn) {
  const h4j_gemm_bf16_spec spec = spec_of(2, 64, 128, 128);
  h4j_gemm_bf16_args args{};
  args.struct_size = sizeof args;
  const uint64_t memory = allocate(1 << 20);
  args.a = args.b = args.d = memory;
  args.a_ld = args.b_ld = args.d_ld = 128;
  args.a_batch_ld = args.b_batch_ld = args.d_batch_ld = 64 * 128;
  const auto message = [&](const h4j_gemm_bf16_args& bad) {
    Error error;
    EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_gemm_bf16(stream_, &spec, &bad, &error));
    return std::string(error.message);
  };
  h4j_gemm_bf16_args bad = args;
  bad.a = 0;
  EXPECT_EQ("gemm_bf16: a: got 0, need a device address", message(bad));
  bad = args;
  bad.a_ld = 120;
  EXPECT_EQ("gemm_bf16: a_ld: got 120, need a multiple of 8, at least 128", message(bad));
  bad = args;
  bad.b_batch_ld = 132;
  EXPECT_EQ("gemm_bf16: b_batch_ld: got 132, need a multiple of 8, at least 128", message(bad));
  bad = args;
  bad.c = memory;
  EXPECT_EQ("gemm_bf16: c: got an address, need 0: the plan does not accumulate", message(bad));
  run({1, 64, 128, 128});
}

// Every instance: larger than one tile, with ragged edges in all three dimensions. The model is asked for shapes on which it wins; where there is none the
// instance is dead weight.
TEST_F(GemmBf16Gpu, RunsEveryInstance) {
  std::map<std::string, Case> cases;  // of each kernel the least
  for (const int64_t k : {136, 520, 2056, 7176}) {
    for (const int64_t m : {1, 8, 16, 24, 32, 40, 64, 100, 128, 256, 512, 1000, 1024, 2048, 4096}) {
      for (const int64_t n : {64, 136, 256, 576, 1024, 1536, 2112, 2560, 3072, 4096, 7168, 8192, 12288}) {
        const auto found = cases.emplace(planned(spec_of(1, m, n, k), info_).kernel, Case{1, m, n, k}).first;
        if (m * n * k < found->second.m * found->second.n * found->second.k) found->second = Case{1, m, n, k};
      }
    }
  }
  for (const gemm::bf16::Instance* instance : gemm::bf16::bf16_instances()) {
    bool chosen = false;
    for (int slices = 1; slices <= 8; ++slices) {
      const auto found = cases.find("gemm_bf16_" + gemm::bf16::instance_name(instance->config, slices) + "_bf16");
      if (found == cases.end()) continue;
      chosen = true;
      run(found->second);
      found->second.out = H4J_F32;
      run(found->second);
    }
    EXPECT_TRUE(chosen) << gemm::bf16::instance_name(instance->config, 1) << " is chosen for none of the shapes";
  }
}

}  // namespace
}  // namespace h4j
