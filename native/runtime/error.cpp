#include "runtime/error.h"

#include <cstddef>
#include <cstdio>

namespace h4j {

std::string format(const char* pattern, ...) {
  char text[1024];
  va_list values;
  va_start(values, pattern);
  std::vsnprintf(text, sizeof text, pattern, values);
  va_end(values);
  return text;
}

void fail(h4j_status status, const char* operation, const char* argument, std::string got, std::string allowed) {
  Failure failure;
  failure.status = status;
  failure.operation = operation;
  failure.argument = argument;
  failure.got = std::move(got);
  failure.allowed = std::move(allowed);
  throw failure;
}

void write_error(const Failure& failure, h4j_error* error) noexcept {
  if (error == nullptr) return;
  const uint32_t size = error->struct_size;
  if (size < offsetof(h4j_error, operation) || size > 1u << 16) return;
  h4j_error full{};
  full.struct_size = size;
  full.status = failure.status;
  full.cuda_code = failure.cuda_code;
  full.sticky = failure.sticky ? 1 : 0;
  full.requested_bytes = failure.requested_bytes;
  full.free_bytes = failure.free_bytes;
  std::snprintf(full.operation, sizeof full.operation, "%s", failure.operation);
  std::snprintf(full.argument, sizeof full.argument, "%s", failure.argument.c_str());
  std::snprintf(full.got, sizeof full.got, "%s", failure.got.c_str());
  std::snprintf(full.allowed, sizeof full.allowed, "%s", failure.allowed.c_str());
  if (failure.message.empty()) {
    std::snprintf(full.message, sizeof full.message, "%s: %s: got %s, need %s", failure.operation, failure.argument.c_str(), failure.got.c_str(),
                  failure.allowed.c_str());
  } else {
    std::snprintf(full.message, sizeof full.message, "%s", failure.message.c_str());
  }
  std::memcpy(error, &full, size < sizeof full ? size : sizeof full);
}

}  // namespace h4j
