#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_rmsnorm_quantize_spec spec_of(h4j_dtype weight, int64_t rows, int64_t cols) {
  h4j_rmsnorm_quantize_spec spec{};
  spec.struct_size = sizeof spec;
  spec.weight_dtype = weight;
  spec.eps = 1e-6f;
  spec.max_rows = rows;
  spec.cols = cols;
  return spec;
}

class RmsNormQuantizePlan : public ::testing::Test {
 protected:
  void SetUp() override {
    device_.struct_size = sizeof device_;
    H4J_ASSERT_OK(h4j_device_describe("H100-SXM", &device_, &error));
  }

  std::string refusal(const h4j_rmsnorm_quantize_spec& spec) {
    Error error;
    h4j_plan* plan = nullptr;
    EXPECT_NE(H4J_OK, h4j_rmsnorm_quantize_plan(&device_, &spec, &plan, &error));
    return error.message;
  }

  std::string kernel(int64_t cols) {
    const h4j_rmsnorm_quantize_spec spec = spec_of(H4J_BF16, 1, cols);
    h4j_plan* plan = nullptr;
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    Error error;
    EXPECT_EQ(H4J_OK, h4j_rmsnorm_quantize_plan(&device_, &spec, &plan, &error));
    EXPECT_EQ(H4J_OK, h4j_plan_describe(plan, &info, &error));
    EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error));
    return info.kernel;
  }

  h4j_device_info device_{};
};

TEST_F(RmsNormQuantizePlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("rmsnorm_quantize: weight_dtype: got F16 (code 2), need BF16 or F32", refusal(spec_of(H4J_F16, 4, 128)));
  EXPECT_EQ("rmsnorm_quantize: cols: got 12, need a multiple of 8", refusal(spec_of(H4J_F32, 4, 12)));
  EXPECT_EQ("rmsnorm_quantize: cols: got 32776, need 8..32768", refusal(spec_of(H4J_F32, 4, 32776)));
  h4j_rmsnorm_quantize_spec negative = spec_of(H4J_F32, 4, 128);
  negative.eps = -1;
  EXPECT_EQ("rmsnorm_quantize: eps: got -1, need a finite number > 0", refusal(negative));
}

TEST_F(RmsNormQuantizePlan, TakesTheNarrowestInstance) {
  EXPECT_EQ("rmsnorm_quantize_bf16_512", kernel(512));
  EXPECT_EQ("rmsnorm_quantize_bf16_1536", kernel(520));
  EXPECT_EQ("rmsnorm_quantize_bf16_7168", kernel(7168));
  EXPECT_EQ("rmsnorm_quantize_bf16_8192", kernel(7176));
  EXPECT_EQ("rmsnorm_quantize_bf16_32768", kernel(32768));
}

class RmsNormQuantizeGpu : public testing::GpuTest {
 protected:
  void run(h4j_dtype weight_dtype, int64_t rows, int64_t cols, bool with_residual, bool with_normalized, int scale_kind) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", weight dtype " << weight_dtype << ", residual " << with_residual
                                      << ", normalized " << with_normalized << ", scale kind " << scale_kind);
    std::mt19937_64 random(7);
    const int64_t ld = cols + 8;
    const int64_t out_ld = (cols + 15) / 16 * 16 + 16;
    const int64_t blocks = (cols + 127) / 128;
    const int64_t scales_ld = (rows + 3) / 4 * 4 + 4;
    const auto bf16 = [&](size_t count, float low, float high) {
      std::vector<uint16_t> bits(count);
      const std::vector<float> values = testing::random_floats(count, low, high, random);
      std::transform(values.begin(), values.end(), bits.begin(), testing::float_to_bf16);
      return bits;
    };
    const std::vector<uint16_t> in = bf16(static_cast<size_t>(rows * ld), -3.0f, 3.0f);
    const std::vector<uint16_t> residual = bf16(static_cast<size_t>(rows * ld), -3.0f, 3.0f);
    const std::vector<uint16_t> weight = bf16(static_cast<size_t>(cols), 0.2f, 2.0f);
    std::vector<float> wide_weight(weight.size());
    std::transform(weight.begin(), weight.end(), wide_weight.begin(), testing::bf16_to_float);

    h4j_rmsnorm_quantize_spec spec = spec_of(weight_dtype, rows, cols);
    spec.residual = with_residual, spec.normalized = with_normalized, spec.scale_kind = scale_kind;
    h4j_rmsnorm_quantize_args args{};
    args.struct_size = sizeof args;
    args.in = upload(in), args.in_ld = ld;
    args.weight = weight_dtype == H4J_BF16 ? upload(weight) : upload(wide_weight);
    if (with_residual) args.residual = upload(residual), args.residual_ld = ld;
    if (with_normalized) args.normalized = upload(std::vector<uint16_t>(static_cast<size_t>(rows * ld), 0xffff)), args.normalized_ld = ld;
    args.out = upload(std::vector<uint8_t>(static_cast<size_t>(rows * out_ld), 0xff)), args.out_ld = out_ld;
    args.scales = upload(std::vector<float>(static_cast<size_t>(blocks * scales_ld), -1.0f)), args.scales_ld = scales_ld;
    H4J_ASSERT_OK(h4j_rmsnorm_quantize(stream_, &spec, &args, &error));
    const auto out = download<uint8_t>(args.out, static_cast<size_t>(rows * out_ld));
    const auto scales = download<float>(args.scales, static_cast<size_t>(blocks * scales_ld));
    const auto sums = with_residual ? download<uint16_t>(args.residual, static_cast<size_t>(rows * ld)) : in;
    const auto normalized = with_normalized ? download<uint16_t>(args.normalized, static_cast<size_t>(rows * ld)) : std::vector<uint16_t>();

    for (int64_t row = 0; row < rows; ++row) {
      std::vector<double> exact(static_cast<size_t>(cols));
      double squares = 0;
      for (int64_t c = 0; c < cols; ++c) {
        const auto at = static_cast<size_t>(row * ld + c);
        if (with_residual) {
          ASSERT_EQ(testing::float_to_bf16(testing::bf16_to_float(in[at]) + testing::bf16_to_float(residual[at])), sums[at])
              << "row " << row << ", col " << c;
        }
        exact[static_cast<size_t>(c)] = testing::bf16_to_float(sums[at]);
        squares += exact[static_cast<size_t>(c)] * exact[static_cast<size_t>(c)];
      }
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(cols) + static_cast<double>(spec.eps));
      for (int64_t c = 0; c < cols; ++c) exact[static_cast<size_t>(c)] *= inverse * static_cast<double>(wide_weight[static_cast<size_t>(c)]);
      for (int64_t c = 0; c < cols; ++c) {
        SCOPED_TRACE(::testing::Message() << "row " << row << ", col " << c);
        double amax = 1e-4;
        for (int64_t i = c / 128 * 128; i < std::min(c / 128 * 128 + 128, cols); ++i)
          amax = std::fmax(amax, std::fabs(exact[static_cast<size_t>(i)]));
        const float scale = scales[static_cast<size_t>(c / 128 * scales_ld + row)];
        if (scale_kind == H4J_SCALE_F32) {
          ASSERT_NEAR(amax / 448, static_cast<double>(scale), amax / 448 * 0x1p-18);
        } else {
          ASSERT_EQ(std::exp2(std::ceil(std::log2(amax / 448))), static_cast<double>(scale));
        }
        const double value = exact[static_cast<size_t>(c)];
        const double x = value / static_cast<double>(scale);
        ASSERT_NEAR(x, static_cast<double>(testing::e4m3_to_float(out[static_cast<size_t>(row * out_ld + c)])),
                    testing::e4m3_half_step(x) + std::fabs(x) * 0x1p-18);
        if (with_normalized) {
          ASSERT_NEAR(value, static_cast<double>(testing::bf16_to_float(normalized[static_cast<size_t>(row * ld + c)])),
                      std::fabs(value) * 0x1.01p-8);
        }
      }
      for (int64_t c = cols; c < out_ld; ++c) ASSERT_EQ(0xff, out[static_cast<size_t>(row * out_ld + c)]) << "written outside: row " << row;
      for (int64_t c = cols; c < ld; ++c) {
        const auto at = static_cast<size_t>(row * ld + c);
        ASSERT_EQ(0xffff, with_normalized ? normalized[at] : 0xffff) << "written outside: row " << row;
        ASSERT_EQ(with_residual ? residual[at] : in[at], sums[at]) << "written outside: row " << row;
      }
    }
  }
};

TEST_F(RmsNormQuantizeGpu, QuantisesWhatTheNormGives) {
  int turn = 0;
  for (const int64_t cols : {8, 136, 512, 1536, 4096, 7168, 16384, 32768}) {
    run(H4J_BF16, 9, cols, turn % 2 == 1, turn % 3 == 1, turn % 4 == 2);
    run(H4J_F32, 5, cols, turn % 2 == 0, turn % 3 == 0, turn % 4 == 0);
    ++turn;
  }
  run(H4J_BF16, 1500, 520, true, true, H4J_SCALE_F32);
}

}  // namespace
}  // namespace h4j
