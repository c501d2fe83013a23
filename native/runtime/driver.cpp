#include "runtime/driver.h"

#include <dlfcn.h>

#include <mutex>

namespace h4j {
namespace {

struct OpenedDriver {
  Driver functions;
  int version = 0;
  std::string problem;  // empty: usable
  std::string need;
  int cuda_code = 0;
};

#define H4J_TEXT_OF(name) #name
#define H4J_EXPANDED_TEXT_OF(name) H4J_TEXT_OF(name)

OpenedDriver open_driver() {
  OpenedDriver opened;
  opened.need = "an NVIDIA driver of release 580 or newer (CUDA 13.0)";
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    opened.problem = format("none: %s", reason != nullptr ? reason : "libcuda.so.1 does not open");
    return opened;
  }
  // The version first: an older driver lacks functions, and its age is the better answer.
  auto get_version = reinterpret_cast<decltype(&::cuDriverGetVersion)>(dlsym(library, "cuDriverGetVersion"));
  if (get_version == nullptr || get_version(&opened.version) != CUDA_SUCCESS) {
    opened.problem = "a libcuda.so.1 that does not tell its version";
    return opened;
  }
  if (opened.version < kMinimumDriverVersion) {
    opened.problem = format("one for CUDA %d.%d", opened.version / 1000, opened.version % 1000 / 10);
    return opened;
  }
#define H4J_OPEN(name)                                                                                                   \
  opened.functions.name = reinterpret_cast<decltype(opened.functions.name)>(dlsym(library, H4J_EXPANDED_TEXT_OF(name))); \
  if (opened.functions.name == nullptr) {                                                                                \
    opened.problem = "one without " H4J_EXPANDED_TEXT_OF(name);                                                          \
    return opened;                                                                                                       \
  }
  H4J_DRIVER_FUNCTIONS(H4J_OPEN)
#undef H4J_OPEN
  const CUresult initialised = opened.functions.cuInit(0);
  if (initialised != CUDA_SUCCESS) {
    const char* name = nullptr;
    opened.functions.cuGetErrorName(initialised, &name);
    opened.problem = format("cuInit failed with %s (%d)", name != nullptr ? name : "an unknown error", static_cast<int>(initialised));
    opened.cuda_code = initialised;
    if (initialised == CUDA_ERROR_NO_DEVICE) opened.need = "a CUDA device";
  }
  return opened;
}

const OpenedDriver& opened_driver() {
  static const OpenedDriver opened = open_driver();
  return opened;
}

// After these the context, and with it the process's use of the device, is lost.
bool is_sticky(CUresult result) {
  switch (result) {
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_EXTERNAL_DEVICE:
      return true;
    default:
      return false;
  }
}

}  // namespace

const Driver& driver() {
  const OpenedDriver& opened = opened_driver();
  if (!opened.problem.empty()) {
    Failure failure;
    failure.status = H4J_NO_DRIVER;
    failure.argument = "driver";
    failure.got = opened.problem;
    failure.allowed = opened.need;
    failure.cuda_code = opened.cuda_code;
    throw failure;
  }
  return opened.functions;
}

int driver_version() noexcept { return opened_driver().version; }

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const char* name = nullptr;
  const char* text = nullptr;
  driver().cuGetErrorName(result, &name);
  driver().cuGetErrorString(result, &text);
  Failure failure;
  failure.status = H4J_DEVICE_ERROR;
  failure.argument = call;
  failure.cuda_code = result;
  failure.sticky = is_sticky(result);
  failure.got = format("%s (%d): %s", name != nullptr ? name : "an unknown error", static_cast<int>(result), text != nullptr ? text : "no text");
  failure.allowed = failure.sticky ? "success; the context is lost, restart the process" : "success";
  throw failure;
}

ScopedContext::ScopedContext(CUcontext context) {
  CUcontext current = nullptr;
  check(driver().cuCtxGetCurrent(&current), "cuCtxGetCurrent");
  if (current == context) return;
  check(driver().cuCtxPushCurrent(context), "cuCtxPushCurrent");
  pushed_ = true;
}

ScopedContext::~ScopedContext() {
  CUcontext popped = nullptr;
  if (pushed_) driver().cuCtxPopCurrent(&popped);
}

}  // namespace h4j
