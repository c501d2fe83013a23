// Fuzzing of the C ABI. An operation says once what each field of its structs may hold (`<x>_fuzz.cpp` in its variant's folder); the driver in
// fuzz_test.cpp makes valid calls from that, spoils one field at a time and expects the error that names it, makes wild calls and compares the answer
// with the rules, passes null and foreign handles, and lets driver calls fail. A field that no rule mentions fails the test.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <random>
#include <vector>

#include "hopper4j.h"
#include "runtime/plan.h"

namespace h4j::fuzz {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t bits() { return engine_(); }
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  bool once_in(int64_t count) { return between(1, count) == 1; }
  template <class Container>
  const auto& pick(const Container& choices) {
    return *(std::begin(choices) + between(0, static_cast<int64_t>(std::size(choices)) - 1));
  }

 private:
  std::mt19937_64 engine_;
};

// Where valid addresses come from: one slot an address, so that the operands of a call never overlap.
class Memory {
 public:
  Memory(uint64_t base, int64_t slot_bytes) : base_(base), slot_bytes_(slot_bytes) {}
  void restart() { slot_ = 0; }
  uint64_t next(int64_t alignment, Random& random) {
    return base_ + static_cast<uint64_t>(slot_++ % kSlots * slot_bytes_ + alignment * random.between(0, 8));
  }
  static constexpr int64_t kSlots = 48;

 private:
  uint64_t base_;
  int64_t slot_bytes_;
  int64_t slot_ = 0;
};

// What a field may hold. Values of all types travel as int64_t, those of float as their bits.
struct Rule {
  enum class Kind { kAny, kRange, kOneOf, kAddress, kPositiveFloat };
  Kind kind = Kind::kAny;
  int64_t low = 0;
  int64_t high = 0;
  int64_t multiple = 1;   // of a range, or the alignment of an address
  int64_t reach = 0;      // how many multiples above `low` everyday values go
  bool optional = false;  // an address or a float may be 0
  std::vector<int64_t> values;
};

inline Rule any() { return {}; }
inline Rule range(int64_t low, int64_t high, int64_t multiple = 1, int64_t reach = 64) {
  return {Rule::Kind::kRange, round_up(low, multiple), high, multiple, reach, false, {}};
}
inline Rule at_least(int64_t low, int64_t reach = 64) { return range(low, INT64_MAX, 1, reach); }
inline Rule one_of(std::initializer_list<int64_t> values) { return {Rule::Kind::kOneOf, 0, 0, 1, 0, false, values}; }
inline Rule address(int64_t alignment) { return {Rule::Kind::kAddress, 0, 0, alignment, 0, false, {}}; }
inline Rule optional_address(int64_t alignment) { return {Rule::Kind::kAddress, 0, 0, alignment, 0, true, {}}; }
// Elements between rows of `extent` elements.
inline Rule ld(int64_t extent, int64_t multiple) { return range(extent, kMaxExtent, multiple, 8); }
inline Rule positive_float() { return {Rule::Kind::kPositiveFloat, 0, 0, 1, 0, false, {}}; }
inline Rule float_at_least_0() { return {Rule::Kind::kPositiveFloat, 0, 0, 1, 0, true, {}}; }

// Bounded, for rules of wild calls.
inline int64_t product(int64_t left, int64_t right) {
  int64_t result = 0;
  constexpr int64_t kBound = INT64_MAX - 1024;
  return __builtin_mul_overflow(left, right, &result) || result > kBound ? kBound : result;
}

enum class Type { kInt32, kUint32, kInt64, kUint64, kFloat, kBytes };

struct Field {
  const char* name;
  size_t offset;
  size_t size;
  Type type;
  // The rule in a call whose spec and earlier arguments are those given.
  std::function<Rule(const void* spec, const void* args, const h4j_plan_info& plan)> rule;
};

template <class Value>
constexpr Type type_of() {
  if constexpr (std::is_same_v<Value, int32_t>) {
    return Type::kInt32;
  } else if constexpr (std::is_same_v<Value, uint32_t>) {
    return Type::kUint32;
  } else if constexpr (std::is_same_v<Value, int64_t>) {
    return Type::kInt64;
  } else if constexpr (std::is_same_v<Value, uint64_t>) {
    return Type::kUint64;
  } else if constexpr (std::is_same_v<Value, float>) {
    return Type::kFloat;
  } else {
    return Type::kBytes;
  }
}

// H4J_FUZZ_FIELD(Struct, field, rule): a field of Spec or Args, which name the structs in scope; the rule may use `s`, `a` and `plan`.
#define H4J_FUZZ_FIELD(Struct, field, ...)                                                                        \
  ::h4j::fuzz::Field {                                                                                            \
    #field, offsetof(Struct, field), sizeof(Struct::field), ::h4j::fuzz::type_of<decltype(Struct::field)>(),      \
        [](const void* spec, const void* args, [[maybe_unused]] const h4j_plan_info& plan) -> ::h4j::fuzz::Rule { \
          using namespace ::h4j::fuzz;                                                                            \
          [[maybe_unused]] const Spec& s = *static_cast<const Spec*>(spec);                                       \
          [[maybe_unused]] const Args& a = *static_cast<const Args*>(args);                                       \
          return __VA_ARGS__;                                                                                     \
        }                                                                                                         \
  }
#define H4J_FUZZ_SPEC(field, ...) H4J_FUZZ_FIELD(Spec, field, __VA_ARGS__)
#define H4J_FUZZ_ARG(field, ...) H4J_FUZZ_FIELD(Args, field, __VA_ARGS__)

// One kind of launch that a plan makes.
struct Binding {
  const char* operation = "";
  const char* bound_to = "device";  // the argument of `bind` that a launch runs on
  size_t args_size = 0;
  std::vector<Field> fields = {};
  std::function<h4j_status(const h4j_plan*, h4j_device*, const void*, h4j_launch**, h4j_error*)> bind;
  std::function<h4j_status(h4j_launch*, const void*, h4j_error*)> rebind;
  std::function<h4j_status(h4j_stream*, const void*, const void*, h4j_error*)> eager;  // none where launches share a schedule
};

struct Operation {
  const char* name = "";
  size_t spec_size = 0;
  std::vector<Field> fields = {};
  std::function<h4j_status(const h4j_device_info*, const void*, h4j_plan**, h4j_error*)> plan;
  // The field that gives the rows of a launch, whose largest is the spec's; none where a launch has one row, or where `most_rows` says how many.
  const char* rows = "";
  std::function<int64_t(const void* spec)> most_rows = {};
  // Whether kernels can run on any memory. Those that believe what another launch has written are bound on a GPU, not run.
  std::function<bool(const void* spec)> runs_alone = {};
  // Fields that are blamed where each field is right and several together are not, such as sizes whose product is too large.
  std::vector<const char*> blamed_together = {};
  std::vector<Binding> bindings = {};  // none: only plans are made
  std::function<void()> close = {};    // gives back what `bind` keeps open on a device
};

template <class Spec>
auto plan_function(h4j_status (*function)(const h4j_device_info*, const Spec*, h4j_plan**, h4j_error*)) {
  return [function](const h4j_device_info* device, const void* spec, h4j_plan** plan, h4j_error* error) {
    return function(device, static_cast<const Spec*>(spec), plan, error);
  };
}

template <class Args>
Binding binding(const char* operation, h4j_status (*bind)(const h4j_plan*, h4j_device*, const Args*, h4j_launch**, h4j_error*),
                h4j_status (*rebind)(h4j_launch*, const Args*, h4j_error*), std::vector<Field> fields) {
  Binding made;
  made.operation = operation;
  made.args_size = sizeof(Args);
  made.fields = std::move(fields);
  made.bind = [bind](const h4j_plan* plan, h4j_device* device, const void* args, h4j_launch** launch, h4j_error* error) {
    return bind(plan, device, static_cast<const Args*>(args), launch, error);
  };
  made.rebind = [rebind](h4j_launch* launch, const void* args, h4j_error* error) { return rebind(launch, static_cast<const Args*>(args), error); };
  return made;
}

template <class Spec, class Args>
Binding binding(const char* operation, h4j_status (*bind)(const h4j_plan*, h4j_device*, const Args*, h4j_launch**, h4j_error*),
                h4j_status (*rebind)(h4j_launch*, const Args*, h4j_error*), h4j_status (*eager)(h4j_stream*, const Spec*, const Args*, h4j_error*),
                std::vector<Field> fields) {
  Binding made = binding(operation, bind, rebind, std::move(fields));
  made.eager = [eager](h4j_stream* stream, const void* spec, const void* args, h4j_error* error) {
    return eager(stream, static_cast<const Spec*>(spec), static_cast<const Args*>(args), error);
  };
  return made;
}

// All operations that a `<x>_fuzz.cpp` registered.
inline std::vector<Operation>& operations() {
  static std::vector<Operation> all;
  return all;
}

struct Registered {
  explicit Registered(Operation operation) { operations().push_back(std::move(operation)); }
};

}  // namespace h4j::fuzz
