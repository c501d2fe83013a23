// Failures inside the library are C++ exceptions; `guarded` turns them into a status and the caller's h4j_error at the C boundary.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "hopper4j.h"

namespace h4j {

struct Failure {
  h4j_status status = H4J_INTERNAL;
  const char* operation = "";
  std::string argument;
  std::string got;
  std::string allowed;
  std::string message;  // made from the parts above where empty
  int32_t cuda_code = 0;
  bool sticky = false;
  int64_t requested_bytes = 0;
  int64_t free_bytes = -1;
};

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

[[noreturn]] void fail(h4j_status status, const char* operation, const char* argument, std::string got, std::string allowed);

// The caller's mistake: "gemm: k: got 120, need a multiple of 16".
[[noreturn]] inline void invalid(const char* operation, const char* argument, std::string got, std::string allowed) {
  fail(H4J_INVALID_ARGUMENT, operation, argument, std::move(got), std::move(allowed));
}

void write_error(const Failure& failure, h4j_error* error) noexcept;

// Runs `body`, which returns nothing or a status, and lets no exception out.
template <class Body>
h4j_status guarded(const char* operation, h4j_error* error, Body&& body) noexcept {
  try {
    if constexpr (std::is_void_v<decltype(body())>) {
      body();
      return H4J_OK;
    } else {
      return body();
    }
  } catch (const Failure& failure) {
    Failure named = failure;
    if (named.operation[0] == '\0') named.operation = operation;
    write_error(named, error);
    return named.status;
  } catch (const std::bad_alloc&) {
    Failure failure;
    failure.operation = operation;
    failure.argument = "host memory";
    failure.got = "an allocation failed";
    failure.allowed = "more host memory";
    write_error(failure, error);
    return failure.status;
  } catch (const std::exception& exception) {
    Failure failure;
    failure.operation = operation;
    failure.argument = "internal";
    failure.got = exception.what();
    failure.allowed = "no exception here";
    write_error(failure, error);
    return failure.status;
  }
}

template <class T>
T& require_handle(T* handle, const char* operation, const char* argument) {
  if (handle == nullptr) invalid(operation, argument, "null", "a live handle");
  return *handle;
}

template <class T>
T& require_output(T* output, const char* operation, const char* argument) {
  if (output == nullptr) invalid(operation, argument, "null", "an address to write to");
  return *output;
}

// The caller's struct in this library's form: fields that an older caller does not know are 0.
template <class T>
T read_struct(const T* source, const char* operation, const char* argument) {
  if (source == nullptr) invalid(operation, argument, "null", "an address of a struct");
  if (source->struct_size < 2 * sizeof(uint32_t) || source->struct_size > 1u << 16) {
    invalid(operation, argument, format("struct_size %u", source->struct_size), format("the struct's size, %zu in this version", sizeof(T)));
  }
  T copy{};
  std::memcpy(&copy, source, source->struct_size < sizeof(T) ? source->struct_size : sizeof(T));
  copy.struct_size = sizeof(T);
  return copy;
}

// Fills as much of the caller's struct as the caller knows.
template <class T>
void write_struct(T value, T* target, const char* operation, const char* argument) {
  if (target == nullptr) invalid(operation, argument, "null", "an address of a struct");
  const uint32_t size = target->struct_size;
  if (size < 2 * sizeof(uint32_t) || size > 1u << 16) {
    invalid(operation, argument, format("struct_size %u", size), format("the struct's size, %zu in this version", sizeof(T)));
  }
  value.struct_size = size;
  std::memcpy(target, &value, size < sizeof(T) ? size : sizeof(T));
}

}  // namespace h4j
