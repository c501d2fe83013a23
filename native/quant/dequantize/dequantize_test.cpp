#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_dequantize_spec spec_of(h4j_dtype out, int block_rows, int64_t rows, int64_t cols) {
  h4j_dequantize_spec spec{};
  spec.struct_size = sizeof spec;
  spec.out_dtype = out;
  spec.block_rows = block_rows;
  spec.block_cols = 128;
  spec.max_rows = rows;
  spec.cols = cols;
  return spec;
}

// Plans on a described device. The message is empty where the spec is accepted.
std::string plan_message(const h4j_dequantize_spec& spec, h4j_plan_info* info = nullptr) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  if (h4j_dequantize_plan(&device, &spec, &plan, &error) != H4J_OK) {
    EXPECT_EQ(nullptr, plan);
    return error.message;
  }
  if (info != nullptr) {
    info->struct_size = sizeof *info;
    EXPECT_EQ(H4J_OK, h4j_plan_describe(plan, info, &error)) << error.message;
  }
  EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error)) << error.message;
  return "";
}

TEST(DequantizePlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("dequantize: out_dtype: got F8_E4M3 (code 4), need F32 or F16 or BF16", plan_message(spec_of(H4J_F8_E4M3, 1, 4, 128)));
  EXPECT_EQ("dequantize: block_rows: got 2, need 1 or 128", plan_message(spec_of(H4J_F32, 2, 4, 128)));
  EXPECT_EQ("dequantize: cols: got 12, need a multiple of 8", plan_message(spec_of(H4J_F32, 1, 4, 12)));
  EXPECT_EQ("dequantize: max_rows: got -1, need 0..2147483392", plan_message(spec_of(H4J_F32, 1, -1, 128)));
}

TEST(DequantizePlan, PlansOnADescribedDevice) {
  h4j_plan_info info{};
  EXPECT_EQ("", plan_message(spec_of(H4J_BF16, 128, 4096, 7168), &info));
  EXPECT_STREQ("dequantize_bf16", info.kernel);
  EXPECT_EQ(0, info.workspace_bytes);
  EXPECT_EQ("", plan_message(spec_of(H4J_F16, 1, 0, 8), &info));
  EXPECT_EQ(0, info.grid);
}

class DequantizeGpu : public testing::GpuTest {
 protected:
  // Every E4M3 code under scales that all differ: the product is one F32 operation and its rounding one more, so results are exact.
  void decode_every_code(h4j_dtype dtype, int block_rows) {
    SCOPED_TRACE(::testing::Message() << "dtype " << dtype << ", block rows " << block_rows);
    constexpr int64_t kRows = 130, kCols = 264, kInLd = 272;
    constexpr int64_t kBlocks = 3;
    const int64_t scales_ld = block_rows == 1 ? 132 : kBlocks;
    std::vector<uint8_t> codes(kRows * kInLd, 0xff);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t col = 0; col < kCols; ++col) codes[static_cast<size_t>(row * kInLd + col)] = static_cast<uint8_t>(row * 131 + col);
    }
    std::vector<float> scales(static_cast<size_t>(block_rows == 1 ? kBlocks * scales_ld : 2 * scales_ld));
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.001f * static_cast<float>(i + 1);
    const size_t bytes = kRows * kCols * (dtype == H4J_F32 ? sizeof(float) : sizeof(uint16_t));
    const uint64_t out = upload(std::vector<uint8_t>(bytes, 0xee));

    const h4j_dequantize_spec spec = spec_of(dtype, block_rows, kRows, kCols);
    h4j_dequantize_args args{};
    args.struct_size = sizeof args;
    args.in = upload(codes), args.in_ld = kInLd, args.scales = upload(scales), args.scales_ld = scales_ld;
    args.out = out, args.out_ld = kCols;
    H4J_ASSERT_OK(h4j_dequantize(stream_, &spec, &args, &error));

    std::vector<float> got;
    if (dtype == H4J_F32) {
      got = download<float>(out, kRows * kCols);
    } else {
      for (const uint16_t bits : download<uint16_t>(out, kRows * kCols)) got.push_back(testing::bf16_to_float(bits));
    }
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t col = 0; col < kCols; ++col) {
        const float scale = scales[static_cast<size_t>(block_rows == 1 ? col / 128 * scales_ld + row : row / 128 * scales_ld + col / 128)];
        const float expected = testing::e4m3_to_float(codes[static_cast<size_t>(row * kInLd + col)]) * scale;
        const float rounded = dtype == H4J_F32 ? expected : testing::bf16_to_float(testing::float_to_bf16(expected));
        const float result = got[static_cast<size_t>(row * kCols + col)];
        ASSERT_TRUE(result == rounded || (std::isnan(result) && std::isnan(expected)))
            << "row " << row << ", col " << col << ": got " << result << ", need " << rounded;
      }
    }
  }
};

TEST_F(DequantizeGpu, DecodesEveryCode) {
  for (const h4j_dtype dtype : {H4J_F32, H4J_BF16}) {
    for (const int block_rows : {1, 128}) decode_every_code(dtype, block_rows);
  }
}

}  // namespace
}  // namespace h4j
