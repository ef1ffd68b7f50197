#pragma once
#include <cstring>
#include <exception>

namespace ctseg {

// Runs `work`; an exception becomes text that the caller frees (C++ must not unwind into Rust).
template <typename Work>
int guarded(char** error, const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& problem) {
    *error = strdup(problem.what());
  } catch (...) {
    *error = strdup("libtorch threw an unknown exception");
  }
  return 1;
}

}  // namespace ctseg
