#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_device_info h100() {
  h4j_device_info info{};
  info.struct_size = sizeof info;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &info, &error));
  return info;
}

h4j_quantize_spec spec_of(h4j_dtype in, int block_rows, int64_t rows, int64_t cols) {
  h4j_quantize_spec spec{};
  spec.struct_size = sizeof spec;
  spec.in_dtype = in;
  spec.block_rows = block_rows;
  spec.block_cols = 128;
  spec.max_rows = rows;
  spec.cols = cols;
  return spec;
}

// The message of planning a spec that must be refused.
std::string refusal(const h4j_quantize_spec& spec) {
  const h4j_device_info device = h100();
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_NE(H4J_OK, h4j_quantize_plan(&device, &spec, &plan, &error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

TEST(QuantizePlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("quantize: in_dtype: got F8_E4M3 (code 4), need F32 or F16 or BF16", refusal(spec_of(H4J_F8_E4M3, 1, 4, 128)));
  EXPECT_EQ("quantize: block_rows: got 2, need 1 or 128", refusal(spec_of(H4J_F32, 2, 4, 128)));
  EXPECT_EQ("quantize: cols: got 12, need a multiple of 8", refusal(spec_of(H4J_F32, 1, 4, 12)));
  EXPECT_EQ("quantize: max_rows: got -1, need 0..2147483392", refusal(spec_of(H4J_F32, 1, -1, 128)));
}

TEST(QuantizePlan, PlansOnADescribedDevice) {
  const h4j_device_info device = h100();
  const h4j_quantize_spec spec = spec_of(H4J_BF16, 1, 4096, 7168);
  h4j_plan* plan = nullptr;
  H4J_ASSERT_OK(h4j_quantize_plan(&device, &spec, &plan, &error));
  h4j_plan_info info{};
  info.struct_size = sizeof info;
  H4J_ASSERT_OK(h4j_plan_describe(plan, &info, &error));
  EXPECT_STREQ("quantize_1x128_bf16", info.kernel);
  EXPECT_EQ(132 * 5, info.grid);
  EXPECT_EQ(0, info.workspace_bytes);
  H4J_ASSERT_OK(h4j_plan_close(plan, &error));
}

class QuantizeGpu : public testing::GpuTest {
 protected:
  // Quantises and dequantises seeded values; both must agree with each other and each scale with its block's largest magnitude.
  void round_trip(h4j_dtype dtype, int block_rows, int scale_kind, int64_t rows, int64_t cols) {
    SCOPED_TRACE(::testing::Message() << "dtype " << dtype << ", block rows " << block_rows << ", scale kind " << scale_kind << ", [" << rows << ", "
                                      << cols << "]");
    std::mt19937_64 random(1234);
    const int64_t in_ld = cols + 8;
    const int64_t out_ld = (cols + 15) / 16 * 16 + 16;
    const int64_t blocks = (cols + 127) / 128;
    const int64_t scales_ld = block_rows == 1 ? (rows + 3) / 4 * 4 + 4 : blocks + 1;
    const int64_t scale_count = block_rows == 1 ? blocks * scales_ld : (rows + 127) / 128 * scales_ld;
    std::vector<float> values = testing::random_floats(static_cast<size_t>(rows * in_ld), -3.0f, 3.0f, random);
    std::vector<uint16_t> bf16(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      bf16[i] = testing::float_to_bf16(values[i]);
      values[i] = testing::bf16_to_float(bf16[i]);
    }
    const uint64_t in = dtype == H4J_BF16 ? upload(bf16) : upload(values);
    const uint64_t out = upload(std::vector<uint8_t>(static_cast<size_t>(rows * out_ld), 0xff));
    const uint64_t scales = upload(std::vector<float>(static_cast<size_t>(scale_count), -1.0f));
    const uint64_t back = upload(std::vector<float>(static_cast<size_t>(rows * in_ld), -7.0f));

    h4j_quantize_spec spec = spec_of(dtype, block_rows, rows, cols);
    spec.scale_kind = scale_kind;
    h4j_quantize_args args{};
    args.struct_size = sizeof args;
    args.in = in, args.in_ld = in_ld, args.out = out, args.out_ld = out_ld, args.scales = scales, args.scales_ld = scales_ld;
    H4J_ASSERT_OK(h4j_quantize(stream_, &spec, &args, &error));
    h4j_dequantize_spec inverse{};
    inverse.struct_size = sizeof inverse;
    inverse.out_dtype = H4J_F32, inverse.block_rows = block_rows, inverse.block_cols = 128, inverse.max_rows = rows, inverse.cols = cols;
    h4j_dequantize_args inverse_args{};
    inverse_args.struct_size = sizeof inverse_args;
    inverse_args.in = out, inverse_args.in_ld = out_ld, inverse_args.scales = scales, inverse_args.scales_ld = scales_ld;
    inverse_args.out = back, inverse_args.out_ld = in_ld;
    H4J_ASSERT_OK(h4j_dequantize(stream_, &inverse, &inverse_args, &error));

    const auto quantised = download<uint8_t>(out, static_cast<size_t>(rows * out_ld));
    const auto got_scales = download<float>(scales, static_cast<size_t>(scale_count));
    const auto restored = download<float>(back, static_cast<size_t>(rows * in_ld));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < in_ld; ++col) {
        if (col >= cols) {
          ASSERT_EQ(-7.0f, restored[static_cast<size_t>(row * in_ld + col)]) << "written outside: row " << row << ", col " << col;
          continue;
        }
        float amax = 0;
        const int64_t first_row = row / block_rows * block_rows;
        for (int64_t r = first_row; r < std::min(first_row + block_rows, rows); ++r) {
          for (int64_t c = col / 128 * 128; c < std::min(col / 128 * 128 + 128, cols); ++c) {
            amax = std::fmax(amax, std::fabs(values[static_cast<size_t>(r * in_ld + c)]));
          }
          if (block_rows == 128 && (row % 37 != 0 || col % 41 != 0)) break;  // the whole square is summed on a sample
        }
        if (block_rows == 128 && (row % 37 != 0 || col % 41 != 0)) continue;
        float scale = amax * (1.0f / 448.0f);
        if (scale_kind == H4J_SCALE_POWER_OF_TWO) scale = std::exp2(std::ceil(std::log2(scale)));
        const int64_t at = block_rows == 1 ? col / 128 * scales_ld + row : row / 128 * scales_ld + col / 128;
        ASSERT_EQ(scale, got_scales[static_cast<size_t>(at)]) << "row " << row << ", col " << col;
        const float value = values[static_cast<size_t>(row * in_ld + col)];
        const float decoded = testing::e4m3_to_float(quantised[static_cast<size_t>(row * out_ld + col)]);
        ASSERT_NEAR(value / scale, decoded, std::fmax(std::fabs(value / scale) / 16.0f, 0x1p-10f)) << "row " << row << ", col " << col;
        ASSERT_EQ(decoded * scale, restored[static_cast<size_t>(row * in_ld + col)]) << "row " << row << ", col " << col;
      }
      for (int64_t col = cols; col < out_ld; ++col) {
        ASSERT_EQ(0xff, quantised[static_cast<size_t>(row * out_ld + col)]) << "written outside: row " << row << ", col " << col;
      }
    }
  }
};

TEST_F(QuantizeGpu, RoundTripsEveryBlockAndScaleKind) {
  for (const h4j_dtype dtype : {H4J_F32, H4J_BF16}) {
    for (const int block_rows : {1, 128}) {
      for (const int kind : {H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO}) {
        round_trip(dtype, block_rows, kind, 1, 8);
        round_trip(dtype, block_rows, kind, 9, 136);
        round_trip(dtype, block_rows, kind, 130, 264);
      }
    }
  }
}

}  // namespace
}  // namespace h4j
