// What a tile costs: the figures from which instances are chosen. Pure host code.
#pragma once

#include <cstdint>

#include "gemm/config.h"

namespace h4j::gemm {

// The constants here and in cost.cpp are fitted to the times of 300 pairs of shape and instance on an H100 (../NOTES.md, 11): they predict those within 5 % on average and
// choose within 1 %.

// What a product draws from device memory and from the L2, and what one SM takes. For comparison: a plain read draws 1726 bytes a clock (3.03 TB/s at
// 1.755 GHz), and 256x128 tiles at full rate read 49 KiB a K block of 1053 clocks on each of 132 SMs from the L2.
inline constexpr double kDeviceBytesPerClock = 1522.0;
inline constexpr double kL2BytesPerClock = 7976.0;
inline constexpr double kSmBytesPerClock = 65.0;
// Launch, descriptor fetch, first stage, the last tile's store, and the write-back of what others left in the L2.
inline constexpr double kFixedClocks = 7140.0;

// Of one K block of a tile on resident data.
double math_clocks(const Config& config);
// Of copying one where `active` SMs do so.
double stage_clocks(const Config& config, double active);
// Of storing a tile.
double epilogue_clocks(const Config& config, int out_bytes);
// Of a kernel of which the tensor cores alone would need so many, and device memory alone so many.
double total_clocks(double math, double memory);

// What a product works on.
struct Extents {
  int64_t m;
  int64_t n;
  int64_t k;
  int out_bytes;  // of one element of D
  int sms;
  int64_t l2_bytes;
};

// The order of tiles that reads least; of equals the one with the largest groups.
Raster choose_raster(const Extents& extents, int tiles_m, int tiles_n);

}  // namespace h4j::gemm
