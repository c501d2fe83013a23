#include "attention/mla_decode/mla_decode_kernels.h"

#include <algorithm>
#include <iterator>

#include "attention/mla_decode/sm90_mla_combine.cuh"
#include "attention/mla_decode/sm90_mla_schedule.cuh"

namespace h4j::mla {

const Instance& find_instance(Source source, int rows) {
  static const Instance instances[] = {
#define H4J_MLA_DECODE_INSTANCE(name, source, rows) {#name, Source::source, rows, name##_kernel()},
#include "attention/mla_decode/instances.def"
#undef H4J_MLA_DECODE_INSTANCE
  };
  return *std::find_if(std::begin(instances), std::end(instances),
                       [&](const Instance& instance) { return instance.source == source && instance.rows >= rows; });
}

const void* schedule_stub() { return reinterpret_cast<const void*>(&schedule_kernel); }
const void* combine_stub(int slices) {
  static_assert(kMergeSlices == 4);
  return reinterpret_cast<const void*>(slices == 1 ? &combine_kernel<1, false> : slices == 2 ? &combine_kernel<2, false> : &combine_kernel<4, false>);
}
const void* combine_many_stub() { return reinterpret_cast<const void*>(&combine_kernel<1, true>); }
int schedule_threads() { return kScheduleThreads; }
int combine_warps() { return kCombineWarps; }

}  // namespace h4j::mla
