// Drives every operation that a `<x>_fuzz.cpp` describes, and the runtime's functions. Environment:
//   H4J_FUZZ_CALLS  calls to make, 100000 if not set
//   H4J_FUZZ_SEED   of the first round; a failure names the seed of its round, which repeats it as the first
#include <dlfcn.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "testing/fuzz/fuzz.h"
#include "testing/gpu.h"
#include "testing/stand_in/stand_in.h"

namespace h4j::fuzz {
namespace {

using testing::Error;

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

// The controls of the stand-in driver; null on a machine with a real one.
struct StandIn {
  decltype(&h4j_stand_in_fail) fail = nullptr;
  decltype(&h4j_stand_in_live) live = nullptr;
  decltype(&h4j_stand_in_misuses) misuses = nullptr;
  StandIn() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == nullptr) return;
    fail = reinterpret_cast<decltype(fail)>(dlsym(library, "h4j_stand_in_fail"));
    live = reinterpret_cast<decltype(live)>(dlsym(library, "h4j_stand_in_live"));
    misuses = reinterpret_cast<decltype(misuses)>(dlsym(library, "h4j_stand_in_misuses"));
  }
  explicit operator bool() const { return fail != nullptr; }
};

int64_t read(const void* base, const Field& field) {
  const auto* at = static_cast<const char*>(base) + field.offset;
  switch (field.type) {
    case Type::kInt32: {
      int32_t value = 0;
      std::memcpy(&value, at, sizeof value);
      return value;
    }
    case Type::kUint32:
    case Type::kFloat: {
      uint32_t value = 0;
      std::memcpy(&value, at, sizeof value);
      return value;
    }
    default: {
      int64_t value = 0;
      std::memcpy(&value, at, sizeof value);
      return value;
    }
  }
}

void write(void* base, const Field& field, int64_t value) { std::memcpy(static_cast<char*>(base) + field.offset, &value, field.size); }

float as_float(int64_t bits) {
  const auto word = static_cast<uint32_t>(bits);
  float value = 0;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

int64_t bits_of(float value) {
  uint32_t word = 0;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

bool allows(const Rule& rule, int64_t value) {
  switch (rule.kind) {
    case Rule::Kind::kAny:
      return true;
    case Rule::Kind::kRange:
      return value >= rule.low && value <= rule.high && value % rule.multiple == 0;
    case Rule::Kind::kOneOf:
      return std::find(rule.values.begin(), rule.values.end(), value) != rule.values.end();
    case Rule::Kind::kAddress:
      return value == 0 ? rule.optional
                        : static_cast<uint64_t>(value) < kAddressEnd && static_cast<uint64_t>(value) % static_cast<uint64_t>(rule.multiple) == 0;
    case Rule::Kind::kPositiveFloat:
      return std::isfinite(as_float(value)) && (rule.optional ? as_float(value) >= 0 : as_float(value) > 0);
  }
  return false;
}

Rule rule_of(const Field& field, const void* spec, const void* args, const h4j_plan_info& plan) {
  Rule rule = field.rule(spec, args, plan);
  if (field.type == Type::kInt32) rule.high = std::min<int64_t>(rule.high, INT32_MAX);
  return rule;
}

// A value that the rule allows; `large`: now and then one from the far end of a range.
int64_t draw(const Rule& rule, Random& random, Memory& memory, bool large) {
  switch (rule.kind) {
    case Rule::Kind::kAny:
      return static_cast<int64_t>(random.bits());
    case Rule::Kind::kRange: {
      const int64_t highest = rule.high / rule.multiple * rule.multiple;
      if (highest < rule.low) return rule.low;  // earlier fields leave no right value
      const int64_t everyday = std::min(rule.reach, (highest - rule.low) / rule.multiple);
      if (large && random.once_in(6)) return highest - rule.multiple * random.between(0, everyday);
      return rule.low + rule.multiple * (random.once_in(4) ? 0 : random.between(0, everyday));
    }
    case Rule::Kind::kOneOf:
      return random.pick(rule.values);
    case Rule::Kind::kAddress:
      return rule.optional && random.once_in(2) ? 0 : static_cast<int64_t>(memory.next(rule.multiple, random));
    case Rule::Kind::kPositiveFloat:
      return bits_of(static_cast<float>(random.between(1, 1000)) * 1e-3f);
  }
  return 0;
}

constexpr int64_t kTelling[] = {0,
                                -1,
                                1,
                                2,
                                3,
                                5,
                                7,
                                8,
                                12,
                                127,
                                128,
                                129,
                                INT32_MAX,
                                INT32_MIN,
                                INT64_MAX,
                                INT64_MIN,
                                INT32_MAX - 255,
                                INT32_MAX - 254,
                                1 << 20,
                                int64_t{1} << 40};
constexpr float kTellingFloats[] = {0.0f, -0.0f, -1.0f, INFINITY, -INFINITY, NAN, 1e38f, 1e-45f};

// Any value that fits the field, telling ones most of the time.
int64_t wild(const Field& field, Random& random) {
  if (field.type == Type::kFloat) return bits_of(random.pick(kTellingFloats));
  const int64_t value = random.once_in(4) ? static_cast<int64_t>(random.bits()) : random.pick(kTelling);
  return field.type == Type::kInt32    ? static_cast<int32_t>(value)
         : field.type == Type::kUint32 ? static_cast<int64_t>(static_cast<uint32_t>(value))
                                       : value;
}

// A value near `value` or telling, which the rule forbids; false where nothing is forbidden.
bool spoil(const Rule& rule, const Field& field, int64_t value, Random& random, int64_t& spoiled) {
  for (int attempt = 0; attempt < 40; ++attempt) {
    int64_t candidate = wild(field, random);
    if (rule.kind == Rule::Kind::kAddress && rule.multiple > 1 && value != 0 && !random.once_in(3))
      candidate = value + random.between(1, rule.multiple - 1);
    if (rule.kind == Rule::Kind::kRange && random.once_in(2))
      candidate = random.once_in(2) ? rule.low - rule.multiple : value + (value < INT64_MAX ? 1 : 0);
    if (field.type == Type::kInt32) candidate = static_cast<int32_t>(candidate);
    if (!allows(rule, candidate)) {
      spoiled = candidate;
      return true;
    }
  }
  return false;
}

// A caller's struct with bytes behind it that nobody may touch.
struct Struct {
  explicit Struct(size_t struct_size) : bytes(struct_size), size(struct_size) {
    bytes.resize(size + 64, char(0x5A));
    set_size(static_cast<uint32_t>(size));
  }
  void set_size(uint32_t value) { std::memcpy(bytes.data(), &value, sizeof value); }
  void* data() { return bytes.data(); }
  const void* data() const { return bytes.data(); }
  std::vector<char> bytes;
  size_t size;
};

// The struct as a library sees it whose caller knows its first `known` bytes only.
Struct as_seen(const Struct& given, size_t known) {
  Struct seen = given;
  if (known < seen.size) std::memset(seen.bytes.data() + known, 0, seen.size - known);
  return seen;
}

struct Device {
  h4j_device* device = nullptr;
  h4j_stream* stream = nullptr;
  h4j_device_info info{};
};

class Fuzz : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* names[] = {"H100-SXM", "H800-SXM", "H200-SXM", "H100-PCIe", "H20"};
    for (const char* name : names) {
      h4j_device_info info{};
      info.struct_size = sizeof info;
      H4J_ASSERT_OK(h4j_device_describe(name, &info, &error));
      described_.push_back(info);
    }
    seed_ = from_environment("H4J_FUZZ_SEED", 20261125);
    wanted_ = static_cast<int64_t>(from_environment("H4J_FUZZ_CALLS", 100000));
  }

  // Rounds over all operations until enough calls were made, or one was answered wrongly.
  void run(const Device* opened) {
    ASSERT_FALSE(operations().empty());
    const auto start = std::chrono::steady_clock::now();
#ifndef __SANITIZE_ADDRESS__  // whose reports must be seen
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
#endif
    for (uint64_t seed = seed_; calls_ < wanted_ && !HasFailure(); ++seed) {
      SCOPED_TRACE(format("H4J_FUZZ_SEED=%llu", static_cast<unsigned long long>(seed)));
      random_ = Random(seed);
      round(operations()[seed % operations().size()], opened);
    }
#ifndef __SANITIZE_ADDRESS__
    const std::string printed = ::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr();
    if (HasFailure()) {
      std::fputs(printed.c_str(), stdout);  // GoogleTest's words, not the library's
    } else {
      EXPECT_EQ("", printed) << "the library printed";
    }
#endif
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const int64_t least = HasFailure() ? -1 : wanted_ / 10000;  // a run that failed was short
    for (const Operation& operation : operations()) EXPECT_GT(planned_[operation.name], least) << "hardly ever planned: " << operation.name;
    std::printf("fuzz: seed %llu, %lld calls in %.1f s:", static_cast<unsigned long long>(seed_), static_cast<long long>(calls_), seconds.count());
    for (const auto& [status, count] : statuses_) std::printf(" status %d: %lld", status, static_cast<long long>(count));
    std::printf("\n");
  }

  void round(const Operation& operation, const Device* opened) {
    SCOPED_TRACE(operation.name);
    const h4j_device_info info = opened != nullptr ? opened->info : random_.pick(described_);
    plan_rightly_and_wrongly(operation, info);
    if (opened != nullptr) {
      for (const Binding& binding : operation.bindings) {
        SCOPED_TRACE(binding.operation);
        bind_rightly_and_wrongly(operation, binding, *opened);
      }
    }
  }

  // ---- Calls and their answers ---------------------------------------------------------------------------------------------------------------

  template <class Call>
  h4j_status call(Call&& made) {
    ++calls_;
    error_ = Error();
    const h4j_status status = made(&error_);
    ++statuses_[status];
    if (status != H4J_OK && status != H4J_NOT_READY) check_error(status);
    return status;
  }

  // An error is complete, and its sentence is made of its parts.
  void check_error(h4j_status status) {
    EXPECT_EQ(status, error_.status);
    EXPECT_STRNE("", error_.operation);
    EXPECT_STRNE("", error_.argument);
    EXPECT_STRNE("", error_.got);
    EXPECT_STRNE("", error_.allowed);
    const std::string sentence = format("%s: %s: got %s, need %s", error_.operation, error_.argument, error_.got, error_.allowed);
    EXPECT_EQ(sentence.substr(0, sizeof error_.message - 1), error_.message);
    EXPECT_TRUE(status == H4J_DEVICE_ERROR || status == H4J_OUT_OF_DEVICE_MEMORY || error_.cuda_code == 0) << error_.message;
  }

  template <class Call>
  void expect_ok(const std::string& what, Call&& made) {
    EXPECT_EQ(H4J_OK, call(made)) << what << ": " << error_.message;
  }

  // The field named is wrong, or a right one that this library cannot serve.
  static bool is_refusal(h4j_status status) { return status == H4J_INVALID_ARGUMENT || status == H4J_UNSUPPORTED; }

  template <class Call>
  void expect_blamed(const char* operation, const char* argument, const std::string& what, Call&& made) {
    const h4j_status status = call(made);
    EXPECT_TRUE(is_refusal(status)) << what << ": " << error_.message;
    if (status == H4J_OK) return;
    EXPECT_STREQ(operation, error_.operation) << what << ": " << error_.message;
    EXPECT_STREQ(argument, error_.argument) << what << ": " << error_.message;
  }

  // ---- Structs -------------------------------------------------------------------------------------------------------------------------------

  static bool is_field(const std::vector<Field>& fields, const std::string& name) {
    return std::any_of(fields.begin(), fields.end(), [&](const Field& field) { return name == field.name; });
  }

  static std::string shown(const std::vector<Field>& fields, const Struct& object) {
    std::string text;
    for (const Field& field : fields) text += format(" %s=%lld", field.name, static_cast<long long>(read(object.data(), field)));
    return text;
  }

  Struct valid(const std::vector<Field>& fields, size_t size, const Struct* spec, const h4j_plan_info& plan, bool large) {
    Struct made(size);
    memory_.restart();
    for (const Field& field : fields) {
      write(made.data(), field, draw(rule_of(field, spec != nullptr ? spec->data() : made.data(), made.data(), plan), random_, memory_, large));
    }
    return made;
  }

  // Every field spoiled alone, and the struct's size.
  template <class Call>
  void spoil_each(const char* operation, const char* name, const std::vector<Field>& fields, const Struct& right, const Struct* spec,
                  const h4j_plan_info& plan, Call&& made) {
    for (const Field& field : fields) {
      Struct wrong = right;
      int64_t value = 0;
      const Rule rule = rule_of(field, spec != nullptr ? spec->data() : right.data(), right.data(), plan);
      if (!spoil(rule, field, read(right.data(), field), random_, value)) continue;
      write(wrong.data(), field, value);
      expect_blamed(operation, field.name, format("%s spoiled in", field.name) + shown(fields, wrong),
                    [&](h4j_error* error) { return made(wrong.data(), error); });
    }
    Struct wrong = right;
    wrong.set_size(random_.once_in(2) ? static_cast<uint32_t>(random_.between(0, 7)) : static_cast<uint32_t>(random_.between(65537, UINT32_MAX)));
    expect_blamed(operation, name, "struct_size", [&](h4j_error* error) { return made(wrong.data(), error); });
    expect_blamed(operation, name, "null", [&](h4j_error* error) { return made(nullptr, error); });
  }

  // Several fields wild at once, now and then from an older caller: success only where every rule holds, else a field that breaks its rule is named.
  template <class Call>
  void go_wild(const char* operation, const std::vector<Field>& fields, const Struct& right, const Struct* spec, const h4j_plan_info& plan,
               const std::vector<const char*>& blamed_together, Call&& made) {
    Struct given = right;
    for (const Field& field : fields) {
      if (random_.once_in(3)) write(given.data(), field, wild(field, random_));
    }
    const size_t known = random_.once_in(4) ? static_cast<size_t>(random_.between(8, static_cast<int64_t>(given.size))) : given.size;
    given.set_size(static_cast<uint32_t>(known));
    const Struct seen = as_seen(given, known);
    std::vector<std::string> broken;
    for (const Field& field : fields) {
      if (!allows(rule_of(field, spec != nullptr ? spec->data() : seen.data(), seen.data(), plan), read(seen.data(), field)))
        broken.push_back(field.name);
    }
    const std::string what = "wild:" + shown(fields, seen);
    const h4j_status status = call([&](h4j_error* error) { return made(given.data(), error); });
    if (status == H4J_OK) {
      EXPECT_TRUE(broken.empty()) << what << ": accepted, though it breaks the rule of " << broken.front();
      return;
    }
    EXPECT_TRUE(is_refusal(status)) << what << ": " << error_.message;
    EXPECT_STREQ(operation, error_.operation) << what;
    if (status == H4J_UNSUPPORTED) {
      EXPECT_TRUE(is_field(fields, error_.argument)) << what << ": " << error_.message;
    } else if (broken.empty()) {
      EXPECT_TRUE(std::any_of(blamed_together.begin(), blamed_together.end(), [&](const char* name) { return error_.argument == std::string(name); }))
          << what << ": refused, though every rule holds: " << error_.message;
    } else {
      const bool named = std::find(broken.begin(), broken.end(), error_.argument) != broken.end() ||
                         std::find(blamed_together.begin(), blamed_together.end(), std::string(error_.argument)) != blamed_together.end();
      EXPECT_TRUE(named) << what << ": blames a field that is right: " << error_.message;
    }
  }

  // ---- Planning ------------------------------------------------------------------------------------------------------------------------------

  void plan_rightly_and_wrongly(const Operation& operation, const h4j_device_info& device) {
    const auto plan_with = [&](const void* spec, h4j_error* error) {
      h4j_plan* plan = nullptr;
      const h4j_status status = operation.plan(&device, spec, &plan, error);
      EXPECT_EQ(status == H4J_OK, plan != nullptr);
      EXPECT_EQ(H4J_OK, h4j_plan_close(plan, nullptr));
      return status;
    };
    const Struct spec = valid(operation.fields, operation.spec_size, nullptr, {}, false);
    h4j_plan* plan = nullptr;
    const h4j_status planned = call([&](h4j_error* error) { return operation.plan(&device, spec.data(), &plan, error); });
    EXPECT_TRUE(planned == H4J_OK || (planned == H4J_UNSUPPORTED && is_field(operation.fields, error_.argument)))
        << shown(operation.fields, spec) << ": " << error_.message;
    if (plan == nullptr) return;
    ++planned_[operation.name];
    describe(plan);
    expect_ok("close", [&](h4j_error* error) { return h4j_plan_close(plan, error); });

    spoil_each(operation.name, "spec", operation.fields, spec, nullptr, {}, plan_with);
    for (int i = 0; i < 4; ++i) go_wild(operation.name, operation.fields, spec, nullptr, {}, operation.blamed_together, plan_with);

    // Sizes from the far end: planned, or refused for what they give together.
    const Struct large = valid(operation.fields, operation.spec_size, nullptr, {}, true);
    const h4j_status status = call([&](h4j_error* error) { return plan_with(large.data(), error); });
    if (status == H4J_INVALID_ARGUMENT) {
      EXPECT_TRUE(std::any_of(operation.blamed_together.begin(), operation.blamed_together.end(),
                              [&](const char* name) { return error_.argument == std::string(name); }))
          << shown(operation.fields, large) << ": " << error_.message;
    }
    expect_blamed(operation.name, "plan", "no output", [&](h4j_error* error) { return operation.plan(&device, spec.data(), nullptr, error); });
    expect_blamed(operation.name, "device", "no device", [&](h4j_error* error) {
      h4j_plan* none = nullptr;
      return operation.plan(nullptr, spec.data(), &none, error);
    });
    spoil_device(operation, device, spec);
  }

  void describe(const h4j_plan* plan) {
    Struct info(sizeof(h4j_plan_info));
    const size_t known = random_.once_in(3) ? static_cast<size_t>(random_.between(8, sizeof(h4j_plan_info))) : sizeof(h4j_plan_info);
    std::memset(info.bytes.data() + known, 0x5A, info.bytes.size() - known);
    info.set_size(static_cast<uint32_t>(known));
    expect_ok("describe", [&](h4j_error* error) { return h4j_plan_describe(plan, static_cast<h4j_plan_info*>(info.data()), error); });
    EXPECT_TRUE(std::all_of(info.bytes.begin() + static_cast<int64_t>(known), info.bytes.end(), [](char byte) { return byte == char(0x5A); }))
        << "wrote behind the " << known << " bytes that the caller knows";
    if (known < sizeof(h4j_plan_info)) return;
    h4j_plan_info full{};
    std::memcpy(&full, info.data(), sizeof full);
    EXPECT_GE(full.grid, 0);
    EXPECT_GE(full.block, 1);
    EXPECT_LE(full.block, 1024);
    EXPECT_GE(full.shared_memory, 0);
    EXPECT_GE(full.workspace_bytes, 0);
    EXPECT_GE(full.schedule_bytes, 0);
    EXPECT_STRNE("", full.kernel);
    EXPECT_STRNE("", full.explanation);
  }

  // What a device says of itself may be a lie: planning refuses, or plans, and the answer is the documented one.
  void spoil_device(const Operation& operation, const h4j_device_info& right, const Struct& spec) {
    h4j_device_info wrong = right;
    const auto plan_on = [&](h4j_error* error) {
      h4j_plan* plan = nullptr;
      const h4j_status status = operation.plan(&wrong, spec.data(), &plan, error);
      h4j_plan_close(plan, nullptr);
      return status;
    };
    wrong.compute_major = static_cast<int32_t>(random_.pick(std::array{-1, 0, 7, 8, 10, 12}));
    EXPECT_EQ(H4J_UNSUPPORTED, call(plan_on));
    EXPECT_STREQ("device.compute_capability", error_.argument);
    wrong = right;
    wrong.sm_count = static_cast<int32_t>(random_.pick(std::array{0, -1, INT32_MIN}));
    expect_blamed(operation.name, "device.sm_count", "no SMs", plan_on);
    wrong = right;
    wrong.struct_size = static_cast<uint32_t>(random_.between(0, 7));
    expect_blamed(operation.name, "device", "struct_size", plan_on);
    wrong = right;
    wrong.sm_count = static_cast<int32_t>(random_.pick(std::array{1, 2, 78, 133, 1000, INT32_MAX}));
    wrong.shared_memory_per_block = static_cast<int32_t>(random_.pick(std::array{INT32_MIN, 0, 49152, 166912, 232448, INT32_MAX}));
    wrong.l2_bytes = static_cast<int64_t>(random_.bits());
    wrong.memory_bytes = static_cast<int64_t>(random_.bits());
    wrong.sm_clock_khz = static_cast<int32_t>(random_.bits());
    wrong.nvlink_gbs = random_.pick(kTellingFloats);
    std::memset(wrong.name, 'x', sizeof wrong.name);  // no end
    const h4j_status status = call(plan_on);
    if (status == H4J_OK) return;
    EXPECT_TRUE(status == H4J_UNSUPPORTED ? std::string(error_.argument) == "device.shared_memory_per_block"
                                          : std::string(error_.argument) == "device.sm_count")
        << error_.message;
  }

  // ---- Binding and launching -----------------------------------------------------------------------------------------------------------------

  void bind_rightly_and_wrongly(const Operation& operation, const Binding& binding, const Device& on) {
    // Only the stand-in driver has memory enough for sizes from the far end.
    const bool large = stand_in_ && random_.once_in(3);
    const Struct spec = valid(operation.fields, operation.spec_size, nullptr, {}, large);
    h4j_plan* plan = nullptr;
    const h4j_status planned = call([&](h4j_error* error) { return operation.plan(&on.info, spec.data(), &plan, error); });
    EXPECT_TRUE(planned == H4J_OK || planned == H4J_UNSUPPORTED || large) << shown(operation.fields, spec) << ": " << error_.message;
    if (plan == nullptr) return;
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    expect_ok("describe", [&](h4j_error* error) { return h4j_plan_describe(plan, &info, error); });

    const Struct args = valid(binding.fields, binding.args_size, &spec, info, large);
    const auto is_right = [&](const Field& field) { return allows(rule_of(field, spec.data(), args.data(), info), read(args.data(), field)); };
    if (!std::all_of(binding.fields.begin(), binding.fields.end(), is_right)) {
      EXPECT_TRUE(large) << shown(operation.fields, spec) << " |" << shown(binding.fields, args);
      return expect_ok("close", [&](h4j_error* error) { return h4j_plan_close(plan, error); });
    }
    const std::string what = shown(operation.fields, spec) + " |" + shown(binding.fields, args);
    const auto bind_with = [&](const void* given, h4j_error* error) {
      h4j_launch* launch = nullptr;
      const h4j_status status = binding.bind(plan, on.device, given, &launch, error);
      EXPECT_EQ(status == H4J_OK, launch != nullptr);
      EXPECT_EQ(H4J_OK, h4j_launch_close(launch, nullptr));
      return status;
    };
    h4j_launch* launch = nullptr;
    expect_ok(what, [&](h4j_error* error) { return binding.bind(plan, on.device, args.data(), &launch, error); });
    if (launch != nullptr) {
      // A refused rebind leaves the launch as it was, so it runs all the same.
      const auto rebind_with = [&](const void* given, h4j_error* error) { return binding.rebind(launch, given, error); };
      spoil_each(binding.operation, "args", binding.fields, args, &spec, info, rebind_with);
      expect_ok(what, [&](h4j_error* error) { return rebind_with(args.data(), error); });
      launch_rightly_and_wrongly(operation, binding, spec, info, launch, on);
      expect_ok("close", [&](h4j_error* error) { return h4j_launch_close(launch, error); });
    }
    spoil_each(binding.operation, "args", binding.fields, args, &spec, info, bind_with);
    for (int i = 0; i < 4; ++i) go_wild(binding.operation, binding.fields, args, &spec, info, {}, bind_with);
    if (binding.eager) {
      if (stand_in_ || info.workspace_bytes <= slot_bytes_) {
        expect_ok(what, [&](h4j_error* error) { return binding.eager(on.stream, spec.data(), args.data(), error); });
      }
      spoil_each(binding.operation, "spec", operation.fields, spec, nullptr, {},
                 [&](const void* given, h4j_error* error) { return binding.eager(on.stream, given, args.data(), error); });
      spoil_each(binding.operation, "args", binding.fields, args, &spec, info,
                 [&](const void* given, h4j_error* error) { return binding.eager(on.stream, spec.data(), given, error); });
      expect_blamed(binding.operation, "stream", "no stream",
                    [&](h4j_error* error) { return binding.eager(nullptr, spec.data(), args.data(), error); });
    }
    pass_wrong_handles(operation, binding, plan, args, on);
    if (stand_in_) let_driver_calls_fail(operation, binding, spec, args, on);
    expect_ok("close", [&](h4j_error* error) { return h4j_plan_close(plan, error); });
    if (random_.once_in(8)) expect_settled(on);
  }

  // Data that random addresses point to may be bad; it is then told once, in the documented words.
  void expect_settled(const Device& on) {
    const h4j_status status = call([&](h4j_error* error) { return h4j_stream_synchronize(on.stream, error); });
    EXPECT_TRUE(status == H4J_OK || (status == H4J_INVALID_ARGUMENT && std::strchr(error_.argument, '[') != nullptr)) << error_.message;
  }

  void launch_rightly_and_wrongly(const Operation& operation, const Binding& binding, const Struct& spec, const h4j_plan_info& info,
                                  h4j_launch* launch, const Device& on) {
    const auto rows_field =
        std::find_if(operation.fields.begin(), operation.fields.end(), [&](const Field& field) { return std::string(field.name) == operation.rows; });
    const bool has_rows = *operation.rows != 0;
    ASSERT_EQ(has_rows, rows_field != operation.fields.end()) << operation.rows;
    const int64_t rows = operation.most_rows ? operation.most_rows(spec.data()) : has_rows ? read(spec.data(), *rows_field) : 1;
    // Kernels believe a schedule, which only another launch writes rightly: on a GPU what needs one is bound, not launched.
    const bool runs_alone = info.schedule_bytes == 0 && (!operation.runs_alone || operation.runs_alone(spec.data()));
    if (stand_in_ || (runs_alone && info.workspace_bytes <= slot_bytes_)) {
      for (const int64_t used : {int64_t{-1}, random_.between(0, rows), rows}) {
        expect_ok("launch", [&](h4j_error* error) { return h4j_launch_run(launch, on.stream, used, error); });
      }
    }
    for (const int64_t used : {rows + 1, int64_t{-2}, INT64_MAX, INT64_MIN}) {
      expect_blamed(binding.operation, "rows", "rows", [&](h4j_error* error) { return h4j_launch_run(launch, on.stream, used, error); });
    }
    expect_blamed(binding.operation, "stream", "no stream", [&](h4j_error* error) { return h4j_launch_run(launch, nullptr, -1, error); });
    EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_launch_run(launch, on.stream, rows + 1, nullptr)) << "a null error is fine";
    ++calls_;
  }

  void pass_wrong_handles(const Operation& operation, const Binding& binding, const h4j_plan* plan, const Struct& args, const Device& on) {
    h4j_launch* none = nullptr;
    expect_blamed(binding.operation, "plan", "no plan",
                  [&](h4j_error* error) { return binding.bind(nullptr, on.device, args.data(), &none, error); });
    expect_blamed(binding.operation, binding.bound_to, "nothing to run on",
                  [&](h4j_error* error) { return binding.bind(plan, nullptr, args.data(), &none, error); });
    expect_blamed(binding.operation, "launch", "no output",
                  [&](h4j_error* error) { return binding.bind(plan, on.device, args.data(), nullptr, error); });
    expect_blamed(binding.operation, "launch", "no launch", [&](h4j_error* error) { return binding.rebind(nullptr, args.data(), error); });
    // A plan and a launch of another operation.
    const Operation& other = random_.pick(operations());
    if (&other == &operation) return;
    const Struct spec = valid(other.fields, other.spec_size, nullptr, {}, false);
    h4j_plan* foreign = nullptr;
    call([&](h4j_error* error) { return other.plan(&on.info, spec.data(), &foreign, error); });
    if (foreign == nullptr) return;
    expect_blamed(binding.operation, "plan", "a plan of another operation",
                  [&](h4j_error* error) { return binding.bind(foreign, on.device, args.data(), &none, error); });
    if (other.bindings.empty()) return expect_ok("close", [&](h4j_error* error) { return h4j_plan_close(foreign, error); });
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    expect_ok("describe", [&](h4j_error* error) { return h4j_plan_describe(foreign, &info, error); });
    const Binding& foreign_binding = random_.pick(other.bindings);
    const Struct foreign_args = valid(foreign_binding.fields, foreign_binding.args_size, &spec, info, false);
    h4j_launch* launch = nullptr;
    expect_ok("another launch", [&](h4j_error* error) { return foreign_binding.bind(foreign, on.device, foreign_args.data(), &launch, error); });
    expect_blamed(binding.operation, "launch", "a launch of another operation",
                  [&](h4j_error* error) { return binding.rebind(launch, args.data(), error); });
    expect_ok("close", [&](h4j_error* error) { return h4j_launch_close(launch, error); });
    expect_ok("close", [&](h4j_error* error) { return h4j_plan_close(foreign, error); });
  }

  // One driver call of plan, bind, launch and close fails: the error says which, and nothing stays behind.
  void let_driver_calls_fail(const Operation& operation, const Binding& binding, const Struct& spec, const Struct& args, const Device& on) {
    const int64_t live = stand_in_.live();
    stand_in_.fail(random_.between(1, 16), CUDA_ERROR_UNKNOWN);
    h4j_plan* plan = nullptr;
    h4j_launch* launch = nullptr;
    h4j_status status = call([&](h4j_error* error) { return operation.plan(&on.info, spec.data(), &plan, error); });
    if (status == H4J_OK) status = call([&](h4j_error* error) { return binding.bind(plan, on.device, args.data(), &launch, error); });
    if (status == H4J_OK) status = call([&](h4j_error* error) { return h4j_launch_run(launch, on.stream, -1, error); });
    stand_in_.fail(0, 0);
    EXPECT_TRUE(status == H4J_OK || status == H4J_DEVICE_ERROR) << error_.message;
    EXPECT_EQ(status == H4J_OK ? 0 : CUDA_ERROR_UNKNOWN, error_.cuda_code) << error_.message;
    expect_ok("close", [&](h4j_error* error) { return h4j_launch_close(launch, error); });
    expect_ok("close", [&](h4j_error* error) { return h4j_plan_close(plan, error); });
    EXPECT_EQ(live, stand_in_.live()) << "left behind by a call that failed";
  }

  Random random_{0};
  Memory memory_{uint64_t{1} << 44, int64_t{1} << 28};
  int64_t slot_bytes_ = INT64_MAX;
  StandIn stand_in_;
  std::vector<h4j_device_info> described_;
  Error error_;
  uint64_t seed_ = 0;
  int64_t wanted_ = 0;
  int64_t calls_ = 0;
  std::map<h4j_status, int64_t> statuses_;
  std::map<std::string, int64_t> planned_;
};

// A field that no rule mentions would never be fuzzed.
TEST_F(Fuzz, KnowsEveryFieldOfEveryStruct) {
  const auto check = [](const char* name, const std::vector<Field>& fields, size_t size) {
    std::vector<bool> known(size, false);
    std::fill_n(known.begin(), sizeof(uint32_t), true);  // struct_size
    for (const Field& field : fields) std::fill_n(known.begin() + static_cast<int64_t>(field.offset), field.size, true);
    const auto unknown = std::find(known.begin(), known.end(), false);
    EXPECT_EQ(known.end(), unknown) << name << ": no rule for the field at offset " << unknown - known.begin();
  };
  for (const Operation& operation : operations()) {
    check(operation.name, operation.fields, operation.spec_size);
    for (const Binding& binding : operation.bindings) check(binding.operation, binding.fields, binding.args_size);
  }
}

TEST_F(Fuzz, PlansOnDescribedDevices) { run(nullptr); }

// The check is checked: an operation with a fault in it does not get through.
TEST_F(Fuzz, CatchesPlantedFaults) {
  const auto gemm = std::find_if(operations().begin(), operations().end(), [](const Operation& o) { return std::string(o.name) == "gemm"; });
  ASSERT_NE(operations().end(), gemm);
  const auto plan = gemm->plan;
  const auto with_spec = [plan](const h4j_device_info* device, const void* spec, h4j_plan** made, h4j_error* error, auto&& change) {
    if (spec == nullptr || static_cast<const h4j_gemm_spec*>(spec)->struct_size < sizeof(h4j_gemm_spec)) return plan(device, spec, made, error);
    h4j_gemm_spec changed = *static_cast<const h4j_gemm_spec*>(spec);
    change(changed);
    return plan(device, &changed, made, error);
  };
  const std::map<std::string, decltype(gemm->plan)> faults = {
      {"accepts any K", [=](const h4j_device_info* device, const void* spec, h4j_plan** made,
                            h4j_error* error) { return with_spec(device, spec, made, error, [](h4j_gemm_spec& changed) { changed.k = 128; }); }},
      {"refuses an N of 8",
       [=](const h4j_device_info* device, const void* spec, h4j_plan** made, h4j_error* error) {
         return with_spec(device, spec, made, error, [](h4j_gemm_spec& changed) { changed.n -= changed.n == 8 ? 1 : 0; });
       }},
      {"blames another field",
       [=](const h4j_device_info* device, const void* spec, h4j_plan** made, h4j_error* error) {
         const h4j_status status = plan(device, spec, made, error);
         if (std::strcmp(error->argument, "k") == 0) std::strcpy(error->argument, "n");
         return status;
       }},
      {"says a sentence that is not made of its parts",
       [=](const h4j_device_info* device, const void* spec, h4j_plan** made, h4j_error* error) {
         const h4j_status status = plan(device, spec, made, error);
         error->message[0] = 'X';
         return status;
       }},
  };
  for (const auto& [fault, faulty] : faults) {
    Operation planted = *gemm;
    planted.plan = faulty;
    ::testing::TestPartResultArray caught;
    {
      const ::testing::ScopedFakeTestPartResultReporter reporter(::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &caught);
      random_ = Random(seed_);
      for (int i = 0; i < 20; ++i) round(planted, nullptr);
    }
    EXPECT_GT(caught.size(), 0) << "not caught: a plan that " << fault;
  }
}

// The stand-in driver or a GPU: everything with a device.
class FuzzGpu : public Fuzz {
 protected:
  void SetUp() override {
    Fuzz::SetUp();
    live_ = stand_in_ ? stand_in_.live() : 0;
    H4J_ASSERT_OK(h4j_device_open(0, &opened_.device, &error));
    H4J_ASSERT_OK(h4j_stream_create(opened_.device, &opened_.stream, &error));
    opened_.info.struct_size = sizeof opened_.info;
    H4J_ASSERT_OK(h4j_device_properties(0, &opened_.info, &error));
    int64_t available = 0;
    int64_t total = 0;
    H4J_ASSERT_OK(h4j_device_memory(opened_.device, &available, &total, &error));
    slot_bytes_ = std::min<int64_t>(int64_t{256} << 20, available / (2 * Memory::kSlots)) & ~int64_t{0xFFFF};
    H4J_ASSERT_OK(h4j_memory_allocate(opened_.stream, slot_bytes_ * (Memory::kSlots + 1), &base_, &error));
    if (!stand_in_) {
      H4J_ASSERT_OK(h4j_fill(opened_.stream, base_, 0, slot_bytes_ * (Memory::kSlots + 1), &error));
    }
    H4J_ASSERT_OK(h4j_stream_synchronize(opened_.stream, &error));
    memory_ = Memory(base_, slot_bytes_);
  }

  void TearDown() override {
    expect_settled(opened_);
    for (const Operation& operation : operations()) {
      if (operation.close) operation.close();
    }
    expect_ok("free", [&](h4j_error* error) { return h4j_memory_free(opened_.stream, base_, error); });
    expect_ok("close", [&](h4j_error* error) { return h4j_stream_close(opened_.stream, error); });
    expect_ok("close", [&](h4j_error* error) { return h4j_device_close(opened_.device, error); });
    if (stand_in_) {
      EXPECT_EQ(live_, stand_in_.live()) << "left behind";
      EXPECT_EQ(0, stand_in_.misuses()) << "calls that a driver refuses: wrong launches, descriptors or destroyed objects";
    }
  }

  Device opened_;
  uint64_t base_ = 0;
  int64_t live_ = 0;
};

TEST_F(FuzzGpu, BindsAndLaunches) { run(&opened_); }

}  // namespace
}  // namespace h4j::fuzz
