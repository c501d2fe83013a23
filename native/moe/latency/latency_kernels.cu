#include "moe/latency/latency_kernels.h"

#include "moe/latency/sm90_latency.cuh"

namespace h4j::moe {

const void* latency_dispatch_stub() { return reinterpret_cast<const void*>(&latency_dispatch_kernel); }
const void* latency_combine_stub() { return reinterpret_cast<const void*>(&latency_combine_kernel); }

}  // namespace h4j::moe
