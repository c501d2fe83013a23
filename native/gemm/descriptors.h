// TMA descriptors of matrices and stacks of matrices.
#pragma once

#include <cuda.h>

#include "runtime/plan.h"

namespace h4j::gemm {

// A row-major matrix [rows, cols] cut into boxes [box_rows, box_cols]; what lies outside reads as zero and is not written.
inline CUtensorMap describe(CUtensorMapDataType type, uint64_t address, int64_t rows, int64_t cols, int64_t ld, int element_bytes, int box_rows,
                            int box_cols, CUtensorMapSwizzle swizzle, const char* argument) {
  CUtensorMap map;
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(ld) * static_cast<cuuint64_t>(element_bytes)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult encoded =
      driver().cuTensorMapEncodeTiled(&map, type, 2, reinterpret_cast<void*>(address), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                      swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(encoded, argument);
  return map;
}

// The distance between the matrices of a stack: TMA takes up to 2^40 bytes.
inline void require_group_ld(const char* operation, const char* argument, int64_t ld, int64_t extent, int64_t multiple) {
  if (ld < extent || ld % multiple != 0 || ld >= int64_t{1} << 38) {
    invalid(operation, argument, format("%lld", static_cast<long long>(ld)),
            format("a multiple of %lld, at least %lld, below 2^38", static_cast<long long>(multiple), static_cast<long long>(extent)));
  }
}

// `planes` row-major matrices [rows, cols] cut into boxes [box_rows, box_cols]; what lies outside reads as zero and is not written. Distances in elements.
inline CUtensorMap describe_planes(CUtensorMapDataType type, uint64_t address, int64_t planes, int64_t rows, int64_t cols, int64_t plane_ld,
                                   int64_t ld, int element_bytes, int box_rows, int box_cols, CUtensorMapSwizzle swizzle, const char* argument) {
  CUtensorMap map;
  const auto bytes = [&](int64_t elements) { return static_cast<cuuint64_t>(elements) * static_cast<cuuint64_t>(element_bytes); };
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(planes)};
  const cuuint64_t strides[] = {bytes(ld), bytes(plane_ld)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t steps[] = {1, 1, 1};
  const CUresult encoded =
      driver().cuTensorMapEncodeTiled(&map, type, 3, reinterpret_cast<void*>(address), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                      swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(encoded, argument);
  return map;
}

// The swizzle of staged rows of BF16, as store.cuh lays them out.
inline CUtensorMapSwizzle store_swizzle(int store_cols) {
  return store_cols == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : store_cols == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_32B;
}

}  // namespace h4j::gemm
