// Opens libraries that may or may not be there.
#pragma once

#include <string>
#include <vector>

namespace h4j::bench {

// Writes to a text of H4J_BENCH_TEXT bytes and answers 1, so that a failure is `return fail(why, ...)`.
[[gnu::format(printf, 2, 3)]] int fail(char* why, const char* format, ...);

struct Opened {
  void* library = nullptr;
  std::string path;
  std::string problem;  // why there is no library
};

// Tries the names in each place of hopper4j_bench.h, in order.
Opened open_library(const std::vector<std::string>& names);

// Puts the function into `slot`; false where the library lacks it.
bool find_function(void* library, const char* name, void* slot);

}  // namespace h4j::bench
