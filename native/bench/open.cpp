#include "bench/open.h"

#include <dlfcn.h>
#include <glob.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/hopper4j_bench.h"

namespace h4j::bench {
namespace {

std::vector<std::string> matches(const std::string& pattern) {
  std::vector<std::string> paths;
  glob_t found{};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; ++i) paths.emplace_back(found.gl_pathv[i]);
  }
  globfree(&found);
  return paths;
}

void add_toolkit(const std::string& home, std::vector<std::string>& folders) {
  folders.push_back(home + "/lib64/");
  folders.push_back(home + "/extras/CUPTI/lib64/");
}

// Folders with a slash at the end; the empty one stands for the system's loader.
std::vector<std::string> folders() {
  std::vector<std::string> result;
  if (const char* path = std::getenv("HOPPER4J_PEER_PATH")) {
    const std::string text = path;
    for (size_t from = 0; from <= text.size();) {
      const size_t to = std::min(text.find(':', from), text.size());
      if (const std::string folder = text.substr(from, to - from); !folder.empty()) {
        result.push_back(folder + "/");
        for (const std::string& wheel : matches(folder + "/nvidia/*/lib")) result.push_back(wheel + "/");
      }
      from = to + 1;
    }
  }
  if (const char* home = std::getenv("CUDA_HOME")) add_toolkit(home, result);
  result.emplace_back("");
  for (const std::string& home : matches("/usr/local/cuda*")) add_toolkit(home, result);
  return result;
}

}  // namespace

int fail(char* why, const char* format, ...) {
  if (why != nullptr) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(why, H4J_BENCH_TEXT, format, arguments);
    va_end(arguments);
  }
  return 1;
}

Opened open_library(const std::vector<std::string>& names) {
  Opened opened;
  for (const std::string& folder : folders()) {
    for (const std::string& name : names) {
      opened.library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL);
      if (opened.library != nullptr) {
        opened.path = folder + name;
        return opened;
      }
      // A library that is there but does not open is worth telling; one that is not there is not.
      const char* reason = dlerror();
      if (reason != nullptr && std::strstr(reason, "No such file") == nullptr) opened.problem = reason;
    }
  }
  if (opened.problem.empty()) opened.problem = names.front() + ": not found";
  return opened;
}

bool find_function(void* library, const char* name, void* slot) {
  void* function = dlsym(library, name);
  std::memcpy(slot, &function, sizeof(function));
  return function != nullptr;
}

}  // namespace h4j::bench
