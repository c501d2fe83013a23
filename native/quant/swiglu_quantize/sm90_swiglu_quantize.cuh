// SwiGLU, a weight a row, and E4M3 with 1x128 scales, one pass over memory.
#pragma once

#include "quant/swiglu_quantize/swiglu_quantize_layout.h"
#include "tile/fault.cuh"
#include "tile/fp8.cuh"
#include "tile/tile_walk.cuh"

namespace h4j::swiglu_quantize {

using Vector = tile::Vector8<__nv_bfloat16>;

// Rows in use of each group and where the group begins among all groups' stretches of 8 rows.
struct GroupTable {
  int rows[kMaxGroups];
  int first[kMaxGroups + 1];
};

// Warp 0 reads the counts, 32 at a time and in order, so that the first bad one is reported.
__device__ inline void read_groups(const Params& params, GroupTable& table) {
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    int first = 0;
    bool reported = blockIdx.x != 0;
    for (int begin = 0; begin < params.groups; begin += 32) {
      const int group = begin + lane;
      const int count = group < params.groups ? params.row_counts[group] : 0;
      const unsigned bad = __ballot_sync(0xffffffffu, count < 0 || count > params.rows);
      if (!reported && bad != 0) {
        if (lane == __ffs(bad) - 1) tile::report_fault(params.row_counts_site, group, count, 0, params.rows);
        reported = true;
      }
      const int rows = min(max(count, 0), params.rows);
      int end = (rows + kRowsPerWarp - 1) / kRowsPerWarp;  // becomes the sum of this lane's and those before
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int before = __shfl_up_sync(0xffffffffu, end, distance);
        if (lane >= distance) end += before;
      }
      if (group < params.groups) table.rows[group] = rows, table.first[group + 1] = first + end;
      first += __shfl_sync(0xffffffffu, end, 31);
    }
    if (lane == 0) table.first[0] = 0;
  }
  __syncthreads();
}

// The group that holds a stretch: the last that begins at or before it, which is not an empty one.
__device__ inline int find_group(const Params& params, const GroupTable& table, int stretch) {
  int low = 0;
  int high = params.groups - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first[middle] <= stretch) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// g / (1 + exp(-g)) * u: the exponential of a very negative g is infinite and gives -0.
__device__ inline float swiglu(float gate, float up) { return __fdividef(gate, 1.0f + __expf(-gate)) * up; }

// 16 lanes share a 1x128 block, 8 elements each; a warp takes 8 rows of one column block.
template <bool kMasked>
__global__ void __launch_bounds__(kThreads, kCtasPerSm) swiglu_quantize_kernel(const __grid_constant__ Params params) {
  constexpr int kPairs = kRowsPerWarp / 2;
  __shared__ GroupTable table;
  const int half = threadIdx.x % 32 / 16;
  const int chunk = threadIdx.x % 16;
  int stretches = (params.rows + kRowsPerWarp - 1) / kRowsPerWarp;
  if constexpr (kMasked) {
    read_groups(params, table);
    stretches = table.first[params.groups];
  }

  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarpsPerCta + threadIdx.x / 32;
  for (tile::TileWalk item(warp, static_cast<int64_t>(gridDim.x) * kWarpsPerCta, params.col_blocks); item.row < stretches; item.next()) {
    int64_t group = 0;
    int rows = params.rows;
    int row0 = item.row * kRowsPerWarp + half;
    if constexpr (kMasked) {
      group = find_group(params, table, item.row);
      rows = table.rows[group];
      row0 = (item.row - table.first[group]) * kRowsPerWarp + half;
    }
    const int col = item.col * tile::kScaleBlock + chunk * 8;
    const bool in_cols = col < params.cols;
    const __nv_bfloat16* in = params.in + group * params.in_group_ld + col;
    Vector gates[kPairs];
    Vector ups[kPairs];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int row = row0 + 2 * i;
      const bool used = in_cols && row < rows;
      gates[i] = used ? Vector::load(in + row * params.in_ld) : Vector::zero();
      ups[i] = used ? Vector::load(in + row * params.in_ld + params.cols) : Vector::zero();
    }
    float own_scale = 0.0f;  // of row row0 + 2 * chunk, kept by the first lanes of each half
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int row = row0 + 2 * i;
      const bool used = in_cols && row < rows;
      const float weight = params.weights != nullptr && used ? __ldg(params.weights + group * params.max_rows + row) : 1.0f;
      float values[8];
      float up[8];
      gates[i].to_floats(values);
      ups[i].to_floats(up);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = swiglu(values[j], up[j]) * weight;
      const float scale = tile::block_scale(tile::half_warp_largest(tile::largest_magnitude(values)), params.power_of_two != 0);
      if (chunk == i) own_scale = scale;
      if (used) {
        *reinterpret_cast<uint2*>(params.out + group * params.out_group_ld + row * params.out_ld + col) =
            tile::quantize8_times(values, tile::reciprocal_of(scale));
      }
    }
    const int own_row = row0 + 2 * chunk;
    if (chunk < kPairs && own_row < rows) params.scales[group * params.scales_group_ld + item.col * params.scales_ld + own_row] = own_scale;
  }
}

}  // namespace h4j::swiglu_quantize
