// Torch-free C face of the kernels for NumPy code. Both Python bindings, pybind11 and ctypes, call exactly these
// functions on buffers that Python allocated and checked, so their results cannot differ. A function returns a
// count (0 where there is nothing to count) or one of the negative codes.
#pragma once
#include <cstdint>
#include <new>

#define TENFOLD_HOST extern "C" __attribute__((visibility("default")))

namespace tenfold::host {

enum Code : int64_t { kOutOfMemory = -1, kRefused = -2 };

// Nothing may leave a C function by exception.
template <class F>
int64_t guarded(F&& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

}  // namespace tenfold::host
