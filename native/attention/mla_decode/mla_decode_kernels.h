// The kernels as the host sees them.
#pragma once

namespace h4j::mla {

const void* schedule_stub();
const void* decode_stub();
const void* combine_stub();
int decode_shared_memory();
int schedule_threads();
int combine_threads();

}  // namespace h4j::mla
