// Filling and copying of buffers that may be empty: the standard functions forbid a null pointer even for zero bytes.
#pragma once
#include <cstddef>
#include <cstring>

inline void fill_bytes(void* to, int value, size_t bytes) {
  if (bytes != 0) std::memset(to, value, bytes);
}

inline void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes != 0) std::memcpy(to, from, bytes);
}
