// cuBLASLt as a peer and a yardstick.
#include <cstring>
#include <string>

#include "bench/open.h"
#include "bench/session.h"

namespace {

// From the cuBLASLt documentation; the toolkit that builds this need not have cuBLAS.
constexpr int kCompute32F = 68;
constexpr int kR32F = 0, kR16BF = 14, kR8FE4M3 = 28;
constexpr int kTransA = 3, kTransB = 4, kScaleA = 17, kScaleB = 18, kFastAccumulation = 25, kScaleModeA = 31, kScaleModeB = 32;
constexpr int32_t kTransposed = 1, kPlain = 0;
constexpr int32_t kVector128 = 4, kBlock128x128 = 5;
constexpr int kMaxWorkspace = 1;

struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Heuristic) == 96);

struct CublasLt {
  int (*create)(void**);
  size_t (*version)();
  int (*desc_create)(void**, int, int);
  int (*desc_destroy)(void*);
  int (*desc_set)(void*, int, const void*, size_t);
  int (*layout_create)(void**, int, uint64_t, uint64_t, int64_t);
  int (*layout_destroy)(void*);
  int (*preference_create)(void**);
  int (*preference_destroy)(void*);
  int (*preference_set)(void*, int, const void*, size_t);
  int (*heuristic)(void*, void*, void*, void*, void*, void*, void*, int, Heuristic*, int*);
  int (*matmul)(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*, void*, void*, const void*, void*,
                size_t, void*);
  const char* (*status_name)(int);
  std::string problem;
};

CublasLt open_cublaslt() {
  CublasLt opened{};
  const h4j::bench::Opened library = h4j::bench::open_library({"libcublasLt.so.13", "libcublasLt.so", "libcublasLt.so.12"});
  if (library.library == nullptr) {
    opened.problem = "cuBLASLt: " + library.problem;
    return opened;
  }
  const struct {
    const char* name;
    void* slot;
  } functions[] = {{"cublasLtCreate", &opened.create},
                   {"cublasLtGetVersion", &opened.version},
                   {"cublasLtMatmulDescCreate", &opened.desc_create},
                   {"cublasLtMatmulDescDestroy", &opened.desc_destroy},
                   {"cublasLtMatmulDescSetAttribute", &opened.desc_set},
                   {"cublasLtMatrixLayoutCreate", &opened.layout_create},
                   {"cublasLtMatrixLayoutDestroy", &opened.layout_destroy},
                   {"cublasLtMatmulPreferenceCreate", &opened.preference_create},
                   {"cublasLtMatmulPreferenceDestroy", &opened.preference_destroy},
                   {"cublasLtMatmulPreferenceSetAttribute", &opened.preference_set},
                   {"cublasLtMatmulAlgoGetHeuristic", &opened.heuristic},
                   {"cublasLtMatmul", &opened.matmul},
                   {"cublasLtGetStatusName", &opened.status_name}};
  for (const auto& function : functions) {
    if (!h4j::bench::find_function(library.library, function.name, function.slot)) {
      opened.problem = "cuBLASLt: " + library.path + " has no " + function.name;
      return opened;
    }
  }
  return opened;
}

const CublasLt& lt() {
  static const CublasLt opened = open_cublaslt();
  return opened;
}

}  // namespace

struct h4j_bench_matmul {
  h4j_bench_session* session = nullptr;
  void* handle = nullptr;  // of the device, kept for the life of the process
  void* desc = nullptr;
  void* layout_a = nullptr;
  void* layout_b = nullptr;
  void* layout_d = nullptr;
  Heuristic chosen{};
  const void* a = nullptr;
  const void* b = nullptr;
  void* d = nullptr;
};

extern "C" {

int64_t h4j_bench_matmul_version(void) { return lt().problem.empty() ? static_cast<int64_t>(lt().version()) : 0; }

int32_t h4j_bench_matmul_open(h4j_bench_session* session, int32_t kind, int64_t m, int64_t n, int64_t k, uint64_t a, uint64_t a_scales, uint64_t b,
                              uint64_t b_scales, uint64_t d, h4j_bench_matmul** matmul, char* why) {
  using h4j::bench::fail;
  if (!lt().problem.empty()) return fail(why, "%s", lt().problem.c_str());
  H4J_BENCH_CUDA(cudaSetDevice(session->ordinal));
  constexpr int kMaxDevices = 64;
  static void* handles[kMaxDevices];
  if (session->ordinal >= kMaxDevices) return fail(why, "cuBLASLt: device %d: at most %d devices", session->ordinal, kMaxDevices);
  void*& handle = handles[session->ordinal];
  if (handle == nullptr) {
    if (const int status = lt().create(&handle); status != 0) return fail(why, "cublasLtCreate: %s", lt().status_name(status));
  }
  h4j_bench_matmul* opened = new h4j_bench_matmul;
  opened->session = session;
  opened->handle = handle;
  // cuBLASLt is column-major: D^T [n, m] = B [n, k] * A^T. Its A is our B, stored [k, n] and transposed; its B is our A, stored [k, m].
  opened->a = reinterpret_cast<const void*>(b);
  opened->b = reinterpret_cast<const void*>(a);
  opened->d = reinterpret_cast<void*>(d);
  void* preference = nullptr;
  const auto prepare = [&]() -> int {
    int status = 0;
    const auto check = [&](const char* what, int result) {
      if (result != 0 && status == 0) status = fail(why, "cuBLASLt: %s: %s", what, lt().status_name(result));
    };
    const auto set = [&](int attribute, const auto& value) {
      if (status == 0) check("cublasLtMatmulDescSetAttribute", lt().desc_set(opened->desc, attribute, &value, sizeof(value)));
    };
    check("cublasLtMatmulDescCreate", lt().desc_create(&opened->desc, kCompute32F, kR32F));
    set(kTransA, kTransposed);
    set(kTransB, kPlain);
    const void* one = session->one;
    if (kind == H4J_BENCH_FP8_PER_TENSOR) {
      set(kScaleA, one);
      set(kScaleB, one);
      set(kFastAccumulation, int8_t{1});
    } else if (kind == H4J_BENCH_FP8_BLOCK) {
      set(kScaleModeA, kBlock128x128);
      set(kScaleModeB, kVector128);
      set(kScaleA, reinterpret_cast<const void*>(b_scales));
      set(kScaleB, reinterpret_cast<const void*>(a_scales));
    }
    if (status != 0) return status;
    const int in = kind == H4J_BENCH_BF16 ? kR16BF : kR8FE4M3;
    const uint64_t rows = static_cast<uint64_t>(m), cols = static_cast<uint64_t>(n), depth = static_cast<uint64_t>(k);
    check("cublasLtMatrixLayoutCreate", lt().layout_create(&opened->layout_a, in, depth, cols, k));
    check("cublasLtMatrixLayoutCreate", lt().layout_create(&opened->layout_b, in, depth, rows, k));
    check("cublasLtMatrixLayoutCreate", lt().layout_create(&opened->layout_d, kR16BF, cols, rows, n));
    check("cublasLtMatmulPreferenceCreate", lt().preference_create(&preference));
    if (status != 0) return status;
    const size_t workspace = h4j::bench::kWorkspaceBytes;
    check("cublasLtMatmulPreferenceSetAttribute", lt().preference_set(preference, kMaxWorkspace, &workspace, sizeof(workspace)));
    if (status != 0) return status;
    int found = 0;
    const int result = lt().heuristic(handle, opened->desc, opened->layout_a, opened->layout_b, opened->layout_d, opened->layout_d, preference, 1,
                                      &opened->chosen, &found);
    if (result != 0 || found == 0) {
      return fail(why, "cuBLASLt %lld offers no algorithm for this shape: %s", static_cast<long long>(h4j_bench_matmul_version()),
                  lt().status_name(result));
    }
    return 0;
  };
  const int status = prepare();
  if (preference != nullptr) lt().preference_destroy(preference);
  if (status != 0) {
    h4j_bench_matmul_close(opened);
    return status;
  }
  *matmul = opened;
  return 0;
}

int32_t h4j_bench_matmul_run(h4j_bench_matmul* matmul, uint64_t stream, char* why) {
  H4J_BENCH_CUDA(cudaSetDevice(matmul->session->ordinal));
  const float alpha = 1, beta = 0;
  const int status = lt().matmul(matmul->handle, matmul->desc, &alpha, matmul->a, matmul->layout_a, matmul->b, matmul->layout_b, &beta, matmul->d,
                                 matmul->layout_d, matmul->d, matmul->layout_d, &matmul->chosen.algorithm, matmul->session->workspace,
                                 h4j::bench::kWorkspaceBytes, reinterpret_cast<void*>(stream));
  return status == 0 ? 0 : h4j::bench::fail(why, "cublasLtMatmul: %s", lt().status_name(status));
}

void h4j_bench_matmul_close(h4j_bench_matmul* matmul) {
  if (matmul == nullptr) return;
  if (matmul->layout_d != nullptr) lt().layout_destroy(matmul->layout_d);
  if (matmul->layout_b != nullptr) lt().layout_destroy(matmul->layout_b);
  if (matmul->layout_a != nullptr) lt().layout_destroy(matmul->layout_a);
  if (matmul->desc != nullptr) lt().desc_destroy(matmul->desc);
  delete matmul;
}

}  // extern "C"
