// With H4J_HOLD_DEVICES set, every device stays open through all tests. Its context is then made once and not for each test: under a tool that takes seconds, and
// longer beside other processes that do the same.
#include <cstdlib>

#include "testing/gpu.h"

namespace h4j::testing {
namespace {

class HeldDevices : public ::testing::Environment {
 public:
  void SetUp() override {
    Error error;
    int32_t count = 0;
    if (std::getenv("H4J_HOLD_DEVICES") == nullptr || h4j_device_count(&count, &error) != H4J_OK) return;
    for (int32_t i = 0; i < count; ++i) {
      h4j_device* device = nullptr;
      if (h4j_device_open(i, &device, &error) == H4J_OK) devices_.push_back(device);
    }
  }

  void TearDown() override {
    Error error;
    for (h4j_device* device : devices_) EXPECT_EQ(H4J_OK, h4j_device_close(device, &error)) << error.message;
    devices_.clear();
  }

 private:
  std::vector<h4j_device*> devices_;
};

[[maybe_unused]] const ::testing::Environment* const held = ::testing::AddGlobalTestEnvironment(new HeldDevices);

}  // namespace
}  // namespace h4j::testing
