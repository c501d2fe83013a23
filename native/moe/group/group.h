// The object behind h4j_group, and what plans and launches of its operations share.
#pragma once

#include <mutex>
#include <vector>

#include "moe/group/group_layout.h"
#include "runtime/plan.h"

struct h4j_group {
  h4j_device* device;
  h4j_group_spec spec;
  h4j::moe::Shape shape;
  h4j::moe::Offsets offsets;
  CUdeviceptr window = 0;
  int64_t window_bytes = 0;
  CUdeviceptr state = 0;
  h4j::moe::Status* status = nullptr;  // page-locked, mapped at this address
  uint64_t peers[h4j::moe::kMaxRanks] = {};
  std::vector<CUdeviceptr> imported;
  bool connected = false;
  float link_gbs = 0;  // of stores to the slowest peer on another device; 0: there is none
  uint64_t active = 0;
};

namespace h4j::moe {

// Checks every field of a spec.
void require_group_spec(const char* operation, const h4j_group_spec& spec);
Shape shape_of(const h4j_group_spec& spec);
// CTAs of a kernel; at most as many SMs as the device has.
int group_ctas(const char* operation, const h4j_device_info& device, const h4j_group_spec& spec, int preferred);
// CTAs that fill a link of so many GB/s a direction and leave room for the local half of the rows. Every rank must come to the same.
int link_ctas(float link_gbs);
void require_channel(const char* operation, const h4j_group_spec& spec, int channel);
void require_half(const char* operation, int half);
void require_mode(const char* operation, const h4j_group_spec& spec, int mode);
// A plan is bound on a group of the spec that it was made for.
void require_planned_group(const char* operation, const h4j_group& group, const h4j_group_spec& planned);
// Throws H4J_PEER_TIMEOUT where a kernel of the group has waited in vain.
void require_alive(const char* operation, const h4j_group& group);
// What kernels of a channel are given, with the ranks that take part now.
Group describe(const h4j_group& group, int channel);

// Memory of the operation: an address, or 0 where nothing of it is touched.
template <class T>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace h4j::moe
