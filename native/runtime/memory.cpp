#include "runtime/handles.h"

using namespace h4j;

namespace {

void require_bytes(int64_t bytes, const char* operation, const char* argument) {
  if (bytes < 0) invalid(operation, argument, format("%lld", static_cast<long long>(bytes)), ">= 0");
}

[[noreturn]] void out_of_memory(const char* operation, int64_t bytes) {
  size_t available = 0;
  size_t total = 0;
  Failure failure;
  failure.status = H4J_OUT_OF_DEVICE_MEMORY;
  failure.operation = operation;
  failure.argument = "bytes";
  failure.cuda_code = CUDA_ERROR_OUT_OF_MEMORY;
  failure.requested_bytes = bytes;
  failure.got = format("%lld", static_cast<long long>(bytes));
  failure.allowed = "less than is free";
  if (driver().cuMemGetInfo(&available, &total) == CUDA_SUCCESS) {
    failure.free_bytes = static_cast<int64_t>(available);
    failure.allowed = format("at most what is free, %zu of %zu bytes", available, total);
  }
  throw failure;
}

}  // namespace

h4j_status h4j_memory_allocate(h4j_stream* stream, int64_t bytes, uint64_t* address, h4j_error* error) {
  return guarded("memory_allocate", error, [&] {
    uint64_t& out = require_output(address, "memory_allocate", "address");
    out = 0;
    const h4j_stream& target = require_handle(stream, "memory_allocate", "stream");
    require_bytes(bytes, "memory_allocate", "bytes");
    if (bytes == 0) return;
    const ScopedContext current(target.context);
    // More than the card has can never succeed, and the driver takes its time to say so.
    if (bytes > target.device->info.memory_bytes) out_of_memory("memory_allocate", bytes);
    CUdeviceptr allocated = 0;
    CUresult result = driver().cuMemAllocFromPoolAsync(&allocated, static_cast<size_t>(bytes), target.device->pool, target.stream);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
      // What the pool caches may be in pieces too small for this request.
      driver().cuMemPoolTrimTo(target.device->pool, 0);
      result = driver().cuMemAllocFromPoolAsync(&allocated, static_cast<size_t>(bytes), target.device->pool, target.stream);
    }
    if (result == CUDA_ERROR_OUT_OF_MEMORY) out_of_memory("memory_allocate", bytes);
    check(result, "cuMemAllocFromPoolAsync");
    out = allocated;
  });
}

h4j_status h4j_memory_free(h4j_stream* stream, uint64_t address, h4j_error* error) {
  return guarded("memory_free", error, [&] {
    const h4j_stream& target = require_handle(stream, "memory_free", "stream");
    if (address == 0) return;
    const ScopedContext current(target.context);
    check(driver().cuMemFreeAsync(address, target.stream), "cuMemFreeAsync");
  });
}

h4j_status h4j_host_allocate(h4j_device* device, int64_t bytes, void** address, h4j_error* error) {
  return guarded("host_allocate", error, [&] {
    void*& out = require_output(address, "host_allocate", "address");
    out = nullptr;
    const h4j_device& opened = require_handle(device, "host_allocate", "device");
    require_bytes(bytes, "host_allocate", "bytes");
    if (bytes == 0) return;
    const ScopedContext current(opened.primary);
    check(driver().cuMemHostAlloc(&out, static_cast<size_t>(bytes), CU_MEMHOSTALLOC_PORTABLE), "cuMemHostAlloc");
  });
}

h4j_status h4j_host_free(h4j_device* device, void* address, h4j_error* error) {
  return guarded("host_free", error, [&] {
    const h4j_device& opened = require_handle(device, "host_free", "device");
    if (address == nullptr) return;
    const ScopedContext current(opened.primary);
    check(driver().cuMemFreeHost(address), "cuMemFreeHost");
  });
}

h4j_status h4j_copy(h4j_stream* stream, uint64_t destination, uint64_t source, int64_t bytes, h4j_error* error) {
  return guarded("copy", error, [&] {
    const h4j_stream& target = require_handle(stream, "copy", "stream");
    require_bytes(bytes, "copy", "bytes");
    if (bytes == 0) return;
    if (destination == 0) invalid("copy", "destination", "0", "an address");
    if (source == 0) invalid("copy", "source", "0", "an address");
    const ScopedContext current(target.context);
    check(driver().cuMemcpyAsync(destination, source, static_cast<size_t>(bytes), target.stream), "cuMemcpyAsync");
  });
}

h4j_status h4j_copy_2d(h4j_stream* stream, uint64_t destination, int64_t destination_pitch, uint64_t source, int64_t source_pitch, int64_t row_bytes,
                       int64_t rows, h4j_error* error) {
  return guarded("copy_2d", error, [&] {
    const h4j_stream& target = require_handle(stream, "copy_2d", "stream");
    require_bytes(row_bytes, "copy_2d", "row_bytes");
    require_bytes(rows, "copy_2d", "rows");
    if (row_bytes == 0 || rows == 0) return;
    if (destination == 0) invalid("copy_2d", "destination", "0", "an address");
    if (source == 0) invalid("copy_2d", "source", "0", "an address");
    const auto pitch = [&](int64_t value, const char* argument) {
      if (value < row_bytes) {
        invalid("copy_2d", argument, format("%lld", static_cast<long long>(value)), format(">= row_bytes, %lld", static_cast<long long>(row_bytes)));
      }
      return static_cast<size_t>(value);
    };
    CUDA_MEMCPY2D copy{};
    copy.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy.srcDevice = source;
    copy.srcPitch = pitch(source_pitch, "source_pitch");
    copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy.dstDevice = destination;
    copy.dstPitch = pitch(destination_pitch, "destination_pitch");
    copy.WidthInBytes = static_cast<size_t>(row_bytes);
    copy.Height = static_cast<size_t>(rows);
    const ScopedContext current(target.context);
    check(driver().cuMemcpy2DAsync(&copy, target.stream), "cuMemcpy2DAsync");
  });
}

h4j_status h4j_fill(h4j_stream* stream, uint64_t address, int32_t byte_value, int64_t bytes, h4j_error* error) {
  return guarded("fill", error, [&] {
    const h4j_stream& target = require_handle(stream, "fill", "stream");
    require_bytes(bytes, "fill", "bytes");
    if (byte_value < 0 || byte_value > 255) invalid("fill", "byte_value", format("%d", byte_value), "0..255");
    if (bytes == 0) return;
    if (address == 0) invalid("fill", "address", "0", "an address");
    const ScopedContext current(target.context);
    check(driver().cuMemsetD8Async(address, static_cast<unsigned char>(byte_value), static_cast<size_t>(bytes), target.stream), "cuMemsetD8Async");
  });
}
