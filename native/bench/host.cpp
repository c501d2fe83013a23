// The host's side of a call from C: what the same loop from Java is compared with.
#include <dlfcn.h>

#include "bench/hopper4j_bench.h"
#include "bench/open.h"
#include "hopper4j.h"

// clang-format off
#define H4J_BENCH_FUNCTIONS(X) \
  X(h4j_abi_version) X(h4j_device_properties) X(h4j_device_open) \
  X(h4j_device_close) X(h4j_stream_create) X(h4j_stream_close) \
  X(h4j_stream_synchronize) X(h4j_memory_allocate) X(h4j_memory_free) \
  X(h4j_fill) X(h4j_gemm_plan) X(h4j_plan_describe) \
  X(h4j_plan_close) X(h4j_gemm_bind) X(h4j_gemm_rebind) \
  X(h4j_launch_run) X(h4j_launch_close) X(h4j_gemm)
// clang-format on

struct h4j_bench_host {
#define H4J_BENCH_MEMBER(name) decltype(&::name) name;
  struct Functions {
    H4J_BENCH_FUNCTIONS(H4J_BENCH_MEMBER)
  } call{};
  h4j_error error{};
  h4j_device_info info{};
  h4j_device* device = nullptr;
  h4j_stream* stream = nullptr;
  h4j_plan* plan = nullptr;
  h4j_launch* launch = nullptr;
  h4j_gemm_spec spec{};
  h4j_gemm_args args{};
  uint64_t memory = 0;
};

namespace {

using h4j::bench::fail;

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

int prepare(h4j_bench_host& host, const char* path, int32_t ordinal, int64_t m, int64_t n, int64_t k, char* why) {
  void* library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return fail(why, "%s is not loaded", path);
#define H4J_BENCH_FIND(name) \
  if (!h4j::bench::find_function(library, #name, &host.call.name)) return fail(why, "%s has no " #name, path);
  H4J_BENCH_FUNCTIONS(H4J_BENCH_FIND)
  host.error.struct_size = sizeof(host.error);
  host.info.struct_size = sizeof(host.info);
  const auto failed = [&] { return fail(why, "%s", host.error.message); };
  if (host.call.h4j_device_properties(ordinal, &host.info, &host.error) != H4J_OK) return failed();
  if (host.call.h4j_device_open(ordinal, &host.device, &host.error) != H4J_OK) return failed();
  if (host.call.h4j_stream_create(host.device, &host.stream, &host.error) != H4J_OK) return failed();
  host.spec.struct_size = sizeof(host.spec);
  host.spec.out_dtype = H4J_BF16;
  host.spec.max_m = m;
  host.spec.n = n;
  host.spec.k = k;
  if (host.call.h4j_gemm_plan(&host.info, &host.spec, &host.plan, &host.error) != H4J_OK) return failed();
  h4j_plan_info plan{};
  plan.struct_size = sizeof(plan);
  if (host.call.h4j_plan_describe(host.plan, &plan, &host.error) != H4J_OK) return failed();
  const int64_t blocks = (k + 127) / 128, lead = (m + 3) / 4 * 4;
  const int64_t sizes[] = {aligned(m * k), aligned(4 * lead * blocks), aligned(n * k), aligned(4 * ((n + 127) / 128) * blocks), aligned(2 * m * n)};
  int64_t total = plan.workspace_bytes;
  for (const int64_t size : sizes) total += size;
  if (host.call.h4j_memory_allocate(host.stream, total, &host.memory, &host.error) != H4J_OK) return failed();
  if (host.call.h4j_fill(host.stream, host.memory, 0x38, total, &host.error) != H4J_OK) return failed();
  h4j_gemm_args& args = host.args;
  args.struct_size = sizeof(args);
  args.a = host.memory;
  args.a_ld = k;
  args.a_scales = args.a + static_cast<uint64_t>(sizes[0]);
  args.a_scales_ld = lead;
  args.b = args.a_scales + static_cast<uint64_t>(sizes[1]);
  args.b_ld = k;
  args.b_scales = args.b + static_cast<uint64_t>(sizes[2]);
  args.b_scales_ld = blocks;
  args.d = args.b_scales + static_cast<uint64_t>(sizes[3]);
  args.d_ld = n;
  args.workspace = plan.workspace_bytes == 0 ? 0 : args.d + static_cast<uint64_t>(sizes[4]);
  args.workspace_bytes = plan.workspace_bytes;
  if (host.call.h4j_gemm_bind(host.plan, host.device, &args, &host.launch, &host.error) != H4J_OK) return failed();
  if (host.call.h4j_launch_run(host.launch, host.stream, -1, &host.error) != H4J_OK) return failed();
  return host.call.h4j_stream_synchronize(host.stream, &host.error) == H4J_OK ? 0 : failed();
}

int32_t run_once(h4j_bench_host& host, int32_t what) {
  switch (what) {
    case H4J_BENCH_DOWNCALL:
      return host.call.h4j_abi_version() == H4J_ABI_VERSION ? H4J_OK : H4J_INTERNAL;
    case H4J_BENCH_PLAN: {
      h4j_plan* plan = nullptr;
      const h4j_status status = host.call.h4j_gemm_plan(&host.info, &host.spec, &plan, &host.error);
      return status != H4J_OK ? status : host.call.h4j_plan_close(plan, &host.error);
    }
    case H4J_BENCH_BIND: {
      h4j_launch* launch = nullptr;
      const h4j_status status = host.call.h4j_gemm_bind(host.plan, host.device, &host.args, &launch, &host.error);
      return status != H4J_OK ? status : host.call.h4j_launch_close(launch, &host.error);
    }
    case H4J_BENCH_REBIND:
      return host.call.h4j_gemm_rebind(host.launch, &host.args, &host.error);
    case H4J_BENCH_LAUNCH:
      return host.call.h4j_launch_run(host.launch, host.stream, -1, &host.error);
    case H4J_BENCH_NO_ROWS:
      return host.call.h4j_launch_run(host.launch, host.stream, 0, &host.error);
    default:
      return host.call.h4j_gemm(host.stream, &host.spec, &host.args, &host.error);
  }
}

}  // namespace

extern "C" {

int32_t h4j_bench_host_open(const char* path, int32_t ordinal, int64_t m, int64_t n, int64_t k, h4j_bench_host** host, char* why) {
  h4j_bench_host* opened = new h4j_bench_host;
  if (prepare(*opened, path, ordinal, m, n, k, why) != 0) {
    h4j_bench_host_close(opened);
    return 1;
  }
  *host = opened;
  return 0;
}

int32_t h4j_bench_host_run(h4j_bench_host* host, int32_t what, int64_t count, char* why) {
  for (int64_t i = 0; i < count; ++i) {
    if (run_once(*host, what) != H4J_OK) return fail(why, "%s", host->error.message);
  }
  return 0;
}

int32_t h4j_bench_host_synchronize(h4j_bench_host* host, char* why) {
  return host->call.h4j_stream_synchronize(host->stream, &host->error) == H4J_OK ? 0 : fail(why, "%s", host->error.message);
}

void h4j_bench_host_close(h4j_bench_host* host) {
  if (host == nullptr) return;
  if (host->launch != nullptr) host->call.h4j_launch_close(host->launch, nullptr);
  if (host->plan != nullptr) host->call.h4j_plan_close(host->plan, nullptr);
  if (host->memory != 0) host->call.h4j_memory_free(host->stream, host->memory, nullptr);
  if (host->stream != nullptr) host->call.h4j_stream_close(host->stream, nullptr);
  if (host->device != nullptr) host->call.h4j_device_close(host->device, nullptr);
  delete host;
}

}  // extern "C"
