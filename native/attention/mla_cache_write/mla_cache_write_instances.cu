#include "attention/mla_cache_write/mla_cache_write_instances.h"

#include "attention/mla_cache_write/sm90_mla_cache_write.cuh"

namespace h4j::mla_cache_write {

const Instance* find_instance(int format, h4j_dtype weight_dtype) {
  static const Instance instances[] = {
#define H4J_MLA_CACHE_WRITE_INSTANCE(name, layout, Weight, code) \
  {#name, layout, code, reinterpret_cast<const void*>(&mla_cache_write_kernel<layout, Weight>)},
#include "attention/mla_cache_write/instances.def"
#undef H4J_MLA_CACHE_WRITE_INSTANCE
  };
  for (const Instance& instance : instances) {
    if (instance.format == format && instance.weight_dtype == weight_dtype) return &instance;
  }
  return nullptr;
}

}  // namespace h4j::mla_cache_write
