// The kernels as the host sees them.
#pragma once

namespace h4j::moe {

const void* combine_stub(bool expert_layout);

}  // namespace h4j::moe
