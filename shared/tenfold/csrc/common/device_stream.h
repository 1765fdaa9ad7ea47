// Where a launcher of CUDA kernels works; free of CUDA's own headers, so that bindings can make one.
#pragma once
#include <cstdint>

namespace tenfold::device {

// The current stream of the tensors' device, and memory that lives until the operator returns.
struct Stream {
  void* handle = nullptr;  // cudaStream_t
  void* owner = nullptr;
  void* (*allocate)(void* owner, int64_t count, int64_t element_bytes) = nullptr;

  template <class T>
  T* scratch(int64_t count) const {
    return static_cast<T*>(allocate(owner, count > 0 ? count : 1, sizeof(T)));
  }
};

// Copies that wait for the stream (from the device) or for the host's bytes to be read (to the device), and a fill.
void copy_to_host(const Stream& stream, void* to, const void* from, int64_t bytes);
void copy_to_device(const Stream& stream, void* to, const void* from, int64_t bytes);
void fill_device(const Stream& stream, void* to, int byte, int64_t bytes);

}  // namespace tenfold::device
