#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_swiglu_quantize_spec spec_of(int groups, int64_t rows, int64_t cols) {
  h4j_swiglu_quantize_spec spec{};
  spec.struct_size = sizeof spec;
  spec.groups = groups;
  spec.masked = groups > 1;
  spec.max_rows = rows;
  spec.cols = cols;
  return spec;
}

std::string refusal(const h4j_swiglu_quantize_spec& spec) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  h4j_plan* plan = nullptr;
  EXPECT_NE(H4J_OK, h4j_swiglu_quantize_plan(&device, &spec, &plan, &error));
  return error.message;
}

TEST(SwigluQuantizePlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("swiglu_quantize: cols: got 12, need a multiple of 8", refusal(spec_of(1, 4, 12)));
  EXPECT_EQ("swiglu_quantize: max_rows: got -1, need 0..2147483392", refusal(spec_of(1, -1, 128)));
  EXPECT_EQ("swiglu_quantize: groups: got 1025, need 1..1024", refusal(spec_of(1025, 4, 128)));
  h4j_swiglu_quantize_spec unmasked = spec_of(2, 4, 128);
  unmasked.masked = 0;
  EXPECT_EQ("swiglu_quantize: groups: got 2, need 1..1", refusal(unmasked));
}

class SwigluQuantizeGpu : public testing::GpuTest {
 protected:
  // Runs on seeded values; each value must be the rounding of a number that is right to 2^-16, and what is not in use must stay as it was.
  void run(int groups, int64_t rows, int64_t cols, bool weighted, int scale_kind, std::vector<int32_t> counts) {
    SCOPED_TRACE(::testing::Message() << groups << " groups of " << rows << " x " << cols << ", weighted " << weighted << ", scale kind "
                                      << scale_kind);
    std::mt19937_64 random(99);
    const bool masked = !counts.empty();
    const int64_t in_ld = 2 * cols + 8;
    const int64_t out_ld = (cols + 15) / 16 * 16 + 16;
    const int64_t blocks = (cols + 127) / 128;
    const int64_t scales_ld = groups * ((rows + 3) / 4 * 4);
    std::vector<float> values = testing::random_floats(static_cast<size_t>(groups * rows * in_ld), -6.0f, 6.0f, random);
    std::vector<uint16_t> bf16(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      bf16[i] = testing::float_to_bf16(values[i]);
      values[i] = testing::bf16_to_float(bf16[i]);
    }
    const std::vector<float> weights = testing::random_floats(static_cast<size_t>(groups * rows), 0.0f, 2.5f, random);
    h4j_swiglu_quantize_spec spec = spec_of(groups, rows, cols);
    spec.masked = masked, spec.weighted = weighted, spec.scale_kind = scale_kind;
    h4j_swiglu_quantize_args args{};
    args.struct_size = sizeof args;
    args.in = upload(bf16), args.in_ld = in_ld, args.in_group_ld = rows * in_ld;
    if (weighted) args.weights = upload(weights);
    if (masked) args.row_counts = upload(counts);
    args.out = upload(std::vector<uint8_t>(static_cast<size_t>(groups * rows * out_ld), 0xff)), args.out_ld = out_ld,
    args.out_group_ld = rows * out_ld;
    args.scales = upload(std::vector<float>(static_cast<size_t>(blocks * scales_ld), -1.0f));
    args.scales_ld = scales_ld, args.scales_group_ld = (rows + 3) / 4 * 4;
    H4J_ASSERT_OK(h4j_swiglu_quantize(stream_, &spec, &args, &error));
    const auto out = download<uint8_t>(args.out, static_cast<size_t>(groups * rows * out_ld));
    const auto scales = download<float>(args.scales, static_cast<size_t>(blocks * scales_ld));

    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t row = 0; row < rows; ++row) {
        const bool used = !masked || row < counts[static_cast<size_t>(g)];
        for (int64_t block = 0; block < blocks; ++block) {
          const float scale = scales[static_cast<size_t>(g * args.scales_group_ld + block * scales_ld + row)];
          SCOPED_TRACE(::testing::Message() << "group " << g << ", row " << row << ", block " << block);
          if (!used) {
            ASSERT_EQ(-1.0f, scale);
            ASSERT_EQ(0xff, out[static_cast<size_t>((g * rows + row) * out_ld + block * 128)]);
            continue;
          }
          double amax = 1e-4;
          std::vector<double> exact;
          for (int64_t c = block * 128; c < std::min(block * 128 + 128, cols); ++c) {
            const double gate = values[static_cast<size_t>((g * rows + row) * in_ld + c)];
            const double up = values[static_cast<size_t>((g * rows + row) * in_ld + cols + c)];
            exact.push_back(gate / (1 + std::exp(-gate)) * up * (weighted ? static_cast<double>(weights[static_cast<size_t>(g * rows + row)]) : 1.0));
            amax = std::fmax(amax, std::fabs(exact.back()));
          }
          if (scale_kind == H4J_SCALE_F32) {
            ASSERT_NEAR(amax / 448, static_cast<double>(scale), amax / 448 * 0x1p-16);
          } else {
            ASSERT_EQ(std::exp2(std::ceil(std::log2(amax / 448))), static_cast<double>(scale));
          }
          for (size_t i = 0; i < exact.size(); ++i) {
            const double got = testing::e4m3_to_float(out[static_cast<size_t>((g * rows + row) * out_ld + block * 128) + i]);
            const double x = exact[i] / static_cast<double>(scale);
            ASSERT_NEAR(x, got, testing::e4m3_half_step(x) + std::fabs(x) * 0x1p-16) << "column " << i;
          }
        }
        for (int64_t c = cols; c < out_ld; ++c) ASSERT_EQ(0xff, out[static_cast<size_t>((g * rows + row) * out_ld + c)]) << "written outside";
      }
    }
  }
};

TEST_F(SwigluQuantizeGpu, QuantisesWhatSwigluGives) {
  for (const int kind : {H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO}) {
    run(1, 1, 8, false, kind, {});
    run(1, 9, 136, true, kind, {});
    run(1, 67, 2048, true, kind, {});
  }
}

TEST_F(SwigluQuantizeGpu, LeavesRowsNotInUseAlone) {
  run(3, 20, 136, true, H4J_SCALE_F32, {0, 20, 7});
  run(1, 20, 136, false, H4J_SCALE_F32, {9});
  std::vector<int32_t> counts(70);
  for (size_t i = 0; i < counts.size(); ++i) counts[i] = static_cast<int32_t>(i * 5 % 14);
  run(70, 13, 256, false, H4J_SCALE_POWER_OF_TWO, counts);
}

TEST_F(SwigluQuantizeGpu, CutsAndReportsBadCounts) {
  h4j_swiglu_quantize_spec spec = spec_of(40, 8, 128);
  std::vector<int32_t> counts(40, 3);
  counts[37] = -5, counts[34] = 1 << 30;
  h4j_swiglu_quantize_args args{};
  args.struct_size = sizeof args;
  args.in = upload(std::vector<uint16_t>(40 * 8 * 256, 0x3f80)), args.in_ld = 256, args.in_group_ld = 8 * 256;
  args.row_counts = upload(counts);
  args.out = allocate(40 * 8 * 128), args.out_ld = 128, args.out_group_ld = 8 * 128;
  args.scales = allocate(40 * 8 * 4), args.scales_ld = 320, args.scales_group_ld = 8;
  H4J_ASSERT_OK(h4j_swiglu_quantize(stream_, &spec, &args, &error));
  Error error;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &error));
  EXPECT_STREQ("swiglu_quantize: row_counts[34]: got 1073741824, need 0..8", error.message);
  H4J_ASSERT_OK(h4j_stream_synchronize(stream_, &error));
}

}  // namespace
}  // namespace h4j
