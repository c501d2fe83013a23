// Tile sizes and shared memory of the block-scaled FP8 GEMMs, read by kernels, by the choice of instance and by the descriptors.
#pragma once

#include <bit>
#include <cstdint>
#include <numeric>

namespace h4j::gemm {

inline constexpr int kTileK = 128;  // elements and bytes: one scale block, one 128-byte swizzle row
inline constexpr int kSharedMemoryPerBlock = 232448;
// TMA copies from addresses that are multiples of 16 bytes only. Where tiles begin at any row, scales are copied from the last row before that is a multiple
// of 4, and so many more of them; those of 256 rows come in two copies, since a box has at most 256, each to a place that is a multiple of 128 bytes.
inline constexpr int kScaleSlack = 4;
inline constexpr int kSlackSegment = 160;

// A divisor that the host knows and kernels divide numbers below 2^31 by: q = n * ceil(2^shift / d) / 2^shift, Granlund and Montgomery, "Division by
// Invariant Integers using Multiplication", 1994.
struct Divisor {
  uint32_t value = 1;
  uint32_t multiplier = uint32_t{1} << 31;
  uint32_t shift = 31;

  static constexpr Divisor of(uint32_t value) {
    const uint32_t shift = 31 + static_cast<uint32_t>(std::bit_width(value - 1));
    return {value, static_cast<uint32_t>(((uint64_t{1} << shift) + value - 1) / value), shift};
  }
  // How often it goes into `number`; `rest` is what is left.
  constexpr int divide(int number, int& rest) const {
    const auto quotient = static_cast<int>(static_cast<uint64_t>(number) * multiplier >> shift);
    rest = number - quotient * static_cast<int>(value);
    return quotient;
  }
};

struct Config {
  int tile_m;  // 64: one row of math warp groups; 128 and 256: two, of 64 and 128 rows each; 192: three of 64
  int tile_n;  // a multiple of 16
  int stages;
  int k_groups = 1;   // rows of math warp groups that take turns on the K blocks, so that one's waits hide under another's products
  int slices = 1;     // CTAs of a cluster that share a tile's K and add up through distributed shared memory
  int multicast = 1;  // CTAs of a cluster that take tiles side by side along N: each brings a share of their rows of A for all of them

  // Columns of the tiles that a cluster takes side by side.
  constexpr int cluster_cols() const { return tile_n * multicast; }
  constexpr int row_groups() const { return tile_m == 64 ? 1 : tile_m == 192 ? 3 : 2; }
  constexpr int math_groups() const { return row_groups() * k_groups; }
  constexpr int group_rows() const { return tile_m / row_groups(); }
  constexpr int threads() const { return 128 * (1 + math_groups()); }
  // Two math groups alone, or three, may take the registers that the loading group does not need; groups that share K have to do with an equal share.
  constexpr bool moves_registers() const { return row_groups() > 1 && k_groups == 1; }
  // Of a thread, once moved: multiples of 8, as many in all as at launch.
  constexpr int math_registers() const { return row_groups() == 3 ? 160 : 232; }
  constexpr int loading_registers() const { return row_groups() == 3 ? 32 : 40; }
  // Columns of F32 output that are staged in shared memory at a time.
  constexpr int f32_staged_cols() const { return row_groups() == 3 ? tile_n / 2 : tile_n; }
  // Columns of one TMA store of BF16 output: the widest swizzle row (128, 64 or 32 bytes) that divides the tile.
  constexpr int store_cols() const { return tile_n % 64 == 0 ? 64 : tile_n % 32 == 0 ? 32 : 16; }
  // Wide tiles have their scales copied into every stage beside A and B. Where groups share K that would cost narrow tiles more than their values, so
  // scales come in strips of so many K blocks, 4 KiB of A's, through a ring of their own; in wide tiles the strips' barriers cost 2 to 3 %.
  constexpr bool strips() const { return tile_m == 64 || k_groups > 1; }
  constexpr int strip_blocks() const { return strips() ? 1024 / tile_m : 1; }
  constexpr int scale_stages() const { return strips() ? 2 : stages; }
  constexpr int a_stage_bytes() const { return tile_m * kTileK; }
  constexpr int b_stage_bytes() const { return tile_n * kTileK; }
  constexpr int stage_bytes() const { return a_stage_bytes() + b_stage_bytes() + tile_m * 4; }
  // What of it a CTA draws from the L2.
  constexpr int l2_stage_bytes() const { return a_stage_bytes() / multicast + b_stage_bytes() + tile_m * 4; }
  // CTAs of a cluster; 0 where none are formed.
  constexpr int cluster() const { return slices * multicast > 1 ? slices * multicast : 0; }
  // Partial sums of a tile that a thread takes over from each slice.
  constexpr int slice_values() const { return tile_n / 2 / slices; }
  // Whether E4M3 output with scales of 128 columns can be written: each CTA holds the sums of a whole block.
  constexpr bool quantizes() const { return tile_n == kTileK && slices == 1; }
  // Whether the tiles of the last round can be shared out along K, so that all CTAs end together. It paid for these tiles only (NOTES.md, 16).
  constexpr bool shares() const { return tile_m == 128 && tile_n > 128 && k_groups == 1 && slices == 1; }
  // Whether tiles of half the columns can be taken beside whole ones, so that the last round of tiles is not a whole one for a few.
  constexpr bool halves() const { return tile_m == 256; }
  // Columns of the narrow tiles that a grouped GEMM takes where whole ones would be mostly empty, and in the last round; 0: it has none.
  constexpr int narrow_cols() const { return tile_n == 192 ? tile_n / 3 : 0; }
  // How many rows of 128x128 scales a tile can touch.
  constexpr int scale_rows() const { return (kTileK - std::gcd(tile_n, kTileK) + tile_n + kTileK - 1) / kTileK; }
};

// The order in which tiles are handed out: groups of one dimension's tiles run side by side, for the L2's sake.
struct Raster {
  int32_t tiles_m;
  int32_t tiles_n;
  int32_t group;  // tiles of the grouped dimension that run side by side
  int32_t along_m;
};

}  // namespace h4j::gemm
