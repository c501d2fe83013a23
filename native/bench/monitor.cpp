#include "bench/monitor.h"

#include <algorithm>
#include <chrono>

#include "bench/open.h"

namespace h4j::bench {
namespace {

// From the NVML documentation.
constexpr int kSmClock = 1;
constexpr int kMemoryClock = 2;
constexpr int kGpuTemperature = 0;
constexpr unsigned kPowerInstant = 186;  // NVML_FI_DEV_POWER_INSTANT, mW; nvmlDeviceGetPowerUsage averages over a second
constexpr int kInsufficientSize = 7;
constexpr auto kInterval = std::chrono::milliseconds(5);

struct FieldValue {  // nvmlFieldValue_t
  unsigned field;
  unsigned scope;
  long long timestamp;
  long long latency;
  int value_type;
  int result;
  union {
    double d;
    unsigned ui;
    unsigned long long ull;
  } value;
};

struct ProcessInfo {  // nvmlProcessInfo_t
  unsigned pid;
  unsigned long long memory;
  unsigned gpu_instance;
  unsigned compute_instance;
};

struct Nvml {
  int (*init)();
  int (*by_bus_id)(const char*, void**);
  int (*clock)(void*, int, unsigned*);
  int (*power)(void*, unsigned*);
  int (*power_limit)(void*, unsigned*);
  int (*fields)(void*, int, FieldValue*);
  int (*temperature)(void*, int, unsigned*);
  int (*throttle)(void*, unsigned long long*);
  int (*processes)(void*, unsigned*, ProcessInfo*);
  int (*release)(char*, unsigned);
  std::string problem;
};

Nvml open_nvml() {
  Nvml opened{};
  const Opened library = open_library({"libnvidia-ml.so.1"});
  if (library.library == nullptr) {
    opened.problem = "NVML: " + library.problem;
    return opened;
  }
  const struct {
    const char* name;
    void* slot;
  } functions[] = {{"nvmlInit_v2", &opened.init},
                   {"nvmlDeviceGetHandleByPciBusId_v2", &opened.by_bus_id},
                   {"nvmlDeviceGetClockInfo", &opened.clock},
                   {"nvmlDeviceGetPowerUsage", &opened.power},
                   {"nvmlDeviceGetEnforcedPowerLimit", &opened.power_limit},
                   {"nvmlDeviceGetFieldValues", &opened.fields},
                   {"nvmlDeviceGetTemperature", &opened.temperature},
                   {"nvmlDeviceGetCurrentClocksThrottleReasons", &opened.throttle},
                   {"nvmlDeviceGetComputeRunningProcesses_v3", &opened.processes},
                   {"nvmlSystemGetDriverVersion", &opened.release}};
  for (const auto& function : functions) {
    if (!find_function(library.library, function.name, function.slot)) {
      opened.problem = "NVML: " + library.path + " has no " + function.name;
      return opened;
    }
  }
  if (const int result = opened.init(); result != 0) opened.problem = "NVML: nvmlInit_v2 answered " + std::to_string(result);
  return opened;
}

const Nvml& nvml() {
  static const Nvml opened = open_nvml();
  return opened;
}

int median(std::vector<unsigned>& values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return static_cast<int>(*middle);
}

}  // namespace

Monitor::~Monitor() {
  h4j_bench_sample ignored;
  stop(ignored);
}

std::string Monitor::start(const char* pci_bus_id) {
  if (!nvml().problem.empty()) return nvml().problem;
  if (thread_.joinable()) return "monitor: it is already running";
  void* device = nullptr;
  if (const int result = nvml().by_bus_id(pci_bus_id, &device); result != 0) {
    return std::string("NVML: no device ") + pci_bus_id + ": " + std::to_string(result);
  }
  sm_clocks_.clear();
  memory_clocks_.clear();
  watts_.clear();
  celsius_ = 0;
  other_processes_ = -1;
  throttle_reasons_ = 0;
  unsigned limit = 0;
  watts_limit_ = nvml().power_limit(device, &limit) == 0 ? static_cast<int>(limit / 1000) : 0;
  stopping_ = false;
  thread_ = std::thread([this, device] { run(device); });
  return "";
}

void Monitor::run(void* device) {
  ProcessInfo processes[64];
  while (!stopping_) {
    unsigned value = 0;
    if (nvml().clock(device, kSmClock, &value) == 0) sm_clocks_.push_back(value);
    if (nvml().clock(device, kMemoryClock, &value) == 0) memory_clocks_.push_back(value);
    FieldValue power{};
    power.field = kPowerInstant;
    if (nvml().fields(device, 1, &power) == 0 && power.result == 0) {
      watts_.push_back(power.value.ui / 1000);
    } else if (nvml().power(device, &value) == 0) {
      watts_.push_back(value / 1000);
    }
    if (nvml().temperature(device, kGpuTemperature, &value) == 0) celsius_ = std::max(celsius_, static_cast<int>(value));
    unsigned long long reasons = 0;
    if (nvml().throttle(device, &reasons) == 0) throttle_reasons_ |= reasons;
    unsigned count = 64;
    if (const int result = nvml().processes(device, &count, processes); result == 0 || result == kInsufficientSize) {
      other_processes_ = std::max(other_processes_, static_cast<int>(count) - 1);  // this one is among them
    }
    std::this_thread::sleep_for(kInterval);
  }
}

std::string Monitor::stop(h4j_bench_sample& sample) {
  sample = {};
  sample.other_processes = -1;
  if (!thread_.joinable()) return "monitor: it is not running";
  stopping_ = true;
  thread_.join();
  sample.samples = static_cast<int32_t>(sm_clocks_.size());
  sample.sm_clock_mhz = median(sm_clocks_);
  sample.sm_clock_min_mhz = sm_clocks_.empty() ? 0 : static_cast<int32_t>(*std::min_element(sm_clocks_.begin(), sm_clocks_.end()));
  sample.memory_clock_mhz = median(memory_clocks_);
  sample.watts = median(watts_);
  sample.watts_max = watts_.empty() ? 0 : static_cast<int32_t>(*std::max_element(watts_.begin(), watts_.end()));
  sample.celsius = celsius_;
  sample.other_processes = other_processes_;
  sample.throttle_reasons = throttle_reasons_;
  sample.watts_limit = watts_limit_;
  return "";
}

std::string driver_release(std::string& problem) {
  problem = nvml().problem;
  if (!problem.empty()) return "";
  char text[128] = "";
  if (const int result = nvml().release(text, sizeof(text)); result != 0) {
    problem = "NVML: nvmlSystemGetDriverVersion answered " + std::to_string(result);
    return "";
  }
  return text;
}

}  // namespace h4j::bench
