#include "attention/mla_merge/mla_merge_instances.h"

#include "attention/mla_merge/sm90_mla_merge.cuh"

namespace h4j::mla_merge {

const Instance* find_instance(h4j_dtype out_dtype) {
  static const Instance instances[] = {
#define H4J_MLA_MERGE_INSTANCE(name, Out, out_code) {#name, out_code, reinterpret_cast<const void*>(&merge_kernel<Out>)},
#include "attention/mla_merge/instances.def"
#undef H4J_MLA_MERGE_INSTANCE
  };
  for (const Instance& instance : instances) {
    if (instance.out_dtype == out_dtype) return &instance;
  }
  return nullptr;
}

}  // namespace h4j::mla_merge
