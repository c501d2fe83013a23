#include "attention/mla_decode/mla_decode_kernels.h"

#include "attention/mla_decode/sm90_mla_decode.cuh"
#include "attention/mla_decode/sm90_mla_schedule.cuh"

namespace h4j::mla {

static_assert(sizeof(SharedStorage) <= 232448, "Q, two blocks of the cache and the exchange of the groups must fit the shared memory of a CTA");

const void* schedule_stub() { return reinterpret_cast<const void*>(&schedule_kernel); }
const void* decode_stub() { return reinterpret_cast<const void*>(&decode_kernel); }
const void* combine_stub() { return reinterpret_cast<const void*>(&combine_kernel); }
int decode_shared_memory() { return sizeof(SharedStorage); }
int schedule_threads() { return kScheduleThreads; }
int combine_threads() { return kCombineThreads; }

}  // namespace h4j::mla
