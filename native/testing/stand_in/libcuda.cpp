#include <cuda.h>
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "testing/stand_in/stand_in.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

struct CUctx_st {
  int device;
  int retained;
};
struct CUmemPoolHandle_st {
  int device;
};
using Work = std::function<void()>;
struct CUstream_st {
  CUcontext context;
  bool capturing;
  bool invalidated;
  std::vector<Work> recorded;
};
struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUevent_st {
  bool timed;
  bool recorded;
  std::chrono::steady_clock::time_point time;
};

namespace {

constexpr int kDevices = 2;
constexpr size_t kMemory = size_t{80} << 30;
constexpr int kSharedMemory = 232448;

std::mutex mutex;
std::set<const void*> alive;              // streams, events, graphs, pools
std::map<CUdeviceptr, size_t> allocated;  // device memory
std::map<void*, size_t> pinned;
CUctx_st contexts[kDevices] = {{0, 0}, {1, 0}};
size_t used = 0;
int64_t misuses = 0;
int64_t launches = 0;
int64_t calls_to_failure = 0;
CUresult failure = CUDA_SUCCESS;
thread_local std::vector<CUcontext> current;

using Lock = std::lock_guard<std::mutex>;

// Counted under the lock of the caller.
bool fails() { return calls_to_failure > 0 && --calls_to_failure == 0; }

#define MAY_FAIL() \
  if (fails()) return failure

CUresult misuse(CUresult result) {
  ++misuses;
  return result;
}

bool is_alive(const void* object) { return alive.count(object) != 0; }

template <class T>
T* born(T* object) {
  alive.insert(object);
  return object;
}

template <class T>
CUresult destroy(T* object) {
  if (alive.erase(object) == 0) return misuse(CUDA_ERROR_INVALID_HANDLE);
  delete object;
  return CUDA_SUCCESS;
}

bool is_usable(CUcontext context) { return context != nullptr && context->retained > 0; }

// A stream that work may be given to; null is the default stream of the current context.
bool is_usable(CUstream stream) { return stream == nullptr ? !current.empty() && is_usable(current.back()) : is_alive(stream); }

// Does work at once, or keeps it for the graph.
CUresult submit(CUstream stream, Work work) {
  if (stream != nullptr && stream->capturing) {
    stream->recorded.push_back(std::move(work));
  } else {
    work();
  }
  return CUDA_SUCCESS;
}

// Waiting for a stream breaks the capture of it.
bool breaks_capture(CUstream stream) {
  if (stream == nullptr || !stream->capturing) return false;
  stream->invalidated = true;
  return true;
}

void* map_memory(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

size_t element_bytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
      return 8;
    default:
      return 4;
  }
}

}  // namespace

EXPORTED void h4j_stand_in_fail(int64_t calls, int result) {
  const Lock lock(mutex);
  calls_to_failure = calls;
  failure = static_cast<CUresult>(result);
}
EXPORTED int64_t h4j_stand_in_live() {
  const Lock lock(mutex);
  return static_cast<int64_t>(alive.size() + allocated.size() + pinned.size()) + contexts[0].retained + contexts[1].retained;
}
EXPORTED int64_t h4j_stand_in_misuses() {
  const Lock lock(mutex);
  return misuses;
}
EXPORTED int64_t h4j_stand_in_launches() {
  const Lock lock(mutex);
  return launches;
}

EXPORTED CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
EXPORTED CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuGetErrorName(CUresult, const char** name) {
  *name = "CUDA_ERROR_STAND_IN";
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuGetErrorString(CUresult, const char** text) {
  *text = "an error of the stand-in driver";
  return CUDA_SUCCESS;
}

// ---- Devices and contexts --------------------------------------------------------------------------------------------------------------------

EXPORTED CUresult cuDeviceGetCount(int* count) {
  *count = kDevices;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (ordinal < 0 || ordinal >= kDevices) return misuse(CUDA_ERROR_INVALID_DEVICE);
  *device = ordinal;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  std::snprintf(name, static_cast<size_t>(length), "stand-in %d", device);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  std::memset(uuid, device + 1, sizeof *uuid);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  const Lock lock(mutex);
  MAY_FAIL();
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      *value = 9;
      break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      *value = 132;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      *value = kSharedMemory;
      break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      *value = 50 << 20;
      break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      *value = 1980000;
      break;
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
  *bytes = kMemory;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  const Lock lock(mutex);
  MAY_FAIL();
  ++contexts[device].retained;
  *context = &contexts[device];
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  const Lock lock(mutex);
  if (contexts[device].retained == 0) return misuse(CUDA_ERROR_INVALID_CONTEXT);
  --contexts[device].retained;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxGetCurrent(CUcontext* context) {
  const Lock lock(mutex);
  MAY_FAIL();
  *context = current.empty() ? nullptr : current.back();
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxSetCurrent(CUcontext context) {
  if (!current.empty()) current.pop_back();
  if (context != nullptr) current.push_back(context);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxPushCurrent(CUcontext context) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_usable(context)) return misuse(CUDA_ERROR_INVALID_CONTEXT);
  current.push_back(context);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxPopCurrent(CUcontext* context) {
  const Lock lock(mutex);
  if (current.empty()) return misuse(CUDA_ERROR_INVALID_CONTEXT);
  *context = current.back();
  current.pop_back();
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxGetDevice(CUdevice* device) {
  const Lock lock(mutex);
  if (current.empty()) return misuse(CUDA_ERROR_INVALID_CONTEXT);
  *device = current.back()->device;
  return CUDA_SUCCESS;
}

// ---- Memory ----------------------------------------------------------------------------------------------------------------------------------

EXPORTED CUresult cuMemGetInfo(size_t* available, size_t* total) {
  const Lock lock(mutex);
  MAY_FAIL();
  *available = kMemory - used;
  *total = kMemory;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* properties) {
  const Lock lock(mutex);
  MAY_FAIL();
  *pool = born(new CUmemPoolHandle_st{properties->location.id});
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuMemPoolDestroy(CUmemoryPool pool) {
  const Lock lock(mutex);
  return destroy(pool);
}
EXPORTED CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t) {
  const Lock lock(mutex);
  MAY_FAIL();
  return is_alive(pool) ? CUDA_SUCCESS : misuse(CUDA_ERROR_INVALID_HANDLE);
}
EXPORTED CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void*) { return CUDA_SUCCESS; }
EXPORTED CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool pool, CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_alive(pool) || !is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  if (bytes > kMemory - used) return CUDA_ERROR_OUT_OF_MEMORY;
  void* memory = map_memory(bytes);
  if (memory == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<CUdeviceptr>(memory);
  allocated[*address] = bytes;
  used += bytes;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  const auto found = allocated.find(address);
  if (found == allocated.end() || !is_usable(stream)) return misuse(CUDA_ERROR_INVALID_VALUE);
  munmap(reinterpret_cast<void*>(address), found->second);
  used -= found->second;
  allocated.erase(found);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (current.empty()) return misuse(CUDA_ERROR_INVALID_CONTEXT);
  void* memory = bytes > kMemory - used ? nullptr : map_memory(bytes);
  if (memory == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<CUdeviceptr>(memory);
  allocated[*address] = bytes;
  used += bytes;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuMemFree(CUdeviceptr address) {
  const Lock lock(mutex);
  MAY_FAIL();
  const auto found = allocated.find(address);
  if (found == allocated.end()) return misuse(CUDA_ERROR_INVALID_VALUE);
  munmap(reinterpret_cast<void*>(address), found->second);
  used -= found->second;
  allocated.erase(found);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuMemsetD8(CUdeviceptr address, unsigned char value, size_t bytes) {
  const Lock lock(mutex);
  MAY_FAIL();
  std::memset(reinterpret_cast<void*>(address), value, bytes);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDeviceCanAccessPeer(int* reachable, CUdevice, CUdevice) {
  *reachable = 1;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxEnablePeerAccess(CUcontext, unsigned) { return CUDA_SUCCESS; }
EXPORTED CUresult cuCtxSynchronize() {
  const Lock lock(mutex);
  MAY_FAIL();
  return current.empty() ? misuse(CUDA_ERROR_INVALID_CONTEXT) : CUDA_SUCCESS;
}
EXPORTED CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (allocated.count(address) == 0) return misuse(CUDA_ERROR_INVALID_VALUE);
  std::memcpy(handle, &address, sizeof address);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuIpcOpenMemHandle(CUdeviceptr*, CUipcMemHandle, unsigned) { return CUDA_ERROR_NOT_SUPPORTED; }
EXPORTED CUresult cuIpcCloseMemHandle(CUdeviceptr) { return CUDA_ERROR_INVALID_VALUE; }
EXPORTED CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
  const Lock lock(mutex);
  MAY_FAIL();
  void* memory = bytes > kMemory ? nullptr : map_memory(bytes);
  if (memory == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  pinned[memory] = bytes;
  *address = memory;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuMemFreeHost(void* address) {
  const Lock lock(mutex);
  MAY_FAIL();
  const auto found = pinned.find(address);
  if (found == pinned.end()) return misuse(CUDA_ERROR_INVALID_VALUE);
  munmap(address, found->second);
  pinned.erase(found);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuMemcpyAsync(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  return submit(stream, [=] { std::memmove(reinterpret_cast<void*>(destination), reinterpret_cast<const void*>(source), bytes); });
}
EXPORTED CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D* copy, CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  return submit(stream, [c = *copy] {
    for (size_t row = 0; row < c.Height; ++row) {
      std::memmove(reinterpret_cast<void*>(c.dstDevice + row * c.dstPitch), reinterpret_cast<const void*>(c.srcDevice + row * c.srcPitch),
                   c.WidthInBytes);
    }
  });
}
EXPORTED CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t bytes, CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  return submit(stream, [=] { std::memset(reinterpret_cast<void*>(address), value, bytes); });
}
EXPORTED CUresult cuPointerGetAttribute(void*, CUpointer_attribute, CUdeviceptr) { return CUDA_ERROR_INVALID_VALUE; }

// ---- Streams, events, graphs -----------------------------------------------------------------------------------------------------------------

EXPORTED CUresult cuStreamCreate(CUstream* stream, unsigned) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (current.empty()) return misuse(CUDA_ERROR_INVALID_CONTEXT);
  *stream = born(new CUstream_st{current.back(), false, false, {}});
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuStreamDestroy(CUstream stream) {
  const Lock lock(mutex);
  return destroy(stream);
}
EXPORTED CUresult cuStreamSynchronize(CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  return breaks_capture(stream) ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}
EXPORTED CUresult cuStreamQuery(CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  return breaks_capture(stream) ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}
EXPORTED CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  const Lock lock(mutex);
  MAY_FAIL();
  return is_usable(stream) && is_alive(event) ? CUDA_SUCCESS : misuse(CUDA_ERROR_INVALID_HANDLE);
}
EXPORTED CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_alive(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  *context = stream->context;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_alive(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capturing = true;
  stream->invalidated = false;
  stream->recorded.clear();
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  const Lock lock(mutex);
  *graph = nullptr;
  if (!is_alive(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  if (!stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capturing = false;
  if (stream->invalidated || fails()) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *graph = born(new CUgraph_st{std::move(stream->recorded)});
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  *status = stream == nullptr || !stream->capturing ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->invalidated                   ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                                    : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuGraphInstantiate(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_alive(graph)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  *executable = born(new CUgraphExec_st{graph->work});
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuGraphDestroy(CUgraph graph) {
  const Lock lock(mutex);
  return destroy(graph);
}
EXPORTED CUresult cuGraphExecDestroy(CUgraphExec executable) {
  const Lock lock(mutex);
  return destroy(executable);
}
EXPORTED CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_alive(executable) || !is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  return submit(stream, [work = executable->work] {
    for (const Work& step : work) step();
  });
}
EXPORTED CUresult cuEventCreate(CUevent* event, unsigned flags) {
  const Lock lock(mutex);
  MAY_FAIL();
  *event = born(new CUevent_st{(flags & CU_EVENT_DISABLE_TIMING) == 0, false, {}});
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuEventDestroy(CUevent event) {
  const Lock lock(mutex);
  return destroy(event);
}
EXPORTED CUresult cuEventRecord(CUevent event, CUstream stream) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_alive(event) || !is_usable(stream)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  event->recorded = true;
  event->time = std::chrono::steady_clock::now();
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuEventQuery(CUevent event) {
  const Lock lock(mutex);
  MAY_FAIL();
  return is_alive(event) ? CUDA_SUCCESS : misuse(CUDA_ERROR_INVALID_HANDLE);
}
EXPORTED CUresult cuEventSynchronize(CUevent event) { return cuEventQuery(event); }
EXPORTED CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  const Lock lock(mutex);
  MAY_FAIL();
  if (!is_alive(start) || !is_alive(end)) return misuse(CUDA_ERROR_INVALID_HANDLE);
  if (!start->timed || !end->timed || !start->recorded || !end->recorded) return CUDA_ERROR_INVALID_HANDLE;
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return CUDA_SUCCESS;
}

// ---- Kernels ---------------------------------------------------------------------------------------------------------------------------------

EXPORTED CUresult cuKernelSetAttribute(CUfunction_attribute, int value, CUkernel, CUdevice) {
  const Lock lock(mutex);
  MAY_FAIL();
  return value >= 0 && value <= kSharedMemory ? CUDA_SUCCESS : misuse(CUDA_ERROR_INVALID_VALUE);
}
EXPORTED CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  const Lock lock(mutex);
  MAY_FAIL();
  *function = reinterpret_cast<CUfunction>(kernel);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuFuncLoad(CUfunction) {
  const Lock lock(mutex);
  MAY_FAIL();
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void**, void**) {
  const Lock lock(mutex);
  MAY_FAIL();
  const CUlaunchConfig& c = *config;
  if (!is_usable(c.hStream) || function == nullptr) return misuse(CUDA_ERROR_INVALID_HANDLE);
  const uint64_t threads = uint64_t{c.blockDimX} * c.blockDimY * c.blockDimZ;
  bool fits = c.gridDimX >= 1 && c.gridDimX <= INT32_MAX && c.gridDimY >= 1 && c.gridDimY <= 65535 && c.gridDimZ >= 1 && c.gridDimZ <= 65535 &&
              threads >= 1 && threads <= 1024 && c.sharedMemBytes <= static_cast<unsigned>(kSharedMemory);
  for (unsigned i = 0; i < c.numAttrs; ++i) {
    if (c.attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
      const unsigned cluster = c.attrs[i].value.clusterDim.x;
      fits = fits && cluster >= 1 && cluster <= 16 && c.gridDimX % cluster == 0;
    }
  }
  if (!fits) return misuse(CUDA_ERROR_INVALID_VALUE);
  return submit(c.hStream, [] { ++launches; });
}

// The limits that the driver's manual states.
EXPORTED CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* extents,
                                         const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave,
                                         CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const Lock lock(mutex);
  MAY_FAIL();
  const size_t inner = box[0] * element_bytes(type);
  const size_t widest = swizzle == CU_TENSOR_MAP_SWIZZLE_32B    ? 32
                        : swizzle == CU_TENSOR_MAP_SWIZZLE_64B  ? 64
                        : swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128
                                                                : SIZE_MAX;
  bool right = rank >= 1 && rank <= 5 && reinterpret_cast<uintptr_t>(address) % 16 == 0 && address != nullptr && inner % 16 == 0 && inner <= widest;
  for (cuuint32_t i = 0; right && i < rank; ++i) {
    right = extents[i] >= 1 && extents[i] <= uint64_t{1} << 32 && box[i] >= 1 && box[i] <= 256 && steps[i] >= 1 && steps[i] <= 8 &&
            (i == 0 || (strides[i - 1] % 16 == 0 && strides[i - 1] < uint64_t{1} << 40));
  }
  if (!right) return misuse(CUDA_ERROR_INVALID_VALUE);
  std::memset(map, 0, sizeof *map);
  return CUDA_SUCCESS;
}
