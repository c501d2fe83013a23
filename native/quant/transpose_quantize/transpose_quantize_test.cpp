#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_transpose_quantize_spec spec_of(int64_t rows, int64_t cols) {
  h4j_transpose_quantize_spec spec{};
  spec.struct_size = sizeof spec;
  spec.max_rows = rows;
  spec.cols = cols;
  return spec;
}

TEST(TransposeQuantizePlan, NamesTheArgumentItRefuses) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  h4j_plan* plan = nullptr;
  h4j_transpose_quantize_spec spec = spec_of(4, 12);
  EXPECT_NE(H4J_OK, h4j_transpose_quantize_plan(&device, &spec, &plan, &error));
  EXPECT_STREQ("transpose_quantize: cols: got 12, need a multiple of 8", error.message);
  spec = spec_of(4, 16);
  spec.scale_kind = 2;
  EXPECT_NE(H4J_OK, h4j_transpose_quantize_plan(&device, &spec, &plan, &error));
  EXPECT_STREQ("transpose_quantize: scale_kind: got 2, need H4J_SCALE_F32 (0) or H4J_SCALE_POWER_OF_TWO (1)", error.message);
}

class TransposeQuantizeGpu : public testing::GpuTest {
 protected:
  // The same bits as quantising the transposed matrix.
  void run(int64_t rows, int64_t cols, int scale_kind) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", scale kind " << scale_kind);
    std::mt19937_64 random(5);
    std::vector<uint16_t> in(static_cast<size_t>(rows * (cols + 8)), 0x7f00);
    const int64_t wide = (rows + 7) / 8 * 8;
    std::vector<uint16_t> transposed(static_cast<size_t>(cols * wide));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        // Any bits but those of infinity: NaN, subnormals and numbers of all sizes.
        uint16_t bits = static_cast<uint16_t>(random() & (c % 3 == 0 ? 0xffff : 0xc07f));
        if ((bits & 0x7fff) == 0x7f80) bits = 0;
        in[static_cast<size_t>(r * (cols + 8) + c)] = transposed[static_cast<size_t>(c * wide + r)] = bits;
      }
    }
    const int64_t out_ld = (rows + 15) / 16 * 16 + 16;
    const int64_t scales_ld = (cols + 3) / 4 * 4;
    const auto out_size = static_cast<size_t>(cols * out_ld);
    const auto scale_count = static_cast<size_t>((rows + 127) / 128 * scales_ld);

    h4j_quantize_spec plain{};
    plain.struct_size = sizeof plain;
    plain.in_dtype = H4J_BF16, plain.block_rows = 1, plain.block_cols = 128, plain.scale_kind = scale_kind, plain.max_rows = cols, plain.cols = wide;
    h4j_quantize_args plain_args{};
    plain_args.struct_size = sizeof plain_args;
    plain_args.in = upload(transposed), plain_args.in_ld = wide;
    plain_args.out = upload(std::vector<uint8_t>(out_size, 0xff)), plain_args.out_ld = out_ld;
    plain_args.scales = upload(std::vector<float>(scale_count, -1.0f)), plain_args.scales_ld = scales_ld;
    H4J_ASSERT_OK(h4j_quantize(stream_, &plain, &plain_args, &error));

    h4j_transpose_quantize_spec spec = spec_of(rows, cols);
    spec.scale_kind = scale_kind;
    h4j_transpose_quantize_args args{};
    args.struct_size = sizeof args;
    args.in = upload(in), args.in_ld = cols + 8;
    args.out = upload(std::vector<uint8_t>(out_size, 0xff)), args.out_ld = out_ld;
    args.scales = upload(std::vector<float>(scale_count, -1.0f)), args.scales_ld = scales_ld;
    H4J_ASSERT_OK(h4j_transpose_quantize(stream_, &spec, &args, &error));

    const auto expected = download<uint8_t>(plain_args.out, out_size);
    const auto got = download<uint8_t>(args.out, out_size);
    const auto expected_scales = download<float>(plain_args.scales, scale_count);
    const auto got_scales = download<float>(args.scales, scale_count);
    for (size_t i = 0; i < scale_count; ++i) {
      ASSERT_EQ(expected_scales[i], got_scales[i]) << "block " << i / static_cast<size_t>(scales_ld) << ", column "
                                                   << i % static_cast<size_t>(scales_ld);
    }
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t r = 0; r < out_ld; ++r) {
        const auto at = static_cast<size_t>(c * out_ld + r);
        ASSERT_EQ(r < rows ? expected[at] : 0xff, got[at]) << "column " << c << ", row " << r;
      }
    }
  }
};

TEST_F(TransposeQuantizeGpu, GivesTheBitsOfTheTransposedMatrix) {
  for (const int kind : {H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO}) {
    run(1, 8, kind);
    run(128, 128, kind);
    run(137, 264, kind);
    run(1000, 1032, kind);
  }
}

}  // namespace
}  // namespace h4j
