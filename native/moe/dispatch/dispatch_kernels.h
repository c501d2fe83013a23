// The kernels as the host sees them.
#pragma once

namespace h4j::moe {

const void* dispatch_stub(bool cast, bool expert_layout);

}  // namespace h4j::moe
