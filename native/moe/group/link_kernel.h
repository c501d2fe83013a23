// What a rank's stores to a peer reach, as the host measures it.
#pragma once

#include <cstdint>

namespace h4j::moe {

inline constexpr int64_t kLinkBytes = int64_t{4} << 20;  // of a window that only measuring writes
inline constexpr int kLinkPasses = 24;                   // 100 MB: a third of a millisecond at 350 GB/s
inline constexpr int kLinkCtas = 24;

struct LinkParams {
  uint8_t* target;
  int32_t passes;
};

const void* link_stub();

}  // namespace h4j::moe
