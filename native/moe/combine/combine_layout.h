// Parameters of the kernels of combine.
#pragma once

#include "moe/dispatch/dispatch_layout.h"

namespace h4j::moe {

struct CombineParams {
  Group group;
  const uint8_t* handle;
  HandleOffsets handle_at;
  const uint8_t* x;  // expert layout: rows of pitch x_pitch; else null
  int64_t x_pitch;
  const uint8_t* residual;
  int64_t residual_pitch;
  uint8_t* out;
  int64_t out_pitch;
  int32_t tokens;
  int32_t start, finish;  // which halves this kernel does
};

}  // namespace h4j::moe
