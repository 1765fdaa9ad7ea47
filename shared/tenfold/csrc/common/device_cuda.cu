#include "common/device.h"

namespace tenfold::device {

void copy_to_host(const Stream& stream, void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
#ifdef __CUDACC__
  auto* handle = static_cast<cudaStream_t>(stream.handle);
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, handle), "copy to the host");
  check_cuda(cudaStreamSynchronize(handle), "synchronisation");
#else
  (void)stream;
  emu::host_copy();
  std::memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

void copy_to_device(const Stream& stream, void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
#ifdef __CUDACC__
  // From pageable memory: the driver has taken the bytes when the call returns.
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                             static_cast<cudaStream_t>(stream.handle)),
             "copy to the device");
#else
  (void)stream;
  emu::host_copy();
  std::memcpy(to, from, static_cast<size_t>(bytes));
  emu::written(to, static_cast<size_t>(bytes));
#endif
}

void fill_device(const Stream& stream, void* to, int byte, int64_t bytes) {
  if (bytes == 0) return;
#ifdef __CUDACC__
  check_cuda(cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream.handle)), "memset");
#else
  (void)stream;
  std::memset(to, byte, static_cast<size_t>(bytes));
  emu::written(to, static_cast<size_t>(bytes));
#endif
}

}  // namespace tenfold::device
