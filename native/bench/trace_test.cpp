#include "bench/trace.h"

#include <gtest/gtest.h>

namespace h4j::bench {
namespace {

constexpr bool kFlush = true, kWork = false;

TEST(BenchTrace, KernelsBetweenFlushesAreOneRepetition) {
  const std::vector<Repetition> found = repetitions_of({
      {0, 1000, kWork},  // before the first flush
      {2000, 3000, kFlush},
      {3000, 4000, kFlush},
      {5000, 7000, kWork},
      {6500, 9000, kWork},  // starts before the first has ended, as dependent launches do
      {10000, 11000, kFlush},
      {11000, 11500, kWork},
      {20000, 21000, kFlush},  // nothing after it
  });
  ASSERT_EQ(found.size(), 2u);
  EXPECT_DOUBLE_EQ(found[0].span_us, 4.0);
  EXPECT_DOUBLE_EQ(found[0].sum_us, 4.5);
  EXPECT_EQ(found[0].kernels, 2);
  EXPECT_DOUBLE_EQ(found[1].span_us, 0.5);
  EXPECT_DOUBLE_EQ(found[1].sum_us, 0.5);
  EXPECT_EQ(found[1].kernels, 1);
}

TEST(BenchTrace, WithoutAFlushThereIsNoRepetition) {
  EXPECT_TRUE(repetitions_of({}).empty());
  EXPECT_TRUE(repetitions_of({{0, 1000, kWork}}).empty());
}

}  // namespace
}  // namespace h4j::bench
