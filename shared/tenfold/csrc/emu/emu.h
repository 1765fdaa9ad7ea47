// Test-only emulation of a CUDA device on one process thread; device.h takes its names from here when the compiler
// is not nvcc. Every CUDA thread is a fiber; barriers and warp operations are rendezvous points.
//
// The sources under test are compiled with -fsanitize=thread and linked without its runtime: emu.cpp supplies the
// hooks, so that every load and store of a kernel is checked against the buffers it was given and against what the
// other threads did since the last barrier.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define TENFOLD_UNCHECKED __attribute__((no_sanitize("thread"), noinline))

namespace tenfold::emu {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

// What a thread may ask about itself; threads run one at a time.
struct Now {
  Dim thread, block, block_dim, grid_dim;
};
extern Now now;

struct Site {
  const char* file;
  int line;
  static Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

enum class Access : int { read, write, atomic };

void access(const void* address, size_t bytes, Access kind);
void barrier(Site site);
unsigned ballot(unsigned mask, bool predicate, Site site);
uint64_t shuffle(unsigned mask, uint64_t value, int source, Site site);
void sync_warp(unsigned mask, Site site);
void may_yield();  // atomics are the points where threads may overtake each other
void* shared_slot(const void* tag, size_t bytes, size_t element);

// Runs `body` once for each thread of the grid, in the order of the current seed; throws std::runtime_error for the
// first broken rule. `arguments` may be read by kernels without being a buffer.
void run(const char* kernel, Dim grid, Dim block, void (*body)(void*), void* context, const void* arguments,
         size_t argument_bytes);

// Buffers kernels may touch. A fresh one is poisoned, and reading it before anybody wrote is an error.
enum class Content : int { constant, given, fresh };
void add_buffer(void* begin, size_t bytes, size_t element, Content content);
void written(void* begin, size_t bytes);  // by something that is no kernel
void host_copy();                         // one more between host and device: what no captured graph may hold
void clear_buffers();                     // forgets all of them and their guard zones
constexpr size_t kGuardBytes = 1024;      // before and after a buffer made by the binding
void add_guards(void* begin, size_t bytes);

// Every atomic: `next` makes the word's new value of its old one, which is returned.
template <class T, class F>
TENFOLD_UNCHECKED T exchange(T* p, F next) {
  may_yield();
  access(p, sizeof(T), Access::atomic);
  const T old = *p;
  *p = next(old);
  return old;
}

}  // namespace tenfold::emu

#define threadIdx ::tenfold::emu::now.thread
#define blockIdx ::tenfold::emu::now.block
#define blockDim ::tenfold::emu::now.block_dim
#define gridDim ::tenfold::emu::now.grid_dim

// ------------------------------------------------------------------ the names of CUDA that kernels may use

using tenfold::emu::Site;

inline void __syncthreads(Site site = Site::here()) { tenfold::emu::barrier(site); }
inline void __syncwarp(unsigned mask = 0xffffffffu, Site site = Site::here()) { tenfold::emu::sync_warp(mask, site); }
inline unsigned __ballot_sync(unsigned mask, int predicate, Site site = Site::here()) {
  return tenfold::emu::ballot(mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, Site site = Site::here()) {
  return tenfold::emu::ballot(mask, predicate != 0, site) != 0;
}
template <class T>
inline T tenfold_shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(sizeof(T) <= 8, "values of at most 64 bits are exchanged");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = tenfold::emu::shuffle(mask, bits, source, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
inline int tenfold_lane() { return static_cast<int>(threadIdx.x & 31u); }
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, Site site = Site::here()) {
  return tenfold_shuffle(mask, value, source & 31, site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, Site site = Site::here()) {
  return tenfold_shuffle(mask, value, tenfold_lane() ^ bits, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, int delta, Site site = Site::here()) {
  const int lane = tenfold_lane();
  return tenfold_shuffle(mask, value, lane < delta ? lane : lane - delta, site);
}

// Integers alone: the order of an atomic sum of floats would decide the result.
template <class T, class F>
inline T tenfold_atomic(T* p, F next) {
  static_assert(static_cast<T>(0.5) == 0, "no atomics of floats");
  return tenfold::emu::exchange(p, next);
}
template <class T>
inline T atomicAdd(T* p, T v) {
  return tenfold_atomic(p, [v](T old) { return static_cast<T>(old + v); });
}
template <class T>
inline T atomicOr(T* p, T v) {
  return tenfold_atomic(p, [v](T old) { return static_cast<T>(old | v); });
}
template <class T>
inline T atomicMin(T* p, T v) {
  return tenfold_atomic(p, [v](T old) { return v < old ? v : old; });
}
template <class T>
inline T atomicMax(T* p, T v) {
  return tenfold_atomic(p, [v](T old) { return old < v ? v : old; });
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
