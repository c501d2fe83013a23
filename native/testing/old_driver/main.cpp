// Run with the driver of this folder first on the library path: ends with 0 where the library says that it is too old, and what is needed.
#include <cstdio>
#include <cstring>

#include "hopper4j.h"

int main() {
  h4j_error error{};
  error.struct_size = sizeof error;
  int32_t version = 0;
  int32_t count = -1;
  h4j_device* device = nullptr;
  const bool right =
      h4j_driver_version(&version, &error) == H4J_OK && version == 12040 && h4j_device_count(&count, &error) == H4J_OK && count == 0 &&
      h4j_device_open(0, &device, &error) == H4J_NO_DRIVER && device == nullptr &&
      std::strcmp(error.message, "device_open: driver: got one for CUDA 12.4, need an NVIDIA driver of release 580 or newer (CUDA 13.0)") == 0;
  std::printf("version %d, devices %d, error \"%s\"\n", version, count, error.message);
  return right ? 0 : 1;
}
