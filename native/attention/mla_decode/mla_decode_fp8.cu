#include "attention/mla_decode/mla_decode_kernels.h"
#include "attention/mla_decode/sm90_mla_decode.cuh"

namespace h4j::mla {

const void* mla_decode_fp8_stub() { return reinterpret_cast<const void*>(&decode_kernel<Source::kFp8>); }

}  // namespace h4j::mla
