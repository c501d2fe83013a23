// The kernels as the host sees them.
#pragma once

#include "attention/mla_decode/mla_decode_layout.h"

namespace h4j::mla {

struct KernelCode {
  const void* stub;
  int shared_memory;
};

struct Instance {
  const char* name;
  Source source;
  int rows;  // query rows of a CTA at most
  KernelCode kernel;
};

// The first row of instances.def that holds so many query rows a CTA.
const Instance& find_instance(Source source, int rows);

// In source files of their own: they take a while to compile.
#define H4J_MLA_DECODE_INSTANCE(name, source, rows) KernelCode name##_kernel();
#include "attention/mla_decode/instances.def"
#undef H4J_MLA_DECODE_INSTANCE

const void* schedule_stub();
const void* combine_stub(int slices);  // 1, 2 or 4 CTAs a row
const void* combine_many_stub();       // a warp for up to kMergeRowsPerWarp rows
int schedule_threads();
int combine_warps();

}  // namespace h4j::mla
