// The kernels as the host sees them.
#pragma once

#include "attention/mla_decode/mla_decode_layout.h"

namespace h4j::mla {

struct Instance {
  const char* name;
  Source source;
  const void* stub;
};

// The row of instances.def.
const Instance& find_instance(Source source);

// Each in its own source file: they take a while to compile.
#define H4J_MLA_DECODE_INSTANCE(name, source) const void* name##_stub();
#include "attention/mla_decode/instances.def"
#undef H4J_MLA_DECODE_INSTANCE

const void* schedule_stub();
const void* combine_stub();
int decode_shared_memory();
int schedule_threads();
int combine_warps();

}  // namespace h4j::mla
