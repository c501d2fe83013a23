#include <algorithm>

#include "attention/mla_decode/mla_decode_layout.h"
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

h4j_mla_decode_spec spec_of(int heads, int s_q, int page_size, int64_t batch, int64_t max_length) {
  h4j_mla_decode_spec spec{};
  spec.struct_size = sizeof spec;
  spec.heads = heads;
  spec.s_q = s_q;
  spec.page_size = page_size;
  spec.causal = 1;
  spec.softmax_scale = 0.1352338f;
  spec.max_batch = batch;
  spec.max_length = max_length;
  spec.pages = 8;
  return spec;
}

std::string refusal(const h4j_mla_decode_spec& spec) {
  const h4j_device_info device = h100();
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_NE(H4J_OK, h4j_mla_decode_plan(&device, &spec, &plan, &error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

TEST(MlaDecodePlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("mla_decode: heads: got 129, need 1..128", refusal(spec_of(129, 1, 64, 1, 64)));
  EXPECT_EQ("mla_decode: page_size: got 48, need a power of two", refusal(spec_of(16, 1, 48, 1, 64)));
  EXPECT_EQ("mla_decode: max_batch: got 65535 with 131072 query rows each, need at most 2^31 - 1 query rows together",
            refusal(spec_of(128, 1024, 64, 65535, 64)));
  h4j_mla_decode_spec spec = spec_of(16, 1, 64, 1, 64);
  spec.cache_format = 3;
  EXPECT_EQ("mla_decode: cache_format: got 3, need 0..2", refusal(spec));
  spec.cache_format = H4J_MLA_CACHE_BF16;
  spec.softmax_scale = -1.0f;
  EXPECT_EQ("mla_decode: softmax_scale: got -1, need a finite number > 0", refusal(spec));
}

TEST(MlaDecodePlan, DividesTheSmsBetweenRowTilesAndParts) {
  const h4j_device_info device = h100();
  for (const auto& [heads, s_q, grid] : {std::tuple{16, 1, 132}, {128, 1, 132}, {128, 3, 132}, {128, 4, 128}}) {
    const h4j_mla_decode_spec spec = spec_of(heads, s_q, 64, 4, 4096);
    h4j_plan* plan = nullptr;
    H4J_ASSERT_OK(h4j_mla_decode_plan(&device, &spec, &plan, &error));
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    H4J_ASSERT_OK(h4j_plan_describe(plan, &info, &error));
    EXPECT_EQ(grid, info.grid);
    EXPECT_GT(info.workspace_bytes, 0);
    EXPECT_GT(info.schedule_bytes, 0);
    H4J_ASSERT_OK(h4j_plan_close(plan, &error));
  }
}

TEST(MlaDecodeBlocks, CountsBlocksThatAnyTokenSees) {
  const auto count = [](int length, int tokens, int window) { return mla::block_range(length, tokens, window, 1 << 20).count; };
  EXPECT_EQ(0, count(0, 1, 0));
  EXPECT_EQ(1, count(1, 1, 0));
  EXPECT_EQ(1, count(64, 4, 0));
  EXPECT_EQ(2, count(65, 1, 0));
  EXPECT_EQ(1, count(1024, 1, 64));
  EXPECT_EQ(2, count(1025, 1, 65));
  EXPECT_EQ(0, count(-5, 1, 0));
  EXPECT_EQ(2, mla::block_range(1000, 1, 0, 100).count);
}

class MlaDecodeGpu : public testing::GpuTest {
 protected:
  struct Case {
    int heads;
    int s_q;
    int page_size;
    std::vector<int> lengths;
    bool causal = true;
    int window = 0;
    bool sink = false;
    bool ragged = false;
    int sm_budget = 0;
    int cache_format = H4J_MLA_CACHE_BF16;
  };

  // A token of normal values in the cache's format at `target`; gives its values.
  static std::vector<float> write_token(int format, uint8_t* target, std::mt19937_64& random) {
    std::normal_distribution<float> normal(0.0f, 0.1f);
    std::vector<float> values(mla::kTokenDim);
    std::vector<uint16_t> rounded(mla::kTokenDim);
    for (size_t d = 0; d < values.size(); ++d) {
      rounded[d] = testing::float_to_bf16(normal(random));
      values[d] = testing::bf16_to_float(rounded[d]);
    }
    if (format == H4J_MLA_CACHE_BF16) {
      std::memcpy(target, rounded.data(), rounded.size() * 2);
      return values;
    }
    const bool blocks = format == H4J_MLA_CACHE_FP8_BLOCKS;
    const auto codes = testing::random_e4m3(mla::kValueDim, random);  // of standard deviation 130
    std::uniform_real_distribution<float> spread(0.5f, 1.5f);
    float scales[4] = {};
    for (int i = 0; i < (blocks ? 4 : 1); ++i) scales[i] = spread(random) * 0.1f / 130.0f;
    for (size_t d = 0; d < mla::kValueDim; ++d) values[d] = testing::e4m3_to_float(codes[d]) * scales[blocks ? d / 128 : 0];
    std::memcpy(target, codes.data(), mla::kValueDim);
    std::memcpy(target + mla::kFp8ScalesAt, scales, sizeof scales);
    std::memcpy(target + mla::kFp8RopeAt, rounded.data() + mla::kValueDim, (mla::kTokenDim - mla::kValueDim) * 2);
    return values;
  }

  void run(const Case& test) {
    SCOPED_TRACE(::testing::Message() << "heads " << test.heads << ", s_q " << test.s_q << ", page " << test.page_size << ", batch "
                                      << test.lengths.size() << ", causal " << test.causal << ", window " << test.window << ", sink " << test.sink
                                      << ", ragged " << test.ragged << ", SMs " << test.sm_budget << ", format " << test.cache_format);
    std::mt19937_64 random(static_cast<uint64_t>(test.heads * 1000 + test.s_q * 100 + test.page_size));
    const auto size = [](int64_t count) { return static_cast<size_t>(count); };
    const auto batch = static_cast<int64_t>(test.lengths.size());
    const int max_length = std::max(*std::max_element(test.lengths.begin(), test.lengths.end()), 1);
    const int64_t table_width = (max_length + test.page_size - 1) / test.page_size;

    // Pages in random order, their unused slots NaN, and wild page numbers behind each length.
    std::vector<int32_t> order;
    int64_t pages = 0;
    for (const int length : test.lengths) pages += (length + test.page_size - 1) / test.page_size;
    pages = std::max<int64_t>(pages, 1);
    for (int32_t page = 0; page < pages; ++page) order.push_back(page);
    std::shuffle(order.begin(), order.end(), random);
    const bool fp8 = test.cache_format != H4J_MLA_CACHE_BF16;
    const size_t token_bytes = fp8 ? mla::kFp8TokenBytes : mla::kTokenDim * 2;
    std::vector<uint8_t> cache(size(pages * test.page_size) * token_bytes, 0xff);  // NaN in every format
    std::vector<std::vector<float>> values(size(pages * test.page_size));
    std::vector<int32_t> table(size(batch * table_width), 2147480000);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    size_t next = 0;
    for (int64_t b = 0; b < batch; ++b) {
      for (int token = 0; token < test.lengths[size(b)]; ++token) {
        int32_t& page = table[size(b * table_width + token / test.page_size)];
        if (token % test.page_size == 0) page = order[next++];
        const size_t slot = size(int64_t{page} * test.page_size + token % test.page_size);
        values[slot] = write_token(test.cache_format, cache.data() + slot * token_bytes, random);
      }
    }
    std::vector<uint16_t> q(size(batch * test.s_q * test.heads * mla::kTokenDim));
    for (uint16_t& value : q) value = testing::float_to_bf16(normal(random));
    std::vector<int32_t> tokens(size(batch), test.s_q);
    if (test.ragged) {
      for (int64_t b = 0; b < batch; ++b) tokens[size(b)] = static_cast<int32_t>(b % (test.s_q + 1));
    }
    const auto sink = testing::random_floats(size(test.heads), -1.0f, 3.0f, random);

    h4j_mla_decode_spec spec = spec_of(test.heads, test.s_q, test.page_size, batch, max_length);
    spec.causal = test.causal;
    spec.window = test.window;
    spec.pages = pages;
    spec.sm_budget = test.sm_budget;
    spec.cache_format = test.cache_format;
    h4j_plan* plan = nullptr;
    H4J_ASSERT_OK(h4j_mla_decode_plan(&info_, &spec, &plan, &error));
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    H4J_ASSERT_OK(h4j_plan_describe(plan, &info, &error));

    const int64_t rows = batch * test.s_q * test.heads;
    h4j_mla_schedule_args schedule_args{};
    schedule_args.struct_size = sizeof schedule_args;
    schedule_args.lengths = upload(test.lengths);
    schedule_args.q_tokens = test.ragged ? upload(tokens) : 0;
    schedule_args.schedule = upload(std::vector<uint8_t>(size(info.schedule_bytes), 0xff));
    h4j_mla_decode_args args{};
    args.struct_size = sizeof args;
    args.q = upload(q), args.q_ld = mla::kTokenDim;
    args.cache = upload(cache), args.cache_ld = fp8 ? mla::kFp8TokenBytes : mla::kTokenDim;
    args.cache_page_ld = int64_t{test.page_size} * args.cache_ld;
    args.block_table = upload(table), args.block_table_ld = table_width;
    args.lengths = schedule_args.lengths, args.q_tokens = schedule_args.q_tokens, args.schedule = schedule_args.schedule;
    args.sink = test.sink ? upload(sink) : 0;
    args.out = upload(std::vector<uint16_t>(size(rows * mla::kValueDim), 0xffff));
    args.lse = upload(std::vector<float>(size(rows), -123.0f));
    args.workspace = upload(std::vector<uint8_t>(size(info.workspace_bytes), 0xff));
    args.workspace_bytes = info.workspace_bytes;
    h4j_launch* schedule = nullptr;
    h4j_launch* decode = nullptr;
    H4J_ASSERT_OK(h4j_mla_schedule_bind(plan, device_, &schedule_args, &schedule, &error));
    H4J_ASSERT_OK(h4j_mla_decode_bind(plan, device_, &args, &decode, &error));
    H4J_ASSERT_OK(h4j_launch_run(schedule, stream_, -1, &error));
    H4J_ASSERT_OK(h4j_launch_run(decode, stream_, -1, &error));
    synchronize();
    const auto out = download<uint16_t>(args.out, size(rows * mla::kValueDim));
    const auto lse = download<float>(args.lse, size(rows));

    double error_squared = 0;
    double norm = 0;
    for (int64_t b = 0; b < batch; ++b) {
      const int length = test.lengths[size(b)];
      for (int t = 0; t < test.s_q; ++t) {
        // Heads behave alike: a few of many.
        for (int h = 0; h < test.heads; h += test.heads > 20 ? 13 : 1) {
          const int64_t row = (b * test.s_q + t) * test.heads + h;
          const float got_lse = lse[size((b * test.heads + h) * test.s_q + t)];
          if (t >= tokens[size(b)]) {
            ASSERT_EQ(-123.0f, got_lse) << "written though unused: request " << b << ", token " << t;
            ASSERT_EQ(0xffff, out[size(row * mla::kValueDim)]);
            continue;
          }
          const int limit = test.causal ? length - (tokens[size(b)] - 1 - t) : length;
          const int start = test.window > 0 ? std::max(limit - test.window, 0) : 0;
          std::vector<double> scores;
          double largest = -INFINITY;
          const auto token_at = [&](int token) {
            const int32_t page = table[size(b * table_width + token / test.page_size)];
            return values[size(int64_t{page} * test.page_size + token % test.page_size)].data();
          };
          for (int token = start; token < limit; ++token) {
            double score = 0;
            for (int d = 0; d < mla::kTokenDim; ++d) {
              score += double(testing::bf16_to_float(q[size(row * mla::kTokenDim + d)])) * double(token_at(token)[d]);
            }
            scores.push_back(score * double(spec.softmax_scale));
            largest = std::max(largest, scores.back());
          }
          std::vector<double> expected(mla::kValueDim, 0.0);
          if (scores.empty()) {
            ASSERT_EQ(INFINITY, got_lse) << "request " << b << ", token " << t << ", head " << h;
          } else {
            double sum = 0;
            for (double& score : scores) sum += score = std::exp(score - largest);
            const double total = sum + (test.sink ? std::exp(double(sink[size(h)]) - largest) : 0.0);
            for (size_t i = 0; i < scores.size(); ++i) {
              for (int d = 0; d < mla::kValueDim; ++d) {
                expected[size(d)] += scores[i] / total * double(token_at(start + static_cast<int>(i))[d]);
              }
            }
            ASSERT_NEAR(largest + std::log(sum), double(got_lse), 1e-4) << "request " << b << ", token " << t << ", head " << h;
          }
          for (int d = 0; d < mla::kValueDim; ++d) {
            const double got = double(testing::bf16_to_float(out[size(row * mla::kValueDim + d)]));
            const double difference = std::fabs(got - expected[size(d)]);
            ASSERT_LE(difference, 8e-4 + std::fabs(expected[size(d)]) * 2.01 / 128)
                << "request " << b << ", token " << t << ", head " << h << ", dim " << d << ": got " << got << ", want " << expected[size(d)];
            error_squared += difference * difference;
            norm += expected[size(d)] * expected[size(d)];
          }
        }
      }
    }
    if (norm > 0) {
      EXPECT_LT(error_squared / norm, 1e-5);
    }
    H4J_ASSERT_OK(h4j_launch_close(schedule, &error));
    H4J_ASSERT_OK(h4j_launch_close(decode, &error));
    H4J_ASSERT_OK(h4j_plan_close(plan, &error));
  }
};

TEST_F(MlaDecodeGpu, MatchesTheDefinitionForAnyHeadCount) {
  const std::vector<int> lengths = {0, 1, 63, 64, 65, 129, 300, 1};
  for (const int heads : {1, 8, 16, 64, 128}) {
    run({heads, 1, 64, lengths});
    run({heads, 2, 64, lengths});
  }
}

TEST_F(MlaDecodeGpu, ReadsEveryPageSize) {
  for (const int heads : {16, 128}) {  // one row tile and two, whose tokens come in other ways
    for (const int page_size : {1, 2, 4, 8, 16, 32, 64, 128, 256}) run({heads, 1, page_size, {200, 1, 77, 0, 513}});
  }
}

TEST_F(MlaDecodeGpu, SplitsOneRequestBetweenManySms) {
  run({16, 1, 64, {5000}});
  run({128, 1, 64, {4097, 70}});
  run({16, 1, 64, {3000, 10, 900}, true, 0, false, false, 3});
}

// More requests than the schedule keeps in shared memory, some of them without keys, one of them long.
TEST_F(MlaDecodeGpu, SchedulesThousandsOfRequests) {
  std::vector<int> lengths;
  for (int i = 0; i < 2500; ++i) lengths.push_back(i % 7 == 3 ? 0 : i % 90 + 1);
  lengths[2200] = 3000;
  run({.heads = 2, .s_q = 1, .page_size = 64, .lengths = lengths});
  run({.heads = 1, .s_q = 2, .page_size = 16, .lengths = lengths, .ragged = true, .cache_format = H4J_MLA_CACHE_FP8_BLOCKS});
}

TEST_F(MlaDecodeGpu, MasksCausallyAndByWindow) {
  run({16, 4, 64, {3, 4, 64, 66, 400}});
  run({16, 4, 64, {3, 4, 64, 66, 400}, false});
  run({16, 3, 64, {2, 500, 130}, true, 100});
  run({16, 1, 16, {1000, 64, 65}, true, 64});
}

TEST_F(MlaDecodeGpu, TakesASinkAndRaggedQueries) {
  run({16, 1, 64, {200, 1, 0, 2000}, true, 0, true});
  run({48, 3, 64, {100, 200, 300, 400, 1500}, true, 0, false, true});
}

TEST_F(MlaDecodeGpu, ReadsFp8Caches) {
  for (const int format : {H4J_MLA_CACHE_FP8_BLOCKS, H4J_MLA_CACHE_FP8_TOKEN}) {
    for (const int page_size : {1, 2, 16, 64, 256}) {
      run({.heads = 16, .s_q = 1, .page_size = page_size, .lengths = {200, 1, 77, 0, 513}, .cache_format = format});
    }
    run({.heads = 64, .s_q = 1, .page_size = 64, .lengths = {5000, 64, 63, 129}, .cache_format = format});
    run({.heads = 128, .s_q = 2, .page_size = 64, .lengths = {300, 1, 1000}, .sink = true, .cache_format = format});
    run({.heads = 5, .s_q = 3, .page_size = 32, .lengths = {100, 200, 300, 400, 1500}, .window = 100, .ragged = true, .cache_format = format});
  }
}

// Many blocks a part, and several row tiles.
TEST_F(MlaDecodeGpu, WalksLongParts) {
  run({.heads = 128, .s_q = 2, .page_size = 64, .lengths = {3000, 500}, .sm_budget = 8});
  run({.heads = 128, .s_q = 1, .page_size = 16, .lengths = {4000, 77, 65, 2}, .sm_budget = 4});
  for (const int page_size : {1, 2}) run({.heads = 64, .s_q = 3, .page_size = page_size, .lengths = {1000, 77, 129}, .ragged = true, .sm_budget = 3});
  for (const int page_size : {1, 32, 64}) run({.heads = 16, .s_q = 1, .page_size = page_size, .lengths = {5000, 77, 65, 2, 0, 3001}, .sm_budget = 2});
  run({.heads = 16, .s_q = 1, .page_size = 64, .lengths = {3000, 1, 700}, .sm_budget = 1, .cache_format = H4J_MLA_CACHE_FP8_BLOCKS});
  run({.heads = 128, .s_q = 1, .page_size = 4, .lengths = {3000, 1, 700}, .sm_budget = 4, .cache_format = H4J_MLA_CACHE_FP8_TOKEN});
}

// Lengths, query tokens and page numbers outside their bounds: nothing outside the cache is touched, and the first is named.
TEST_F(MlaDecodeGpu, NamesTheFirstBadRequest) {
  const int64_t batch = 700;
  for (const int format : {H4J_MLA_CACHE_BF16, H4J_MLA_CACHE_FP8_BLOCKS}) {
    for (const int page_size : {1, 16}) {
      SCOPED_TRACE(::testing::Message() << "format " << format << ", page " << page_size);
      h4j_mla_decode_spec spec = spec_of(16, 2, page_size, batch, 64);
      spec.cache_format = format;
      h4j_plan* plan = nullptr;
      H4J_ASSERT_OK(h4j_mla_decode_plan(&info_, &spec, &plan, &error));
      h4j_plan_info info{};
      info.struct_size = sizeof info;
      H4J_ASSERT_OK(h4j_plan_describe(plan, &info, &error));
      const int64_t width = 64 / page_size;
      std::vector<int32_t> lengths(static_cast<size_t>(batch), 40);
      std::vector<int32_t> tokens(static_cast<size_t>(batch), 1);
      std::vector<int32_t> table(static_cast<size_t>(batch * width), 7);
      const auto run_step = [&] {
        h4j_mla_schedule_args schedule_args{};
        schedule_args.struct_size = sizeof schedule_args;
        schedule_args.lengths = upload(lengths), schedule_args.q_tokens = upload(tokens);
        schedule_args.schedule = allocate(static_cast<size_t>(info.schedule_bytes));
        h4j_mla_decode_args args{};
        args.struct_size = sizeof args;
        args.q = upload(std::vector<uint16_t>(static_cast<size_t>(batch * 2 * 16 * mla::kTokenDim))), args.q_ld = mla::kTokenDim;
        args.cache_ld = format == H4J_MLA_CACHE_BF16 ? mla::kTokenDim : mla::kFp8TokenBytes;
        args.cache_page_ld = page_size * args.cache_ld;
        args.cache = upload(std::vector<uint8_t>(static_cast<size_t>(8 * args.cache_page_ld) * (format == H4J_MLA_CACHE_BF16 ? 2 : 1)));
        args.block_table = upload(table), args.block_table_ld = width;
        args.lengths = schedule_args.lengths, args.q_tokens = schedule_args.q_tokens, args.schedule = schedule_args.schedule;
        args.out = allocate(static_cast<size_t>(batch * 2 * 16 * mla::kValueDim * 2)), args.lse = allocate(static_cast<size_t>(batch * 2 * 16 * 4));
        args.workspace = allocate(static_cast<size_t>(info.workspace_bytes)), args.workspace_bytes = info.workspace_bytes;
        h4j_launch* schedule = nullptr;
        h4j_launch* decode = nullptr;
        Error error;
        EXPECT_EQ(H4J_OK, h4j_mla_schedule_bind(plan, device_, &schedule_args, &schedule, &error)) << error.message;
        EXPECT_EQ(H4J_OK, h4j_mla_decode_bind(plan, device_, &args, &decode, &error)) << error.message;
        EXPECT_EQ(H4J_OK, h4j_launch_run(schedule, stream_, -1, &error)) << error.message;
        EXPECT_EQ(H4J_OK, h4j_launch_run(decode, stream_, -1, &error)) << error.message;
        h4j_stream_synchronize(stream_, &error);
        EXPECT_EQ(H4J_OK, h4j_launch_close(schedule, nullptr));
        EXPECT_EQ(H4J_OK, h4j_launch_close(decode, nullptr));
        return std::string(error.message);
      };
      EXPECT_EQ("", run_step());
      table[static_cast<size_t>(600 * width)] = -5;
      table[static_cast<size_t>(333 * width + 1)] = 8;
      table[static_cast<size_t>(2 * width + 40 / page_size + 1)] = 1 << 30;  // behind the length
      EXPECT_EQ("mla_decode: block_table[333]: got 8, need 0..7", run_step());
      table[static_cast<size_t>(600 * width)] = table[static_cast<size_t>(333 * width + 1)] = 7;
      tokens[650] = 3;
      EXPECT_EQ("mla_schedule: q_tokens[650]: got 3, need 0..2", run_step());
      lengths[611] = 2147480000, lengths[512] = -1;
      EXPECT_EQ("mla_schedule: lengths[512]: got -1, need 0..64", run_step());
      tokens[650] = 1, lengths[611] = lengths[512] = 40;
      EXPECT_EQ("", run_step());
      H4J_ASSERT_OK(h4j_plan_close(plan, &error));
    }
  }
}

TEST_F(MlaDecodeGpu, DoesNothingForAnEmptyBatchInUse) {
  // Zero requests in use of a plan for some: no kernel runs, nothing is read.
  const h4j_mla_decode_spec spec = spec_of(16, 1, 64, 4, 64);
  h4j_plan* plan = nullptr;
  H4J_ASSERT_OK(h4j_mla_decode_plan(&info_, &spec, &plan, &error));
  h4j_mla_schedule_args args{};
  args.struct_size = sizeof args;
  args.lengths = args.schedule = allocate(1 << 16);
  h4j_launch* launch = nullptr;
  H4J_ASSERT_OK(h4j_mla_schedule_bind(plan, device_, &args, &launch, &error));
  H4J_ASSERT_OK(h4j_launch_run(launch, stream_, 0, &error));
  synchronize();
  H4J_ASSERT_OK(h4j_launch_close(launch, &error));
  H4J_ASSERT_OK(h4j_plan_close(plan, &error));
}

}  // namespace
}  // namespace h4j
