// The kernels as the host sees them.
#pragma once

namespace h4j::moe {

const void* latency_dispatch_stub();
const void* latency_combine_stub();

}  // namespace h4j::moe
