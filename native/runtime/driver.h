// The CUDA driver, opened at run time, so that the library loads on a machine without one.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>

#include "runtime/error.h"

namespace h4j {

// clang-format off: grouped by subject
#define H4J_DRIVER_FUNCTIONS(X)                                                                                                             \
  X(cuInit) X(cuDriverGetVersion) X(cuGetErrorName) X(cuGetErrorString)                                                                     \
  X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetUuid) X(cuDeviceGetAttribute) X(cuDeviceTotalMem)                      \
  X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease)                                                                                  \
  X(cuCtxGetCurrent) X(cuCtxSetCurrent) X(cuCtxPushCurrent) X(cuCtxPopCurrent) X(cuCtxGetDevice)                                            \
  X(cuMemGetInfo) X(cuMemPoolCreate) X(cuMemPoolDestroy) X(cuMemPoolTrimTo) X(cuMemPoolSetAttribute)                                        \
  X(cuMemAllocFromPoolAsync) X(cuMemFreeAsync) X(cuMemHostAlloc) X(cuMemFreeHost) X(cuMemcpyAsync) X(cuMemcpy2DAsync) X(cuMemsetD8Async)    \
  X(cuMemAlloc) X(cuMemFree) X(cuMemsetD8) X(cuCtxSynchronize) X(cuCtxEnablePeerAccess) X(cuDeviceCanAccessPeer)                            \
  X(cuIpcGetMemHandle) X(cuIpcOpenMemHandle) X(cuIpcCloseMemHandle)                                                                         \
  X(cuStreamCreate) X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamQuery) X(cuStreamWaitEvent) X(cuStreamGetCtx)                       \
  X(cuStreamBeginCapture) X(cuStreamEndCapture) X(cuStreamIsCapturing)                                                                      \
  X(cuGraphInstantiate) X(cuGraphDestroy) X(cuGraphExecDestroy) X(cuGraphLaunch)                                                            \
  X(cuEventCreate) X(cuEventDestroy) X(cuEventRecord) X(cuEventQuery) X(cuEventSynchronize) X(cuEventElapsedTime)                           \
  X(cuPointerGetAttribute) X(cuKernelSetAttribute) X(cuKernelGetFunction) X(cuFuncLoad) X(cuLaunchKernelEx) X(cuTensorMapEncodeTiled)
// clang-format on

struct Driver {
#define H4J_DECLARE(name) decltype(&::name) name = nullptr;
  H4J_DRIVER_FUNCTIONS(H4J_DECLARE)
#undef H4J_DECLARE
};

// The oldest driver that serves the CUDA runtime this library is linked with.
inline constexpr int kMinimumDriverVersion = 13000;

// Opens and initialises the driver once. Throws H4J_NO_DRIVER with the reason where there is none, or none new enough.
const Driver& driver();

// 0 where there is no driver.
int driver_version() noexcept;

// Throws H4J_DEVICE_ERROR for anything but CUDA_SUCCESS.
void check(CUresult result, const char* call);

// Makes a context current for a scope and puts the caller's back.
class ScopedContext {
 public:
  explicit ScopedContext(CUcontext context);
  ~ScopedContext();
  ScopedContext(const ScopedContext&) = delete;
  ScopedContext& operator=(const ScopedContext&) = delete;

 private:
  bool pushed_ = false;
};

}  // namespace h4j
