// What a tile costs: the figures from which instances are chosen. Pure host code.
#pragma once

#include <cstdint>

#include "gemm/config.h"

namespace h4j::gemm {

// The constants here and in cost.cpp are fitted to times of pairs of shape and instance on an H200, in clocks of 1.755 GHz (NOTES.md, 15).

// What a product draws from the L2, and what one SM takes.
inline constexpr double kL2BytesPerClock = 8400.0;
inline constexpr double kSmBytesPerClock = 71.3;
// Launch, descriptor fetch, the first stage cold from device memory, and the write-back of what others left in the L2.
inline constexpr double kFixedClocks = 6620.0;

// What a product draws from device memory: fitted on an H200, whose copies reach 4.1 TB/s; an H100's reach 3.0.
constexpr double device_bytes_per_clock(int64_t memory_bytes) { return memory_bytes > int64_t{100} << 30 ? 2230.0 : 1522.0; }

// Of one K block of a tile on resident data.
double math_clocks(const Config& config);
// Of a CTA, or of those that share a tile's K, that takes so many tiles of so many K blocks (each) one after the other, where `active` SMs do so. Not whole
// numbers: the last tile may be a part of one.
double tiles_clocks(const Config& config, double tiles, double blocks, double active, int out_bytes);
// Of a kernel of which a CTA's tiles alone would need so many, device memory so many, and the L2 so many.
double total_clocks(double tiles, double memory, double l2);

// What a product works on.
struct Extents {
  int64_t m;
  int64_t n;
  int64_t k;
  int out_bytes;  // of one element of D
  int sms;
  int64_t l2_bytes;
};

// The order of tiles that reads least; of equals the one with groups of 4.
Raster choose_raster(const Extents& extents, int tiles_m, int tiles_n);

}  // namespace h4j::gemm
