// The only header that a kernel needs to run on a device: CUDA's names under nvcc, the emulator's under a C++
// compiler, so that one source is compiled for GPUs and executed by tests without one.
//
// Conventions (they are what the emulator can check): kernels are launched through `launch`; no float atomics, no
// implicit warp synchrony, no block that waits for another; threads leave a kernel only after its last barrier.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/device_stream.h"
#include "common/finite.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define TENFOLD_SHARED(T, name, count) __shared__ T name[count]
#else
#include "emu/emu.h"
// The address of a static names the array: every thread of a block gets the same one.
#define TENFOLD_SHARED(T, name, count) \
  static char name##_tag;              \
  T* const name = static_cast<T*>(::tenfold::emu::shared_slot(&name##_tag, sizeof(T) * (count), sizeof(T)))
#endif

namespace tenfold::device {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarpLanes = 32;

// ------------------------------------------------------------------ inside kernels

__device__ __forceinline__ int64_t global_thread() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t grid_threads() { return int64_t{gridDim.x} * blockDim.x; }
__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % kWarpLanes); }
__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x / kWarpLanes); }
__device__ __forceinline__ unsigned lanes_below() { return (1u << lane()) - 1u; }

// Arithmetic that decides integers: rounded to nearest, never contracted.
#ifdef __CUDACC__
__device__ __forceinline__ float rn_add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float rn_mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float rn_div(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ double rn_add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double rn_mul(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double rn_div(double a, double b) { return __ddiv_rn(a, b); }
#else
template <class T>
inline T rn_add(T a, T b) { return a + b; }
template <class T>
inline T rn_mul(T a, T b) { return a * b; }
template <class T>
inline T rn_div(T a, T b) { return a / b; }
#endif

// Contract 2.7: (dx dx + dy dy) + dz dz.
template <class T>
__device__ __forceinline__ T squared_distance(const T* a, const T* b) {
  const T dx = a[0] - b[0], dy = a[1] - b[1], dz = a[2] - b[2];
  return rn_add(rn_add(rn_mul(dx, dx), rn_mul(dy, dy)), rn_mul(dz, dz));
}

// ------------------------------------------------------------------ launching

constexpr int64_t kMostBlocks = 0x7fffffff;

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  if (blocks > kMostBlocks) throw std::runtime_error("tenfold: a grid of " + std::to_string(blocks) + " blocks");
  return static_cast<unsigned>(blocks);
}

#ifdef __CUDACC__
inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("tenfold: ") + what + ": " + cudaGetErrorString(error));
}
template <class... P, class... A>
void launch_kernel(const char* name, void (*kernel)(P...), unsigned grid, unsigned block, const Stream& stream, A... args) {
  if (grid == 0) return;
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream.handle)>>>(static_cast<P>(args)...);
  check_cuda(cudaGetLastError(), name);
}
#else
template <class... P, class... A>
void launch_kernel(const char* name, void (*kernel)(P...), unsigned grid, unsigned block, const Stream&, A... args) {
  if (grid == 0) return;
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  } call{kernel, std::tuple<P...>(static_cast<P>(args)...)};
  emu::run(
      name, {grid, 1, 1}, {block, 1, 1}, [](void* c) { std::apply(static_cast<Call*>(c)->kernel, static_cast<Call*>(c)->arguments); },
      &call, &call, sizeof(call));
}
#endif
// launch(kernel, grid, block, stream, arguments...): a grid of 0 blocks is no launch.
#define TENFOLD_LAUNCH(kernel, ...) ::tenfold::device::launch_kernel(#kernel, kernel, __VA_ARGS__)

// Runs f(i) for every i < n, one thread each: f is a trivially copyable object with `__device__ operator()`.
template <class F>
__global__ void __launch_bounds__(256) each_kernel(int64_t n, F f) {
  for (int64_t i = global_thread(); i < n; i += grid_threads()) f(i);
}
template <class F>
void each(const char* name, const Stream& stream, int64_t n, F f) {
  launch_kernel(name, each_kernel<F>, blocks_for(n, 256), 256, stream, n, f);
}

template <class T>
struct Fill {
  T* to;
  T value;
  __device__ void operator()(int64_t i) const { to[i] = value; }
};
template <class T>
void fill(const Stream& stream, T* to, int64_t n, T value) {
  each("fill", stream, n, Fill<T>{to, value});
}

// One value to another place on the device, where nobody on the host has to know it.
template <class T>
struct CopyOne {
  const T* from;
  T* to;
  __device__ void operator()(int64_t) const { *to = *from; }
};
template <class T>
void copy_one(const Stream& stream, const T* from, T* to) {
  each("copy_one", stream, 1, CopyOne<T>{from, to});
}

// One small value from the device: waits for the stream.
template <class T>
T read_back(const Stream& stream, const T* from) {
  T value;
  copy_to_host(stream, &value, from, sizeof(T));
  return value;
}

}  // namespace tenfold::device
